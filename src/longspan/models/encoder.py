"""The Longformer encoder: layers, their stack, and the base model with its pooler."""

from collections.abc import Iterator

import torch
from torch import Tensor, is_grad_enabled, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.longformer.modeling_longformer import (
    LongformerBaseModelOutput,
    LongformerBaseModelOutputWithPooling,
)

from longspan.attention import survey_masks
from longspan.attention.inspection import can_inspect
from longspan.models.configuration import LongformerConfig
from longspan.models.embeddings import LongformerEmbeddings
from longspan.models.fused_linear import apply_linear, is_watched
from longspan.models.global_policies import resolve_global_mask
from longspan.models.inputs import read_masks
from longspan.models.loading import ClearLoading
from longspan.models.own_attention import OwnAttention
from longspan.models.packing import pack_batch
from longspan.models.pooling import Pooling
from longspan.models.segment_reading import plan_pieces
from longspan.models.self_attention import LongformerSelfAttention

# Where nothing is kept for a backward: a larger expansion is memory that the allocator takes anew each time, which cost
# a tenth of these layers at base size (docs/log.md).
_CPU_TOKENS = 2048


class LongformerSelfOutput(nn.Module):
    """Projection, dropout, residual and LayerNorm after the attention or after the feed-forward expansion."""

    def __init__(self, config: LongformerConfig, in_features: int) -> None:
        super().__init__()
        self.dense = nn.Linear(in_features, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor, residual: Tensor) -> Tensor:
        """``[B, N, in_features]`` and the residual ``[B, N, C]`` to ``[B, N, C]``."""
        return self.LayerNorm(self.dropout(apply_linear(self.dense, hidden_states)) + residual)


class LongformerAttention(nn.Module):
    """Self-attention with its output projection."""

    def __init__(self, config: LongformerConfig, layer_id: int) -> None:
        super().__init__()
        self.self = LongformerSelfAttention(config, layer_id)
        self.output = LongformerSelfOutput(config, config.hidden_size)

    def forward(
        self,
        hidden_states: Tensor,
        key_mask: Tensor | None = None,
        global_mask: Tensor | None = None,
        output_attentions: bool = False,
        mask_survey: Tensor | None = None,
        lengths: list[int] | None = None,
    ) -> tuple[Tensor, ...]:
        """As :meth:`LongformerSelfAttention.forward`."""
        context, *weights = self.self(hidden_states, key_mask, global_mask, output_attentions, mask_survey, lengths)
        return (self.output(context, hidden_states), *weights)


class LongformerIntermediate(nn.Module):
    """The feed-forward expansion and its activation."""

    def __init__(self, config: LongformerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        act = config.hidden_act
        self.intermediate_act_fn = ACT2FN[act] if isinstance(act, str) else act

    def forward(self, hidden_states: Tensor) -> Tensor:
        """``[B, N, C]`` to ``[B, N, intermediate_size]``."""
        return apply_linear(self.dense, hidden_states, self.intermediate_act_fn)


class LongformerLayer(GradientCheckpointingLayer):
    """One post-norm encoder layer."""

    def __init__(self, config: LongformerConfig, layer_id: int) -> None:
        super().__init__()
        self.chunk_size_feed_forward: int = config.chunk_size_feed_forward
        self.attention = LongformerAttention(config, layer_id)
        self.intermediate = LongformerIntermediate(config)
        self.output = LongformerSelfOutput(config, config.intermediate_size)

    def forward(
        self,
        hidden_states: Tensor,
        key_mask: Tensor | None = None,
        global_mask: Tensor | None = None,
        output_attentions: bool = False,
        mask_survey: Tensor | None = None,
        lengths: list[int] | None = None,
    ) -> tuple[Tensor, ...]:
        """As :meth:`LongformerSelfAttention.forward`, with the layer's output ``[B, N, C]`` first."""
        hidden_states, *weights = self.attention(
            hidden_states, key_mask, global_mask, output_attentions, mask_survey, lengths
        )
        tokens = self._tokens_at_a_time(hidden_states)
        if tokens < hidden_states.shape[1]:
            pieces = hidden_states.split(tokens, dim=1)
            return (torch.cat([self._feed_forward(piece) for piece in pieces], dim=1), *weights)
        return (self._feed_forward(hidden_states), *weights)

    def _tokens_at_a_time(self, hidden_states: Tensor) -> int:
        """How many tokens pass the feed-forward layers together."""
        if self.chunk_size_feed_forward > 0:
            return self.chunk_size_feed_forward
        length = hidden_states.shape[1]
        if hidden_states.device.type != "cpu" or is_grad_enabled() or torch.compiler.is_compiling():
            return length
        # Whoever watches these layers expects one call with the whole text.
        if length > _CPU_TOKENS and not any(map(is_watched, self._feed_forward_modules())):
            return _CPU_TOKENS
        return length

    def _feed_forward_modules(self) -> Iterator[nn.Module]:
        yield from self.intermediate.modules()
        yield from self.output.modules()

    def _feed_forward(self, hidden_states: Tensor) -> Tensor:
        return self.output(self.intermediate(hidden_states), hidden_states)


class LongformerEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: LongformerConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList([LongformerLayer(config, layer_id) for layer_id in range(config.num_hidden_layers)])

    def forward(
        self,
        hidden_states: Tensor,
        key_mask: Tensor | None = None,
        global_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        padding_is_alike: bool = False,
    ) -> LongformerBaseModelOutput:
        """``[B, N, C]`` through all layers; masks as in :meth:`LongformerSelfAttention.forward`.

        ``padding_is_alike`` says that all padding has the same embedding, so that it needn't be computed everywhere.
        """
        packed, lengths = None, None
        if padding_is_alike and not (output_attentions or output_hidden_states):
            kinds = hidden_states.new_zeros(1, dtype=torch.int64)
            packed = pack_batch(key_mask, global_mask, kinds, self, hidden_states)
        if packed is not None:
            hidden_states = packed.pack(hidden_states)
            key_mask, global_mask, lengths = packed.key_mask, packed.global_mask, packed.lengths
        survey = survey_masks(global_mask, key_mask)
        states, locals_, globals_ = [hidden_states], [], []
        for layer in self.layer:
            # Positional, so that reentrant gradient checkpointing sees the tensor that needs a gradient.
            hidden_states, *weights = layer(hidden_states, key_mask, global_mask, output_attentions, survey, lengths)
            if output_hidden_states:
                states.append(hidden_states)
            locals_ += weights[:1]
            globals_ += weights[1:]
        if packed is not None:
            hidden_states = packed.unpack(hidden_states)
        return LongformerBaseModelOutput(
            last_hidden_state=hidden_states,
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(locals_) if output_attentions else None,
            global_attentions=tuple(globals_) or None,
        )


class LongformerPooler(nn.Module):
    """A dense layer and tanh on the first token: the "sequence embedding" of BERT.

    RoBERTa and Longformer were pretrained without it, so in most checkpoints its weights are random until
    fine-tuned; only multiple choice uses it.
    """

    def __init__(self, config: LongformerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = nn.Tanh()

    def forward(self, hidden_states: Tensor) -> Tensor:
        """``[B, N, C]`` to ``[B, C]``."""
        pooled: Tensor = self.activation(self.dense(hidden_states[:, 0]))
        return pooled


class LongformerPreTrainedModel(OwnAttention, ClearLoading, PreTrainedModel):
    """What all Longformer models share: the configuration, and how weights are loaded, saved and initialised.

    ``config`` may also be a ``transformers.LongformerConfig``; building a model leaves the given
    configuration as it is.
    """

    config: LongformerConfig
    base_model_prefix = "longformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LongformerLayer"]  # noqa: RUF012
    # Old checkpoints hold the buffer of position ids, and masked LMs a pooler that was never trained.
    _keys_to_ignore_on_load_unexpected = [r"embeddings\.position_ids$"]  # noqa: RUF012

    def __init__(self, config: PreTrainedConfig) -> None:
        if isinstance(config, PreTrainedConfig):
            config = LongformerConfig.from_stock(config)
            config.check()
        super().__init__(config)


class LongformerModel(LongformerPreTrainedModel):
    """The Longformer encoder (Beltagy et al. 2020), without a head.

    Weights keep the names of ``transformers.LongformerModel``, so checkpoints load in both. It differs in
    what it can do, not in what it computes: any window, dilation, any length from one token up without
    padding to a window, memory linear in the length, compilation to one graph.

    Args:
        config: the configuration.
        add_pooling_layer: whether to have a pooler (:class:`LongformerPooler`) for ``pooler_output``.
    """

    def __init__(self, config: PreTrainedConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = LongformerEmbeddings(self.config)
        self.encoder = LongformerEncoder(self.config)
        self.pooler = LongformerPooler(self.config) if add_pooling_layer else None
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
        global_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        pooling: Pooling | None = None,
    ) -> tuple[Tensor, ...] | LongformerBaseModelOutputWithPooling:
        """Encode a batch of texts.

        Args:
            input_ids: int ``[B, N]``; exactly one of it and ``inputs_embeds``.
            attention_mask: ``[B, N]``, bool or numbers, 0 marks padding; 2 marks a global token (Hugging
                Face's merged form). ``None``: no padding.
            global_attention_mask: ``[B, N]``, bool or numbers, above 0 marks tokens that attend to all and
                are attended by all. A padding token marked global is padding. ``None``:
                ``config.global_attention_policy``, or no global token if that is None.
            token_type_ids: int ``[B, N]``; ``None`` is type 0.
            position_ids: int ``[B, N]`` or ``[1, N]``; ``None`` counts from ``pad_token_id + 1``, padding
                skipped.
            inputs_embeds: ``[B, N, C]`` in place of the word embeddings.
            output_attentions: also return the attention probabilities; linear memory, but slower.
            output_hidden_states: also return the hidden states of every layer.
            return_dict: ``False`` returns a tuple. All three default to the configuration's.
            pooling: gives the pooler a text's vector; ``None``: the first column's, as Hugging Face's.

        Returns:
            ``last_hidden_state`` ``[B, N, C]``; ``pooler_output`` ``[B, C]`` or None; ``hidden_states``, 1 +
            layers tensors ``[B, N, C]``; ``attentions``, per layer ``[B, H, N, G + W]``: the weights on the G
            global tokens (the most in the batch), then on the W keys of the window from left to right;
            ``global_attentions``, per layer ``[B, H, N, G]``, column g holding the row of the g-th global
            token, None if there is none. As Hugging Face's, with the real length N in place of the padded.

        Raises:
            TypeError, ValueError: one sentence for ids out of range, masks of another shape, or a text longer
                than the position table. Values are checked on a CPU only, and not in a compiled graph.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        global_attention_mask = resolve_global_mask(
            self.config, "none", input_ids, attention_mask, global_attention_mask, inputs_embeds
        )
        attentions = self.config.output_attentions if output_attentions is None else output_attentions
        states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        if self.config.reading_length is not None:
            encoded = self._read_in_pieces(
                input_ids, attention_mask, global_attention_mask, token_type_ids, position_ids, inputs_embeds,
                attentions, states,
            )  # fmt: skip
        else:
            hidden_states = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds)
            if input_ids is not None and can_inspect(input_ids):
                self.warn_if_padding_and_no_attention_mask(input_ids, attention_mask)
            key_mask, global_mask = read_masks(attention_mask, global_attention_mask, hidden_states)
            alike = self.embeddings.embeds_padding_alike(key_mask, input_ids, token_type_ids, position_ids)
            encoded = self.encoder(hidden_states, key_mask, global_mask, attentions, states, alike)
        pooled = None
        if self.pooler is not None:
            last = encoded.last_hidden_state
            pooled = self.pooler(last if pooling is None else pooling(last, attention_mask)[:, None])
        if not return_dict:
            return (encoded.last_hidden_state, pooled, *encoded.to_tuple()[1:])
        return LongformerBaseModelOutputWithPooling(
            last_hidden_state=encoded.last_hidden_state,
            pooler_output=pooled,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            global_attentions=encoded.global_attentions,
        )

    def _read_in_pieces(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        global_attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        output_attentions: bool,
        output_hidden_states: bool,
    ) -> LongformerBaseModelOutput:
        """The states of texts read as :mod:`longspan.models.segment_reading` says."""
        for name, given in (("position_ids", position_ids is not None), ("output_attentions", output_attentions)):
            if given:
                raise ValueError(
                    f"{name} is not available with config.reading_length, which reads texts in pieces; leave it out"
                )
        like = self.embeddings.check(input_ids, inputs_embeds, token_type_ids)
        key_mask, global_mask = read_masks(attention_mask, global_attention_mask, like)
        real = torch.ones(like.shape[:2], dtype=torch.bool, device=like.device) if key_mask is None else key_mask
        config = self.config
        pieces = plan_pieces(
            real,
            global_mask,
            config.reading_length,
            segmented=config.segment_length is not None,
            tails=config.reading_tails,
        )
        pad = self.embeddings.padding_idx
        ids = None if input_ids is None else pieces.take(input_ids, pad)
        types = None if token_type_ids is None else pieces.take(token_type_ids.expand(like.shape[:2]))
        embedded = self.embeddings(ids, types, None, None if inputs_embeds is None else pieces.take(inputs_embeds))
        alike = self.embeddings.embeds_padding_alike(pieces.is_token, ids, types, None)
        encoded: LongformerBaseModelOutput = self.encoder(
            embedded, pieces.is_token, None, False, output_hidden_states, alike
        )
        joined = [pieces.join(layer, *like.shape[:2]) for layer in encoded.hidden_states or ()]
        return LongformerBaseModelOutput(
            last_hidden_state=pieces.join(encoded.last_hidden_state, *like.shape[:2]),
            hidden_states=tuple(joined) if output_hidden_states else None,
        )
