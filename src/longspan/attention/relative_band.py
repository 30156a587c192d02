"""Causal windows with relative positions, block of rows by block of rows: exact values and gradients in linear memory.

A row's score for the key ``k`` steps before it is ``(query + content_bias) @ key + (query + position_bias) @
position[k]``. The second product is one by offset, ``[rows, left + 1]``; it is accumulated right onto the diagonals of
the block's scores through a strided view, and the backward reads its gradient through the same view: nothing is
shifted, gathered or copied.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from longspan.attention.band import compute_dtype, heads_per_chunk, rows_per_block
from longspan.attention.blocks import LN_2, LOG2_E, GivenBlock, Keys, RowDropout, backward_block, forward_block
from longspan.attention.dilation import Residues
from longspan.attention.dropout import Dropout
from longspan.attention.pattern import AttentionPattern, index_of
from longspan.attention.workspace import Scratch, workspace

# Rows of all residues together that are computed between two loads of the buffers.
_STRETCH = 2048

# On a CPU a block's operations take some 350 us apart from their arithmetic, and a score 14 ns at 64 features.
_CPU_SCORES_WORTH_A_BLOCK = 25_000


@dataclass
class RelativeCall:
    """The arguments of one call, but for the tensors that have gradients."""

    pattern: AttentionPattern
    """Causal in every head."""
    key_mask: Tensor | None
    """bool ``[B, N]``, False at padding."""
    scale: float
    dropout_p: float = 0.0
    seed: int = 0
    past: int = 0
    """How many tokens at the front are keys only: their rows are not computed."""


@dataclass
class Positions:
    """What makes positions known to the attention; the distance in steps of the dilation picks the row."""

    table: Tensor
    """``[H, W, D]``: the projected position of the key ``k`` steps before the row."""
    content_bias: Tensor
    """``[H, D]``, added to the query that meets the key (Transformer-XL's u)."""
    position_bias: Tensor
    """``[H, D]``, added to the query that meets the position (Transformer-XL's v)."""


def relative_forward(
    query: Tensor, key: Tensor, value: Tensor, positions: Positions | None, call: RelativeCall
) -> tuple[Tensor, Tensor]:
    """Output and LSE.

    Args:
        query: ``[B, H, N - past, D]``, rows of the last tokens.
        key, value: ``[B, H, N, D]``.
        positions: None leaves the scores to content alone.
        call: the rest.

    Returns:
        ``(out, lse)``: ``[B, H, N - past, D]`` with the memory layout of ``query``, fp32 (fp64) ``[B, H, N - past]``.
    """
    out = torch.empty_like(query)
    lse = query.new_empty(query.shape[:3], dtype=compute_dtype(query.dtype))
    for batch, heads, band in _bands(query, key, value, positions, call):
        with target_of(out, batch, heads) as part_out, target_of(lse, batch, heads) as part_lse:
            band.forward(part_out, part_lse)
    return out, lse


def relative_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    positions: Positions,
    lse: Tensor,
    call: RelativeCall,
) -> list[Tensor]:
    """Gradients of query, key, value, position table, content bias and position bias."""
    dtype = compute_dtype(query.dtype)
    grads = [torch.empty_like(tensor) for tensor in (query, key, value)]
    shared = (positions.table, positions.content_bias, positions.position_bias)
    sums = [torch.zeros_like(tensor, dtype=dtype) for tensor in shared]
    for batch, heads, band in _bands(query, key, value, positions, call):
        with ExitStack() as stack:
            into = [stack.enter_context(target_of(grad, batch, heads)) for grad in grads]
            given = (tensor.transpose(0, 1) for tensor in (grad_out[batch, heads].to(dtype), lse[batch, heads]))
            part = band.backward(*given, *into)
        sums[0][heads, : part.table.shape[1]] += part.table
        sums[1][heads] += part.content_bias
        sums[2][heads] += part.position_bias
    return grads + [total.to(tensor.dtype) for total, tensor in zip(sums, shared, strict=True)]


@contextmanager
def target_of(tensor: Tensor, batch: slice, heads: slice | list[int]) -> Iterator[Tensor]:
    """Where to write the texts and heads of ``tensor [B, H, ...]``: ``[h, b, ...]``."""
    if isinstance(heads, slice):
        yield tensor[batch, heads].transpose(0, 1)
        return
    part = torch.empty_like(tensor[batch, heads])
    yield part.transpose(0, 1)
    tensor[batch, heads] = part


def _bands(
    query: Tensor, key: Tensor, value: Tensor, positions: Positions | None, call: RelativeCall
) -> Iterator[tuple[slice, slice | list[int], "RelativeBand"]]:
    """The work in portions that share window and dilation: on a CPU as many texts and heads as the cache bears."""
    B, _, N, _ = key.shape
    dropout = Dropout(call.dropout_p, call.seed, query.device) if call.dropout_p > 0 else None
    with workspace(compute_dtype(query.dtype), query.device) as scratch:
        for heads, window, dilation, _ in call.pattern.head_groups(N):
            together = heads_per_chunk(B * len(heads), N, 0, window, dilation, query.device)
            texts, step = max(1, together // len(heads)), min(together, len(heads))
            for batch in (slice(first, min(first + texts, B)) for first in range(0, B, texts)):
                real = None if call.key_mask is None else call.key_mask[batch]
                if real is not None and bool(real.all()):
                    real = None
                for some in (heads[first : first + step] for first in range(0, len(heads), step)):
                    pick = index_of(some)
                    q, k, v = (tensor[batch, pick].transpose(0, 1) for tensor in (query, key, value))
                    mine = positions and Positions(
                        positions.table[pick], positions.content_bias[pick], positions.position_bias[pick]
                    )
                    masks = None if dropout is None else dropout.stream(batch.start, some[0])
                    band = RelativeBand(q, k, v, mine, real, window[0], dilation, call.scale, scratch, masks, call.past)
                    yield batch, pick, band


class SharedGradients(NamedTuple):
    """Gradients of what all rows of a portion share, in the computing dtype."""

    table: Tensor
    """``[h, left + 1, D]``."""
    content_bias: Tensor
    """``[h, D]``, as of the position bias."""
    position_bias: Tensor


class _Stretch(NamedTuple):
    """Consecutive rows of every residue, and what they see."""

    first: int
    last: int
    """Rows ``first .. last - 1`` of each residue."""
    low: int
    """Their first key; below 0 before the text, by less than a block."""
    positions: slice
    """Of the rows in the text."""
    residues: Residues
    """Of the rows."""


class RelativeBand:
    """Heads that share window and dilation, of some texts: ``h`` heads times ``b`` texts times ``d`` residues are the P
    problems of a block, the residues of a text next to each other and the texts of a head next to each other.
    """

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        positions: Positions | None,
        real: Tensor | None,
        left: int,
        dilation: int,
        scale: float,
        scratch: Scratch,
        dropout: Dropout | None,
        past: int,
    ) -> None:
        self.heads, self.texts, length, self.features = key.shape
        self.left, self.scale, self.scratch, self.dropout, self.past = left, scale, scratch, dropout, past
        self.length, self.residues = length, Residues(length, dilation)
        self.dtype = compute_dtype(query.dtype)
        self.problems = self.heads * self.texts * dilation
        self.block = _rows_per_block(self.problems, self.residues.n, left, query.device)

        if real is not None:  # padding may hold anything, even NaN, which a weight of 0 would not stop
            padding = ~real[:, :, None]  # [b, N, 1]
            query = query.masked_fill(padding[:, past:], 0.0)
            key, value = key.masked_fill(padding, 0.0), value.masked_fill(padding, 0.0)
        self.query, self.key, self.value = (tensor.flatten(0, 1) for tensor in (query, key, value))  # [h * b, N, D]
        self.positions = positions
        if positions is not None:
            self.content_bias = self._per_problem(positions.content_bias)
            self.position_bias = self._per_problem(positions.position_bias)
            # Column c is left - c steps before the row.
            self.table = positions.table[:, : left + 1].flip(1).to(self.dtype).mT.contiguous()  # [h, D, left + 1]
        if dropout is not None:
            n = self.residues.n
            self.row_hash, self.key_hash = dropout.hashes(self.problems, n, n + self.block)

        # Where the dilation doesn't divide the text there are empty places at the end, which are like padding.
        self.dead: Tensor | None = None
        if real is not None or self.residues.n * dilation != length:
            whole = torch.ones(self.texts, length, dtype=torch.bool, device=key.device) if real is None else real
            self.dead = ~self.residues.split(whole)  # [b * d, n]
            self.key_bias = torch.zeros(self.dead.shape, dtype=self.dtype, device=key.device)
            self.key_bias.masked_fill_(self.dead, -torch.inf)
        self.before, self.after = _triangles(self.block, self.dtype, key.device)

    def forward(self, out: Tensor, lse: Tensor) -> None:
        """Write ``out [h, b, N - past, D]`` and ``lse [h, b, N - past]``; padding rows become 0 and -inf."""
        for part in self._stretches():
            rows = self._rows(self.query, part)
            key, value = self._load("key", self.key, part), self._load("value", self.value, part)
            target = self.scratch.take("out", *rows.shape)
            lse2 = self.scratch.take("lse", *rows.shape[:2], 1)
            for start, stop in self._blocks(part):
                at = slice(start - part.first, stop - part.first)
                query, position_query = self._queries(rows[:, at])
                keys = self._keys(part, key, value, position_query, start, stop)
                sums = forward_block(query, keys, self.scratch, self._row_dropout(start, stop))
                torch.div(sums.weighted, sums.total, out=target[:, at])
                torch.add(sums.top, sums.total.log2_(), out=lse2[:, at])
            if self.dead is not None:
                dead = self.dead[:, part.first : part.last, None]
                self._by_text(target).masked_fill_(dead, 0.0)
                self._by_text(lse2).masked_fill_(dead, -torch.inf)
            self._write(out, target, part.positions)
            self._write(lse, lse2.squeeze(-1).mul_(LN_2), part.positions)

    def backward(
        self,
        grad_out: Tensor,
        lse: Tensor,
        grad_query: Tensor,
        grad_key: Tensor,
        grad_value: Tensor,
    ) -> SharedGradients:
        """Gradients.

        Args:
            grad_out: ``[h, b, N, D]``.
            lse: ``[h, b, N]`` from the forward.
            grad_query, grad_key, grad_value: ``[h, b, N, D]``, overwritten.
        """
        assert self.positions is not None
        assert not self.past
        grad_out, lse = grad_out.flatten(0, 1), lse.flatten(0, 1)
        grad_table = torch.zeros_like(self.table)  # [h, D, left + 1]
        grad_content = self.table.new_zeros(self.heads, self.features)
        grad_position = torch.zeros_like(grad_content)
        carried: list[Tensor] = []  # of keys that the next stretch sees too, their gradients so far
        stretches = list(self._stretches())
        for number, part in enumerate(stretches):
            rows = self._rows(self.query, part)
            key, value = self._load("key", self.key, part), self._load("value", self.value, part)
            part_out = self._rows(grad_out, part)
            lse2 = self._rows(lse, part)[..., None] * LOG2_E
            if self.dead is not None:  # an infinite LSE makes every weight of a row exactly 0
                self._by_text(lse2).masked_fill_(self.dead[:, part.first : part.last, None], torch.inf)
            part_query = self.scratch.take("grad of rows", *rows.shape)
            of_keys = [
                self.scratch.take(f"grad of {name}", *tensor.shape).zero_()
                for name, tensor in (("key", key), ("value", value))
            ]
            for target, known in zip(of_keys, carried, strict=bool(carried)):
                target[:, : known.shape[1]] = known
            for start, stop in self._blocks(part):
                at = slice(start - part.first, stop - part.first)
                query, position_query = self._queries(rows[:, at])
                assert position_query is not None
                keys = self._keys(part, key, value, position_query, start, stop)
                given = GivenBlock(query, keys, lse2[:, at], part_out[:, at], self._row_dropout(start, stop))
                block = backward_block(given, self.scratch)
                span = self._span(part, start, stop)
                of_keys[0][:, span].add_(block.key)
                of_keys[1][:, span].add_(block.value)
                # What backward_block left is the gradient of the scores; their diagonals are the gradient by offset.
                grad_scores = self.scratch.take("grad_scores", *keys.key.shape[:1], stop - start, keys.key.shape[1])
                by_offset = self.scratch.take("grad by offset", *query.shape)
                table = self._table(stop)
                pairs = zip(self._of_heads(_diagonals(grad_scores)), self._of_heads(position_query), strict=True)
                for (diagonals, queries), target in zip(pairs, self._of_heads(by_offset), strict=True):
                    torch.bmm(diagonals, table.mT, out=target)
                    grad_table[..., -table.shape[-1] :].baddbmm_(queries.mT, diagonals)
                grad_content += block.query.view(self.heads, -1, self.features).sum(1)
                grad_position += by_offset.view(self.heads, -1, self.features).sum(1)
                torch.add(block.query, by_offset, out=part_query[:, at])
            self._write(grad_query, part_query.mul_(self.scale), part.positions)
            last = number + 1 == len(stretches)
            done = (part.last if last else stretches[number + 1].low) - part.low
            for target, tensor, unit in zip((grad_key, grad_value), of_keys, (LN_2, 1.0), strict=True):
                self._write(target, tensor[:, max(0, -part.low) : done], self._key_positions(part, done), unit)
            carried = [tensor[:, done:].clone() for tensor in of_keys]
        return SharedGradients(
            table=grad_table.mT.flip(1).mul_(LN_2),
            content_bias=grad_content.mul_(self.scale),
            position_bias=grad_position.mul_(self.scale),
        )

    def _stretches(self) -> Iterator[_Stretch]:
        n, d = self.residues.n, self.residues.dilation
        # Keys before a stretch are loaded with it: at most a quarter more than its own.
        rows = max(_STRETCH // d, 4 * min(self.left, n))
        rows = -(-rows // self.block) * self.block
        for first in range(self.past // d, n, rows):
            last = min(first + rows, n)
            low = first - self._reach(first + self.block)
            positions = slice(first * d, min(last * d, self.length))
            yield _Stretch(first, last, low, positions, Residues(positions.stop - positions.start, d))

    def _blocks(self, part: _Stretch) -> Iterator[tuple[int, int]]:
        for start in range(part.first, part.last, self.block):
            yield start, min(start + self.block, part.last)

    def _reach(self, stop: int) -> int:
        """How many steps back the last row of a block sees."""
        return min(self.left, stop - 1)

    def _span(self, part: _Stretch, start: int, stop: int) -> slice:
        """A block's keys among those of its stretch."""
        return slice(start - self._reach(stop) - part.low, stop - part.low)

    def _key_positions(self, part: _Stretch, count: int) -> slice:
        """Where in the text the first ``count`` keys of a stretch stand."""
        d = self.residues.dilation
        return slice(max(part.low, 0) * d, max(0, min((part.low + count) * d, self.length)))

    def _table(self, stop: int) -> Tensor:
        """``[h, D, offsets]``, from the furthest that a row of the block sees to the row itself."""
        return self.table[..., self.left - self._reach(stop) :]

    def _rows(self, tensor: Tensor, part: _Stretch) -> Tensor:
        """A stretch's rows of ``[h * b, N - past, ...]``: ``[P, R, ...]``, 0 before the first that is computed."""
        first = part.positions.start - self.past
        rows = tensor[:, max(first, 0) : part.positions.stop - self.past].to(self.dtype)
        if first < 0:
            rows = torch.cat([rows.new_zeros(rows.shape[0], -first, *rows.shape[2:]), rows], 1)
        return part.residues.split(rows)

    def _load(self, name: str, tensor: Tensor, part: _Stretch) -> Tensor:
        """A stretch's keys of ``[h * b, N, D]``: ``[P, last - low, D]``, 0 before the text."""
        buffer = self.scratch.take(f"all of {name}", self.problems, part.last - part.low, self.features)
        lead = max(0, -part.low)
        buffer[:, :lead] = 0.0
        there = tensor[:, self._key_positions(part, part.last - part.low)]
        buffer[:, lead:] = Residues(there.shape[1], self.residues.dilation).split(there)
        return buffer

    def _write(self, target: Tensor, part: Tensor, positions: slice, unit: float = 1.0) -> None:
        """Put ``[P, n, ...]``, multiplied, to some positions of ``target [h, b, N - past, ...]``."""
        joined = Residues(positions.stop - positions.start, self.residues.dilation).join(part)
        joined = joined.unflatten(0, (self.heads, self.texts))
        skip = max(0, self.past - positions.start)
        place = target[:, :, positions.start + skip - self.past : positions.stop - self.past]
        if unit == 1.0:
            place.copy_(joined[:, :, skip:])
        elif target.dtype == self.dtype:
            torch.mul(joined[:, :, skip:], unit, out=place)
        else:
            place.copy_(joined[:, :, skip:] * unit)  # rounded once

    def _queries(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Queries ``[P, R, D]`` that meet keys, and those that meet positions, in base-2 units."""
        unit = self.scale * LOG2_E
        query = self.scratch.take("query", *rows.shape)
        if self.positions is None:
            return torch.mul(rows, unit, out=query), None
        position_query = self.scratch.take("position query", *rows.shape)
        torch.add(rows, self.position_bias, out=position_query).mul_(unit)
        torch.add(rows, self.content_bias, out=query).mul_(unit)
        return query, position_query

    def _keys(
        self, part: _Stretch, key: Tensor, value: Tensor, position_query: Tensor | None, start: int, stop: int
    ) -> Keys:
        span = self._span(part, start, stop)
        return Keys(
            key[:, span], value[:, span], lambda scores: self._finish_scores(scores, position_query, start, stop)
        )

    def _finish_scores(self, scores: Tensor, position_query: Tensor | None, start: int, stop: int) -> None:
        """Add the scores of positions, and -inf wherever a row must not see a key."""
        rows = stop - start
        if position_query is not None:
            table = self._table(stop)
            pairs = zip(self._of_heads(_diagonals(scores)), self._of_heads(position_query), strict=True)
            for diagonals, queries in pairs:
                diagonals.baddbmm_(queries, table)
        scores[..., :rows].add_(self.before[:rows, :rows])
        scores[..., -rows:].add_(self.after[:rows, :rows])
        low = start - self._reach(stop)
        if low < 0:
            scores[..., :-low].fill_(-torch.inf)
        if self.dead is not None:
            keys = self.key_bias[:, max(low, 0) : stop]
            self._by_text(scores)[..., max(-low, 0) :].add_(keys[:, None])

    def _row_dropout(self, start: int, stop: int) -> RowDropout | None:
        if self.dropout is None:
            return None
        first = start - self._reach(stop)  # by less than a block before the text
        return RowDropout(
            self.dropout, self.row_hash[:, start:stop], self.key_hash[first + self.block : stop + self.block]
        )

    def _of_heads(self, tensor: Tensor) -> Iterator[Tensor]:
        """``[P, ...]``, a text and residue at a time: ``[h, ...]``, views."""
        return iter(tensor.unflatten(0, (self.heads, -1)).unbind(1))

    def _by_text(self, tensor: Tensor) -> Tensor:
        """``[P, ...]`` as ``[h, b * d, ...]``."""
        return tensor.view(self.heads, -1, *tensor.shape[1:])

    def _per_problem(self, bias: Tensor) -> Tensor:
        """``[h, D]`` to ``[P, 1, D]``."""
        return bias.to(self.dtype).repeat_interleave(self.problems // self.heads, 0)[:, None]


def _rows_per_block(problems: int, n: int, left: int, device: torch.device) -> int:
    """How many rows to compute together."""
    if device.type != "cpu":
        return min(n, rows_per_block(problems, n, 0, (left, 0), device))
    # A block of R rows computes R * (R + left) scores: its fixed cost and its waste, R * R, are equal at this R.
    fair = math.sqrt(_CPU_SCORES_WORTH_A_BLOCK / problems)
    return min(n, max(32, 2 ** round(math.log2(fair))))


def _diagonals(scores: Tensor) -> Tensor:
    """A view ``[P, R, offsets]`` of a block's scores ``[P, R, R - 1 + offsets]``: row a from column a on."""
    P, R, width = scores.shape
    return scores.as_strided((P, R, width - R + 1), (R * width, width + 1, 1))


@lru_cache(maxsize=16)
def _triangles(rows: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """-inf below and above the diagonal of ``[R, R]``: keys that left a row's window, and keys after the row."""
    infinite = torch.full((rows, rows), -torch.inf, dtype=dtype, device=device)
    return infinite.tril(-1), infinite.triu(1)
