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

import torch
from torch import Tensor

from longspan.attention.dropout import Dropout

LOG2_E = math.log2(math.e)
LN_2 = math.log(2.0)


class Scratch:
    """Named buffers used again for each block: a fresh allocation for each would cost more than the arithmetic."""

    def __init__(self, like: Tensor) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._like = like

    def take(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """An uninitialised contiguous tensor of ``shape``, valid until ``name`` is taken again."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[name] = self._like.new_empty(size, dtype=dtype)
        return buffer[:size].view(shape)


@dataclass
class RowDropout:
    """Dropout for one block of rows."""

    dropout: Dropout
    row_hash: Tensor
    """int32 ``[P, R, 1]``."""

    def drop(self, weights: Tensor, segment: "Segment", scratch: Scratch) -> None:
        """Zero the dropped weights in place; the caller divides by ``keep``."""
        x = scratch.take("dropout_x", *weights.shape, dtype=torch.int32)
        y = scratch.take("dropout_y", *weights.shape, dtype=torch.int32)
        self.dropout.drop(self.row_hash, segment.first, weights, x, y)


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


def forward_block(
    query: Tensor, segments: list[Segment], scratch: Scratch, dropout: RowDropout | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Softmax attention of ``query`` over all segments together.

    Args:
        query: ``[P, R, E]`` contiguous, multiplied by ``scale * log2(e)``.
        segments: keys and values, one softmax over all.
        scratch: buffers.
        dropout: applied to the weights after the softmax.

    Returns:
        ``(out, lse2, mass)``: ``[P, R, F]``; base-2 LSE ``[P, R, 1]``; and with dropout the sum of each row's remaining
        weights ``[P, R, 1]`` (None without: it is 1). A row without a key has output 0 and LSE -inf.
    """
    P, R, _ = query.shape
    scores = [_scores(query, segment, scratch, f"scores{i}") for i, segment in enumerate(segments)]
    top = scores[0].amax(-1, keepdim=True)  # [P, R, 1]
    for other in scores[1:]:
        torch.maximum(top, other.amax(-1, keepdim=True), out=top)
    top.clamp_(min=torch.finfo(top.dtype).min)  # a row without a key: -inf - finite stays -inf, its weights are 0

    total = torch.zeros_like(top)
    mass = None if dropout is None else torch.zeros_like(top)
    out: Tensor | None = None
    for i, (segment, weights) in enumerate(zip(segments, scores, strict=True)):
        weights.sub_(top).exp2_()
        total += weights.sum(-1, keepdim=True)
        if dropout is not None and mass is not None:
            dropout.drop(weights, segment, scratch)
            mass += weights.sum(-1, keepdim=True)
        shared = segment.key.shape[0]
        part = torch.bmm(weights.view(shared, -1, weights.shape[-1]), segment.value).view(P, R, -1)
        out = part if i == 0 else out.add_(part)  # type: ignore[union-attr]
    assert out is not None
    lse2 = total.log2().add_(top)
    total.masked_fill_(total == 0, 1.0)
    if dropout is not None:
        total *= dropout.dropout.keep
    return out.div_(total), lse2, None if mass is None else mass.div_(total)


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
    """The exact backward of :func:`forward_block`, adding into the segments' gradients.

    Args:
        query, segments, scratch, dropout: as given to the forward.
        lse2: ``[P, R, 1]``, +inf for rows that take no part.
        grad_out: ``[P, R, F]`` contiguous.
        delta: ``[P, R, 1]``, the row sums of ``grad_out * out`` (plus ``grad_mass * mass``) minus the gradient of
        the LSE. grad_mass: ``[P, R, 1]``, gradient of ``mass``, with dropout only.

    Returns:
        ``[P, R, E]``, the gradient of the scores with respect to the unscaled query divided by ``scale``.
    """
    P, R, _ = query.shape
    grad_query: Tensor | None = None
    if dropout is not None:
        grad_out = grad_out / dropout.dropout.keep
        grad_mass = None if grad_mass is None else grad_mass / dropout.dropout.keep
    for segment in segments:
        shared, n, _ = segment.key.shape
        weights = _scores(query, segment, scratch, "scores0").sub_(lse2).exp2_()  # [P, R, n]
        kept = weights
        if dropout is not None:
            kept = scratch.take("kept", P, R, n).copy_(weights)
            dropout.drop(kept, segment, scratch)
        rows_out = grad_out.view(shared, -1, grad_out.shape[-1])  # [P', R', F]
        if segment.grad_value is not None:
            part = scratch.take("grad_kv", *segment.value.shape)
            segment.grad_value += torch.bmm(kept.view(shared, -1, n).mT, rows_out, out=part)

        grad_scores = scratch.take("grad_scores", P, R, n)
        torch.bmm(rows_out, segment.value.mT, out=grad_scores.view(shared, -1, n))
        if dropout is None:
            grad_scores.sub_(delta).mul_(weights)
        else:
            if grad_mass is not None:
                grad_scores.add_(grad_mass)
            # weights * (mask * grad - delta), with the mask already in `kept`
            grad_scores.mul_(kept).addcmul_(weights, delta.expand_as(weights), value=-1.0)

        grad_rows = grad_scores.view(shared, -1, n)
        part = torch.bmm(grad_rows, segment.key).view(P, R, -1)
        grad_query = part if grad_query is None else grad_query.add_(part)
        if segment.grad_key is not None:
            part = scratch.take("grad_kv", *segment.key.shape)
            segment.grad_key += torch.bmm(grad_rows.mT, query.view(shared, -1, query.shape[-1]), out=part)
    assert grad_query is not None
    return grad_query


def _scores(query: Tensor, segment: Segment, scratch: Scratch, name: str) -> Tensor:
    """Masked base-2 scores ``[P, R, n]``."""
    P, R, E = query.shape
    shared, n, _ = segment.key.shape
    scores = scratch.take(name, P, R, n)
    torch.bmm(query.view(shared, -1, E), segment.key.mT, out=scores.view(shared, -1, n))
    if segment.mask is not None:
        segment.mask(scores)
    return scores
