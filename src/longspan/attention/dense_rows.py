"""Rows that attend whole texts: their keys come part by part, and each part's softmax is joined to that of the parts
before.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from longspan.attention.blocks import (
    LN_2,
    LOG2_E,
    BlockGradients,
    GivenBlock,
    Keys,
    RowDropout,
    Sums,
    backward_block,
    forward_block,
    joined,
    mean_gradient,
    row_sums,
)
from longspan.attention.dropout import Dropout
from longspan.attention.workspace import Scratch

# Numbers of a part of the text's keys, all heads together, and scores of a block of global rows with it. On a CPU for
# each thread: they stay in its cache, and what is converted or projected for them too.
_CPU_NUMBERS = 200_000
_GPU_SCORES = 4_000_000
_MOST_ROWS = 64
"""Of several texts together."""

Load = Callable[[slice], tuple[Tensor, Tensor]]
"""Gives key ``[P, n, E]`` and value ``[P, n, F]`` of some tokens, in the computing dtype, 0 at padding."""
Store = Callable[[slice, Tensor, Tensor], None]
"""Takes the gradients of what the last :data:`Load` gave, in buffers that the next tokens use."""


@dataclass
class Settings:
    """What all global rows of a call share."""

    causal: list[bool]
    """Per head."""
    scale: float
    scratch: Scratch
    dropout: Dropout | None


@dataclass
class Seen:
    """What rows of T texts may attend: every real token, in a causal head up to their own."""

    length: int
    """N, of each text."""
    real: Tensor | None
    """bool ``[T, N]``: not padding; None if nothing is."""
    positions: Tensor
    """int64 ``[T, R]``, where each row's token stands."""
    causal: Tensor | None
    """bool ``[p, R]``, for each of a text's problems; None if nothing is."""


class RowsGiven(NamedTuple):
    """What the backward of rows is given."""

    grad_out: Tensor
    """``[..., F]``, in the computing dtype."""
    grad_lse: Tensor | None
    lse: Tensor
    sums: Tensor | None
    """``[...]``, of ``grad_out * out``, unless the output was rounded to 16 bits."""

    def flatten(self) -> "RowsGiven":
        """The first two dimensions as one."""
        grad_lse, sums = (None if tensor is None else tensor.flatten(0, 1) for tensor in (self.grad_lse, self.sums))
        return RowsGiven(self.grad_out.flatten(0, 1), grad_lse, self.lse.flatten(0, 1), sums)


class RowGradients(NamedTuple):
    """What the backward of dense rows gives beside the gradients of their keys."""

    query: Tensor
    """``[P, R, E]``."""
    out: Tensor | None
    """``[P, R, F]``, the rows' output once more, if asked for."""
    mass: Tensor | None
    """``[P, R, 1]``, sums of the rows' weights after dropout, if asked for."""


class DenseRows:
    """Rows that attend every real token of their text, whose keys come part by part.

    Problems P are those of T texts, text after text: ``p = P / T`` of each.
    """

    def __init__(self, query: Tensor, load: Load, seen: Seen, settings: Settings, dropouts: list[Dropout]) -> None:
        """``query [P, R, E]``; ``dropouts``: one for each text, or none."""
        self.query, self.load, self.seen, self.settings = query, load, seen, settings
        problems, total, features = query.shape
        self.hashes = None
        if dropouts:
            each = [dropout.hashes(problems // len(dropouts), total, seen.length) for dropout in dropouts]
            self.hashes = torch.cat([rows for rows, _ in each]), each[0][1]
        self.tokens, scores = seen.length, _GPU_SCORES
        if query.device.type == "cpu":
            scores = _CPU_NUMBERS * torch.get_num_threads()
            self.tokens = min(seen.length, max(1, scores // (problems * features * 64)) * 64)
        self.block = max(1, scores // (problems * self.tokens))

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """``(out [P, R, F], lse [P, R], mass [P, R])``; mass is the sum of a row's weights after dropout."""
        sums: list[Sums] = []  # by block of rows
        for part, key, value in self._parts():
            for number, (query, keys, rows) in enumerate(self._blocks(part, key, value)):
                of_part = forward_block(query, keys, self.settings.scratch, self._row_dropout(rows, part))
                if number < len(sums):
                    sums[number] = joined(sums[number], of_part)
                else:
                    sums.append(of_part._replace(weighted=of_part.weighted.clone()))
        # A global row has a key, itself, so no total is 0.
        outs = [block.weighted / block.total for block in sums]
        lses = [(block.top + block.total.log2()) * LN_2 for block in sums]
        masses = [torch.ones_like(b.total) if b.mass is None else b.mass / b.total for b in sums]
        return torch.cat(outs, 1), torch.cat(lses, 1).squeeze(-1), torch.cat(masses, 1).squeeze(-1)

    def backward(
        self,
        given: RowsGiven,
        store: Store,
        grad_mass: Tensor | None = None,
        *,
        again: bool = False,
    ) -> RowGradients:
        """Gradients, of rows ``[P, R, *]``; ``again``: give the output once more."""
        keep = 1.0 if self.settings.dropout is None else self.settings.dropout.keep
        lse2, grad_lse = given.lse[..., None] * LOG2_E, None if given.grad_lse is None else given.grad_lse[..., None]
        grad_mass = None if grad_mass is None else grad_mass[..., None]
        sums = self._row_sums(given, lse2, grad_mass)
        grad_query = torch.zeros_like(self.query, memory_format=torch.contiguous_format)
        out = torch.zeros_like(given.grad_out) if again else None
        mass = torch.zeros_like(sums) if again else None
        for part, key, value in self._parts():
            of_keys: list[Tensor] = []
            for block_given, rows in self._given_blocks(part, key, value, given, lse2, grad_mass):
                block = backward_block(
                    block_given,
                    self.settings.scratch,
                    None if grad_lse is None else grad_lse[:, rows],
                    sums[:, rows],
                )
                self._add_table_gradients(block, rows)
                grad_query[:, rows].add_(block.query, alpha=self.settings.scale)
                if out is not None and mass is not None:
                    out[:, rows].baddbmm_(block.weights, value, alpha=1 / keep)
                    mass[:, rows].add_(block.weights.sum(-1, keepdim=True), alpha=1 / keep)
                if of_keys:
                    of_keys[0].add_(block.key)
                    of_keys[1].add_(block.value)
                elif rows.stop < self.query.shape[1]:  # more blocks to come, into the same buffers
                    of_keys = [block.key.clone(), block.value.clone()]
                else:
                    of_keys = [block.key, block.value]
            store(part, of_keys[0].mul_(LN_2), of_keys[1])
        self._finish_backward(grad_query)
        return RowGradients(grad_query, out, mass)

    def _add_table_gradients(self, block: BlockGradients, rows: slice) -> None:
        """For scores that have more to them than products: add to the gradients of some rows' keys."""

    def _finish_backward(self, grad_query: Tensor) -> None:
        """The same after all keys, of all rows' queries."""

    def _row_sums(self, given: RowsGiven, lse2: Tensor, grad_mass: Tensor | None) -> Tensor:
        """What :func:`mean_gradient` gives, over all keys."""
        if given.sums is not None:
            return given.sums[..., None]
        sums, totals = torch.zeros_like(lse2), torch.zeros_like(lse2)
        for part, key, value in self._parts():
            for block_given, rows in self._given_blocks(part, key, value, given, lse2, grad_mass):
                of_part = row_sums(block_given, self.settings.scratch)
                for total, more in zip((sums, totals), of_part, strict=True):
                    total[:, rows] += more
        return mean_gradient(sums, totals)

    def _parts(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        for start in range(0, self.seen.length, self.tokens):
            part = slice(start, min(start + self.tokens, self.seen.length))
            yield part, *self.load(part)

    def _blocks(self, part: slice, key: Tensor, value: Tensor) -> Iterator[tuple[Tensor, Keys, slice]]:
        total = self.query.shape[1]
        for start in range(0, total, self.block):
            rows = slice(start, min(start + self.block, total))
            query = self.query[:, rows] * (self.settings.scale * LOG2_E)
            yield query, Keys(key, value, partial(self._mask, part=part, rows=rows)), rows

    def _given_blocks(
        self, part: slice, key: Tensor, value: Tensor, given: RowsGiven, lse2: Tensor, grad_mass: Tensor | None
    ) -> Iterator[tuple[GivenBlock, slice]]:
        for query, keys, rows in self._blocks(part, key, value):
            of_rows = None if grad_mass is None else grad_mass[:, rows]
            dropout = self._row_dropout(rows, part)
            yield GivenBlock(query, keys, lse2[:, rows], given.grad_out[:, rows], dropout, of_rows), rows

    def _row_dropout(self, rows: slice, part: slice) -> RowDropout | None:
        if self.settings.dropout is None or self.hashes is None:
            return None
        row_hash, key_hash = self.hashes
        return RowDropout(self.settings.dropout, row_hash[:, rows], key_hash[part])

    def _mask(self, scores: Tensor, part: slice, rows: slice) -> None:
        """In place, scores ``[P, rows, n]``."""
        texts = self.seen.positions.shape[0]
        scores = scores.view(texts, -1, *scores.shape[1:])
        if self.seen.real is not None:
            scores.masked_fill_(~self.seen.real[:, None, None, part], -torch.inf)
        if self.seen.causal is not None:
            token = torch.arange(part.start, part.stop, device=scores.device)
            future = token > self.seen.positions[:, None, rows, None]  # [T, 1, R, n]
            scores.masked_fill_(future & self.seen.causal[:, rows, None], -torch.inf)


def texts_at_once(rows: int, features: int, device: torch.device) -> int:
    """How many texts with so many rows go together: on a CPU such that parts of 64 of their keys, which have so many
    features in all problems of a text together, still fit the cache; elsewhere, where texts aren't read in parts, one.
    """
    if device.type != "cpu":
        return 1
    return max(1, min(_MOST_ROWS // rows, _CPU_NUMBERS * torch.get_num_threads() // (64 * features)))
