"""Dropout of attention weights by a counter: whether a weight is kept is a hash of (seed, row, key), nothing else.

So the backward draws the forward's mask again, in any order and any block size, and nothing of the size of the weights
is stored. A stateful generator draws about 0.13 billion masks a second on two cores, several times slower than the
attention itself; this hash draws more than a billion (docs/log.md).
"""

import torch
from torch import Tensor

# Odd 32-bit multipliers with good avalanche, as signed ints (found by search: C. Wellons, "Prospecting for hash
# functions").
MULTIPLIER_1 = 0x7FEB352D
MULTIPLIER_2 = 0x846CA68B - 2**32


class Dropout:
    """Zeroes weights with a probability; the caller divides the rest by ``keep``."""

    def __init__(self, probability: float, seed: int, device: torch.device) -> None:
        self.keep = 1.0 - probability
        self.seed = seed
        self.device = device
        # Half a hash is uniform over -2^30 .. 2^30 - 1; added to this, it is negative if the weight is to be kept.
        self.offset = -round((2 * self.keep - 1) * 2**30)

    def stream(self, *key: int) -> "Dropout":
        """Another one with masks of its own: one for each text and group of heads."""
        seed = self.seed
        for part in key:
            seed = _mix64_int(seed + part)
        return Dropout(1.0 - self.keep, seed, self.device)

    def hashes(self, problems: int, rows: int, keys: int) -> tuple[Tensor, Tensor]:
        """Hashes of all rows, int32 ``[P, R, 1]``, and of all keys, int32 ``[keys]``, to be sliced for :meth:`drop`."""
        row = torch.arange(problems * rows, device=self.device) + _mix64_int(self.seed)
        return _mix64(row).view(problems, rows, 1), _mix64(torch.arange(keys, device=self.device))

    def drop(self, row_hash: Tensor, key_hash: Tensor, weights: Tensor, x: Tensor, y: Tensor) -> None:
        """Zero the dropped ones of ``weights [P, R, n]`` in place.

        Args:
            row_hash: int32 ``[P, R, 1]``.
            key_hash: int32 ``[n]``.
            weights: fp32 or fp64.
            x, y: int32 scratch of the shape of ``weights``.
        """
        torch.bitwise_xor(row_hash, key_hash, out=x)
        x.mul_(MULTIPLIER_1)
        torch.bitwise_right_shift(x, 15, out=y)
        x.bitwise_xor_(y).mul_(MULTIPLIER_2)
        # Now a mask of bits, all ones to keep and all zeros to drop: comparing into bools is five times slower.
        x.bitwise_right_shift_(1).add_(self.offset).bitwise_right_shift_(31)
        bits = weights.view(torch.int32 if weights.dtype == torch.float32 else torch.int64)
        bits.bitwise_and_(x)


def _mix64(number: Tensor) -> Tensor:
    """int64 counters to well-mixed int32 (the finalizer of SplitMix64, Steele et al. 2014, on wrapping arithmetic)."""
    x = number * -0x61C8864680B583EB  # the golden ratio, 0x9E3779B97F4A7C15
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
    return (x >> 32).to(torch.int32)


def _mix64_int(number: int) -> int:
    """A seed spread over 62 bits, so that neighbouring seeds share no rows."""
    high, low = _mix64(torch.tensor([number, ~number], device="cpu")).tolist()
    return int(high) * 2**30 + int(low)
