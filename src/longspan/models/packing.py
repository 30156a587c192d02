"""Batches without their padding, on a CPU: the tokens of all texts one after another in one row.

Linear layers take most of a model's time, and as much of it for padding as for tokens. But padding attends to nothing
and nothing attends to it, so all that becomes of it follows from its embedding; of padding with equal embeddings one
token is computed for all. What comes out is that of the padded batch, at every position.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from longspan.attention.inspection import can_inspect
from longspan.attention.transforms import is_transformed
from longspan.models.fused_linear import is_watched

_MOST_KEPT = 0.9
"""The share of a batch's tokens that may be left for packing it to be worth its copies."""


class PackedBatch(NamedTuple):
    """A batch ``[B, N]`` as one row of K tokens."""

    key_mask: Tensor
    """bool ``[1, K]``, False in the padding at the end."""
    global_mask: Tensor | None
    """bool ``[1, K]``."""
    lengths: list[int]
    """Of the texts, and of the padding at the end."""
    kept: Tensor
    """int64 ``[K]``, ``text * N + column``: the texts' tokens, then padding."""
    place: Tensor
    """int64 ``[B, N]``, which of the K stands for each."""

    def pack(self, tensor: Tensor) -> Tensor:
        """``[B, N, ...]`` to ``[1, K, ...]``."""
        return tensor.flatten(0, 1).index_select(0, self.kept)[None]

    def unpack(self, states: Tensor) -> Tensor:
        """``[1, K, C]`` to ``[B, N, C]``."""
        return states[0].index_select(0, self.place.flatten()).view(*self.place.shape, -1)


def pack_batch(
    key_mask: Tensor | None, global_mask: Tensor | None, kinds: Tensor | None, layers: nn.Module, states: Tensor
) -> PackedBatch | None:
    """Decide whether a batch is computed without its padding.

    Args:
        key_mask: bool ``[B, N]``, False marks padding; ``None``: none.
        global_mask: bool ``[B, N]``, True marks global tokens; ``None``: none.
        kinds: int ``[N]`` or ``[1]``; padding in columns of one kind is embedded alike. ``None``: it isn't known.
        layers: what computes the batch; if somebody watches one of its modules, he is to see the whole batch.
        states: ``[B, N, C]``, what goes in.

    Returns:
        The batch; None if there is too little to gain, or something stands in the way.
    """
    if key_mask is None or kinds is None or not can_inspect(states) or is_transformed():
        return None
    is_token = key_mask.flatten()
    column = torch.arange(key_mask.shape[1], device=key_mask.device)
    # A window is one of columns, so that a text with a gap must keep it.
    first, counts = key_mask.to(torch.uint8).argmax(1, keepdim=True), key_mask.sum(1)
    without_gap = (column >= first) & (column < first + counts[:, None])
    padding, tokens = (~is_token).nonzero().squeeze(1), is_token.nonzero().squeeze(1)
    kinds, kind = kinds.expand(key_mask.shape).flatten()[padding].unique(return_inverse=True)
    total = len(tokens) + len(kinds)
    if total > _MOST_KEPT * is_token.numel() or not torch.equal(without_gap, key_mask):
        return None
    if any(map(is_watched, layers.modules())):
        return None
    place = torch.empty_like(is_token, dtype=torch.int64)
    place[tokens] = torch.arange(len(tokens), device=key_mask.device)
    place[padding] = len(tokens) + kind
    kept = torch.cat([tokens, torch.empty_like(kinds).scatter_(0, kind, padding)])
    return PackedBatch(
        key_mask=is_token[kept][None],
        global_mask=None if global_mask is None else global_mask.flatten()[kept][None],
        lengths=[*filter(None, counts.tolist()), len(kinds)],
        kept=kept,
        place=place.view(key_mask.shape),
    )
