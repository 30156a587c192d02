"""Causal windows with relative positions by compiled code: what ``relative_band.py`` computes, for CPUs."""

from collections.abc import Iterator

import torch
from torch import Tensor

from longspan.attention.band import BandGradients, Text
from longspan.attention.dropout import Dropout
from longspan.attention.native_band import NativeBand, RelativePositions
from longspan.attention.relative_band import Positions, RelativeCall


def native_relative_forward(
    query: Tensor, key: Tensor, value: Tensor, positions: Positions, call: RelativeCall
) -> tuple[Tensor, Tensor]:
    """As :func:`longspan.attention.relative_band.relative_forward`, without a past."""
    out = torch.empty_like(query)
    lse = query.new_empty(query.shape[:3], dtype=torch.float32)
    for b, heads, band in _bands(query, key, value, positions, call):
        part, part_lse = torch.empty_like(out[b, heads]), torch.empty_like(lse[b, heads])
        band.forward(part, part_lse)
        out[b, heads], lse[b, heads] = part, part_lse
    return out, lse


def native_relative_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    positions: Positions,
    out: Tensor,
    lse: Tensor,
    call: RelativeCall,
) -> list[Tensor]:
    """As :func:`longspan.attention.relative_band.relative_backward`."""
    grads = [torch.empty_like(tensor) for tensor in (query, key, value)]
    shared = (positions.table, positions.content_bias, positions.position_bias)
    sums = [torch.zeros_like(tensor, dtype=torch.float32) for tensor in shared]
    for b, heads, band in _bands(query, key, value, positions, call):
        rows_out = grad_out[b, heads]
        delta = torch.linalg.vecdot(rows_out.float(), out[b, heads].float())
        parts = [torch.empty_like(grad[b, heads]) for grad in grads]
        of_positions = band.backward(rows_out, delta, lse[b, heads], BandGradients(*parts))
        assert of_positions is not None
        for grad, part in zip(grads, parts, strict=True):
            grad[b, heads] = part
        sums[0][heads, : of_positions.table.shape[1]] += of_positions.table
        sums[1][heads] += of_positions.content_bias
        sums[2][heads] += of_positions.position_bias
    return grads + [total.to(tensor.dtype) for total, tensor in zip(sums, shared, strict=True)]


def _bands(
    query: Tensor, key: Tensor, value: Tensor, positions: Positions, call: RelativeCall
) -> Iterator[tuple[int, slice | list[int], NativeBand]]:
    B, _, N, _ = query.shape
    dropout = Dropout(call.dropout_p, call.seed, query.device) if call.dropout_p > 0 else None
    none = torch.empty(0, dtype=torch.int64)
    for heads, window, dilation, _ in call.pattern.head_groups(N):
        neighbours = heads[-1] - heads[0] == len(heads) - 1
        pick = slice(heads[0], heads[-1] + 1) if neighbours else heads  # a slice is a view, a list a copy
        mine = RelativePositions(positions.table[pick], positions.content_bias[pick], positions.position_bias[pick])
        for b in range(B):
            real = None if call.key_mask is None or bool(call.key_mask[b].all()) else call.key_mask[b]
            masks = None if dropout is None else dropout.stream(b, heads[0])
            parts = query[b, pick], key[b, pick], value[b, pick]
            text = Text(N, real, real, none)
            yield b, pick, NativeBand(*parts, text, window, dilation, True, call.scale, masks, mine)
