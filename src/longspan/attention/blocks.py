"""One block of rows attending one range of keys: the arithmetic shared by local and global rows. Legend: P problems
(heads, times residues of a dilation), R rows, n keys, E features of a key, F of a value.

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
from longspan.attention.workspace import Scratch

LOG2_E = math.log2(math.e)
LN_2 = math.log(2.0)


@dataclass
class RowDropout:
    """Dropout for one block of rows."""

    dropout: Dropout
    row_hash: Tensor
    """int32 ``[P, R, 1]``."""
    key_hash: Tensor
    """int32 ``[n]``, of the block's keys."""

    def drop(self, weights: Tensor, scratch: Scratch) -> None:
        """Zero the dropped weights in place; the caller divides by ``keep``."""
        hashes = scratch.take("hashes", *weights.shape, dtype=torch.int32)
        self.dropout.drop(self.row_hash, self.key_hash, weights, hashes)


@dataclass
class Keys:
    """Keys and values that a block of rows attends."""

    key: Tensor
    """``[P, n, E]``."""
    value: Tensor
    """``[P, n, F]``."""
    mask: Callable[[Tensor], None]
    """Puts -inf into the scores ``[P, R, n]`` in place wherever a row must not see a key."""


class Sums(NamedTuple):
    """What a block's softmax sums up to: the output is ``weighted / total``, the base-2 LSE ``top + log2(total)``."""

    weighted: Tensor
    """``[P, R, F]``, sums of values by unnormalised weight, after dropout; in a buffer that the next block uses."""
    total: Tensor
    """``[P, R, 1]``, sums of unnormalised weights before dropout; 0 in a row without a key."""
    top: Tensor
    """``[P, R, 1]``, the largest score of each row."""
    mass: Tensor | None
    """``[P, R, 1]``, sums of unnormalised weights after dropout; None without dropout."""


class GivenBlock(NamedTuple):
    """What a block's backward starts from."""

    query: Tensor
    """``[P, R, E]``, as given to the forward; so are ``keys`` and ``dropout``."""
    keys: Keys
    lse2: Tensor
    """``[P, R, 1]``, base-2 LSE; +inf for rows that take no part."""
    grad_out: Tensor
    """``[P, R, F]``."""
    dropout: RowDropout | None
    grad_mass: Tensor | None = None
    """``[P, R, 1]``, gradient of the normalised mass, with dropout only."""


class BlockGradients(NamedTuple):
    """What a block gives back, in buffers that the next block uses."""

    query: Tensor
    """``[P, R, E]``, the gradient of the unscaled query divided by ``scale``."""
    key: Tensor
    """``[P, n, E]``, in units of the base-2 query: the caller multiplies by ``LN_2``."""
    value: Tensor
    """``[P, n, F]``."""
    weights: Tensor
    """``[P, R, n]``, the softmax's weights; dropped ones are 0 and the others not yet divided by ``keep``."""


def forward_block(query: Tensor, keys: Keys, scratch: Scratch, dropout: RowDropout | None) -> Sums:
    """Softmax attention of ``query`` over the keys, before the division by the sum of weights.

    Args:
        query: ``[P, R, E]``, multiplied by ``scale * log2(e)``.
        keys: what the rows attend.
        scratch: buffers.
        dropout: applied to the weights after the softmax.
    """
    weights = _scores(query, keys, scratch)
    top = weights.amax(-1, keepdim=True)
    top.clamp_(min=torch.finfo(top.dtype).min)  # a row without a key: -inf - finite stays -inf, its weights are 0
    weights.sub_(top).exp2_()
    total, mass = weights.sum(-1, keepdim=True), None
    if dropout is not None:
        dropout.drop(weights, scratch)
        mass = weights.sum(-1, keepdim=True).div_(dropout.dropout.keep)
    weighted = scratch.take("weighted", *query.shape[:2], keys.value.shape[-1])
    torch.bmm(weights, keys.value, out=weighted)
    if dropout is not None:
        weighted.div_(dropout.dropout.keep)
    return Sums(weighted, total, top, mass)


def joined(sums: Sums, others: Sums) -> Sums:
    """The sums of the same rows over both keys, in the buffers of ``sums``."""
    top = torch.maximum(sums.top, others.top)
    ours, theirs = (sums.top - top).exp2_(), (others.top - top).exp2_()

    def join(one: Tensor, other: Tensor) -> Tensor:
        return one.mul_(ours).addcmul_(other, theirs.expand_as(other))

    mass = None if sums.mass is None or others.mass is None else join(sums.mass, others.mass)
    return Sums(join(sums.weighted, others.weighted), join(sums.total, others.total), top, mass)


def backward_block(
    given: GivenBlock, scratch: Scratch, grad_lse: Tensor | None = None, sums: Tensor | None = None
) -> BlockGradients:
    """The exact backward of softmax attention.

    Args:
        given: the block.
        scratch: buffers.
        grad_lse: ``[P, R, 1]``, if the LSE is used.
        sums: ``[P, R, 1]``, the weighted mean of the gradients of a row's weights; None: all its keys are here.
    """
    query, keys = given.query, given.keys
    weights, kept, grad_out, grad_scores = _products(given, scratch)
    grad_value = torch.bmm(kept.mT, grad_out, out=scratch.take("grad_value", *keys.value.shape))
    if sums is None:
        sums = mean_gradient(grad_scores.sum(-1, keepdim=True), weights.sum(-1, keepdim=True))
    if grad_lse is not None:
        sums = sums - grad_lse
    # weights * (mask * grad - sums), with the mask already in `kept`
    grad_scores.addcmul_(weights, sums.expand_as(weights), value=-1.0)

    grad_query = torch.bmm(grad_scores, keys.key, out=scratch.take("grad_query", *query.shape))
    grad_key = torch.bmm(grad_scores.mT, query, out=scratch.take("grad_key", *keys.key.shape))
    return BlockGradients(grad_query, grad_key, grad_value, kept)


def row_sums(given: GivenBlock, scratch: Scratch) -> tuple[Tensor, Tensor]:
    """For :func:`mean_gradient`, the sums over these keys."""
    weights, _, _, grad_scores = _products(given, scratch)
    return grad_scores.sum(-1, keepdim=True), weights.sum(-1, keepdim=True)


def mean_gradient(sums: Tensor, totals: Tensor) -> Tensor:
    """What a softmax's backward takes from the gradient of each of a row's weights: their weighted mean, of which
    ``grad_out * out`` adds up to the same, but for the rounding of ``out``.

    Args:
        sums: ``[P, R, 1]``, of weights times their gradients.
        totals: ``[P, R, 1]``, of the weights: 1, but for the rounding of a large LSE, or 0 in a row without a key.
    """
    return sums / totals.clamp(min=torch.finfo(totals.dtype).tiny)


def _products(given: GivenBlock, scratch: Scratch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The weights, ``[P, R, n]``, and those that are kept; the gradient of the output over the share that is kept;
    and the kept weights' products with their gradients, ``[P, R, n]``.
    """
    keys, dropout, grad_out, grad_mass = given.keys, given.dropout, given.grad_out, given.grad_mass
    if dropout is not None:
        grad_out = grad_out / dropout.dropout.keep
        grad_mass = None if grad_mass is None else grad_mass / dropout.dropout.keep
    weights = _scores(given.query, keys, scratch).sub_(given.lse2).exp2_()  # [P, R, n]
    kept = weights
    if dropout is not None:
        kept = scratch.take("kept", *weights.shape).copy_(weights)
        dropout.drop(kept, scratch)
    grad_scores = torch.bmm(grad_out, keys.value.mT, out=scratch.take("grad_scores", *weights.shape))
    if grad_mass is not None:
        grad_scores.add_(grad_mass)
    return weights, kept, grad_out, grad_scores.mul_(kept)


def _scores(query: Tensor, keys: Keys, scratch: Scratch) -> Tensor:
    """Masked base-2 scores ``[P, R, n]``."""
    scores = scratch.take("scores", query.shape[0], query.shape[1], keys.key.shape[1])
    torch.bmm(query, keys.key.mT, out=scores)
    keys.mask(scores)
    return scores
