"""Long texts read in pieces, each by itself: the baseline of Beltagy et al. (2020, section 6.2).

A text is broken into the longest pieces that a short encoder reads, each is encoded alone, and the states are joined
again, one for each token, for the head to go on with. A question or a choice stands in every piece, as does the first
token, so that they are read in the light of each; their states are the mean over the pieces (the paper joins
everything and leaves open what becomes of the copies). Texts in segments break between them.
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


def plan_pieces(
    real: Tensor, global_mask: Tensor | None, reading_length: int, *, segmented: bool = False, tails: int = 0
) -> Pieces:
    """Break texts into pieces.

    The global tokens that open a text are repeated in all its pieces, as are those that close it where no others stand
    between: a first token, a question, a choice. In texts laid out in segments, others are global as well, the headers:
    pieces then begin with them wherever they can, and what is repeated is what ``tails`` says.

    Args:
        real: bool ``[B, N]``, False marks padding.
        global_mask: bool ``[B, N]`` or None.
        reading_length: tokens of a piece.
        segmented: whether texts are laid out in segments.
        tails: how many segments at the end of a text stand in every piece, with the first header, as a hypothesis, or a
            question and a choice; 0: none, and no header either, since the first is as good as any other.

    Raises:
        ValueError: what is repeated fills a piece.
    """
    length = real.shape[1]
    marked = (torch.zeros_like(real) if global_mask is None else global_mask & real).tolist()
    pieces: list[list[int]] = []
    for row, tokens in enumerate(real.tolist()):
        columns = [column for column, is_token in enumerate(tokens) if is_token]
        heads = [marked[row][column] for column in columns]
        before, after = _repeated(heads, segmented, tails)
        middle = columns[before : len(columns) - after]
        room = max(len(middle), 1)
        if len(columns) > reading_length:
            room = reading_length - before - after
            if room < 1:
                raise ValueError(
                    f"text {row} opens and closes with {before + after} tokens that are repeated in every piece (a "
                    f"question, candidates, choices) and leave no room in reading_length {reading_length}; raise it"
                )
        inner, start = heads[before : len(columns) - after], 0
        while start < max(len(middle), 1):
            stop = _stop(inner, start, room) if segmented else start + room
            piece = columns[:before] + middle[start:stop] + columns[len(columns) - after :]
            pieces.append([row * length + column for column in piece])
            start = stop
    longest = max(1, *map(len, pieces))
    index = torch.tensor([piece + [-1] * (longest - len(piece)) for piece in pieces], device=real.device)
    return Pieces(index.clamp(min=0), index >= 0)


def _repeated(heads: list[bool], segmented: bool, tails: int) -> tuple[int, int]:
    """How many tokens at the beginning and at the end of a text stand in every piece."""
    if not any(heads):
        return 0, 0
    if all(heads):
        return len(heads), 0
    before, after = heads.index(False), heads[::-1].index(False)
    if before + after == sum(heads):
        return before, after
    if not segmented:
        return before, 0
    if not tails:
        return 0, 0
    headers = [at for at, is_head in enumerate(heads) if is_head]
    return before, len(heads) - headers[max(len(headers) - tails, before)]


def _stop(heads: list[bool], start: int, room: int) -> int:
    """Where the piece that begins at ``start`` ends: before the last header that the next one can begin with."""
    stop = start + room
    if stop >= len(heads):
        return stop
    return next((at for at in range(stop, start, -1) if heads[at]), stop)
