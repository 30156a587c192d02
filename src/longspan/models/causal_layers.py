"""The layers of the causal language model: pre-norm, attention in causal windows, feed-forward part."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, is_grad_enabled, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from longspan.attention import AttentionPattern, longformer_attention
from longspan.attention.exporting import is_exporting
from longspan.attention.relative import relative_attention
from longspan.attention.relative_band import Positions
from longspan.models.causal_cache import RollingLayer
from longspan.models.causal_configuration import LongformerCausalConfig
from longspan.models.fused_linear import apply_linear


class Rotation(NamedTuple):
    """Cosines and sines ``[N, D]`` of rotary positions."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def at(cls, first: int, count: int, features: int, theta: float, like: Tensor) -> "Rotation":
        """Those of the positions from ``first`` on (Su et al. 2021), in the dtype of ``like``."""
        # A text of millions of characters needs angles of more than fp32's digits; some devices have no fp64.
        device = torch.device("cpu") if like.device.type == "mps" else like.device
        pair = torch.arange(0, features, 2, dtype=torch.float64, device=device)
        position = torch.arange(first, first + count, dtype=torch.float64, device=device)
        angle = (position[:, None] * theta ** (-pair / features)).repeat(1, 2)  # [N, D]
        return cls(angle.cos().to(like.device, like.dtype), angle.sin().to(like.device, like.dtype))

    def turn(self, tensor: Tensor) -> Tensor:
        """Rotate queries or keys ``[B, H, N, D]``."""
        first, second = tensor.chunk(2, -1)
        turned = tensor * self.cos + torch.cat([-second, first], -1) * self.sin
        return turned.to(tensor.dtype)  # under autocast the angles are wider than what they turn


def sinusoids(count: int, dilation: int, features: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The sinusoids of the distances ``0, d, 2 d ...``, ``[count, C]``: sines, then cosines (Dai et al. 2019)."""
    wide = torch.promote_types(dtype, torch.float32)
    frequency = 10_000.0 ** (-torch.arange(0, features, 2, dtype=wide, device=device) / features)
    angle = torch.arange(0, count * dilation, dilation, dtype=wide, device=device)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], -1).to(dtype)


class CausalSelfAttention(nn.Module):
    """Attention in causal windows with relative or rotary positions. Projections have no biases, as Transformer-XL's.

    Windows, dilations and backend are read from ``config`` at every forward, so that a training stage widens them by
    assigning ``model.config.attention_window``.
    """

    def __init__(self, config: LongformerCausalConfig, layer_id: int) -> None:
        super().__init__()
        self.config = config
        self.layer_id = layer_id
        self.num_heads: int = config.num_attention_heads
        self.head_dim: int = config.head_dim
        self.is_relative = config.position_encoding == "relative"
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        if self.is_relative:
            self.r_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
            self.content_bias = nn.Parameter(torch.zeros(self.num_heads, self.head_dim))
            self.position_bias = nn.Parameter(torch.zeros(self.num_heads, self.head_dim))

    def forward(
        self,
        hidden_states: Tensor,
        key_mask: Tensor | None = None,
        rotation: Rotation | None = None,
        cache: RollingLayer | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            hidden_states: ``[B, N, C]``.
            key_mask: bool ``[B, N]``, False marks padding; ``None``: no padding.
            rotation: of these tokens' positions, with rotary positions.
            cache: holds the tokens before these, and takes these.

        Returns:
            ``[B, N, C]``.
        """
        query, key, value = (self._heads(p(hidden_states)) for p in (self.q_proj, self.k_proj, self.v_proj))
        if rotation is not None:
            query, key = rotation.turn(query), rotation.turn(key)
        if cache is None:
            pattern = self.config.layer_pattern(self.layer_id)
            out = self._attend(query, key, value, pattern, key_mask, list(range(self.num_heads)))
        else:
            longest = cache.allocate(key, key.shape[2])
            if self.is_relative and not is_grad_enabled() and cache.distances < longest:
                dilations = list(self.config.layer_pattern(self.layer_id).dilations)
                table = self._positions(longest, dilations, query)
                cache.positions = Positions(table, self.content_bias, self.position_bias)
            out = cache.attend(query, key, value, key_mask, self.head_dim**-0.5, self._attend)
        return self.o_proj(out.transpose(1, 2).flatten(2))  # [B, H, N, D] -> [B, N, C]

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        pattern: AttentionPattern,
        key_mask: Tensor | None,
        heads: list[int],
    ) -> Tensor:
        """Attention of some heads, ``[B, h, N, D]``; see :data:`longspan.models.causal_cache.Attend`."""
        windows, dilations = list(pattern.windows), list(pattern.dilations)
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        backend = self.config.attention_backend
        if not self.is_relative:
            return longformer_attention(
                query,
                key,
                value,
                window=windows,
                dilation=dilations,
                key_mask=key_mask,
                dropout_p=dropout,
                causal=True,
                backend=backend,
            )
        longest = max(left for left, _ in windows) + 1
        if not is_exporting():  # whose graph is for any length
            longest = min(longest, query.shape[2])
        return relative_attention(
            query,
            key,
            value,
            self._positions(longest, self._spread(dilations, heads), query)[heads],
            self.content_bias[heads].to(query.dtype),
            self.position_bias[heads].to(query.dtype),
            window=windows,
            dilation=dilations,
            key_mask=key_mask,
            dropout_p=dropout,
            backend=backend,
        )

    def _spread(self, dilations: list[int], heads: list[int]) -> list[int]:
        """Dilations of some heads as those of all; the others' don't matter."""
        spread = [dilations[0]] * self.num_heads
        for head, dilation in zip(heads, dilations, strict=True):
            spread[head] = dilation
        return spread

    def _positions(self, count: int, dilations: list[int], like: Tensor) -> Tensor:
        """The projected sinusoids of each head's distances, ``[H, count, D]`` in the dtype of ``like``."""
        like_bias = self.content_bias  # r_proj's own weight may be quantised
        by_dilation = {}
        for dilation in sorted(set(dilations)):
            table = sinusoids(count, dilation, self.config.hidden_size, like_bias.dtype, like_bias.device)
            by_dilation[dilation] = self.r_proj(table).unflatten(-1, (self.num_heads, self.head_dim))  # [count, H, D]
        heads = [by_dilation[dilation][:, head] for head, dilation in enumerate(dilations)]
        return torch.stack(heads).to(like.dtype)

    def _heads(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)  # [B, N, C] -> [B, H, N, D]


class CausalFeedForward(nn.Module):
    """Expansion, activation, dropout, projection."""

    def __init__(self, config: LongformerCausalConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout: float = config.hidden_dropout_prob

    def forward(self, hidden_states: Tensor) -> Tensor:
        """``[B, N, C]`` to ``[B, N, C]``."""
        inner = F.dropout(apply_linear(self.up_proj, hidden_states, self.activation), self.dropout, self.training)
        return apply_linear(self.down_proj, inner)


class LongformerCausalLayer(GradientCheckpointingLayer):
    """One pre-norm layer: ``x + attention(norm(x))``, then ``x + feed_forward(norm(x))``."""

    def __init__(self, config: LongformerCausalConfig, layer_id: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = CausalSelfAttention(config, layer_id)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = CausalFeedForward(config)
        self.dropout: float = config.hidden_dropout_prob

    def forward(
        self,
        hidden_states: Tensor,
        key_mask: Tensor | None = None,
        rotation: Rotation | None = None,
        cache: RollingLayer | None = None,
    ) -> Tensor:
        """``[B, N, C]`` to ``[B, N, C]``; arguments as :meth:`CausalSelfAttention.forward`."""
        attended = self.self_attn(self.attention_norm(hidden_states), key_mask, rotation, cache)
        hidden_states = hidden_states + F.dropout(attended, self.dropout, self.training)
        forwarded = self.mlp(self.feed_forward_norm(hidden_states))
        return hidden_states + F.dropout(forwarded, self.dropout, self.training)
