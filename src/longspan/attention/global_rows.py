"""Global rows: each global token attends its whole text with the global projections.

Texts with equally many global tokens go together, in groups: a short text's row alone would spend its time on reading
the projections' weights, and on calling operations.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from longspan.attention.band import Text, compute_dtype, readable
from longspan.attention.dense_rows import DenseRows, RowsGiven, Seen, Settings, texts_at_once
from longspan.attention.distance_rows import DistanceRows
from longspan.attention.distance_tables import DistanceTables
from longspan.attention.dropout import Dropout
from longspan.attention.pattern import index_of


@dataclass
class RowGroup:
    """T texts with G global tokens each."""

    texts: list[int]
    """Which ones of the batch, ascending."""
    positions: Tensor
    """int64 ``[T, G]``, of their global tokens, ascending."""
    length: int
    """N, of each text."""
    real: Tensor | None
    """bool ``[T, N]``: not padding; None if nothing is."""

    def __post_init__(self) -> None:
        self.pick = index_of(self.texts)
        """The texts as an index into the batch."""
        if len(self.texts) == 1:  # without a copy to the device
            self._numbers = self.positions.new_full((1, 1), self.texts[0])
        else:
            self._numbers = self.positions.new_tensor(self.texts)[:, None]

    def gather(self, tensor: Tensor) -> Tensor:
        """Of ``[B, H, N, *]`` the global rows, ``[T, H, G, *]``."""
        return tensor[self._numbers, :, self.positions].transpose(1, 2)

    def scatter(self, rows: Tensor, into: Tensor) -> None:
        """The inverse of :meth:`gather`, in place."""
        into[self._numbers, :, self.positions] = rows.transpose(1, 2).to(into.dtype)

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
        return [settings.dropout.stream(text, len(settings.causal)) for text in self.texts]


def row_groups(texts: Iterable[tuple[int, Text]], hidden_size: int, device: torch.device) -> Iterator[RowGroup]:
    """The texts of a batch that have global tokens, in groups.

    Args:
        texts: with their numbers in the batch.
        hidden_size: features of all heads together.
        device: of the tensors.
    """
    by_count: dict[int, list[tuple[int, Text]]] = {}
    for number, text in texts:
        if text.globals_.numel():
            by_count.setdefault(text.globals_.numel(), []).append((number, text))
    for count, alike in by_count.items():
        most = texts_at_once(count, hidden_size, device)
        for first in range(0, len(alike), most):
            numbers, some = zip(*alike[first : first + most], strict=True)
            length = some[0].length
            real = None
            if any(text.real is not None for text in some):
                whole = torch.ones(length, dtype=torch.bool, device=device)
                real = torch.stack([whole if text.real is None else text.real for text in some])
            yield RowGroup(list(numbers), torch.stack([text.globals_ for text in some]), length, real)


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
        pick, (texts, heads, *_) = self.group.pick, self.shape

        def store(part: slice, of_key: Tensor, of_value: Tensor) -> None:
            for grad, of in ((grad_key, of_key), (grad_value, of_value)):
                grad[pick, :, part] += of.view(texts, heads, *of.shape[1:])

        rows = self.rows.backward(given.flatten(), store)
        self.group.scatter(self.group.gather(grad_query) + rows.query.view(self.shape), grad_query)

    def _load(self, part: slice) -> tuple[Tensor, Tensor]:
        key, value = (
            self.group.readable(
                self.settings.scratch.converted(f"global {name}", tensor[self.group.pick, :, part]), part
            ).flatten(0, 1)
            for name, tensor in (("key", self.key), ("value", self.value))
        )
        return key, value


def causal_rows(settings: Settings, rows: int, device: torch.device) -> Tensor | None:
    """Which rows of which heads see nothing after them, bool ``[H, rows]``; None if all see everything."""
    if not any(settings.causal):
        return None
    return torch.tensor(settings.causal, device=device)[:, None].expand(-1, rows)
