"""Pieces of the weights that the demos' models start from: positions, heads that look at an offset, projections."""

import math

import torch
from torch import Tensor

TOKEN_STD = 0.1
"""Standard deviation of token embeddings, and of what a position's sinusoids come to."""
_SHARPNESS = 3.0  # of heads that look at an offset: some 2/3 of the weight on the one neighbour, the rest beside it
_SLOWEST = 100.0  # the sinusoids' wavelengths rise from 2 pi to this many times 2 pi tokens


def frequencies(width: int) -> Tensor:
    """Of the sinusoids of ``width`` dimensions, ``[width / 2]``."""
    return _SLOWEST ** (-torch.arange(0, width, 2) / width)


def sinusoids(positions: int, width: int) -> Tensor:
    """Sines and cosines in turn, ``[positions, width]`` (Vaswani et al. 2017, section 3.5)."""
    angles = torch.arange(positions)[:, None] * frequencies(width)
    waves = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
    return waves * TOKEN_STD * math.sqrt(2)


def look_at_offset(query: Tensor, key: Tensor, row: int, size: int, offset: int, width: int) -> None:
    """Have a head's queries be those keys that stand ``offset`` tokens on.

    Args:
        query, key: projections ``[C, C]``, added to; the sinusoids are the first ``width`` dimensions of what they
            read.
        row: the head's first row.
        size: how many rows it has.
        offset: in tokens, negative ones before.
        width: of the sinusoids.
    """
    pairs = torch.arange(min(size, width) // 2)
    turn = frequencies(width)[pairs] * offset
    sine, cosine = turn.sin(), turn.cos()
    even, odd = row + 2 * pairs, row + 2 * pairs + 1
    # sin(a + b) and cos(a + b) from sin a and cos a.
    query[even, 2 * pairs] += _SHARPNESS * cosine
    query[even, 2 * pairs + 1] += _SHARPNESS * sine
    query[odd, 2 * pairs] -= _SHARPNESS * sine
    query[odd, 2 * pairs + 1] += _SHARPNESS * cosine
    key[even, 2 * pairs] += _SHARPNESS
    key[odd, 2 * pairs + 1] += _SHARPNESS


def orthonormal(rows: int, columns: int) -> Tensor:
    """A random matrix ``[rows, columns]`` whose columns are orthonormal."""
    return torch.linalg.qr(torch.randn(rows, columns))[0]
