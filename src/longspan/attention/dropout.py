"""Dropout of attention weights by a counter: whether a weight is kept is a hash of (seed, row, key), nothing else.

So the backward draws the forward's mask again, in any order and any block size, and nothing of the size of the weights
is stored. A stateful generator draws about 0.13 billion masks a second on two cores, several times slower than the
attention itself.

Rows and keys are hashed well, as there are few of them, and a weight's hash is the product of its row's and its key's
modulo 2^32: multiplicative hashing, whose upper bits are close to independent for any two keys if the multiplier is odd
and random (Dietzfelbinger et al., "A Reliable Randomized Algorithm for the Closest-Pair Problem", 1997).
"""

import torch
from torch import Tensor


class Dropout:
    """Zeroes weights with a probability; the caller divides the rest by ``keep``."""

    def __init__(self, probability: float, seed: int, device: torch.device) -> None:
        self.keep = 1.0 - probability
        self.seed = seed
        self.device = device
        self.threshold = min(2 * round((2 * self.keep - 1) * 2**30), 2**31 - 1)
        """A weight is kept if its hash, an odd int32, is below this."""

    def stream(self, *key: int) -> "Dropout":
        """Another one with masks of its own: one for each text and group of heads."""
        seed = self.seed
        for part in key:
            seed = _mix64_int(seed + part)
        return Dropout(1.0 - self.keep, seed, self.device)

    def hashes(self, problems: int, rows: int, keys: int) -> tuple[Tensor, Tensor]:
        """Hashes of all rows, int32 ``[P, R, 1]``, and of all keys, int32 ``[keys]``, to be sliced for :meth:`drop`.

        All are odd: the product of even ones would have fewer values.
        """
        row = torch.arange(problems * rows, device=self.device) + _mix64_int(self.seed)
        return (_mix64(row) | 1).view(problems, rows, 1), _mix64(torch.arange(keys, device=self.device)) | 1

    def drop(self, row_hash: Tensor, key_hash: Tensor, weights: Tensor, scratch: Tensor) -> None:
        """Zero the dropped ones of ``weights [P, R, n]`` in place.

        Args:
            row_hash: int32 ``[P, R, 1]``.
            key_hash: int32 ``[n]``.
            weights: fp32 or fp64.
            scratch: int32 of the shape of ``weights``.
        """
        torch.mul(row_hash, key_hash, out=scratch)
        # Halves, whose difference can't overflow, and then a mask of bits, all ones to keep and all zeros to drop:
        # comparing into bools is five times slower.
        scratch.bitwise_right_shift_(1).sub_(self.threshold >> 1).bitwise_right_shift_(31)
        bits = weights.view(torch.int32 if weights.dtype == torch.float32 else torch.int64)
        bits.bitwise_and_(scratch)


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
