"""The texts of a call as the host sees them: what they hold, and where they stand in the batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from longspan.attention.pattern import Window


@dataclass
class Text:
    """One text. Masks are None where they would be all True."""

    length: int
    local: Tensor | None
    """bool ``[N]``: the local rows, neither padding nor global."""
    keys: Tensor | None
    """bool ``[N]``: the keys that a window may hold, neither padding nor among ``globals_``."""
    real: Tensor | None
    """bool ``[N]``: not padding."""
    globals_: Tensor
    """int64 ``[G]``: positions of the global tokens that stand in columns of their own, ascending."""

    def seen_through(self, window: Window, dilation: int, causal: bool) -> "Text":
        """The same for the local rows of a head: global keys that each row's window holds need no columns."""
        if dilation > 1 or not self.globals_.numel() or (self.length - 1 > sum(window) and not causal):
            return self  # in a long text without a look at where they are, for which a GPU would be waited for
        first, last = self.globals_[[0, -1]].tolist()
        if self.length - 1 - first > window[0] or (last > window[1] and not causal):
            return self
        return replace(self, keys=self.real, globals_=self.globals_[:0])


class PlacedText(NamedTuple):
    """A text and its place."""

    number: int
    """Which one of the call's texts."""
    row: int
    """Of the batch."""
    tokens: slice
    """Of the row: all, unless texts stand one after another."""
    text: Text

    def of(self, tensor: Tensor) -> Tensor:
        """Of ``[B, *, N, ...]`` the text's ``[*, n, ...]``, a view."""
        return tensor[self.row, :, self.tokens]


def placed_texts(
    shape: tuple[int, int],
    lengths: Sequence[int],
    global_mask: Tensor | None,
    key_mask: Tensor | None,
    device: torch.device,
) -> Iterator[PlacedText]:
    """The texts of a call.

    Args:
        shape: ``(B, N)``.
        lengths: of the texts that stand one after another in a batch of one row; empty: each row is a text.
        global_mask, key_mask: bool ``[B, N]`` or None.
        device: of the tensors.
    """
    batch, length = shape
    none = torch.empty(0, dtype=torch.int64, device=device)
    for number, (row, tokens) in enumerate(_places(batch, length, lengths)):
        size = tokens.stop - tokens.start
        real = None if key_mask is None else key_mask[row, tokens]
        if real is not None and bool(real.all()):
            real = None
        if global_mask is None:
            yield PlacedText(number, row, tokens, Text(size, real, real, real, none))
            continue
        is_global = global_mask[row, tokens] if real is None else global_mask[row, tokens] & real
        positions = is_global.nonzero().squeeze(1)
        local = real
        if positions.numel():
            local = ~is_global if real is None else real & ~is_global
        yield PlacedText(number, row, tokens, Text(size, local, local, real, positions))


def _places(batch: int, length: int, lengths: Sequence[int]) -> Iterator[tuple[int, slice]]:
    if not lengths:
        yield from ((row, slice(0, length)) for row in range(batch))
    start = 0
    for each in lengths:
        yield 0, slice(start, start + each)
        start += each
