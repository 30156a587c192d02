"""The one entrance: :func:`longformer_attention` checks its input, picks a backend and calls it."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from longspan.attention.checks import check_dropout, check_like_query, check_mask, check_tensors
from longspan.attention.pattern import AttentionPattern, Window
from longspan.attention.reference import reference_attention

Backend = Literal["auto", "reference", "blocked"]


class GlobalProjection(NamedTuple):
    """The global projections as hidden states and weights, for :func:`longformer_attention`'s ``global_qkv``.

    Given in this form the attention may never build the projected keys and values: with few global tokens it projects
    their queries instead and attends over the hidden states themselves ("absorbed"; exact, and much cheaper).
    """

    hidden: Tensor
    """``[B, N, C]``, what the projections are applied to."""
    query_weight: Tensor
    """``[H * D, C]``, as in ``torch.nn.Linear``."""
    query_bias: Tensor | None
    key_weight: Tensor
    key_bias: Tensor | None
    value_weight: Tensor
    value_bias: Tensor | None


class AttentionResult(NamedTuple):
    """What :func:`longformer_attention` returns to those who ask for more than the output."""

    out: Tensor
    """``[B, H, N, D]``."""
    lse: Tensor | None
    """``[B, H, N]``, log of the sum of exponentials of each row's scaled scores, fp32 (fp64 for fp64); -inf without a key."""
    local_probabilities: Tensor | None
    """``[B, H, N, G + W]`` after dropout: the weights on the G global tokens in order of position (G is the largest number
    in the batch), then on the offsets ``-left .. right`` in steps of the dilation. 0 in global and padding rows. A global
    token counts in its own column, never in the window. With windows that differ by head, W spans the widest on each
    side."""
    global_probabilities: Tensor | None
    """``[B, H, N, G]`` after dropout: column g is the row of the g-th global token over all N keys. None if G is 0."""


def longformer_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    window: Window | list[Window] | tuple[Window, ...],
    dilation: int | list[int] | tuple[int, ...] = 1,
    global_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    global_qkv: tuple[Tensor, Tensor, Tensor] | GlobalProjection | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    causal: bool | None = None,
    return_lse: bool = False,
    return_probabilities: bool = False,
    backend: Backend = "auto",
) -> Tensor | AttentionResult:
    """stub until the blocked path lands"""
    check_tensors(query, key, value)
    check_mask("global_mask", global_mask, query, "True marks a global token")
    check_mask("key_mask", key_mask, query, "False marks padding")
    check_dropout(dropout_p)
    pattern = AttentionPattern.make(query.shape[1], window, dilation, causal)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if isinstance(global_qkv, GlobalProjection):
        h = global_qkv
        B, H, N, D = query.shape

        def split(w: Tensor, b: Tensor | None) -> Tensor:
            return torch.nn.functional.linear(h.hidden, w, b).view(B, N, H, D).transpose(1, 2)

        global_qkv = (split(h.query_weight, h.query_bias), split(h.key_weight, h.key_bias), split(h.value_weight, h.value_bias))
    if global_qkv is None:
        global_qkv = (query, key, value)
    for name, tensor in zip(("query", "key", "value"), global_qkv, strict=True):
        check_like_query(f"global_qkv {name}", tensor, query)
    out, lse, probs = reference_attention(query, key, value, pattern, global_mask, key_mask, global_qkv, scale, dropout_p)
    if return_lse or return_probabilities:
        return AttentionResult(out, lse, None, None)
    return out
