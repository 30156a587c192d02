"""Global rows whose scores depend on the distance of row and key: dense rows whose keys come part by part."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from longspan.attention.blocks import LN_2, LOG2_E, BlockGradients, Keys
from longspan.attention.dense_rows import DenseRows
from longspan.attention.distance_tables import DistanceTables, HeadTables, rows_picked


class DistanceRows(DenseRows):
    """:class:`DenseRows` with distance tables: P problems are H heads of T texts."""

    def __init__(self, query: Tensor, *rows: Any, tables: DistanceTables, grads: DistanceTables | None) -> None:
        """``query`` and ``rows``: what :class:`DenseRows` takes; ``grads``: the backward adds to it."""
        super().__init__(query, *rows)
        self.tables, self.grads = tables, grads
        self.texts = self.seen.positions.shape[0]
        self.of_heads = tables.of_heads(slice(None), self.settings.scale, query.dtype)  # [H, R, *]
        # Of each row, what a row of the tables adds to its scores.
        self.of_rows = query.new_zeros(*self._by_text(query).shape[:3], tables.num_rows)  # [T, H, G, R]
        if self.of_heads.to_position is not None:
            self.of_rows += self._base_2_query() @ self.of_heads.to_position.mT
        if self.of_heads.bias is not None:
            self.of_rows += self.of_heads.bias[:, None]
        self.grad_of_rows = torch.zeros_like(self.of_rows)
        if self.of_heads.to_content is not None:
            self.grad_to_content = torch.zeros_like(self.of_heads.to_content)
        # The products of keys with the tables, too, are no larger than a part of scores may be.
        most = self.block * self.tokens * query.shape[0]
        self.tokens = min(self.tokens, max(64, most // (query.shape[0] * tables.num_rows)))

    def _blocks(self, part: slice, key: Tensor, value: Tensor) -> Iterator[tuple[Tensor, Keys, slice]]:
        token = torch.arange(part.start, part.stop, device=key.device)
        self.index = self.tables.index(self.seen.positions[..., None] - token)[:, None]  # [T, 1, G, n]
        self.part_key = self._by_text(key)  # [T, H, n, D]
        self.picked = rows_picked(self.index, self.tables.num_rows)
        of_keys = None
        if self.of_heads.to_content is not None:
            of_keys = self.part_key @ self.of_heads.to_content[:, self.picked].mT  # [T, H, n, picked]
        for query, keys, rows in super()._blocks(part, key, value):
            yield query, replace(keys, mask=partial(self._add, keys=keys, of_keys=of_keys, rows=rows)), rows

    def _add(self, scores: Tensor, keys: Keys, of_keys: Tensor | None, rows: slice) -> None:
        keys.mask(scores)
        index = self._index(rows)
        by_text = self._by_text(scores)
        by_text.add_(self.of_rows[:, :, rows].gather(-1, index))
        if of_keys is not None:
            by_text.add_(of_keys.gather(-1, (index - self.picked.start).mT).mT)

    def _add_table_gradients(self, block: BlockGradients, rows: slice) -> None:
        index = self._index(rows)
        # What backward_block left is the gradient of the scores.
        grad = self._by_text(self.settings.scratch.take("grad_scores", *block.weights.shape))
        self.grad_of_rows[:, :, rows] += torch.zeros_like(self.grad_of_rows[:, :, rows]).scatter_add_(-1, index, grad)
        if self.of_heads.to_content is not None:
            of_keys = grad.new_zeros(*self.part_key.shape[:3], self.picked.stop - self.picked.start)
            of_keys.scatter_add_(-1, (index - self.picked.start).mT, grad.mT)
            self._by_text(block.key).add_(of_keys @ self.of_heads.to_content[:, self.picked])
            self.grad_to_content[:, self.picked] += (of_keys.mT @ self.part_key).sum(0)

    def _finish_backward(self, grad_query: Tensor) -> None:
        to_position = to_content = bias = None
        if self.of_heads.to_content is not None:
            to_content = self.grad_to_content * self.settings.scale
        if self.of_heads.to_position is not None:
            of_query = self.grad_of_rows @ self.of_heads.to_position
            self._by_text(grad_query).add_(of_query, alpha=self.settings.scale)
            to_position = (self.grad_of_rows.mT @ self._base_2_query()).sum(0).mul_(LN_2)
        if self.of_heads.bias is not None:
            bias = self.grad_of_rows.sum((0, 2))
        assert self.grads is not None
        self.grads.add(slice(None), HeadTables(to_position, to_content, bias))

    def _base_2_query(self) -> Tensor:
        return self._by_text(self.query) * (self.settings.scale * LOG2_E)

    def _index(self, rows: slice) -> Tensor:
        """The tables' rows for some rows and the keys of the part, ``[T, H, R, n]``."""
        return self.index[:, :, rows].expand(-1, self.of_rows.shape[1], -1, -1)

    def _by_text(self, tensor: Tensor) -> Tensor:
        """``[P, ...]`` as ``[T, H, ...]``."""
        return tensor.unflatten(0, (self.texts, -1))
