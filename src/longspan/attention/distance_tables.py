"""What scores gain by the distance of row and key: tables with a row for each distance, or for several together."""

from dataclasses import dataclass

import torch
from torch import Tensor

from longspan.attention.blocks import LOG2_E


@dataclass
class DistanceTables:
    """The tables of all heads, or their gradients. R counts their rows."""

    content_to_position: Tensor | None
    """``[H, R, D]``: the row's query meets it."""
    position_to_content: Tensor | None
    """``[H, R, D]``: the key meets it."""
    bias: Tensor | None
    """``[H, R]``: added, without the scale."""
    row_of: Tensor
    """int64 ``[2 N - 1]``: which row of the tables is that of the distances ``-(N - 1) .. N - 1``, the position of the
    attention's row less that of the key."""

    def __post_init__(self) -> None:
        self.all = self.content_to_position, self.position_to_content, self.bias
        self.num_rows: int = next(table.shape[1] for table in self.all if table is not None)
        """R."""

    def index(self, distance: Tensor) -> Tensor:
        """The tables' rows of int64 distances, in their shape."""
        return self.row_of[distance + self.row_of.shape[0] // 2]

    def zeros(self, dtype: torch.dtype) -> "DistanceTables":
        """Where gradients add up."""
        to_position, to_content, bias = (
            None if table is None else torch.zeros_like(table, dtype=dtype) for table in self.all
        )
        return DistanceTables(to_position, to_content, bias, self.row_of)

    def of_heads(self, pick: slice | list[int], scale: float, dtype: torch.dtype) -> "HeadTables":
        """The part of some heads, as blocks of rows use it."""
        to_position, to_content, bias = (None if table is None else table[pick].to(dtype) for table in self.all)
        return HeadTables(
            to_position,
            None if to_content is None else to_content * (scale * LOG2_E),
            None if bias is None else bias * LOG2_E,
        )

    def add(self, pick: slice | list[int], grads: "HeadTables", index: Tensor | None = None) -> None:
        """Add gradients of some heads, ``[h, R, *]``, or, with an ``index [W]`` of rows, ``[h, W, *]``."""
        for total, grad in zip(self.all, (grads.to_position, grads.to_content, grads.bias), strict=True):
            if total is None or grad is None:
                continue
            if index is not None:
                grad = torch.zeros_like(total[pick]).index_add_(1, index, grad)
            total[pick] += grad


@dataclass
class HeadTables:
    """Tables of some heads for queries that arrive in base-2 units, multiplied by the scale (see ``blocks.py``)."""

    to_position: Tensor | None
    """``[h, R, D]``, as it is."""
    to_content: Tensor | None
    """``[h, R, D]``, multiplied by the scale and ``log2(e)``."""
    bias: Tensor | None
    """``[h, R]``, multiplied by ``log2(e)``."""

    def at(self, index: Tensor, repeats: int) -> "HeadTables":
        """The rows of an index ``[W]``, each head so many times: ``[h * repeats, W, *]``."""
        tables = self.to_position, self.to_content, self.bias
        return HeadTables(*(None if t is None else t[:, index].repeat_interleave(repeats, 0) for t in tables))


def rows_picked(index: Tensor, num_rows: int) -> slice:
    """A range of a table's rows that holds those of an index: on a CPU, where looking is free, the least."""
    if index.device.type != "cpu":
        return slice(0, num_rows)
    return slice(int(index.min()), int(index.max()) + 1)
