"""HAT, the hierarchical attention transformer of Chalkidis et al. (2022): a simple, fast relative to compare with.

A text is laid out in segments of K tokens, each headed by a special token (:class:`longspan.data.SegmentLayout`). Some
layers attend within each segment alone, some across the segments' headers alone, which they replace; so all tokens of
a text reach each other in two steps, at a cost linear in its length. Both kinds are RoBERTa's layers.

One thing is as in the authors' code since 2024, not as in their released weights: the segments' positions are seen by
the layers across segments. Before, they were added where they were overwritten.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput

from longspan.models.embeddings import LongformerEmbeddings
from longspan.models.encoder import LongformerIntermediate, LongformerSelfOutput
from longspan.models.hat_configuration import HATConfig
from longspan.models.inputs import read_masks
from longspan.models.loading import ClearLoading
from longspan.models.own_attention import OwnAttention


class HATSelfAttention(nn.Module):
    """RoBERTa's self-attention: every token attends to every token of its row."""

    def __init__(self, config: HATConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor, key_mask: Tensor) -> Tensor:
        """``[R, M, C]`` to ``[R, M, C]``; ``key_mask`` bool ``[R, M]`` marks at least one token of each row."""
        rows, length, width = hidden_states.shape
        query, key, value = (
            projection(hidden_states).view(rows, length, self.num_heads, -1).transpose(1, 2)  # [R, H, M, D]
            for projection in (self.query, self.key, self.value)
        )
        dropout = self.dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(query, key, value, key_mask[:, None, None], dropout)
        return context.transpose(1, 2).reshape(rows, length, width)


class HATAttention(nn.Module):
    """Self-attention with its output projection."""

    def __init__(self, config: HATConfig) -> None:
        super().__init__()
        self.self = HATSelfAttention(config)
        self.output = LongformerSelfOutput(config, config.hidden_size)

    def forward(self, hidden_states: Tensor, key_mask: Tensor) -> Tensor:
        """As :meth:`HATSelfAttention.forward`, with residual and LayerNorm."""
        return self.output(self.self(hidden_states, key_mask), hidden_states)


class HATTransformerLayer(nn.Module):
    """One of RoBERTa's layers."""

    def __init__(self, config: HATConfig) -> None:
        super().__init__()
        self.attention = HATAttention(config)
        self.intermediate = LongformerIntermediate(config)
        self.output = LongformerSelfOutput(config, config.intermediate_size)

    def forward(self, hidden_states: Tensor, key_mask: Tensor) -> Tensor:
        """As :meth:`HATSelfAttention.forward`."""
        attended = self.attention(hidden_states, key_mask)
        return self.output(self.intermediate(attended), attended)


class HATBlock(GradientCheckpointingLayer):
    """A layer within segments, one across their headers, or both.

    Args:
        config: the configuration.
        within: whether there is a layer within segments.
        across: whether there is one across them.
        has_positions: whether the table of the segments' positions, which all blocks share, is this block's.
    """

    def __init__(self, config: HATConfig, *, within: bool, across: bool, has_positions: bool) -> None:
        super().__init__()
        self.sentence_encoder = HATTransformerLayer(config) if within else None
        self.document_encoder = HATTransformerLayer(config) if across else None
        if has_positions:
            self.position_embeddings = nn.Embedding(config.max_sentences + 1, config.hidden_size)

    def forward(self, hidden_states: Tensor, key_mask: Tensor, header_mask: Tensor, positions: Tensor) -> Tensor:
        """Attend.

        Args:
            hidden_states: ``[B, S, K, C]``.
            key_mask: bool ``[B, S, K]``, True for one key at least of each segment.
            header_mask: bool ``[B, S]``, True for one segment at least of each text.
            positions: ``[B, S, C]``, the embeddings of the segments' positions.
        """
        if self.sentence_encoder is not None:
            flat = self.sentence_encoder(hidden_states.flatten(0, 1), key_mask.flatten(0, 1))
            hidden_states = flat.view_as(hidden_states)
        if self.document_encoder is not None:
            headers = self.document_encoder(hidden_states[:, :, 0] + positions, header_mask)  # [B, S, C]
            hidden_states = torch.cat([headers[:, :, None], hidden_states[:, :, 1:]], dim=2)
        return hidden_states


class HATEncoder(nn.Module):
    """The stack of blocks."""

    def __init__(self, config: HATConfig) -> None:
        super().__init__()
        layout = [config.encoder_layout[str(number)] for number in range(config.num_hidden_layers)]
        across = [block["document_encoder"] for block in layout]
        self.first_across = across.index(True) if any(across) else None
        self.layer = nn.ModuleList(
            [
                HATBlock(
                    config,
                    within=block["sentence_encoder"],
                    across=block["document_encoder"],
                    has_positions=number == self.first_across,
                )
                for number, block in enumerate(layout)
            ]
        )

    def forward(self, hidden_states: Tensor, key_mask: Tensor, length: int, output_hidden_states: bool) -> list[Tensor]:
        """``[B, S, K, C]`` and the real tokens ``[B, S, K]`` through all blocks.

        Returns:
            What is after the last block, ``[B, N, C]`` of texts of ``length`` N, and what is before each block if
            hidden states are asked for.
        """
        shape = hidden_states.shape
        real = key_mask[:, :, 0]  # [B, S], of the headers
        # A row without any key would be NaN; what an empty segment or text attends to is read by nobody.
        nothing = ~key_mask.any(2, keepdim=True)
        key_mask = torch.cat([key_mask[:, :, :1] | nothing, key_mask[:, :, 1:]], dim=2)
        header_mask = torch.cat([real[:, :1] | ~real.any(1, keepdim=True), real[:, 1:]], dim=1)
        positions = hidden_states.new_zeros(1, 1, 1)
        if self.first_across is not None:
            segments = torch.arange(1, real.shape[1] + 1, device=real.device)
            table = self.layer[self.first_across].get_submodule("position_embeddings")
            positions = table(segments * real)  # row 0 is padding's
        states = []
        for block in self.layer:
            if output_hidden_states:
                # The blocks read the tensors that are returned, which gradients then pass.
                states.append(hidden_states.flatten(1, 2)[:, :length])
                missing = shape[1] * shape[2] - length
                hidden_states = F.pad(states[-1], (0, 0, 0, missing)).view(shape)
            hidden_states = block(hidden_states, key_mask, header_mask, positions)
        return [*states, hidden_states.flatten(1, 2)[:, :length]]


class HATPreTrainedModel(OwnAttention, ClearLoading, PreTrainedModel):
    """What all HAT models share."""

    config: HATConfig
    config_class = HATConfig
    base_model_prefix = "hi_transformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["HATBlock"]  # noqa: RUF012
    # In the authors' files each block across segments holds the one table of positions again.
    _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012
        r"embeddings\.position_ids$",
        r"layer\.\d+\.position_embeddings\.weight$",
    ]


class HATModel(HATPreTrainedModel):
    """The hierarchical encoder of Chalkidis et al. (2022), without a head; weights have the authors' names.

    :func:`longspan.convert.hat_from_roberta` makes one of a RoBERTa.
    """

    def __init__(self, config: HATConfig) -> None:
        super().__init__(config)
        self.embeddings = LongformerEmbeddings(config)
        self.encoder = HATEncoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embeddings."""
        self.embeddings.word_embeddings = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> tuple[Tensor, ...] | BaseModelOutput:
        """Encode texts laid out in segments of K tokens, a header in each of the columns 0, K, 2K ...

        Args:
            input_ids: int ``[B, N]``; exactly one of it and ``inputs_embeds``.
            attention_mask: ``[B, N]``, bool or numbers, 0 marks padding. ``None``: no padding.
            token_type_ids: int ``[B, N]``; ``None`` is type 0.
            inputs_embeds: ``[B, N, C]``.
            output_hidden_states: also return the states before, between and after the blocks.
            return_dict: ``False`` returns a tuple. Both default to the configuration's.

        Returns:
            ``last_hidden_state`` ``[B, N, C]``; ``hidden_states``, 1 + blocks tensors of that shape.

        Raises:
            TypeError, ValueError: ids out of range, masks of another shape, or more segments than ``max_sentences``.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        given = self.embeddings.check(input_ids, inputs_embeds, token_type_ids)
        batch, length = given.shape[:2]
        segment = self.config.max_sentence_length
        segments = -(-length // segment)
        if segments > self.config.max_sentences:
            raise ValueError(
                f"the text fills {segments} segments of {segment} tokens, but max_sentences is "
                f"{self.config.max_sentences}; cut the text"
            )
        key_mask, _ = read_masks(attention_mask, None, given)
        real = torch.ones(batch, length, dtype=torch.bool, device=given.device) if key_mask is None else key_mask
        missing = segments * segment - length
        pad = self.embeddings.padding_idx

        def rows(tensor: Tensor | None, fill: int = 0) -> Tensor | None:
            """``[B, N, ...]`` as segments ``[B * S, K, ...]``."""
            if tensor is None:
                return None
            tensor = tensor.expand(batch, length, *tensor.shape[2:])
            filled = F.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, missing), value=fill)
            return filled.reshape(batch * segments, segment, *tensor.shape[2:])

        embedded = self.embeddings(rows(input_ids, pad), rows(token_type_ids), None, rows(inputs_embeds))
        real_rows = rows(real)
        assert real_rows is not None
        encoded = self.encoder(
            embedded.view(batch, segments, segment, -1), real_rows.view(batch, segments, segment), length, states
        )
        output = BaseModelOutput(last_hidden_state=encoded[-1], hidden_states=tuple(encoded) if states else None)
        return output if return_dict else output.to_tuple()
