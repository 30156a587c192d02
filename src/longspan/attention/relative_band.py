"""Causal windows with relative positions, block of rows by block of rows: exact values and gradients in linear memory.

A row's score for the key ``k`` steps before it is ``(query + content_bias) @ key + (query + position_bias) @
position[k]``. The second product is computed by offset, ``[rows, left + 1]``, and added along the diagonals of the
block's scores through a strided view: nothing is shifted, gathered or copied.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from longspan.attention.band import compute_dtype, heads_per_chunk, rows_per_block
from longspan.attention.blocks import LN_2, LOG2_E, Keys, RowDropout, backward_block, forward_block
from longspan.attention.dilation import Residues
from longspan.attention.dropout import Dropout
from longspan.attention.pattern import AttentionPattern
from longspan.attention.workspace import Scratch, workspace


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
        part, part_lse = band.forward()  # [h, b, N, D], [h, b, N]
        out[batch, heads] = part.transpose(0, 1).to(out.dtype)
        lse[batch, heads] = part_lse.transpose(0, 1)
    return out, lse


def relative_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    positions: Positions,
    out: Tensor,
    lse: Tensor,
    call: RelativeCall,
) -> list[Tensor]:
    """Gradients of query, key, value, position table, content bias and position bias."""
    dtype = compute_dtype(query.dtype)
    grads = [torch.empty_like(tensor) for tensor in (query, key, value)]
    shared = (positions.table, positions.content_bias, positions.position_bias)
    sums = [torch.zeros_like(tensor, dtype=dtype) for tensor in shared]
    for batch, heads, band in _bands(query, key, value, positions, call):
        rows_out = grad_out[batch, heads].to(dtype)
        delta = torch.linalg.vecdot(rows_out, out[batch, heads].to(dtype))
        part = band.backward(*(tensor.transpose(0, 1) for tensor in (rows_out, delta, lse[batch, heads])))
        for grad, tensor in zip(grads, (part.query, part.key, part.value), strict=True):
            grad[batch, heads] = tensor.transpose(0, 1).to(grad.dtype)
        sums[0][heads, : part.table.shape[1]] += part.table
        sums[1][heads] += part.content_bias
        sums[2][heads] += part.position_bias
    return grads + [total.to(tensor.dtype) for total, tensor in zip(sums, shared, strict=True)]


def _bands(
    query: Tensor, key: Tensor, value: Tensor, positions: Positions | None, call: RelativeCall
) -> Iterator[tuple[slice, slice | list[int], "RelativeBand"]]:
    """The work in portions that share window and dilation: on a CPU text by text, so that blocks stay in the cache."""
    B, _, N, _ = key.shape
    dropout = Dropout(call.dropout_p, call.seed, query.device) if call.dropout_p > 0 else None
    texts = [slice(b, b + 1) for b in range(B)] if query.device.type == "cpu" else [slice(0, B)]
    with workspace(compute_dtype(query.dtype), query.device) as scratch:
        for batch in texts:
            real = None if call.key_mask is None else call.key_mask[batch]
            if real is not None and bool(real.all()):
                real = None
            for heads, window, dilation, _ in call.pattern.head_groups(N):
                step = heads_per_chunk(len(heads), N, 0, window, dilation, query.device)
                for some in (heads[first : first + step] for first in range(0, len(heads), step)):
                    neighbours = some[-1] - some[0] == len(some) - 1
                    pick = slice(some[0], some[-1] + 1) if neighbours else some  # a slice is a view, a list a copy
                    q, k, v = (tensor[batch, pick].transpose(0, 1) for tensor in (query, key, value))
                    mine = positions and Positions(
                        positions.table[pick], positions.content_bias[pick], positions.position_bias[pick]
                    )
                    masks = None if dropout is None else dropout.stream(batch.start, some[0])
                    band = RelativeBand(q, k, v, mine, real, window[0], dilation, call.scale, scratch, masks, call.past)
                    yield batch, pick, band


@dataclass
class RelativeGradients:
    """Gradients of one portion, in the computing dtype."""

    query: Tensor
    """``[h, b, N, D]``, as of key and value."""
    key: Tensor
    value: Tensor
    table: Tensor
    """``[h, left + 1, D]``."""
    content_bias: Tensor
    """``[h, D]``, as of the position bias."""
    position_bias: Tensor


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
        self.residues = residues = Residues(length, dilation)
        self.dtype = compute_dtype(query.dtype)
        self.problems = self.heads * self.texts * dilation
        self.block = min(residues.n, rows_per_block(self.problems, residues.n, 0, (left, 0), query.device))
        self.lead = self.block - 1
        """Places before the first key: the first blocks reach beyond the text by less than a block."""

        if real is not None:  # padding may hold anything, even NaN, which a weight of 0 would not stop
            padding = ~real[:, :, None]  # [b, N, 1]
            query = query.masked_fill(padding[:, past:], 0.0)
            key, value = key.masked_fill(padding, 0.0), value.masked_fill(padding, 0.0)
        self.query = self._rows(query.flatten(0, 1))
        self.key = self._keys(key.flatten(0, 1))
        self.value = self._keys(value.flatten(0, 1))
        self.positions = positions
        if positions is not None:
            self.content_bias = self._per_problem(positions.content_bias)
            self.position_bias = self._per_problem(positions.position_bias)
            self.table = positions.table[:, : left + 1].flip(1).to(self.dtype)  # column c is left - c steps before
        if dropout is not None:
            self.row_hash, self.key_hash = dropout.hashes(self.problems, residues.n, residues.n + self.lead)

        # Where the dilation doesn't divide the text there are empty places at the end, which are like padding.
        self.dead: Tensor | None = None
        if real is not None or residues.n * dilation != length:
            whole = torch.ones(self.texts, length, dtype=torch.bool, device=key.device) if real is None else real
            self.dead = ~residues.split(whole)  # [b * d, n]
            self.key_bias = torch.zeros(self.dead.shape, dtype=self.dtype, device=key.device)
            self.key_bias.masked_fill_(self.dead, -torch.inf)
        self.before, self.after = _triangles(self.block, self.dtype, key.device)

    def forward(self) -> tuple[Tensor, Tensor]:
        """``(out, lse)``: ``[h, b, N - past, D]``, and ``[h, b, N - past]``; padding rows are 0 and -inf."""
        target = self.value.new_zeros(self.problems, self.residues.n, self.features)
        lse2 = self.value.new_full((self.problems, self.residues.n), -torch.inf)
        for start, stop in self._blocks():
            query, keys, _ = self._block(start, stop)
            sums = forward_block(query, keys, self.scratch, self._row_dropout(start, stop))
            target[:, start:stop] = sums.weighted.div_(sums.total)
            lse2[:, start:stop] = sums.total.log2_().add_(sums.top).squeeze(-1)
        if self.dead is not None:
            self._by_text(target).masked_fill_(self.dead[..., None], 0.0)
            self._by_text(lse2).masked_fill_(self.dead, -torch.inf)
        return self._join(target)[:, :, self.past :], self._join(lse2.mul_(LN_2))[:, :, self.past :]

    def backward(self, grad_out: Tensor, delta: Tensor, lse: Tensor) -> RelativeGradients:
        """Gradients.

        Args:
            grad_out: ``[h, b, N, D]``.
            delta: ``[h, b, N]``, row sums of ``grad_out * out``.
            lse: ``[h, b, N]`` from the forward.
        """
        assert self.positions is not None
        assert not self.past
        grad_out = self._rows(grad_out.flatten(0, 1))
        delta = self._rows(delta.flatten(0, 1))
        lse2 = self._rows(lse.flatten(0, 1)) * LOG2_E
        if self.dead is not None:  # an infinite LSE makes every weight of a row exactly 0
            self._by_text(lse2).masked_fill_(self.dead, torch.inf)
        grad_query = self.value.new_zeros(self.query.shape)
        grad_key, grad_value, grad_table = (torch.zeros_like(tensor) for tensor in (self.key, self.value, self.table))
        grad_content = self.value.new_zeros(self.heads, self.features)
        grad_position = torch.zeros_like(grad_content)
        for start, stop in self._blocks():
            query, keys, position_query = self._block(start, stop)
            assert position_query is not None
            block = backward_block(
                query,
                keys,
                lse2[:, start:stop, None],
                grad_out[:, start:stop],
                delta[:, start:stop, None],
                self.scratch,
                self._row_dropout(start, stop),
            )
            places = self._key_range(start, stop)
            grad_key[:, places].add_(block.key)
            grad_value[:, places].add_(block.value)
            rows = block.query.mul_(self.scale)
            grad_query[:, start:stop] = rows
            grad_content += rows.view(self.heads, -1, self.features).sum(1)

            # What backward_block left is the gradient of the scores; their diagonals are the gradient by offset.
            width = keys.key.shape[1]
            grad_scores = self.scratch.take("grad_scores", self.problems, stop - start, width)
            offsets = self._take_offsets(start, stop)
            offsets.copy_(_diagonals(grad_scores))
            by_head = offsets.view(self.heads, -1, offsets.shape[-1])  # [h, b * d * R, offsets]
            table = self._table(start, stop)
            rows = torch.bmm(by_head, table).mul_(self.scale)
            grad_query[:, start:stop] += rows.view(self.problems, -1, self.features)
            grad_position += rows.sum(1)
            grad_table[:, -table.shape[1] :] += torch.bmm(
                by_head.mT, position_query.view(self.heads, -1, self.features)
            )
        return RelativeGradients(
            query=self._join(grad_query),
            key=self._join(grad_key[:, self.lead :].mul_(LN_2)),
            value=self._join(grad_value[:, self.lead :]),
            table=grad_table.flip(1).mul_(LN_2),
            content_bias=grad_content,
            position_bias=grad_position,
        )

    def _blocks(self) -> Iterator[tuple[int, int]]:
        for start in range(self.past // self.residues.dilation, self.residues.n, self.block):
            yield start, min(start + self.block, self.residues.n)

    def _reach(self, stop: int) -> int:
        """How many steps back the last row of a block sees."""
        return min(self.left, stop - 1)

    def _key_range(self, start: int, stop: int) -> slice:
        return slice(self.lead + start - self._reach(stop), self.lead + stop)

    def _table(self, start: int, stop: int) -> Tensor:
        """``[h, offsets, D]``, from the furthest that a row of the block sees to the row itself."""
        return self.table[:, self.left - self._reach(stop) :]

    def _take_offsets(self, start: int, stop: int) -> Tensor:
        return self.scratch.take("scores by offset", self.problems, stop - start, self._reach(stop) + 1)

    def _block(self, start: int, stop: int) -> tuple[Tensor, Keys, Tensor | None]:
        """Queries that meet keys, the keys, and queries that meet positions; queries in base-2 units."""
        rows = self.query[:, start:stop]
        query = self.scratch.take("query", *rows.shape)
        position_query = None
        if self.positions is None:
            query.copy_(rows)
        else:
            position_query = self.scratch.take("position query", *rows.shape)
            torch.add(rows, self.position_bias, out=position_query).mul_(self.scale * LOG2_E)
            torch.add(rows, self.content_bias, out=query)
        query.mul_(self.scale * LOG2_E)
        places = self._key_range(start, stop)
        keys = Keys(
            self.key[:, places],
            self.value[:, places],
            lambda scores: self._finish_scores(scores, position_query, start, stop),
        )
        return query, keys, position_query

    def _finish_scores(self, scores: Tensor, position_query: Tensor | None, start: int, stop: int) -> None:
        """Add the scores of positions, and -inf wherever a row must not see a key."""
        rows = stop - start
        if position_query is not None:
            offsets = self._take_offsets(start, stop)
            by_head = position_query.view(self.heads, -1, self.features)
            torch.bmm(by_head, self._table(start, stop).mT, out=offsets.view(self.heads, -1, offsets.shape[-1]))
            _diagonals(scores).add_(offsets)
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
        key_hash = self.key_hash[self._key_range(start, stop)]
        return RowDropout(self.dropout, self.row_hash[:, start:stop], key_hash)

    def _rows(self, tensor: Tensor) -> Tensor:
        """``[h * b, N - past, ...]`` to ``[P, n, ...]``, 0 in the rows of the past."""
        if self.past:
            tensor = torch.cat([tensor.new_zeros(tensor.shape[0], self.past, *tensor.shape[2:]), tensor], 1)
        return self.residues.split(tensor)

    def _keys(self, tensor: Tensor) -> Tensor:
        """``[h * b, N, D]`` to ``[P, lead + n, D]``, 0 in the lead."""
        shape = (self.problems, self.lead + self.residues.n, self.features)
        keys = torch.zeros(shape, dtype=self.dtype, device=tensor.device)
        keys[:, self.lead :] = self.residues.split(tensor)
        return keys

    def _join(self, tensor: Tensor) -> Tensor:
        """``[P, n, ...]`` to ``[h, b, N, ...]``."""
        return self.residues.join(tensor.contiguous()).unflatten(0, (self.heads, self.texts))

    def _by_text(self, tensor: Tensor) -> Tensor:
        """``[P, ...]`` as ``[h, b * d, ...]``."""
        return tensor.view(self.heads, -1, *tensor.shape[1:])

    def _per_problem(self, bias: Tensor) -> Tensor:
        """``[h, D]`` to ``[P, 1, D]``."""
        return bias.to(self.dtype).repeat_interleave(self.problems // self.heads, 0)[:, None]


def _diagonals(scores: Tensor) -> Tensor:
    """A view ``[P, R, offsets]`` of a block's scores ``[P, R, R - 1 + offsets]``: row a from column a on."""
    P, R, width = scores.shape
    return scores.as_strided((P, R, width - R + 1), (R * width, width + 1, 1))


@lru_cache(maxsize=16)
def _triangles(rows: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """-inf below and above the diagonal of ``[R, R]``: keys that left a row's window, and keys after the row."""
    infinite = torch.full((rows, rows), -torch.inf, dtype=dtype, device=device)
    return infinite.tril(-1), infinite.triu(1)
