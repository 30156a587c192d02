"""Long texts read in pieces, each by itself: the baseline of Beltagy et al. (2020, section 6.2).

A text is broken into the longest pieces that a short encoder reads, each is encoded alone, and the states are joined
again, one for each token, for the head to go on with. A question or a choice stands in every piece, as does the first
token, so that they are read in the light of each; their states are the mean over the pieces (the paper joins
everything and leaves open what becomes of the copies).
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Pieces(NamedTuple):
    """Which columns of which texts stand in P pieces of up to K tokens."""

    source: Tensor
    """int64 ``[P, K]``: ``text * N + column``, 0 where ``is_token`` is False."""
    is_token: Tensor
    """bool ``[P, K]``."""

    def take(self, values: Tensor, fill: float = 0) -> Tensor:
        """The entries of ``values`` ``[B, N, ...]`` in the pieces, ``[P, K, ...]``, ``fill`` where no token is."""
        taken = values.flatten(0, 1)[self.source]
        keep = self.is_token.reshape(*self.is_token.shape, *[1] * (taken.dim() - 2))
        return taken.masked_fill(~keep, fill)

    def join(self, states: Tensor, batch: int, length: int) -> Tensor:
        """States ``[P, K, C]`` of the pieces as ``[B, N, C]``: the mean where a token stands in several, 0 in padding.

        Args:
            states: of the tokens in the pieces.
            batch: B.
            length: N.
        """
        index = self.source[self.is_token]  # [T]
        joined = states.new_zeros(batch * length, states.shape[-1]).index_add(0, index, states[self.is_token])
        count = states.new_zeros(batch * length).index_add(0, index, states.new_ones(len(index)))
        return (joined / count.clamp(min=1)[:, None]).view(batch, length, -1)


def plan_pieces(real: Tensor, global_mask: Tensor | None, reading_length: int) -> Pieces:
    """Break texts into pieces.

    The global tokens that open and close a text are repeated in all its pieces. Where others are global as well, as
    the headers of segments, none is.

    Args:
        real: bool ``[B, N]``, False marks padding.
        global_mask: bool ``[B, N]`` or None.
        reading_length: tokens of a piece.

    Raises:
        ValueError: what is repeated fills a piece.
    """
    length = real.shape[1]
    marked = (real if global_mask is None else global_mask & real).tolist()
    pieces: list[list[int]] = []
    for row, tokens in enumerate(real.tolist()):
        columns = [column for column, is_token in enumerate(tokens) if is_token]
        before, after = (0, 0) if global_mask is None else _repeated([marked[row][column] for column in columns])
        middle = columns[before : len(columns) - after]
        room = max(len(middle), 1)
        if len(columns) > reading_length:
            room = reading_length - before - after
            if room < 1:
                raise ValueError(
                    f"text {row} opens and closes with {before + after} global tokens, which are repeated in every "
                    f"piece and leave no room in reading_length {reading_length}; raise it, or mark fewer tokens"
                )
        for start in range(0, max(len(middle), 1), room):
            piece = columns[:before] + middle[start : start + room] + columns[len(columns) - after :]
            pieces.append([row * length + column for column in piece])
    longest = max(1, *map(len, pieces))
    index = torch.tensor([piece + [-1] * (longest - len(piece)) for piece in pieces], device=real.device)
    return Pieces(index.clamp(min=0), index >= 0)


def _repeated(marked: list[bool]) -> tuple[int, int]:
    """How many global tokens open and close a text; none if there are others between."""
    if all(marked):
        return len(marked), 0
    before, after = marked.index(False), marked[::-1].index(False)
    return (before, after) if before + after == sum(marked) else (0, 0)
