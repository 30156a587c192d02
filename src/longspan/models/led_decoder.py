"""LED's decoder: BART's, with fused attention and a cache."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from longspan.attention.exporting import is_exporting
from longspan.attention.inspection import can_inspect
from longspan.models.cache_names import CACHE, one_cache
from longspan.models.inputs import read_masks, table_rows
from longspan.models.led_attention import LEDDecoderAttention
from longspan.models.led_base import LEDLayer, LEDStack
from longspan.models.led_configuration import LEDConfig


class LEDDecoderLayer(LEDLayer, GradientCheckpointingLayer):
    """One decoder layer: causal self-attention, attention over the encoder's output, feed-forward."""

    def __init__(self, config: LEDConfig, layer_id: int) -> None:
        super().__init__(config, config.decoder_ffn_dim)
        self.self_attn = LEDDecoderAttention(config, layer_id)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.encoder_attn = LEDDecoderAttention(config, layer_id)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        mask: Tensor | None = None,
        encoder_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, ...]:
        """Decode.

        Args:
            hidden_states: ``[B * R, T, C]``.
            encoder_hidden_states: ``[B, S, C]``; ``None`` leaves cross-attention out.
            mask: as :func:`causal_mask` makes it.
            encoder_mask: bool ``[B, 1, 1, S]``, False marks padding; ``None``: no padding.
            past_key_values: the cache to read and extend.
            output_attentions: also return the probabilities.

        Returns:
            ``[B * R, T, C]``, and if asked for the probabilities of self-attention ``[B * R, H, T, K]`` and of
            cross-attention ``[B * R, H, T, S]``, if there is one.
        """
        norm = self.self_attn_layer_norm
        context, self_probabilities = self.self_attn(
            self._before(norm, hidden_states),
            mask=mask,
            is_causal=mask is None and hidden_states.shape[1] > 1,
            past_key_values=past_key_values,
            output_attentions=output_attentions,
        )
        hidden_states = self._after(norm, context, hidden_states)
        cross_probabilities = None
        if encoder_hidden_states is not None:
            norm = self.encoder_attn_layer_norm
            context, cross_probabilities = self.encoder_attn(
                self._before(norm, hidden_states),
                encoder_hidden_states,
                encoder_mask,
                past_key_values=past_key_values,
                output_attentions=output_attentions,
            )
            hidden_states = self._after(norm, context, hidden_states)
        weights = (self_probabilities, cross_probabilities)
        return (self._feed_forward(hidden_states), *(one for one in weights if one is not None))


class LEDDecoder(LEDStack):
    """The decoder: full attention over up to ``max_decoder_position_embeddings`` tokens and over all of the text."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config, config.max_decoder_position_embeddings)
        self.layerdrop: float = self.config.decoder_layerdrop
        self.layers = nn.ModuleList([LEDDecoderLayer(self.config, i) for i in range(self.config.decoder_layers)])
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache: Cache | None = None,
    ) -> tuple[Tensor | Cache, ...] | BaseModelOutputWithPastAndCrossAttentions:
        """Decode a batch of targets.

        Args:
            input_ids: int ``[B * R, T]``, the tokens that the cache doesn't hold; exactly one of it and
                ``inputs_embeds``.
            attention_mask: ``[B * R, past + T]``, bool or numbers, 0 marks padding, in the cache too. ``None``: no
                padding.
            encoder_hidden_states: ``[B, S, C]``; R targets in a row read the same text.
            encoder_attention_mask: ``[B, S]``, 0 marks padding.
            past_key_values, cache: two names, of which either is given: a cache of earlier tokens, static or growing,
                which is extended (:mod:`longspan.models.cache_names`).
            inputs_embeds: ``[B * R, T, C]`` in place of the word embeddings.
            use_cache: return a cache, a new one if none is given; not while training with gradient checkpointing.
                ``None``: as the configuration, but not in ``torch.export``.
            output_attentions, output_hidden_states, return_dict: as :meth:`LEDModel.forward`.

        Returns:
            ``last_hidden_state`` ``[B * R, T, C]``, the cache, ``hidden_states``, ``attentions`` (per layer
            ``[B * R, H, T, K]``) and ``cross_attentions`` (per layer ``[B * R, H, T, S]``).

        Raises:
            TypeError, ValueError: one sentence for ids out of range, masks of another shape, more tokens than
                positions, or a number of targets that is no multiple of the number of texts.
        """
        config = self.config
        past_key_values = one_cache(past_key_values, cache)
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        output_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return_dict = config.return_dict if return_dict is None else return_dict
        if use_cache is None:
            use_cache = config.use_cache and not is_exporting()  # a graph's outputs are tensors

        inputs_embeds = self._embed_tokens(input_ids, inputs_embeds, "decoder_")
        if self.training and any(layer.gradient_checkpointing for layer in self.layers):
            use_cache, past_key_values = False, None  # the layer runs twice and would write twice
        if use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(DynamicCache(), DynamicCache())
        length = inputs_embeds.shape[1]
        past, keys = 0, length
        if past_key_values is not None:
            past, keys = past_key_values.get_seq_length(), past_key_values.get_mask_sizes(length, 0)[0]
        self._check_length(past, length)
        mask = self._self_mask(attention_mask, inputs_embeds, past, keys)
        encoder_mask = _cross_mask(encoder_attention_mask, encoder_hidden_states, inputs_embeds)

        hidden_states = self._embed(inputs_embeds, torch.arange(length, device=inputs_embeds.device) + past)
        states, probabilities, cross_probabilities = [hidden_states], [], []
        for layer in self.layers:
            if not self._is_dropped(self.layerdrop):
                # The first two positional, so that reentrant gradient checkpointing sees what needs a gradient.
                hidden_states, *weights = layer(
                    hidden_states,
                    encoder_hidden_states,
                    mask=mask,
                    encoder_mask=encoder_mask,
                    past_key_values=past_key_values,
                    output_attentions=output_attentions,
                )
                probabilities += weights[:1]
                cross_probabilities += weights[1:]
            states.append(hidden_states)
        if self.layer_norm is not None:
            hidden_states = states[-1] = self.layer_norm(hidden_states)

        output = BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden_states,
            **{CACHE: past_key_values},
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(probabilities) if output_attentions else None,
            cross_attentions=tuple(cross_probabilities) or None,
        )
        return output if return_dict else output.to_tuple()

    def _check_length(self, past: int | Tensor, length: int) -> None:
        if isinstance(past, Tensor) and not can_inspect(past):
            return
        longest = table_rows(self.embed_positions)
        if past + length > longest:
            raise ValueError(
                f"the target has {past + length} tokens, but this model's decoder has positions for {longest}; "
                f"truncate it, or convert the model with more decoder positions (max_decoder_positions of "
                f"longspan.lengthen)"
            )

    def _self_mask(
        self, attention_mask: Tensor | None, inputs_embeds: Tensor, past: int | Tensor, keys: int
    ) -> Tensor | None:
        rows, length = inputs_embeds.shape[:2]
        if attention_mask is not None:
            seen = past + length if isinstance(past, int) else attention_mask.shape[-1]
            covered = inputs_embeds.new_empty(0).expand(rows, seen, 0)
            if attention_mask.dim() == 2 and attention_mask.shape[1] != seen:
                raise ValueError(
                    f"decoder_attention_mask must cover the cache and the new tokens, [B, past + T] = "
                    f"{[rows, seen]}, got {list(attention_mask.shape)}"
                )
            attention_mask, _ = read_masks(attention_mask, None, covered)
        return causal_mask(attention_mask, length, past, keys, inputs_embeds.device)


def causal_mask(
    decoder_attention_mask: Tensor | None, length: int, past: int | Tensor, keys: int, device: torch.device
) -> Tensor | None:
    """Which keys of the cache and of this call each new target token sees.

    Args:
        decoder_attention_mask: bool ``[B, past + T]``, False marks padding; ``None``: no padding.
        length: T, the number of new tokens.
        past: how many tokens the cache holds; a tensor ``[]`` if the cache is static.
        keys: K, how many keys attention will see: past + T, or what a static cache has room for.
        device: of the mask.

    Returns:
        bool ``[B or 1, 1, T, K]``; ``None`` where a plain causal mask (the cache is empty) or no mask (T is 1) says
        the same.
    """
    is_growing = isinstance(past, int) and keys == past + length
    if decoder_attention_mask is None and is_growing and (length == 1 or past == 0):
        return None
    query_position = torch.arange(length, device=device)[:, None] + past
    mask = (torch.arange(keys, device=device) <= query_position)[None, None]  # [1, 1, T, K]
    if decoder_attention_mask is None:
        return mask
    # The room that a static cache still has lies ahead of every query.
    room = keys - decoder_attention_mask.shape[1]
    return mask & F.pad(decoder_attention_mask, (0, room), value=True)[:, None, None]


def _cross_mask(
    encoder_attention_mask: Tensor | None, encoder_hidden_states: Tensor | None, inputs_embeds: Tensor
) -> Tensor | None:
    """Bool ``[B, 1, 1, S]``, or None where no key is padding."""
    if encoder_hidden_states is None:
        return None
    texts, targets = encoder_hidden_states.shape[0], inputs_embeds.shape[0]
    if targets % texts != 0:
        raise ValueError(f"the decoder got {targets} targets for {texts} encoded texts; give one or more per text")
    mask, _ = read_masks(encoder_attention_mask, None, encoder_hidden_states)
    return None if mask is None else mask[:, None, None]
