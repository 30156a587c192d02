"""LED's encoder: BART's with Longformer's attention."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.led.modeling_led import LEDEncoderBaseModelOutput

from longspan.attention import survey_masks
from longspan.attention.inspection import can_inspect
from longspan.models.inputs import read_masks, table_rows
from longspan.models.led_attention import LEDEncoderAttention
from longspan.models.led_base import LEDLayer, LEDStack
from longspan.models.led_configuration import LEDConfig
from longspan.models.packing import pack_batch


class LEDEncoderLayer(LEDLayer, GradientCheckpointingLayer):
    """One encoder layer."""

    def __init__(self, config: LEDConfig, layer_id: int) -> None:
        super().__init__(config, config.encoder_ffn_dim)
        self.self_attn = LEDEncoderAttention(config, layer_id)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)

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
        norm = self.self_attn_layer_norm
        context, *weights = self.self_attn(
            self._before(norm, hidden_states), key_mask, global_mask, output_attentions, mask_survey, lengths
        )
        hidden_states = self._feed_forward(self._after(norm, context, hidden_states))
        if hidden_states.dtype == torch.float16:  # as Hugging Face's, but without looking whether it is needed
            limit = torch.finfo(torch.float16).max - 1000
            hidden_states = hidden_states.clamp(-limit, limit)
        return (hidden_states, *weights)


class LEDEncoder(LEDStack):
    """The encoder: reads ``max_encoder_position_embeddings`` tokens in time and memory linear in their number.

    Args:
        config: the configuration.
        default_global: whether each text's first token is global when no mask says which are; the paper's choice
            for summarization (section 7), made by the models with a head.
    """

    def __init__(self, config: PreTrainedConfig, default_global: bool = False) -> None:
        super().__init__(config, config.max_encoder_position_embeddings)
        self.default_global = default_global
        self.layerdrop: float = self.config.encoder_layerdrop
        self.layers = nn.ModuleList([LEDEncoderLayer(self.config, i) for i in range(self.config.encoder_layers)])
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> tuple[Tensor, ...] | LEDEncoderBaseModelOutput:
        """Encode a batch of texts.

        Args:
            input_ids: int ``[B, N]``; exactly one of it and ``inputs_embeds``.
            attention_mask: ``[B, N]``, bool or numbers, 0 marks padding; 2 marks a global token (the merged form).
                ``None``: no padding.
            global_attention_mask: ``[B, N]``, bool or numbers, above 0 marks tokens that attend to all and are
                attended by all. ``None``: none, or the first token that isn't padding, as the class says; a mask of
                zeros: none.
            inputs_embeds: ``[B, N, C]`` in place of the word embeddings.
            output_attentions, output_hidden_states, return_dict: as :meth:`LEDModel.forward`.

        Returns:
            ``last_hidden_state`` ``[B, N, C]``, and ``hidden_states``, ``attentions``, ``global_attentions`` as
            :meth:`LongformerModel.forward`. Layers that LayerDrop skips have no attentions.

        Raises:
            TypeError, ValueError: one sentence for ids out of range, masks of another shape, or a text longer than
                the position table. Values are checked on a CPU only, and not in a compiled graph.
        """
        config = self.config
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        output_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return_dict = config.return_dict if return_dict is None else return_dict

        inputs_embeds = self._embed_tokens(input_ids, inputs_embeds)
        length, longest = inputs_embeds.shape[1], table_rows(self.embed_positions)
        if length > longest:
            raise ValueError(
                f"the text has {length} tokens, but this model's encoder has positions for {longest}; truncate or "
                f"split the text, or make the model longer with longspan.lengthen"
            )
        key_mask, global_mask = read_masks(attention_mask, global_attention_mask, inputs_embeds)
        if self.default_global and global_attention_mask is None:
            first = _first_tokens(key_mask, inputs_embeds)
            # Marked in the merged form, if at all.
            global_mask = first if global_mask is None else torch.where(global_mask.any(), global_mask, first)
        if input_ids is not None and can_inspect(input_ids):
            self.warn_if_padding_and_no_attention_mask(input_ids, attention_mask)

        hidden_states = self._embed(inputs_embeds, torch.arange(length, device=inputs_embeds.device))
        packed, lengths = None, None
        if not (output_attentions or output_hidden_states):
            kinds = self._padding_kinds(key_mask, input_ids)
            packed = pack_batch(key_mask, global_mask, kinds, self.layers, hidden_states)
        if packed is not None:
            hidden_states = packed.pack(hidden_states)
            key_mask, global_mask, lengths = packed.key_mask, packed.global_mask, packed.lengths
        survey = survey_masks(global_mask, key_mask)
        states, locals_, globals_ = [hidden_states], [], []
        for layer in self.layers:
            if not self._is_dropped(self.layerdrop):
                # Positional, so that reentrant gradient checkpointing sees the tensor that needs a gradient.
                hidden_states, *weights = layer(
                    hidden_states, key_mask, global_mask, output_attentions, survey, lengths
                )
                locals_ += weights[:1]
                globals_ += weights[1:]
            states.append(hidden_states)
        if self.layer_norm is not None:
            hidden_states = states[-1] = self.layer_norm(hidden_states)
        if packed is not None:
            hidden_states = packed.unpack(hidden_states)

        output = LEDEncoderBaseModelOutput(
            last_hidden_state=hidden_states,
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(locals_) if output_attentions else None,
            global_attentions=tuple(globals_) or None,
        )
        return output if return_dict else output.to_tuple()

    def _padding_kinds(self, key_mask: Tensor | None, input_ids: Tensor | None) -> Tensor | None:
        """As of :func:`pack_batch`: padding of one column has one embedding, if its ids are the same."""
        if key_mask is None or input_ids is None or not can_inspect(input_ids):
            return None
        ids = input_ids[~key_mask]
        return torch.arange(key_mask.shape[1], device=ids.device) if bool((ids == ids[:1]).all()) else None


def _first_tokens(key_mask: Tensor | None, like: Tensor) -> Tensor:
    """Bool ``[B, N]``, True at the first token of each text that isn't padding."""
    if key_mask is None:
        first = torch.zeros(like.shape[:2], dtype=torch.bool, device=like.device)
        first[:, 0] = True
        return first
    return key_mask & (key_mask.cumsum(1) == 1)
