"""Local rows: the window and the global columns in one softmax, block of rows by block of rows, on any device.

A block of rows needs only the keys from ``left`` before it to ``right`` after it, a plain slice; so nothing larger than
``rows x (rows + left + right)`` scores per head exists at any time, in the forward and in the backward.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from longspan.attention.blocks import (
    LN_2,
    LOG2_E,
    RowDropout,
    Scratch,
    Segment,
    backward_block,
    forward_block,
)
from longspan.attention.dilation import Residues
from longspan.attention.dropout import Dropout
from longspan.attention.pattern import Window

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
        self.query = residues.split(readable(query, text.real, query.dtype))
        self.key = residues.split(readable(key, text.real, self.dtype)).contiguous()
        self.value = residues.split(readable(value, text.real, self.dtype)).contiguous()
        self.problems = self.query.shape[0]

        G = text.globals_.numel()
        self.columns = None
        if G:
            self.columns = Segment(
                key[:, text.globals_].to(self.dtype),
                value[:, text.globals_].to(self.dtype),
                first=residues.n,
            )
        self.causal_columns = causal and G > 0

        if dropout is not None:
            self.row_hash, self.key_hash = dropout.hashes(self.problems, residues.n, residues.n + G)

        # Which rows and keys count, per residue; where the dilation doesn't divide the text there are empty places.
        ragged = residues.n * dilation != text.length
        self.local = _split_mask(text.local, text.length, residues, ragged, query.device)  # [d, n]
        self.live_rows = self.dead_keys = None
        if self.local is not None:
            # Running counts for the host: does a block hold a local row, does a range of keys hold one to take out?
            self.live_rows = self.local.any(0).cumsum(0).tolist()
            self.dead_keys = (~self.local).any(0).cumsum(0).tolist()
            bias = torch.zeros(self.local.shape, dtype=self.dtype, device=query.device)
            self.key_bias = bias.masked_fill_(~self.local, -torch.inf)  # [d, n]

        self.block = min(residues.n, _rows_per_block(self.problems, residues.n, window, query.device))
        sides = min(self.left, residues.n), min(self.right, residues.n)
        self.reach = sides[0]
        self.window_mask = _window_mask(self.block, *sides, self.dtype, query.device)

    def forward(self, out: Tensor, lse: Tensor) -> None:
        """Write ``out [h, N, D]`` and ``lse [h, N]``; rows that are not local become 0 and -inf."""
        plain = self.residues.dilation == 1
        target = out if plain else self.value.new_empty(self.problems, self.residues.n, out.shape[-1])
        lse2 = self.value.new_empty(self.problems, self.residues.n)
        if self.local is not None:
            target.zero_()
            lse2.fill_(-torch.inf)
        for start, stop in self._blocks():
            query, segments = self._block(start, stop)
            sums = forward_block(query, segments, self.scratch, self._row_dropout(start, stop))
            result, rows_lse = sums.weighted.div_(sums.total), sums.total.log2_().add_(sums.top).squeeze(-1)
            dead = self._dead_rows(start, stop)
            if dead is not None:
                result.view(self.heads, -1, *result.shape[1:]).masked_fill_(dead[..., None], 0.0)
                rows_lse.view(self.heads, -1, stop - start).masked_fill_(dead, -torch.inf)
            target[:, start:stop] = result
            lse2[:, start:stop] = rows_lse
        if not plain:
            out.copy_(self.residues.join(target))
        torch.mul(self.residues.join(lse2), LN_2, out=lse)

    def backward(self, grad_out: Tensor, delta: Tensor, lse: Tensor, grads: BandGradients) -> None:
        """Write the gradients of the local rows.

        Args:
            grad_out: ``[h, N, D]``.
            delta: ``[h, N]``, row sums of ``grad_out * out`` minus the gradient of the LSE.
            lse: ``[h, N]`` from the forward.
            grads: overwritten.
        """
        split = self.residues.split
        grad_out, delta, lse2 = split(grad_out.to(self.dtype)), split(delta), split(lse) * LOG2_E
        if self.local is not None:  # an infinite LSE makes every weight of a row exactly 0
            lse2.view(self.heads, *self.local.shape).masked_fill_(~self.local, torch.inf)
        grad_key, grad_value = torch.zeros_like(self.key), torch.zeros_like(self.value)
        if self.columns is not None:
            self.columns.grad_key = torch.zeros_like(self.columns.key)
            self.columns.grad_value = torch.zeros_like(self.columns.value)
        plain = self.residues.dilation == 1
        grad_query = grads.query if plain else torch.empty_like(self.key)
        if self.local is not None:
            grad_query.zero_()
        for start, stop in self._blocks():
            query, segments = self._block(start, stop)
            low, high = self._key_range(start, stop)
            segments[0].grad_key, segments[0].grad_value = grad_key[:, low:high], grad_value[:, low:high]
            rows_out = grad_out[:, start:stop]
            grad_rows = backward_block(
                query,
                segments,
                lse2[:, start:stop, None],
                rows_out if plain else rows_out.contiguous(),
                delta[:, start:stop, None],
                self.scratch,
                self._row_dropout(start, stop),
            )
            grad_query[:, start:stop] = grad_rows.mul_(self.scale)
        if not plain:
            grads.query.copy_(self.residues.join(grad_query))
        grads.key.copy_(self.residues.join(grad_key).mul_(LN_2))
        grads.value.copy_(self.residues.join(grad_value))
        if self.columns is not None and self.columns.grad_key is not None and self.columns.grad_value is not None:
            # The window holds no global key, so these rows are still exactly 0.
            grads.key.index_copy_(1, self.text.globals_, self.columns.grad_key.mul_(LN_2).to(grads.key.dtype))
            grads.value.index_copy_(1, self.text.globals_, self.columns.grad_value.to(grads.value.dtype))

    def _blocks(self) -> Iterator[tuple[int, int]]:
        """Blocks of rows of which at least one is local."""
        for start in range(0, self.residues.n, self.block):
            stop = min(start + self.block, self.residues.n)
            if self.live_rows is None or self.live_rows[stop - 1] > (self.live_rows[start - 1] if start else 0):
                yield start, stop

    def _row_dropout(self, start: int, stop: int) -> RowDropout | None:
        if self.dropout is None:
            return None
        return RowDropout(self.dropout, self.row_hash[:, start:stop], self.key_hash)

    def _key_range(self, start: int, stop: int) -> tuple[int, int]:
        return max(0, start - self.left), min(self.residues.n, stop + self.right)

    def _block(self, start: int, stop: int) -> tuple[Tensor, list[Segment]]:
        query = self.scratch.take("query", self.problems, stop - start, self.query.shape[-1])
        query.copy_(self.query[:, start:stop]).mul_(self.scale * LOG2_E)
        low, high = self._key_range(start, stop)
        window = Segment(
            self.key[:, low:high],
            self.value[:, low:high],
            lambda scores: self._mask_window(scores, start, stop),
            first=low,
        )
        if self.columns is None:
            return query, [window]
        if self.causal_columns:
            self.columns.mask = lambda scores: self._mask_future(scores, start, stop)
        return query, [window, self.columns]

    def _mask_window(self, scores: Tensor, start: int, stop: int) -> None:
        """Cut the block's keys down to each row's window, and take out padding and globals (which have columns)."""
        low, high = self._key_range(start, stop)
        first = self.reach + low - start  # columns of the mask that fall outside the text are left out
        scores.add_(self.window_mask[: stop - start, first : first + high - low])
        if self._any_dead(low, high):
            by_residue = scores.view(self.heads, self.residues.dilation, stop - start, high - low)
            by_residue.add_(self.key_bias[:, None, low:high])

    def _mask_future(self, scores: Tensor, start: int, stop: int) -> None:
        positions = self.residues.positions(start, stop, scores.device)  # [d, R]
        future = self.text.globals_ > positions[..., None]  # [d, R, G]
        scores.view(self.heads, *future.shape).masked_fill_(future, -torch.inf)

    def _dead_rows(self, start: int, stop: int) -> Tensor | None:
        """Bool ``[d, R]``, rows of the block that are not local, if there are any."""
        if self.local is None or not self._any_dead(start, stop):
            return None
        return ~self.local[:, start:stop]

    def _any_dead(self, start: int, stop: int) -> bool:
        """Whether a place from ``start`` to ``stop`` holds padding or a global token."""
        dead = self.dead_keys
        return dead is not None and dead[stop - 1] > (dead[start - 1] if start else 0)


def heads_per_chunk(heads: int, length: int, window: Window, dilation: int, device: torch.device) -> int:
    """How many heads to compute together."""
    if device.type != "cpu":
        return heads
    n = -(-length // dilation)
    scores = dilation * min(n, _CPU_ROWS) * min(n, _CPU_ROWS + sum(window))
    return max(1, min(heads, _CPU_SCORES // scores))


def _rows_per_block(problems: int, n: int, window: Window, device: torch.device) -> int:
    budget = _CPU_SCORES if device.type == "cpu" else _GPU_SCORES
    rows = 512
    while rows > _CPU_ROWS and problems * min(rows, n) * min(rows + sum(window), n) > budget:
        rows //= 2
    return rows


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
