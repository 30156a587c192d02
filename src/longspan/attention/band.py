"""Local rows: the window and the global columns in one softmax, block of rows by block of rows, on any device.

A block of rows needs only the keys from ``left`` before it to ``right`` after it, a plain slice; so nothing larger than
``rows x (rows + left + right)`` scores per head exists at any time, in the forward and in the backward. The global keys
stand in front of that slice, at places whose keys no later row needs: one product, one softmax.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from longspan.attention.blocks import LN_2, LOG2_E, Keys, RowDropout, backward_block, forward_block
from longspan.attention.dilation import Residues
from longspan.attention.dropout import Dropout
from longspan.attention.pattern import Window
from longspan.attention.workspace import Scratch

# Scores of one block, all its heads together. On a CPU they pass through the cores' own caches once per operation:
# 64 rows of 12 heads at window 512 (docs/log.md). A GPU wants large launches.
_CPU_SCORES = 450_000
_GPU_SCORES = 16_000_000
_CPU_ROWS = 64


@dataclass
class Text:
    """One text of the batch, as the host sees it. Masks are None where they would be all True."""

    length: int
    local: Tensor | None
    """bool ``[N]``: neither padding nor global; the local rows, and the keys that a window may hold."""
    real: Tensor | None
    """bool ``[N]``: not padding."""
    globals_: Tensor
    """int64 ``[G]``: positions of global tokens, ascending."""


@dataclass
class BandGradients:
    """Where the backward writes, each ``[h, N, D]`` in the inputs' dtype, views allowed."""

    query: Tensor
    key: Tensor
    value: Tensor


class Band:
    """The local rows of some heads of one text: heads that share window, dilation and causality."""

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
        split_query = residues.split(readable(query, text.real, self.dtype))
        self.query = torch.mul(split_query, scale * LOG2_E, out=scratch.take("all of query", *split_query.shape))
        # The first G places are of global keys before the first row; key j stands at place G + j.
        self.key = self._buffer("key", residues.split(readable(key, text.real, self.dtype)), G)  # [h * d, G + n, D]
        self.value = self._buffer("value", residues.split(readable(value, text.real, self.dtype)), G)
        if G:
            self.global_key = self._of_globals(key)  # [h, 1, G, D]
            self.global_value = self._of_globals(value)
        self.causal_globals = causal and G > 0

        if dropout is not None:
            self.row_hash, self.key_hash = dropout.hashes(self.problems, residues.n, residues.n + G)

        # Which rows and keys count, per residue; where the dilation doesn't divide the text there are empty places.
        ragged = residues.n * dilation != text.length
        self.local = _split_mask(text.local, text.length, residues, ragged, query.device)  # [d, n]
        if self.local is not None:
            self.dead_rows = (~self.local).flatten().nonzero().squeeze(1)  # of each head's d * n rows
            # For the host: places where no residue has a local row, and places where one has a key to take out.
            self.empty = (~self.local.any(0)).nonzero().squeeze(1).tolist()
            self.dead_keys: list[int] = (~self.local).any(0).nonzero().squeeze(1).tolist()
            bias = torch.zeros(self.local.shape, dtype=self.dtype, device=query.device)
            self.key_bias = bias.masked_fill_(~self.local, -torch.inf)  # [d, n]

        self.block = min(residues.n, rows_per_block(self.problems, residues.n, G, window, query.device))
        self.reach = min(self.left, residues.n), min(self.right, residues.n)
        self.window_mask = _window_mask(self.block, *self.reach, self.dtype, query.device)

    def forward(self, out: Tensor, lse: Tensor) -> None:
        """Write ``out [h, N, D]`` and ``lse [h, N]``; rows that are not local become 0 and -inf."""
        plain = self.residues.dilation == 1
        target = out if plain else self.value.new_empty(self.problems, self.residues.n, out.shape[-1])
        lse2 = self.value.new_empty(self.problems, self.residues.n, 1)
        for start, stop in self._blocks():
            keys = self._keys(start, stop)
            sums = forward_block(self.query[:, start:stop], keys, self.scratch, self._row_dropout(start, stop))
            torch.div(sums.weighted, sums.total, out=target[:, start:stop])
            torch.add(sums.top, sums.total.log2_(), out=lse2[:, start:stop])
        if self.local is not None:
            _per_head(target, self.heads).index_fill_(1, self.dead_rows, 0.0)
            _per_head(lse2, self.heads).index_fill_(1, self.dead_rows, -torch.inf)
        if not plain:
            out.copy_(self.residues.join(target))
        torch.mul(self.residues.join(lse2.squeeze(-1)), LN_2, out=lse)

    def backward(self, grad_out: Tensor, delta: Tensor, lse: Tensor, grads: BandGradients) -> None:
        """Write the gradients of the local rows.

        Args:
            grad_out: ``[h, N, D]``.
            delta: ``[h, N]``, row sums of ``grad_out * out`` minus the gradient of the LSE.
            lse: ``[h, N]`` from the forward.
            grads: overwritten.
        """
        split, G = self.residues.split, self.num_globals
        grad_out, delta, lse2 = split(grad_out.to(self.dtype)), split(delta), split(lse).contiguous() * LOG2_E
        if self.local is not None:  # an infinite LSE makes every weight of a row exactly 0
            _per_head(lse2, self.heads).index_fill_(1, self.dead_rows, torch.inf)
        grad_key = self.scratch.take("grad of all of key", *self.key[:, G:].shape).zero_()
        grad_value = self.scratch.take("grad of all of value", *self.value[:, G:].shape).zero_()
        global_grads = [torch.zeros_like(buffer[:, :G]) for buffer in (self.key, self.value)]
        plain = self.residues.dilation == 1
        grad_query = grads.query if plain else torch.empty_like(self.query)
        for start, stop in self._blocks():
            block = backward_block(
                self.query[:, start:stop],
                self._keys(start, stop),
                lse2[:, start:stop, None],
                grad_out[:, start:stop],
                delta[:, start:stop, None],
                self.scratch,
                self._row_dropout(start, stop),
            )
            torch.mul(block.query, self.scale, out=grad_query[:, start:stop])
            low, high = self._key_range(start, stop)
            grad_key[:, low:high].add_(block.key[:, G:])
            grad_value[:, low:high].add_(block.value[:, G:])
            if G:
                global_grads[0].add_(block.key[:, :G])
                global_grads[1].add_(block.value[:, :G])
        if self.local is not None:
            _per_head(grad_query, self.heads).index_fill_(1, self.dead_rows, 0.0)
        if not plain:
            grads.query.copy_(self.residues.join(grad_query))
        if grads.key.dtype == self.dtype:
            torch.mul(self.residues.join(grad_key), LN_2, out=grads.key)
        else:
            grads.key.copy_(self.residues.join(grad_key).mul_(LN_2))  # rounded once
        grads.value.copy_(self.residues.join(grad_value))
        if G:
            # The window holds no global key, so these rows are still exactly 0.
            for target, total, unit in zip((grads.key, grads.value), global_grads, (LN_2, 1.0), strict=True):
                by_head = total.unflatten(0, (self.heads, -1)).sum(1).mul_(unit)
                target.index_copy_(1, self.text.globals_, by_head.to(target.dtype))

    def _buffer(self, name: str, split: Tensor, front: int = 0) -> Tensor:
        """A contiguous copy in the computing dtype, with uninitialised places in front."""
        buffer = self.scratch.take(f"all of {name}", split.shape[0], front + split.shape[1], split.shape[2])
        buffer[:, front:] = split
        return buffer

    def _of_globals(self, tensor: Tensor) -> Tensor:
        return tensor[:, self.text.globals_].to(self.dtype)[:, None]

    def _blocks(self) -> Iterator[tuple[int, int]]:
        """Blocks of rows of which at least one is local, from the first on."""
        for start in range(0, self.residues.n, self.block):
            stop = min(start + self.block, self.residues.n)
            if self.local is None or len(_within(self.empty, start, stop)) < stop - start:
                yield start, stop

    def _row_dropout(self, start: int, stop: int) -> RowDropout | None:
        if self.dropout is None:
            return None
        low, high = self._key_range(start, stop)
        key_hash = torch.cat([self.key_hash[self.residues.n :], self.key_hash[low:high]])
        return RowDropout(self.dropout, self.row_hash[:, start:stop], key_hash)

    def _key_range(self, start: int, stop: int) -> tuple[int, int]:
        return max(0, start - self.left), min(self.residues.n, stop + self.right)

    def _keys(self, start: int, stop: int) -> Keys:
        """The global keys and those of the block's windows. Blocks must be asked for from the first on."""
        low, high = self._key_range(start, stop)
        G = self.num_globals
        key, value = self.key[:, low : high + G], self.value[:, low : high + G]
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

    def _mask_window(self, scores: Tensor, start: int, stop: int) -> None:
        """Cut the keys down to each row's window, and take out padding and globals (which stand in front)."""
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
        if self.local is None:
            return
        dead = _within(self.dead_keys, low, high)
        if dead:
            span = slice(dead[0], dead[-1] + 1)
            by_residue = scores.unflatten(0, (self.heads, self.residues.dilation))
            by_residue[..., span.start - low : span.stop - low].add_(self.key_bias[:, None, span])


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
    return tensor if real is None else tensor.masked_fill(~real[:, None], 0.0)


def _split_mask(
    mask: Tensor | None, length: int, residues: Residues, ragged: bool, device: torch.device
) -> Tensor | None:
    """A mask ``[N]`` as ``[d, n]``; None if every place counts."""
    if mask is None and not ragged:
        return None
    whole = torch.ones(length, dtype=torch.bool, device=device) if mask is None else mask
    return residues.split(whole[None])
