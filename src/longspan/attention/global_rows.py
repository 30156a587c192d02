"""Global rows: each global token attends its whole text with the global projections.

Texts with equally many global tokens go together, in groups: a short text's row alone would spend its time on reading
the projections' weights, and on calling operations.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from longspan.attention.band import compute_dtype, readable
from longspan.attention.dense_rows import DenseRows, RowsGiven, Seen, Settings, texts_at_once
from longspan.attention.distance_rows import DistanceRows
from longspan.attention.distance_tables import DistanceTables
from longspan.attention.dropout import Dropout
from longspan.attention.pattern import index_of
from longspan.attention.texts import PlacedText, Text


@dataclass
class RowGroup:
    """T texts with G global tokens each."""

    texts: list[PlacedText]
    positions: Tensor
    """int64 ``[T, G]``, of their global tokens, each in its text, ascending."""
    length: int
    """N, of the longest text."""
    real: Tensor | None
    """bool ``[T, N]``: neither padding nor behind a text's end; None if nothing is."""

    def __post_init__(self) -> None:
        rows, starts = [text.row for text in self.texts], [text.tokens.start for text in self.texts]
        self._whole_rows = None if any(starts) else index_of(rows)
        if len(self.texts) == 1:  # without a copy to the device
            self._rows = self.positions.new_full((1, 1), rows[0])
            self._places = self.positions + starts[0]
        else:
            self._rows, start = self.positions.new_tensor([rows, starts])[..., None]
            self._places = self.positions + start

    def gather(self, tensor: Tensor) -> Tensor:
        """Of ``[B, *, N, ...]`` the global rows, ``[T, *, G, ...]``; ``*`` is one dimension, as below."""
        return tensor[self._rows, :, self._places].transpose(1, 2)

    def scatter(self, rows: Tensor, into: Tensor) -> None:
        """The inverse of :meth:`gather`, in place."""
        into[self._rows, :, self._places] = rows.transpose(1, 2).to(into.dtype)

    def take(self, tensor: Tensor, part: slice) -> Tensor:
        """Of ``[B, *, N, E]`` a part of each text's tokens, ``[T, *, n, E]``, 0 behind a text's end."""
        if self._whole_rows is not None:
            return tensor[self._whole_rows, :, part]
        views = [self._part(tensor, text, part) for text in self.texts]
        if len(views) == 1:
            return views[0][None]
        taken = tensor.new_zeros(len(views), tensor.shape[1], part.stop - part.start, tensor.shape[3])
        for view, into in zip(views, taken, strict=True):
            into[:, : view.shape[1]] = view
        return taken

    def put(self, values: Tensor, into: Tensor, part: slice) -> None:
        """The inverse of :meth:`take`, in place."""
        if self._whole_rows is not None:
            into[self._whole_rows, :, part] = values.to(into.dtype)
            return
        for text, of_text in zip(self.texts, values, strict=True):
            view = self._part(into, text, part)
            view.copy_(of_text[:, : view.shape[1]])

    def readable(self, tensor: Tensor, part: slice) -> Tensor:
        """``tensor [T, *, n, E]``, of a part of the tokens, with 0 at padding."""
        if self.real is None:
            return tensor
        real = self.real[:, part].view(len(self.texts), *[1] * (tensor.dim() - 3), -1)
        return readable(tensor, real, tensor.dtype)

    def seen(self, causal: Tensor | None, repeats: int = 1) -> Seen:
        """What the rows see, of which each token has so many; ``causal`` is bool ``[p, repeats * G]``."""
        return Seen(self.length, self.real, self.positions.repeat(1, repeats), causal)

    def dropouts(self, settings: Settings) -> list[Dropout]:
        """That of each text, or none."""
        if settings.dropout is None:
            return []
        # Streams 0 .. H - 1 are the local rows'.
        return [settings.dropout.stream(text.number, len(settings.causal)) for text in self.texts]

    @staticmethod
    def _part(tensor: Tensor, text: PlacedText, part: slice) -> Tensor:
        start, stop = text.tokens.start, text.tokens.stop
        return tensor[text.row, :, min(start + part.start, stop) : min(start + part.stop, stop)]


def row_groups(texts: Iterable[PlacedText], hidden_size: int, device: torch.device) -> Iterator[RowGroup]:
    """The texts of a call that have global tokens, in groups.

    Args:
        texts: in any order.
        hidden_size: features of all heads together.
        device: of the tensors.
    """
    by_count: dict[int, list[PlacedText]] = {}
    for placed in texts:
        if placed.text.globals_.numel():
            by_count.setdefault(placed.text.globals_.numel(), []).append(placed)
    for count, alike in by_count.items():
        # Texts that stand one after another differ in length, and what is behind a text's end costs time.
        alike.sort(key=lambda placed: -placed.text.length)
        most = texts_at_once(count, hidden_size, device)
        while alike:
            longest = alike[0].text.length
            some = [placed for placed in alike[:most] if 2 * placed.text.length >= longest]
            alike = alike[len(some) :]
            positions = torch.stack([placed.text.globals_ for placed in some])
            yield RowGroup(some, positions, longest, _real([placed.text for placed in some], device))


def _real(texts: list[Text], device: torch.device) -> Tensor | None:
    """bool ``[T, N]``, False at padding and behind the end of all but the longest; None if it is True everywhere."""
    longest = max(text.length for text in texts)
    if all(text.real is None and text.length == longest for text in texts):
        return None
    real = torch.zeros(len(texts), longest, dtype=torch.bool, device=device)
    for row, text in zip(real, texts, strict=True):
        row[: text.length] = True if text.real is None else text.real
    return real


class GivenRows:
    """Global rows from global projections that are given as tensors ``[B, H, N, D]``."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        group: RowGroup,
        settings: Settings,
        tables: DistanceTables | None = None,
        table_grads: DistanceTables | None = None,
    ) -> None:
        """``tables``: of scores that depend on distances; the backward adds to ``table_grads``."""
        self.key, self.value = key, value
        self.group, self.settings = group, settings
        rows = group.gather(query).to(compute_dtype(query.dtype))  # [T, H, G, D]
        self.shape = rows.shape
        seen = group.seen(causal_rows(settings, rows.shape[2], query.device))
        given = rows.flatten(0, 1), self._load, seen, settings, group.dropouts(settings)
        self.rows = DenseRows(*given) if tables is None else DistanceRows(*given, tables=tables, grads=table_grads)

    def forward(self) -> tuple[Tensor, Tensor]:
        """``(out [T, H, G, D], lse [T, H, G])``."""
        out, lse, _ = self.rows.forward()
        return out.view(self.shape), lse.view(self.shape[:3])

    def backward(self, given: RowsGiven, grad_query: Tensor, grad_key: Tensor, grad_value: Tensor) -> None:
        """Add to the gradients of query, key and value ``[B, H, N, D]``; what is given, ``[T, H, G, *]``, is of the
        rows.
        """
        texts, heads, *_ = self.shape

        def store(part: slice, of_key: Tensor, of_value: Tensor) -> None:
            for grad, of in ((grad_key, of_key), (grad_value, of_value)):
                self.group.put(self.group.take(grad, part) + of.view(texts, heads, *of.shape[1:]), grad, part)

        rows = self.rows.backward(given.flatten(), store)
        self.group.scatter(self.group.gather(grad_query) + rows.query.view(self.shape), grad_query)

    def _load(self, part: slice) -> tuple[Tensor, Tensor]:
        key, value = (
            self.group.readable(
                self.settings.scratch.converted(f"global {name}", self.group.take(tensor, part)), part
            ).flatten(0, 1)
            for name, tensor in (("key", self.key), ("value", self.value))
        )
        return key, value


def causal_rows(settings: Settings, rows: int, device: torch.device) -> Tensor | None:
    """Which rows of which heads see nothing after them, bool ``[H, rows]``; None if all see everything."""
    if not any(settings.causal):
        return None
    return torch.tensor(settings.causal, device=device)[:, None].expand(-1, rows)
