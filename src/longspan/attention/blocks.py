"""One block of rows attending a few segments of keys: the arithmetic shared by the window, the global columns and the
global rows. Legend: P problems (heads, times residues of a dilation), R rows, n keys, E features of a key, F of a
value.

Scores live in base 2: queries arrive multiplied by ``scale * log2(e)``, so that ``exp2`` replaces ``exp``. ``exp2``
costs the same for any argument, while ``exp`` on CPU slows down by 10 to 100 times where it underflows, as masked
scores do.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from longspan.attention.dropout import Dropout

LOG2_E = math.log2(math.e)
LN_2 = math.log(2.0)


class Scratch:
    """Named buffers used again for each block: a fresh allocation for each would cost more than the arithmetic."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self._buffers: dict[str, Tensor] = {}
        self._views: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def take(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """An uninitialised contiguous tensor of ``shape``, valid until ``name`` is taken again."""
        view = self._views.get((name, shape))
        if view is None:
            size = math.prod(shape)
            buffer = self._buffers.get(name)
            if buffer is None or buffer.numel() < size:
                buffer = torch.empty(size, dtype=dtype or self.dtype, device=self.device)
                self._buffers[name] = buffer
            view = self._views[name, shape] = buffer[:size].view(shape)
        return view


@dataclass
class RowDropout:
    """Dropout for one block of rows."""

    dropout: Dropout
    row_hash: Tensor
    """int32 ``[P, R, 1]``."""
    key_hash: Tensor
    """int32, of all keys that a segment may number."""

    def drop(self, weights: Tensor, segment: "Segment", scratch: Scratch) -> None:
        """Zero the dropped weights in place; the caller divides by ``keep``."""
        x = scratch.take("dropout_x", *weights.shape, dtype=torch.int32)
        y = scratch.take("dropout_y", *weights.shape, dtype=torch.int32)
        keys = self.key_hash[segment.first : segment.first + weights.shape[-1]]
        self.dropout.drop(self.row_hash, keys, weights, x, y)


@dataclass
class Segment:
    """Keys and values that a block of rows attends."""

    key: Tensor
    """``[P', n, E]``. With ``P'`` smaller than the P of the rows, consecutive problems share one set of keys."""
    value: Tensor
    """``[P', n, F]``."""
    mask: Callable[[Tensor], None] | None = None
    """Puts -inf into the scores ``[P, R, n]`` in place wherever a row must not see a key."""
    first: int = 0
    """Number of the first key, for dropout; the segments of a row must not share numbers."""
    grad_key: Tensor | None = None
    """Where the backward adds ``[P', n, E]``, in units of the base-2 query (the caller multiplies by ``LN_2``)."""
    grad_value: Tensor | None = None
    """Where the backward adds ``[P', n, F]``."""


class Sums(NamedTuple):
    """What a block's softmax sums up to: the output is ``weighted / total``, the base-2 LSE ``top + log2(total)``."""

    weighted: Tensor
    """``[P, R, F]``, sums of values by unnormalised weight, after dropout."""
    total: Tensor
    """``[P, R, 1]``, sums of unnormalised weights before dropout; 0 in a row without a key."""
    top: Tensor
    """``[P, R, 1]``, the largest score of each row."""
    mass: Tensor | None
    """``[P, R, 1]``, sums of unnormalised weights after dropout; None without dropout."""


def forward_block(query: Tensor, segments: list[Segment], scratch: Scratch, dropout: RowDropout | None) -> Sums:
    """Softmax attention of ``query`` over all segments together, before the division by the sum of weights.

    Args:
        query: ``[P, R, E]``, multiplied by ``scale * log2(e)``; contiguous if segments are shared.
        segments: keys and values, one softmax over all.
        scratch: buffers.
        dropout: applied to the weights after the softmax.
    """
    scores = [_scores(query, segment, scratch, name) for segment, name in zip(segments, _SCORES, strict=False)]
    top = scores[0].amax(-1, keepdim=True)
    for other in scores[1:]:
        torch.maximum(top, other.amax(-1, keepdim=True), out=top)
    top.clamp_(min=torch.finfo(top.dtype).min)  # a row without a key: -inf - finite stays -inf, its weights are 0

    weighted = total = mass = None
    for segment, weights in zip(segments, scores, strict=True):
        weights.sub_(top).exp2_()
        total = _plus(total, weights.sum(-1, keepdim=True))
        if dropout is not None:
            dropout.drop(weights, segment, scratch)
            mass = _plus(mass, weights.sum(-1, keepdim=True))
        part = torch.bmm(_shared(weights, segment.value), segment.value)
        weighted = _plus(weighted, part.view(*query.shape[:2], -1))
    assert weighted is not None
    assert total is not None
    if dropout is not None and mass is not None:
        weighted.div_(dropout.dropout.keep)
        mass.div_(dropout.dropout.keep)
    return Sums(weighted, total, top, mass)


def backward_block(
    query: Tensor,
    segments: list[Segment],
    lse2: Tensor,
    grad_out: Tensor,
    delta: Tensor,
    scratch: Scratch,
    dropout: RowDropout | None,
    grad_mass: Tensor | None = None,
) -> Tensor:
    """The exact backward of softmax attention over the segments, adding into the segments' gradients.

    Args:
        query, segments, scratch, dropout: as given to the forward.
        lse2: ``[P, R, 1]``, base-2 LSE; +inf for rows that take no part.
        grad_out: ``[P, R, F]``, contiguous if segments are shared.
        delta: ``[P, R, 1]``, row sums of ``grad_out * out`` and ``grad_mass * mass`` minus the gradient of the LSE.
        grad_mass: ``[P, R, 1]``, gradient of the normalised mass, with dropout only.

    Returns:
        ``[P, R, E]``, the gradient of the scores with respect to the unscaled query, divided by ``scale``.
    """
    grad_query = None
    if dropout is not None:
        grad_out = grad_out / dropout.dropout.keep
        grad_mass = None if grad_mass is None else grad_mass / dropout.dropout.keep
    for segment in segments:
        weights = _scores(query, segment, scratch, _SCORES[0]).sub_(lse2).exp2_()  # [P, R, n]
        kept = weights
        if dropout is not None:
            kept = scratch.take("kept", *weights.shape).copy_(weights)
            dropout.drop(kept, segment, scratch)
        rows_out = _shared(grad_out, segment.value)
        if segment.grad_value is not None:
            part = scratch.take("grad_kv", *segment.value.shape)
            segment.grad_value.add_(torch.bmm(_shared(kept, segment.value).mT, rows_out, out=part))

        grad_scores = scratch.take("grad_scores", *weights.shape)
        torch.bmm(rows_out, segment.value.mT, out=_shared(grad_scores, segment.value))
        if dropout is None:
            grad_scores.sub_(delta).mul_(weights)
        else:
            if grad_mass is not None:
                grad_scores.add_(grad_mass)
            # weights * (mask * grad - delta), with the mask already in `kept`
            grad_scores.mul_(kept).addcmul_(weights, delta.expand_as(weights), value=-1.0)

        grad_rows = _shared(grad_scores, segment.key)
        part = torch.bmm(grad_rows, segment.key).view(*query.shape[:2], -1)
        grad_query = _plus(grad_query, part)
        if segment.grad_key is not None:
            part = scratch.take("grad_kv", *segment.key.shape)
            segment.grad_key.add_(torch.bmm(grad_rows.mT, _shared(query, segment.key), out=part))
    assert grad_query is not None
    return grad_query


_SCORES = ("scores of the first segment", "scores of the second segment")


def _scores(query: Tensor, segment: Segment, scratch: Scratch, name: str) -> Tensor:
    """Masked base-2 scores ``[P, R, n]``."""
    scores = scratch.take(name, query.shape[0], query.shape[1], segment.key.shape[1])
    torch.bmm(_shared(query, segment.key), segment.key.mT, out=_shared(scores, segment.key))
    if segment.mask is not None:
        segment.mask(scores)
    return scores


def _shared(rows: Tensor, keys: Tensor) -> Tensor:
    """``[P, R, X]`` as ``[P', R', X]``: the rows of problems that share their keys, one after the other."""
    return rows if rows.shape[0] == keys.shape[0] else rows.view(keys.shape[0], -1, rows.shape[-1])


def _plus(sum_: Tensor | None, part: Tensor) -> Tensor:
    return part if sum_ is None else sum_.add_(part)
