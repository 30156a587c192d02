"""The dense oracle: quadratic, fp64-capable, obviously right. Every fast path is tested against it, values and
gradients.
"""

import torch
from torch import Tensor

from longspan.attention.pattern import AttentionPattern


def reference_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pattern: AttentionPattern,
    global_mask: Tensor | None,
    key_mask: Tensor | None,
    global_qkv: tuple[Tensor, Tensor, Tensor],
    scale: float,
    dropout_p: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention by the definition in :class:`AttentionPattern`, with dense N x N scores.

    Args:
        query, key, value: ``[B, H, N, D]``, the local projections.
        pattern: who attends whom.
        global_mask: bool ``[B, N]`` or None, True marks global tokens.
        key_mask: bool ``[B, N]`` or None, False marks padding.
        global_qkv: the global projections, each ``[B, H, N, D]``.
        scale: factor on the scores before the softmax.
        dropout_p: probability of zeroing an attention weight (the rest are divided by ``1 - dropout_p``).

    Returns:
        ``(out, lse, probabilities)``: ``[B, H, N, D]`` in the dtype of ``query``; ``[B, H, N]`` and ``[B, H, N, N]`` in
        at least fp32. A row without a key has output 0, LSE -inf and probabilities 0.
    """
    local, global_ = pattern.dense_masks(query.shape[-2], global_mask, key_mask, query.device)
    wide = torch.promote_types(query.dtype, torch.float32)
    q, k, v, qg, kg, vg = (tensor.to(wide) for tensor in (query, key, value, *global_qkv))
    if key_mask is not None:  # padding may hold anything, even NaN, which a weight of 0 would not stop
        padding = ~key_mask[:, None, :, None]
        q, k, v, qg, kg, vg = (tensor.masked_fill(padding, 0.0) for tensor in (q, k, v, qg, kg, vg))

    # Local and global rows never overlap, so one [B, H, N, N] score matrix holds both kinds.
    scores = torch.where(global_, qg @ kg.mT, q @ k.mT) * scale
    allowed = local | global_
    scores = scores.masked_fill(~allowed, -torch.inf)
    has_key = allowed.any(-1, keepdim=True)
    # Rows without a key are set to 0 before the softmax and after it: neither value nor gradient becomes NaN.
    probabilities = scores.masked_fill(~has_key, 0.0).softmax(-1).masked_fill(~allowed, 0.0)
    lse = scores.masked_fill(~has_key, 0.0).logsumexp(-1).masked_fill(~has_key.squeeze(-1), -torch.inf)
    weights = torch.nn.functional.dropout(probabilities, dropout_p) if dropout_p > 0 else probabilities
    out = weights.masked_fill(global_, 0.0) @ v + weights.masked_fill(~global_, 0.0) @ vg
    return out.to(query.dtype), lse, weights
