"""Local rows: the window and the global columns in one softmax, block of rows by block of rows, on any device.

A block of rows needs only the keys from ``left`` before it to ``right`` after it, a plain slice; so nothing larger than
``rows x (rows + left + right)`` scores per head exists at any time, in the forward and in the backward. The global keys
stand in front of that slice, at places whose keys no later row needs: one product, one softmax.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
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
    backward_block,
    forward_block,
)
from longspan.attention.dilation import Residues
from longspan.attention.dropout import Dropout
from longspan.attention.pattern import Window
from longspan.attention.texts import Text
from longspan.attention.workspace import Scratch

# Scores of one block, all its heads together. On a CPU they pass through the cores' own caches once per operation:
# 64 rows of 12 heads at window 512 (docs/log.md). A GPU wants large launches.
_CPU_SCORES = 450_000
_GPU_SCORES = 16_000_000
_CPU_ROWS = 64

# Rows of all residues together that are computed between two loads of the buffers.
_STRETCH = 4096


@dataclass
class BandGradients:
    """Where the backward writes, each ``[h, N, D]`` in the inputs' dtype, views allowed."""

    query: Tensor
    key: Tensor
    value: Tensor


class Stretch(NamedTuple):
    """Consecutive rows of every residue, and what they see."""

    first: int
    last: int
    """Rows ``first .. last - 1`` of each residue."""
    low: int
    high: int
    """Their windows' keys are ``low .. high - 1``."""
    done: int
    """No later stretch sees a key before this one."""
    positions: slice
    """Of the rows in the text."""
    residues: Residues
    """Of the rows."""

    @property
    def num_rows(self) -> int:
        """Of each residue."""
        return self.last - self.first


class Band:
    """The local rows of some heads of one text: heads that share window, dilation and causality.

    Long texts go through in stretches of rows, so that the buffers don't grow with the text.
    """

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        text: Text,
        window: Window,
        dilation: int,
        causal: bool,
        scale: float,
        scratch: Scratch,
        dropout: Dropout | None,
    ) -> None:
        self.inputs = query, key, value
        self.left, self.right = window
        self.text = text
        self.scale = scale
        self.scratch = scratch
        self.dropout = dropout
        self.residues = residues = Residues(text.length, dilation)
        self.heads = query.shape[0]
        self.dtype = compute_dtype(query.dtype)
        self.num_globals = G = text.globals_.numel()
        self.problems = self.heads * dilation
        if G:
            self.global_key = self._of_globals(key)  # [h, 1, G, D]
            self.global_value = self._of_globals(value)
        self.causal_globals = causal and G > 0

        if dropout is not None:
            self.row_hash, self.key_hash = dropout.hashes(self.problems, residues.n, residues.n + G)

        # Which rows and keys count, per residue; where the dilation doesn't divide the text there are empty places.
        ragged = residues.n * dilation != text.length
        self.local = _split_mask(text.local, text.length, residues, ragged, query.device)  # [d, n]
        seen = _split_mask(text.keys, text.length, residues, ragged, query.device)  # [d, n]
        # For the host: places where no residue has a local row, and places where one has a key to take out.
        self.empty: list[int] = [] if self.local is None else (~self.local.any(0)).nonzero().squeeze(1).tolist()
        self.dead_keys: list[int] = [] if seen is None else (~seen).any(0).nonzero().squeeze(1).tolist()
        if seen is not None:
            bias = torch.zeros(seen.shape, dtype=self.dtype, device=query.device)
            self.key_bias = bias.masked_fill_(~seen, -torch.inf)  # [d, n]

        self.block = min(residues.n, rows_per_block(self.problems, residues.n, G, window, query.device))
        self.reach = min(self.left, residues.n), min(self.right, residues.n)
        self.window_mask = _window_mask(self.block, *self.reach, self.dtype, query.device)

    def forward(self, out: Tensor, lse: Tensor) -> None:
        """Write ``out [h, N, D]`` and ``lse [h, N]``; rows that are not local become 0 and -inf."""
        plain = self.residues.dilation == 1
        for part in self._stretches():
            query, key, value = self._load(part)
            target = out[:, part.positions] if plain else value.new_empty(self.problems, part.num_rows, out.shape[-1])
            lse2 = value.new_empty(self.problems, part.num_rows, 1)
            for start, stop in self._blocks(part):
                at = slice(start - part.first, stop - part.first)
                keys = self._keys(part, key, value, start, stop)
                sums = forward_block(query[:, at], keys, self.scratch, self._row_dropout(start, stop))
                torch.div(sums.weighted, sums.total, out=target[:, at])
                torch.add(sums.top, sums.total.log2_(), out=lse2[:, at])
            dead = self._dead_rows(part)
            if dead is not None:
                _per_head(target, self.heads).index_fill_(1, dead, 0.0)
                _per_head(lse2, self.heads).index_fill_(1, dead, -torch.inf)
            if not plain:
                out[:, part.positions] = part.residues.join(target)
            torch.mul(part.residues.join(lse2.squeeze(-1)), LN_2, out=lse[:, part.positions])

    def backward(self, grad_out: Tensor, grad_lse: Tensor | None, lse: Tensor, grads: BandGradients) -> None:
        """Write the gradients of the local rows.

        Args:
            grad_out: ``[h, N, D]``.
            grad_lse: ``[h, N]``, if the LSE is used.
            lse: ``[h, N]`` from the forward.
            grads: overwritten.
        """
        G, plain = self.num_globals, self.residues.dilation == 1
        global_grads: list[Tensor] = []
        kept: list[Tensor] = []  # of keys that the next stretch sees too, their gradients so far
        for part in self._stretches():
            split = part.residues.split
            query, key, value = self._load(part)
            part_grad_out = split(grad_out[:, part.positions].to(self.dtype))
            part_grad_lse = None if grad_lse is None else split(grad_lse[:, part.positions])
            lse2 = split(lse[:, part.positions]).contiguous() * LOG2_E
            dead = self._dead_rows(part)
            if dead is not None:  # an infinite LSE makes every weight of a row exactly 0
                _per_head(lse2, self.heads).index_fill_(1, dead, torch.inf)
            grad_key, grad_value = (
                self.scratch.take(f"grad of all of {name}", *buffer[:, G:].shape).zero_()
                for name, buffer in (("key", key), ("value", value))
            )
            for target, carried in zip((grad_key, grad_value), kept, strict=bool(kept)):
                target[:, : carried.shape[1]] = carried
            global_grads = global_grads or [torch.zeros_like(buffer[:, :G]) for buffer in (key, value)]
            grad_query = grads.query[:, part.positions] if plain else torch.empty_like(query)
            for start, stop in self._blocks(part):
                at = slice(start - part.first, stop - part.first)
                given = GivenBlock(
                    query[:, at],
                    self._keys(part, key, value, start, stop),
                    lse2[:, at, None],
                    part_grad_out[:, at],
                    self._row_dropout(start, stop),
                )
                block = backward_block(
                    given, self.scratch, None if part_grad_lse is None else part_grad_lse[:, at, None]
                )
                self._add_table_gradients(block, start, stop)
                torch.mul(block.query, self.scale, out=grad_query[:, at])
                low, high = self._key_range(start, stop)
                span = slice(low - part.low, high - part.low)
                grad_key[:, span].add_(block.key[:, G:])
                grad_value[:, span].add_(block.value[:, G:])
                if G:
                    global_grads[0].add_(block.key[:, :G])
                    global_grads[1].add_(block.value[:, :G])
            if dead is not None:
                _per_head(grad_query, self.heads).index_fill_(1, dead, 0.0)
            if not plain:
                grads.query[:, part.positions] = part.residues.join(grad_query)
            done = part.done - part.low
            self._write(grads.key, grad_key[:, :done], part, LN_2)
            self._write(grads.value, grad_value[:, :done], part, 1.0)
            kept = [grad[:, done:].clone() for grad in (grad_key, grad_value)]
        self._finish_backward(global_grads[0] if G else None)
        if G:
            # The window holds no global key, so these rows are still exactly 0.
            for target, total, unit in zip((grads.key, grads.value), global_grads, (LN_2, 1.0), strict=True):
                by_head = total.unflatten(0, (self.heads, -1)).sum(1).mul_(unit)
                target.index_copy_(1, self.text.globals_, by_head.to(target.dtype))

    def _write(self, target: Tensor, grad: Tensor, part: Stretch, unit: float) -> None:
        """Put the gradients of the keys that are done with a stretch, ``[h * d, done, D]``, into place."""
        d = self.residues.dilation
        positions = slice(part.low * d, min(self.text.length, part.done * d))
        joined = Residues(positions.stop - positions.start, d).join(grad)
        if target.dtype == self.dtype:
            torch.mul(joined, unit, out=target[:, positions])
        else:
            target[:, positions] = joined.mul_(unit)  # rounded once

    def _of_globals(self, tensor: Tensor) -> Tensor:
        return tensor[:, self.text.globals_].to(self.dtype)[:, None]

    def _stretches(self) -> Iterator[Stretch]:
        n, d = self.residues.n, self.residues.dilation
        # Keys around a stretch are copied with it: at most a quarter more than its own.
        rows = max(_STRETCH // d, 4 * sum(self.reach))
        rows = -(-rows // self.block) * self.block
        for first in range(0, n, rows):
            last = min(first + rows, n)
            low, high = self._key_range(first, last)
            positions = slice(first * d, min(last * d, self.text.length))
            done = n if last == n else last - self.left
            yield Stretch(first, last, low, high, done, positions, Residues(positions.stop - positions.start, d))

    def _load(self, part: Stretch) -> tuple[Tensor, Tensor, Tensor]:
        """Queries ``[h * d, R, D]`` of a stretch, in the unit of scores, and its keys and values ``[h * d, G + n, D]``.

        The first G places are of global keys before the first row; the key at ``low + j`` stands at place ``G + j``.
        """
        query, key, value = self.inputs
        d, real = self.residues.dilation, self.text.real

        def split(tensor: Tensor, first: int, last: int) -> Tensor:
            positions = slice(first * d, min(last * d, self.text.length))
            residues = Residues(positions.stop - positions.start, d)
            part_real = None if real is None else real[positions]
            return residues.split(readable(tensor[:, positions], part_real, self.dtype))

        rows = split(query, part.first, part.last)
        scaled = torch.mul(rows, self.scale * LOG2_E, out=self.scratch.take("all of query", *rows.shape))
        buffers = []
        for name, tensor in (("key", key), ("value", value)):
            there = split(tensor, part.low, part.high)
            buffer = self.scratch.take(
                f"all of {name}", there.shape[0], self.num_globals + there.shape[1], there.shape[2]
            )
            buffer[:, self.num_globals :] = there
            buffers.append(buffer)
        return scaled, buffers[0], buffers[1]

    def _dead_rows(self, part: Stretch) -> Tensor | None:
        """Of each head's ``d * R`` rows of a stretch those that are not local; None if all are."""
        if self.local is None:
            return None
        return (~self.local[:, part.first : part.last]).flatten().nonzero().squeeze(1)

    def _blocks(self, part: Stretch) -> Iterator[tuple[int, int]]:
        """A stretch's blocks of rows of which at least one is local, from the first on."""
        for start in range(part.first, part.last, self.block):
            stop = min(start + self.block, part.last)
            if len(_within(self.empty, start, stop)) < stop - start:
                yield start, stop

    def _row_dropout(self, start: int, stop: int) -> RowDropout | None:
        if self.dropout is None:
            return None
        low, high = self._key_range(start, stop)
        key_hash = torch.cat([self.key_hash[self.residues.n :], self.key_hash[low:high]])
        return RowDropout(self.dropout, self.row_hash[:, start:stop], key_hash)

    def _key_range(self, start: int, stop: int) -> tuple[int, int]:
        return max(0, start - self.left), min(self.residues.n, stop + self.right)

    def _keys(self, part: Stretch, key: Tensor, value: Tensor, start: int, stop: int) -> Keys:
        """The global keys and those of the block's windows. Blocks must be asked for from the first on."""
        low, high = self._key_range(start, stop)
        G = self.num_globals
        span = slice(low - part.low, high - part.low + G)
        key, value = key[:, span], value[:, span]
        if G:
            key[:, :G].unflatten(0, (self.heads, -1)).copy_(self.global_key)
            value[:, :G].unflatten(0, (self.heads, -1)).copy_(self.global_value)
        return Keys(key, value, lambda scores: self._mask(scores, start, stop))

    def _mask(self, scores: Tensor, start: int, stop: int) -> None:
        G = self.num_globals
        self._mask_window(scores[..., G:], start, stop)
        if self.causal_globals:
            positions = self.residues.positions(start, stop, scores.device)  # [d, R]
            future = self.text.globals_ > positions[..., None]  # [d, R, G]
            scores[..., :G].unflatten(0, (self.heads, -1)).masked_fill_(future, -torch.inf)

    def _add_table_gradients(self, block: BlockGradients, start: int, stop: int) -> None:
        """For scores that have more to them than products: add to the gradients of a block's queries and keys."""

    def _finish_backward(self, grad_global_key: Tensor | None) -> None:
        """The same after all blocks; ``[h * d, G, D]``."""

    def _mask_window(self, scores: Tensor, start: int, stop: int) -> None:
        """Cut the keys down to each row's window, and take out padding and globals (which stand in front)."""
        self._cut_window(scores, start, stop)
        low, high = self._key_range(start, stop)
        dead = _within(self.dead_keys, low, high)
        if dead:
            span = slice(dead[0], dead[-1] + 1)
            by_residue = scores.unflatten(0, (self.heads, self.residues.dilation))
            by_residue[..., span.start - low : span.stop - low].add_(self.key_bias[:, None, span])

    def _cut_window(self, scores: Tensor, start: int, stop: int) -> None:
        low, high = self._key_range(start, stop)
        left, right = self.reach
        # Of the mask's columns those outside the text are left out, and those that every row of the block sees are
        # 0: only the corners before and after them are added.
        first = left + low - start
        last = first + high - low
        rows = self.window_mask[: stop - start]
        seen_from, seen_to = stop - start - 1, left + right + 1
        if seen_from >= seen_to:
            scores.add_(rows[:, first:last])
        else:
            if first < seen_from:
                scores[..., : seen_from - first].add_(rows[:, first:seen_from])
            if seen_to < last:
                scores[..., seen_to - first :].add_(rows[:, seen_to:last])


def heads_per_chunk(
    heads: int, length: int, num_globals: int, window: Window, dilation: int, device: torch.device
) -> int:
    """How many heads to compute together."""
    if device.type != "cpu":
        return heads
    n = -(-length // dilation)
    scores = dilation * min(n, _CPU_ROWS) * (num_globals + min(n, _CPU_ROWS + sum(window)))
    return max(1, min(heads, _CPU_SCORES // scores))


def rows_per_block(problems: int, n: int, num_globals: int, window: Window, device: torch.device) -> int:
    """How many rows to compute together."""
    budget = _CPU_SCORES if device.type == "cpu" else _GPU_SCORES
    rows = 512
    while rows > _CPU_ROWS and problems * min(rows, n) * (num_globals + min(rows + sum(window), n)) > budget:
        rows //= 2
    return rows


def _within(places: list[int], start: int, stop: int) -> list[int]:
    """Those of the ascending ``places`` that are at least ``start`` and less than ``stop``."""
    return places[bisect_left(places, start) : bisect_left(places, stop)]


def _per_head(tensor: Tensor, heads: int) -> Tensor:
    """``[h * d, n, ...]`` as ``[h, d * n, ...]``, a view."""
    return tensor if tensor.shape[0] == heads else tensor.view(heads, -1, *tensor.shape[2:])


@lru_cache(maxsize=16)
def _window_mask(rows: int, left: int, right: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """0 inside and -inf outside the windows of a block of rows: ``[R, left + R + right]``, a column for each key from
    ``left`` before the block to ``right`` after it.
    """
    row = torch.arange(rows, device=device)[:, None]
    offset = torch.arange(-left, rows + right, device=device) - row
    outside = (offset < -left) | (offset > right)
    return torch.zeros(outside.shape, dtype=dtype, device=device).masked_fill_(outside, -torch.inf)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Scores, softmax and sums are held in at least fp32."""
    return torch.promote_types(dtype, torch.float32)


def readable(tensor: Tensor, real: Tensor | None, dtype: torch.dtype) -> Tensor:
    """``tensor`` in ``dtype`` with 0 at padding, so that a weight of 0 never meets inf or NaN there."""
    tensor = tensor.to(dtype)
    return tensor if real is None else tensor.masked_fill(~real[..., None], 0.0)


def _split_mask(
    mask: Tensor | None, length: int, residues: Residues, ragged: bool, device: torch.device
) -> Tensor | None:
    """A mask ``[N]`` as ``[d, n]``; None if every place counts."""
    if mask is None and not ragged:
        return None
    whole = torch.ones(length, dtype=torch.bool, device=device) if mask is None else mask
    return residues.split(whole[None])
