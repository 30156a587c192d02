"""Local rows whose scores depend on the distance of row and key, in linear memory.

In a block of rows the scores by offset in the window lie on diagonals. Queries meet the tables in one product that is
written right there, through a strided view. Keys meet them by tiles of offsets: a product of few keys with few offsets,
read along its own diagonals.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from longspan.attention.band import Band, Stretch
from longspan.attention.blocks import LN_2, BlockGradients
from longspan.attention.distance_tables import DistanceTables, HeadTables, rows_picked
from longspan.attention.workspace import Scratch


class DistanceBand(Band):
    """A :class:`Band` with distance tables."""

    def __init__(
        self, *band: Any, tables: DistanceTables, pick: slice | list[int], grads: DistanceTables | None
    ) -> None:
        """``band``: what :class:`Band` takes; ``pick``: its heads in the tables; ``grads``: the backward adds to it."""
        super().__init__(*band)
        self.tables, self.pick, self.grads = tables, pick, grads
        of_heads = tables.of_heads(pick, self.scale, self.dtype)
        left, right = self.reach
        offset = torch.arange(-left, right + 1, device=self.window_mask.device)
        self.offset_index = tables.index(-offset * self.residues.dilation)  # [W]
        by_offset = of_heads.at(self.offset_index, self.residues.dilation)
        self.window = _Window(by_offset, self.problems, self.window_mask, self.scratch)
        if self.num_globals:
            self.columns = _Columns(of_heads, self.global_key.squeeze(1), tables.num_rows, self.residues.dilation)

    def _load(self, part: Stretch) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = super()._load(part)
        self.part, self.part_query = part, query
        self.part_keys: Tensor | None = None
        if self.window.tables.to_content is not None:
            # The keys of the stretch, also those before and after the text, as 0.
            left, right = self.reach
            before, after = part.low - (part.first - left), part.last + right - part.high
            there = key[:, self.num_globals :]
            shape = (self.problems, before + there.shape[1] + after, there.shape[2])
            self.part_keys = self.scratch.take("keys by offset", *shape)
            self.part_keys[:, :before] = 0.0
            self.part_keys[:, before : shape[1] - after] = there
            self.part_keys[:, shape[1] - after :] = 0.0
        return query, key, value

    def _mask(self, scores: Tensor, start: int, stop: int) -> None:
        super()._mask(scores, start, stop)
        if self.num_globals:
            query, _ = self._at(start, stop)
            self.columns.add_to(scores[..., : self.num_globals], query, self._column_index(start, stop))

    def _cut_window(self, scores: Tensor, start: int, stop: int) -> None:
        scores.add_(self.window.scores(*self._at(start, stop))[..., self._there(start, stop)])

    def _add_table_gradients(self, block: BlockGradients, start: int, stop: int) -> None:
        G, there = self.num_globals, self._there(start, stop)
        query, keys = self._at(start, stop)
        width = stop - start + sum(self.reach)
        # What backward_block left is the gradient of the scores.
        grad_scores = self.scratch.take("grad_scores", self.problems, stop - start, G + there.stop - there.start)
        if G:
            self.columns.backward(grad_scores[..., :G], query, self._column_index(start, stop), block.query)
        whole = grad_scores[..., G:]
        if whole.shape[2] < width:
            whole = self.scratch.take("whole grad_scores", self.problems, stop - start, width).zero_()
            whole[..., there] = grad_scores[..., G:]
        grad_keys = self.window.backward(whole, query, keys, block.query)
        if grad_keys is not None:
            block.key[:, G:].add_(grad_keys[:, there])

    def _finish_backward(self, grad_global_key: Tensor | None) -> None:
        assert self.grads is not None
        self.grads.add(self.pick, self.window.gradients(self.heads, self.scale), self.offset_index)
        if grad_global_key is not None:
            of_first_residue = grad_global_key.unflatten(0, (self.heads, -1))[:, 0]
            self.grads.add(self.pick, self.columns.gradients(self.scale, of_first_residue))

    def _at(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """A block's queries ``[P, R, D]``, and the keys from ``left`` before it to ``right`` after it, if tables need
        them.
        """
        first, last = start - self.part.first, stop - self.part.first
        keys = None if self.part_keys is None else self.part_keys[:, first : last + sum(self.reach)]
        return self.part_query[:, first:last], keys

    def _there(self, start: int, stop: int) -> slice:
        """Which of those keys are in the text."""
        low, high = self._key_range(start, stop)
        first = start - self.reach[0]
        return slice(low - first, high - first)

    def _column_index(self, start: int, stop: int) -> Tensor:
        """The tables' rows for a block's rows and the global keys, ``[P, R, G]``."""
        token = self.residues.positions(start, stop, self.text.globals_.device).clamp_(max=self.text.length - 1)
        index = self.tables.index(token[..., None] - self.text.globals_)  # [d, R, G]
        return index.expand(self.heads, -1, -1, -1).flatten(0, 1)


class _Window:
    """Scores by distance in the windows of a block of R rows, over W offsets."""

    def __init__(self, tables: HeadTables, problems: int, mask: Tensor, scratch: Scratch) -> None:
        """``tables``: ``[P, W, *]``; ``mask [block, block - 1 + W]``: -inf outside of the windows."""
        self.tables, self.scratch = tables, scratch
        self.block, self.num_offsets = mask.shape[0], mask.shape[1] - mask.shape[0] + 1
        self.added = scratch.take("scores by distance", problems, *mask.shape)
        self.added.copy_(mask)
        if tables.bias is not None:
            self._diagonals(self.added).copy_(tables.bias[:, None])
        self.grad_to_position, self.grad_to_content, self.grad_bias = (
            None if table is None else torch.zeros_like(table)
            for table in (tables.to_position, tables.to_content, tables.bias)
        )

    def scores(self, query: Tensor, keys: Tensor | None) -> Tensor:
        """``[P, R, R - 1 + W]`` for queries ``[P, R, D]`` and keys ``[P, R - 1 + W, D]``, in a buffer."""
        rows = query.shape[1]
        added = self.added[:, :rows, : rows - 1 + self.num_offsets]
        to_position, bias = self.tables.to_position, self.tables.bias
        if to_position is None and keys is None:
            return added  # it is the bias, the same for all blocks
        diagonals = self._diagonals(added)
        if bias is None:
            diagonals.zero_()
        else:
            diagonals.copy_(bias[:, None])
        if to_position is not None:
            diagonals.baddbmm_(query, to_position.mT)
        if keys is not None:
            for some_keys, table, offsets in self._tiles(keys, rows):
                products = self.scratch.take("tile", *some_keys.shape[:2], table.shape[1])
                torch.bmm(some_keys, table.mT, out=products)
                diagonals[..., offsets].add_(_key_diagonals(products, rows))
        return added

    def backward(self, grad: Tensor, query: Tensor, keys: Tensor | None, grad_query: Tensor) -> Tensor | None:
        """Add to the gradient of the queries, divided by the scale, and return the keys', in units of base-2 queries.

        Args:
            grad: ``[P, R, R - 1 + W]``, of the scores.
            query, keys: as given to :meth:`scores`.
            grad_query: ``[P, R, D]``.
        """
        diagonals = self._diagonals(grad)  # [P, R, W]
        if self.grad_bias is not None:
            self.grad_bias += diagonals.sum(1)
        if self.tables.to_position is not None and self.grad_to_position is not None:
            grad_query.baddbmm_(diagonals, self.tables.to_position)
            self.grad_to_position.baddbmm_(diagonals.mT, query)
        if keys is None or self.grad_to_content is None:
            return None
        rows = query.shape[1]
        grad_keys = self.scratch.take("grad of keys by offset", *keys.shape).zero_()
        for some_keys, table, offsets in self._tiles(keys, rows):
            products = self.scratch.take("tile", *some_keys.shape[:2], table.shape[1]).zero_()
            _key_diagonals(products, rows).copy_(diagonals[..., offsets])
            grad_keys[:, offsets.start : offsets.stop + rows - 1].baddbmm_(products, table)
            self.grad_to_content[:, offsets].baddbmm_(products.mT, some_keys)
        return grad_keys

    def gradients(self, heads: int, scale: float) -> HeadTables:
        """Of the tables without units, ``[h, W, *]``."""
        to_position, to_content, bias = (
            None if grad is None else grad.unflatten(0, (heads, -1)).sum(1)
            for grad in (self.grad_to_position, self.grad_to_content, self.grad_bias)
        )
        return HeadTables(
            None if to_position is None else to_position.mul_(LN_2),
            None if to_content is None else to_content.mul_(scale),
            bias,
        )

    def _tiles(self, keys: Tensor, rows: int) -> Iterator[tuple[Tensor, Tensor, slice]]:
        """As many offsets as rows at a time: the keys that rows see there, the tables' rows ``[P, w, D]``, the offsets.

        Half of a tile's product is used; with all offsets at once it would be a row's share of the window.
        """
        assert self.tables.to_content is not None
        for first in range(0, self.num_offsets, self.block):
            offsets = slice(first, min(first + self.block, self.num_offsets))
            yield keys[:, first : offsets.stop + rows - 1], self.tables.to_content[:, offsets], offsets

    def _diagonals(self, scores: Tensor) -> Tensor:
        """A view ``[P, R, W]`` of a block's ``[P, R, R - 1 + W]``: row a from column a on."""
        (P, R, _), (of_problem, of_row, of_key) = scores.shape, scores.stride()
        return scores.as_strided((P, R, self.num_offsets), (of_problem, of_row + of_key, of_key))


class _Columns:
    """Scores by distance of the global keys; P problems of h heads, G global keys, tables of so many rows."""

    def __init__(self, tables: HeadTables, key: Tensor, num_rows: int, residues: int) -> None:
        """``key [h, G, D]``."""
        self.tables, self.key, self.num_rows = tables, key, num_rows
        self.to_position = None if tables.to_position is None else tables.to_position.repeat_interleave(residues, 0)
        self.grad_to_position = None if self.to_position is None else torch.zeros_like(self.to_position)
        # Of each key, what a row of the tables adds to its scores.
        self.of_keys = key.new_zeros(key.shape[0], num_rows, key.shape[1])  # [h, R, G]
        if tables.to_content is not None:
            torch.bmm(tables.to_content, key.mT, out=self.of_keys)
        if tables.bias is not None:
            self.of_keys += tables.bias[..., None]
        self.grad_of_keys = torch.zeros_like(self.of_keys)

    def add_to(self, scores: Tensor, query: Tensor, index: Tensor) -> None:
        """Add to scores ``[P, R, G]`` in place; queries ``[P, R, D]``, the tables' rows ``[P, R, G]``."""
        scores.add_(self.of_keys.gather(1, self._by_head(index)).view(index.shape))
        if self.to_position is not None:
            picked = rows_picked(index, self.num_rows)
            scores.add_((query @ self.to_position[:, picked].mT).gather(-1, index - picked.start))

    def backward(self, grad: Tensor, query: Tensor, index: Tensor, grad_query: Tensor) -> None:
        """Add to the gradient of the queries ``[P, R, D]``, divided by the scale."""
        self.grad_of_keys.scatter_add_(1, self._by_head(index), self._by_head(grad))
        if self.to_position is not None and self.grad_to_position is not None:
            picked = rows_picked(index, self.num_rows)
            products = query.new_zeros(*query.shape[:2], picked.stop - picked.start)
            products.scatter_add_(-1, index - picked.start, grad)
            grad_query.baddbmm_(products, self.to_position[:, picked])
            self.grad_to_position[:, picked].baddbmm_(products.mT, query)

    def gradients(self, scale: float, grad_key: Tensor) -> HeadTables:
        """Of the tables without units, ``[h, R, *]``; add to the keys' ``[h, G, D]``, in units of base-2 queries."""
        to_content = to_position = None
        if self.tables.to_content is not None:
            grad_key.add_(self.grad_of_keys.mT @ self.tables.to_content)
            to_content = (self.grad_of_keys @ self.key).mul_(scale)
        if self.grad_to_position is not None:
            to_position = self.grad_to_position.unflatten(0, (self.key.shape[0], -1)).sum(1).mul_(LN_2)
        return HeadTables(to_position, to_content, None if self.tables.bias is None else self.grad_of_keys.sum(-1))

    def _by_head(self, tensor: Tensor) -> Tensor:
        """``[P, R, G]`` as ``[h, R of all residues, G]``."""
        return tensor.reshape(self.key.shape[0], -1, tensor.shape[-1])


def _key_diagonals(products: Tensor, rows: int) -> Tensor:
    """A view ``[P, R, w]`` of products of keys with offsets, ``[P, R - 1 + w, w]``: row a meets key ``a + o`` at o."""
    (P, _, w), (of_problem, of_key, of_offset) = products.shape, products.stride()
    return products.as_strided((P, rows, w), (of_problem, of_key, of_key + of_offset), products.storage_offset())
