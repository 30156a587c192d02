"""The two attentions of LED: sliding window in the encoder, full with a cache in the decoder."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache, EncoderDecoderCache

from longspan.attention.transforms import is_forward_mode
from longspan.models.fused_linear import apply_linear
from longspan.models.led_configuration import LEDConfig
from longspan.models.self_attention import LongformerSelfAttention


class LEDEncoderAttention(nn.Module):
    """Sliding-window and global self-attention with its output projection; key names are Hugging Face's."""

    def __init__(self, config: LEDConfig, layer_id: int) -> None:
        super().__init__()
        self.longformer_self_attn = LongformerSelfAttention(config, layer_id)
        self.output = nn.Linear(config.d_model, config.d_model)

    def forward(
        self,
        hidden_states: Tensor,
        key_mask: Tensor | None = None,
        global_mask: Tensor | None = None,
        output_attentions: bool = False,
        mask_survey: Tensor | None = None,
        lengths: list[int] | None = None,
    ) -> tuple[Tensor, ...]:
        """As :meth:`LongformerSelfAttention.forward`, projected."""
        context, *weights = self.longformer_self_attn(
            hidden_states, key_mask, global_mask, output_attentions, mask_survey, lengths
        )
        return (apply_linear(self.output, context), *weights)


class LEDDecoderAttention(nn.Module):
    """Full attention of the decoder, over itself or over the encoder's output; key names are Hugging Face's.

    In cross-attention the batch of queries may be a multiple of the batch of keys: rows ``i * R .. i * R + R - 1``
    then all read text ``i``, so that the R beams of a text share one copy of its keys and values, which are
    projected once and never reordered.
    """

    def __init__(self, config: LEDConfig, layer_id: int) -> None:
        super().__init__()
        self.config = config
        self.layer_id = layer_id
        self.num_heads: int = config.decoder_attention_heads
        self.head_dim: int = config.d_model // config.decoder_attention_heads
        self.dropout: float = config.attention_dropout
        self.k_proj = nn.Linear(config.d_model, config.d_model)
        self.v_proj = nn.Linear(config.d_model, config.d_model)
        self.q_proj = nn.Linear(config.d_model, config.d_model)
        self.out_proj = nn.Linear(config.d_model, config.d_model)

    def forward(
        self,
        hidden_states: Tensor,
        key_value_states: Tensor | None = None,
        mask: Tensor | None = None,
        is_causal: bool = False,
        past_key_values: Cache | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            hidden_states: ``[B * R, T, C]``, the queries.
            key_value_states: ``[B, S, C]``, what cross-attention reads; ``None``: self-attention.
            mask: bool, broadcast to ``[B, H, T, S]``, True where a query sees a key; ``None``: all, or as
                ``is_causal``. A query that sees none gives 0.
            is_causal: without a mask, query t sees keys 0 .. t only.
            past_key_values: the cache to read and extend. Cross-attention fills it once and then only reads.
            output_attentions: also return the probabilities.

        Returns:
            ``[B * R, T, C]``, and ``[B * R, H, T, S]`` after dropout or None. With R = 1 the former is computed from
            the latter, whose gradient can then be asked for.
        """
        rows, length = hidden_states.shape[:2]
        key, value = self._keys_and_values(hidden_states, key_value_states, past_key_values)
        texts = key.shape[0]
        query = apply_linear(self.q_proj, hidden_states)
        query = query.reshape(texts, -1, self.num_heads, self.head_dim).transpose(1, 2)  # [B, H, R * T, D]
        dropout = self.dropout if self.training else 0.0
        probabilities = None
        if output_attentions or self.config._attn_implementation == "eager" or is_forward_mode():
            if is_causal and mask is None:
                mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
            context, probabilities = _unfused(query, key, value, mask, dropout)
        else:
            context = F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=is_causal and mask is None
            )
        context = context.transpose(1, 2).reshape(rows, length, -1)  # [B, H, R * T, D] -> [B * R, T, C]
        if probabilities is None or not output_attentions:
            return apply_linear(self.out_proj, context), None
        if rows != texts:
            probabilities = probabilities.unflatten(2, (rows // texts, length)).transpose(1, 2)
            probabilities = probabilities.flatten(0, 1)  # [B, R, H, T, S] -> [B * R, H, T, S]
        return apply_linear(self.out_proj, context), probabilities

    def _keys_and_values(
        self, hidden_states: Tensor, key_value_states: Tensor | None, past_key_values: Cache | None
    ) -> tuple[Tensor, Tensor]:
        """``[B, H, S, D]`` each, through the cache if there is one."""
        if key_value_states is None:
            key, value = self._project(hidden_states)
            if past_key_values is None:
                return key, value
            cache = _part(past_key_values, "self_attention_cache")
            return cache.update(key, value, self.layer_id)
        if isinstance(past_key_values, EncoderDecoderCache) and past_key_values.is_updated.get(self.layer_id):
            layer = past_key_values.cross_attention_cache.layers[self.layer_id]
            return layer.keys, layer.values
        key, value = self._project(key_value_states)
        if isinstance(past_key_values, EncoderDecoderCache):
            # Read at every step from now on, which is twice as fast in one piece.
            key, value = past_key_values.cross_attention_cache.update(
                key.contiguous(), value.contiguous(), self.layer_id
            )
            past_key_values.is_updated[self.layer_id] = True
        return key, value

    def _project(self, states: Tensor) -> tuple[Tensor, Tensor]:
        return self._heads(apply_linear(self.k_proj, states)), self._heads(apply_linear(self.v_proj, states))

    def _heads(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)  # [B, S, C] -> [B, H, S, D]


def _part(cache: Cache, name: str) -> Any:
    return getattr(cache, name) if isinstance(cache, EncoderDecoderCache) else cache


def _unfused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> tuple[Tensor, Tensor]:
    """Attention whose probabilities ``[B, H, T, S]`` can be returned; the softmax is in fp32 at least."""
    scores = (query * query.shape[-1] ** -0.5) @ key.mT
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    probabilities = scores.softmax(-1)
    if mask is not None:
        probabilities = probabilities.masked_fill(~mask, 0.0)  # where no key is seen at all the softmax is uniform
    probabilities = F.dropout(probabilities.to(query.dtype), dropout)
    return probabilities @ value, probabilities
