"""Dropout of attention weights by a counter: whether a weight is kept is a hash of (seed, row, key), nothing else.

So the backward draws the forward's mask again, in any order and any block size, and nothing of the size of the
weights is stored. A stateful generator draws about 0.1 billion masks a second on CPU, a few times slower than the
attention itself; this hash costs six passes of integer arithmetic (docs/log.md).
"""

import torch
from torch import Tensor

# Odd 32-bit multipliers with good avalanche, as signed ints (found by search: C. Wellons, "Prospecting for hash
# functions").
_MULTIPLIER_1 = 0x7FEB352D
_MULTIPLIER_2 = 0x846CA68B - 2**32


class Dropout:
    """Weights are zeroed with a probability and the rest divided by what is kept, as
    ``torch.nn.functional.dropout``.
    """

    def __init__(self, probability: float, seed: int, device: torch.device) -> None:
        self.keep = 1.0 - probability
        self.seed = seed
        self.device = device
        # A hash is uniform over the signed 32-bit integers.
        self.threshold = round(probability * 2**32) - 2**31

    def stream(self, *key: int) -> "Dropout":
        """Another one with masks of its own: one for each text and group of heads."""
        seed = self.seed
        for part in key:
            seed = _mix64_int(seed + part)
        return Dropout(1.0 - self.keep, seed, self.device)

    def rows(self, first: int, rows: int, problems: int, stride: int) -> Tensor:
        """A hash for each of some rows, int32 ``[P, R, 1]``; row r of problem p is number ``p * stride + first +
        r``.
        """
        problem = torch.arange(problems, device=self.device)[:, None] * stride
        number = problem + torch.arange(first, first + rows, device=self.device)
        return _mix64(number + _mix64_int(self.seed))[..., None]

    def drop(self, row_hash: Tensor, first_key: int, weights: Tensor, x: Tensor, y: Tensor) -> None:
        """Zero the dropped ones of ``weights [P, R, n]`` in place, without dividing the rest by ``keep``.

        Args:
            row_hash: from :meth:`rows`.
            first_key: number of the first key; a row's keys must have different numbers.
            weights: fp32 or fp64.
            x, y: int32 scratch of the shape of ``weights``.
        """
        key = torch.arange(first_key, first_key + weights.shape[-1], device=self.device)
        torch.bitwise_xor(row_hash, _mix64(key), out=x)
        x.mul_(_MULTIPLIER_1)
        torch.bitwise_right_shift(x, 15, out=y)
        x.bitwise_xor_(y).mul_(_MULTIPLIER_2)
        weights.masked_fill_(x < self.threshold, 0.0)


def _mix64(number: Tensor) -> Tensor:
    """int64 counters to well-mixed int32 (the finalizer of SplitMix64, Steele et al. 2014, on wrapping arithmetic)."""
    x = number * -0x61C8864680B583EB  # the golden ratio, 0x9E3779B97F4A7C15
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
    return (x >> 32).to(torch.int32)


def _mix64_int(number: int) -> int:
    """A seed spread over 62 bits, so that neighbouring seeds share no rows."""
    high, low = _mix64(torch.tensor([number, ~number])).tolist()
    return int(high) * 2**30 + int(low)
