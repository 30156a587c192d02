"""Causal windows with relative positions by compiled code: what ``relative_band.py`` computes, for CPUs."""

from collections.abc import Iterator
from contextlib import ExitStack

import torch
from torch import Tensor

from longspan.attention.band import BandGradients
from longspan.attention.dropout import Dropout
from longspan.attention.native_band import NativeBand
from longspan.attention.pattern import index_of
from longspan.attention.relative_band import Positions, RelativeCall, target_of
from longspan.attention.texts import Text


def native_relative_forward(
    query: Tensor, key: Tensor, value: Tensor, positions: Positions, call: RelativeCall
) -> tuple[Tensor, Tensor]:
    """As :func:`longspan.attention.relative_band.relative_forward`, without a past."""
    out = torch.empty_like(query)
    lse = query.new_empty(query.shape[:3], dtype=torch.float32)
    for b, heads, band in _bands(query, key, value, positions, call):
        with target_of(out, b, heads) as part, target_of(lse, b, heads) as part_lse:
            band.forward(part[:, 0], part_lse[:, 0])
    return out, lse


def native_relative_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    positions: Positions,
    lse: Tensor,
    call: RelativeCall,
) -> list[Tensor]:
    """As :func:`longspan.attention.relative_band.relative_backward`."""
    grads = [torch.empty_like(tensor) for tensor in (query, key, value)]
    shared = (positions.table, positions.content_bias, positions.position_bias)
    sums = [torch.zeros_like(tensor, dtype=torch.float32) for tensor in shared]
    for b, heads, band in _bands(query, key, value, positions, call):
        rows = grad_out[b, heads][0], None, lse[b, heads][0]
        with ExitStack() as stack:
            parts = [stack.enter_context(target_of(grad, b, heads))[:, 0] for grad in grads]
            of_positions = band.backward(*rows, BandGradients(*parts))
        assert of_positions is not None
        sums[0][heads, : of_positions.table.shape[1]] += of_positions.table
        sums[1][heads] += of_positions.content_bias
        sums[2][heads] += of_positions.position_bias
    return grads + [total.to(tensor.dtype) for total, tensor in zip(sums, shared, strict=True)]


def _bands(
    query: Tensor, key: Tensor, value: Tensor, positions: Positions, call: RelativeCall
) -> Iterator[tuple[slice, slice | list[int], NativeBand]]:
    B, _, N, _ = query.shape
    dropout = Dropout(call.dropout_p, call.seed, query.device) if call.dropout_p > 0 else None
    none = torch.empty(0, dtype=torch.int64, device="cpu")
    for heads, window, dilation, _ in call.pattern.head_groups(N):
        pick = index_of(heads)
        mine = Positions(positions.table[pick], positions.content_bias[pick], positions.position_bias[pick])
        for b in range(B):
            real = None if call.key_mask is None or bool(call.key_mask[b].all()) else call.key_mask[b]
            masks = None if dropout is None else dropout.stream(b, heads[0])
            parts = query[b, pick], key[b, pick], value[b, pick]
            text = Text(N, real, real, real, none)
            yield slice(b, b + 1), pick, NativeBand(*parts, text, window, dilation, True, call.scale, masks, mine)
