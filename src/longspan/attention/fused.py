# mypy: disable-error-code="import-not-found,import-untyped"
"""The Triton path: exact forward and backward on a GPU, all texts and heads of a batch in a few launches.

Its kernels need the package triton; this module is imported only when they are called for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from longspan.attention.blocked import Call
from longspan.attention.blocks import LOG2_E
from longspan.attention.dropout import Dropout
from longspan.attention.fused_rows import add_global_rows, global_row_gradients, readable_rows
from longspan.attention.masks import BatchMasks
from longspan.attention.pattern import AttentionPattern
from longspan.attention.triton_gradients import column_gradient, local_key_gradient, local_query_gradient, row_terms
from longspan.attention.triton_local import local_forward


class Tiles(NamedTuple):
    """The size of a program's work: rows and keys of a tile, warps, and how many tiles are loaded ahead."""

    rows: int
    keys: int
    warps: int
    stages: int
    registers: int | None = None
    """Most registers of a thread: with 168, three programs of four warps share a multiprocessor, otherwise two."""

    @property
    def options(self) -> dict[str, int | None]:
        """Of a launch."""
        return {"num_warps": self.warps, "num_stages": self.stages, "maxnreg": self.registers}


# By kernel, by bytes of a number and by the features of a head up to which they hold.
_TILES: dict[str, dict[int, dict[int, Tiles]]] = {
    "forward": {
        2: {64: Tiles(64, 64, 4, 3, 168), 128: Tiles(64, 64, 4, 2), 256: Tiles(64, 32, 8, 2)},
        4: {64: Tiles(32, 32, 4, 2), 128: Tiles(32, 32, 4, 2), 256: Tiles(16, 16, 4, 1)},
    },
    "query gradient": {
        2: {64: Tiles(64, 64, 4, 2), 128: Tiles(64, 64, 4, 2), 256: Tiles(64, 32, 8, 2)},
        4: {64: Tiles(32, 32, 4, 2), 128: Tiles(16, 16, 4, 1), 256: Tiles(16, 16, 4, 1)},
    },
    "key gradient": {
        2: {64: Tiles(64, 64, 4, 2), 128: Tiles(32, 64, 4, 2), 256: Tiles(32, 64, 8, 2)},
        4: {64: Tiles(32, 32, 4, 2), 128: Tiles(16, 32, 8, 1), 256: Tiles(16, 16, 4, 1)},
    },
}
_SMALLEST = Tiles(16, 16, 4, 1)


HOPPER_SHARED = 227 * 1024
"""Bytes of shared memory that a program may have on an H100; an A100 has 163 KiB, consumer cards 99."""


def tiles_of(kernel: str, dtype: torch.dtype, features: int, shared: int = HOPPER_SHARED, columns: int = 16) -> Tiles:
    """The tiles that ``kernel`` uses for inputs of ``dtype``, heads of so many features and so much shared memory.

    ``columns`` is how many global keys it loads at once.
    """
    by_features = _TILES[kernel][dtype.itemsize]
    tiles = by_features[min(limit for limit in by_features if limit >= features)]
    width = dtype.itemsize * max(16, triton.next_power_of_2(features))
    while shared_bytes(kernel, tiles, width, columns) > shared and tiles != _SMALLEST:
        if tiles.stages > 1:
            tiles = tiles._replace(stages=tiles.stages - 1)
        else:
            tiles = Tiles(max(16, tiles.rows // 2), max(16, tiles.keys // 2), 4, 1)
    return tiles


def shared_bytes(kernel: str, tiles: Tiles, width: int, columns: int) -> int:
    """Shared memory that a program takes for rows of ``width`` bytes: what stays, and what is loaded ahead in pairs."""
    if kernel == "key gradient":
        stays, moves = tiles.keys, tiles.rows
    else:
        stays, moves = tiles.rows, max(tiles.keys, columns)
    return width * (stays * (1 if kernel == "forward" else 2) + 2 * moves * tiles.stages) + 4096


@dataclass
class Launch:
    """What the launches of one call share."""

    masks: BatchMasks
    heads: Tensor
    """int32 ``[4, H]``: left, right, dilation, causal."""
    pattern: AttentionPattern
    scale: float
    dropout: Dropout | None
    row_hash: Tensor
    """int32 ``[B * H * N]`` with dropout, else anything."""
    key_hash: Tensor
    """int32 ``[N, 2]`` with dropout, each twice, else anything."""
    shared: int
    """Bytes of shared memory that a program may have."""

    @classmethod
    def make(cls, query: Tensor, call: Call, eager: bool) -> "Launch":
        """For ``query [B, H, N, D]``."""
        B, H, N, _ = query.shape
        given = [mask for mask in (call.global_mask, call.key_mask) if mask is not None]
        of_batch = (call.global_mask, call.key_mask, B, N, query.device)
        if not given or (eager and not any(mask.is_inference() for mask in given)):
            masks = BatchMasks.remembered(*of_batch)
        elif call.survey is not None:
            masks = BatchMasks.surveyed(call.survey, *of_batch)
        else:
            masks = BatchMasks.make(*of_batch)
        heads = _head_table(call.pattern, query.device)
        dropout = Dropout(call.dropout_p, call.seed, query.device) if call.dropout_p > 0 else None
        row_hash, key_hash = heads, heads
        if dropout is not None:
            row_hash, key_hash = dropout.hashes(B * H, N, N)
            key_hash = torch.stack([key_hash, key_hash], -1)
        return cls(masks, heads, call.pattern, call.scale, dropout, row_hash, key_hash, shared_memory(query.device))

    @property
    def scale2(self) -> float:
        """The scale's size to base 2; never 0, which would turn the -inf of a masked score into NaN."""
        return max(abs(self.scale) * LOG2_E, 1e-30)

    @property
    def keep(self) -> float:
        """The probability of keeping a weight."""
        return 1.0 if self.dropout is None else self.dropout.keep

    @property
    def threshold(self) -> int:
        """Below which hash a weight is kept."""
        return 0 if self.dropout is None else self.dropout.threshold

    def flags(self, tensor: Tensor) -> dict[str, Any]:
        """Compile-time arguments of all kernels."""
        return {
            "NEGATIVE": self.scale < 0,
            "DROPOUT": self.dropout is not None,
            # Without "ieee" products of fp32 would be rounded to tf32.
            "PRECISION": "ieee" if tensor.dtype == torch.float32 else "tf32",
        }

    def tiles(self, length: int, size: int) -> int:
        """The largest number of tiles of ``size`` places that a head's text has, residue by residue."""
        return max(d * triton.cdiv(triton.cdiv(length, d), size) for d in self._dilations(length))

    def is_wide(self, size: Tiles, *tensors: Tensor) -> bool:
        """Whether a tile of ``tensors [B, H, N, D]`` may reach beyond 32 bits."""
        farthest = max(size.rows, size.keys) * max(self._dilations(tensors[0].shape[2]))
        return farthest * max(tensor.stride(2) for tensor in tensors) >= 2**31

    def _dilations(self, length: int) -> set[int]:
        return {1 if dilation >= length else dilation for dilation in self.pattern.dilations}


def fused_forward(
    query: Tensor, key: Tensor, value: Tensor, global_inputs: Sequence[Tensor], call: Call, eager: bool
) -> tuple[Tensor, Tensor]:
    """Output and LSE; arguments and results as :func:`longspan.attention.blocked.blocked_forward`.

    ``eager`` is as for :func:`longspan.attention.ops.attention_op`.
    """
    B, H, N, D = query.shape
    out = torch.empty_like(query)
    lse = query.new_empty(B, H, N, dtype=torch.float32)
    if not B:
        return out, lse
    launch = Launch.make(query, call, eager)
    query, key, value = readable_rows(query), readable_rows(key), readable_rows(value)
    target = readable_rows(out)
    masks, columns = launch.masks, _columns(launch, query)
    size = tiles_of("forward", query.dtype, D, launch.shared, columns["COLUMNS"])
    tiles = launch.tiles(N, size.rows)
    local_forward[(tiles * B * H,)](
        query,
        key,
        value,
        target,
        lse,
        launch.heads,
        lse if masks.local is None else masks.local,
        lse if masks.dead is None else masks.dead,
        masks.positions,
        masks.counts,
        launch.row_hash,
        launch.key_hash,
        *query.stride()[:3],
        *key.stride()[:3],
        *value.stride()[:3],
        *target.stride()[:3],
        N,
        H,
        tiles,
        masks.positions.shape[1],
        launch.scale2,
        launch.keep,
        launch.threshold,
        ROWS=size.rows,
        KEYS=size.keys,
        WIDE=launch.is_wide(size, key, value),
        **columns,
        **_features(D),
        **launch.flags(query),
        **size.options,
    )
    if target is not out:
        out.copy_(target)
    if masks.most_globals:
        add_global_rows(query, key, value, global_inputs, launch, out, lse)
    return out, lse


def fused_backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    global_inputs: Sequence[Tensor],
    out: Tensor,
    lse: Tensor,
    call: Call,
    eager: bool,
) -> list[Tensor]:
    """Gradients; arguments and results as :func:`longspan.attention.blocked.blocked_backward`, ``eager`` as above."""
    grads = [torch.empty_like(tensor) for tensor in (query, key, value)]
    if not len(query):
        return grads + [torch.zeros_like(tensor) for tensor in global_inputs]
    launch = Launch.make(query, call, eager)
    query, key, value, grad_out, out = (readable_rows(tensor) for tensor in (query, key, value, grad_out, out))
    targets = [readable_rows(grad) for grad in grads]
    terms = _row_terms(out, grad_out, lse, grad_lse, launch)
    _local_gradients(query, key, value, grad_out, terms, targets, launch)
    for grad, target in zip(grads, targets, strict=True):
        if target is not grad:
            grad.copy_(target)
    if not launch.masks.most_globals:
        return grads + [torch.zeros_like(tensor) for tensor in global_inputs]
    _column_gradients(query, key, value, grad_out, terms, grads, launch)
    return grads + global_row_gradients(
        grad_out, grad_lse, query, key, value, global_inputs, lse, terms[..., 1], grads, launch
    )


def rows_per_split(length: int, num_globals: int) -> int:
    """How many tokens one program sums over; so many that the partial sums are no larger than the keys."""
    return int(max(512, triton.next_power_of_2(8 * num_globals)))


def _local_gradients(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grad_out: Tensor,
    terms: Tensor,
    grads: list[Tensor],
    launch: Launch,
) -> None:
    B, H, N, D = query.shape
    masks = launch.masks
    local = terms if masks.local is None else masks.local
    dead = terms if masks.dead is None else masks.dead
    inputs = (query, key, value, grad_out)
    strides = [stride for tensor in inputs for stride in tensor.stride()[:3]]
    columns = _columns(launch, query)
    size = tiles_of("query gradient", query.dtype, D, launch.shared, columns["COLUMNS"])
    tiles = launch.tiles(N, size.rows)
    local_query_gradient[(tiles * B * H,)](
        *inputs,
        terms,
        grads[0],
        launch.heads,
        local,
        dead,
        masks.positions,
        masks.counts,
        launch.key_hash,
        *strides,
        *grads[0].stride()[:3],
        N,
        H,
        tiles,
        masks.positions.shape[1],
        launch.scale2,
        launch.scale,
        launch.keep,
        launch.threshold,
        ROWS=size.rows,
        KEYS=size.keys,
        WIDE=launch.is_wide(size, key, value),
        **columns,
        **_features(D),
        **launch.flags(query),
        **size.options,
    )
    size = tiles_of("key gradient", query.dtype, D, launch.shared)
    tiles = launch.tiles(N, size.keys)
    local_key_gradient[(tiles * B * H,)](
        *inputs,
        terms,
        grads[1],
        grads[2],
        launch.heads,
        local,
        dead,
        launch.key_hash,
        *strides,
        *grads[1].stride()[:3],
        *grads[2].stride()[:3],
        N,
        H,
        tiles,
        launch.scale2,
        launch.scale,
        launch.keep,
        launch.threshold,
        ROWS=size.rows,
        KEYS=size.keys,
        WIDE=launch.is_wide(size, query, grad_out),
        HAS_MASK=masks.local is not None,
        **_features(D),
        **launch.flags(query),
        **size.options,
    )


def _column_gradients(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grad_out: Tensor,
    terms: Tensor,
    grads: list[Tensor],
    launch: Launch,
) -> None:
    """Put the gradients of the global keys and values into their places, where the windows left zeros."""
    B, H, N, D = query.shape
    masks = launch.masks
    slots, chunk = masks.most_globals, rows_per_split(N, masks.most_globals)
    splits = triton.cdiv(N, chunk)
    partial = [torch.empty(splits, B, H, slots, D, dtype=torch.float32, device=query.device) for _ in range(2)]
    columns = _columns(launch, query)
    size = tiles_of("query gradient", query.dtype, D, launch.shared, columns["COLUMNS"])
    column_gradient[(triton.cdiv(slots, columns["COLUMNS"]) * splits * B * H,)](
        query,
        key,
        value,
        grad_out,
        terms,
        *partial,
        launch.heads,
        terms if masks.local is None else masks.local,
        masks.positions,
        masks.counts,
        launch.key_hash,
        *query.stride()[:3],
        *key.stride()[:3],
        *value.stride()[:3],
        *grad_out.stride()[:3],
        N,
        H,
        slots,
        splits,
        chunk,
        launch.scale2,
        launch.scale,
        launch.keep,
        launch.threshold,
        ROWS=min(size.rows, 64),
        COLUMNS=columns["COLUMNS"],
        HAS_MASK=columns["HAS_MASK"],
        CAUSAL=columns["CAUSAL"],
        **_features(D),
        **launch.flags(query),
        num_warps=4,
        num_stages=size.stages,
    )
    for grad, sums in zip(grads[1:], partial, strict=True):
        masks.scatter(sums.sum(0), grad)


def _row_terms(out: Tensor, grad_out: Tensor, lse: Tensor, grad_lse: Tensor | None, launch: Launch) -> Tensor:
    B, H, N, D = out.shape
    terms = torch.empty(B, H, N, 4, dtype=torch.float32, device=out.device)
    masks, rows = launch.masks, 64
    row_terms[(triton.cdiv(N, rows) * B * H,)](
        out,
        grad_out,
        lse.contiguous(),
        terms if grad_lse is None else grad_lse.contiguous(),
        terms,
        terms if masks.local is None else masks.local,
        terms if masks.real is None else masks.real,
        launch.row_hash,
        *out.stride()[:3],
        *grad_out.stride()[:3],
        N,
        H,
        ROWS=rows,
        HAS_MASK=masks.local is not None,
        HAS_PADDING=masks.real is not None,
        HAS_GRAD_LSE=grad_lse is not None,
        DROPOUT=launch.dropout is not None,
        **_features(D),
    )
    return terms


def columns_of(dtype: torch.dtype, features: int, most_globals: int) -> int:
    """How many global keys a program loads at once: more where there are more, unless rows are very wide."""
    return 64 if most_globals > 16 and dtype.itemsize * features <= 512 else 16


def _columns(launch: Launch, query: Tensor) -> dict[str, Any]:
    """Compile-time arguments of the kernels that meet global columns."""
    return {
        "COLUMNS": columns_of(query.dtype, query.shape[-1], launch.masks.most_globals),
        "HAS_MASK": launch.masks.local is not None,
        "HAS_GLOBALS": launch.masks.most_globals > 0,
        "CAUSAL": launch.masks.most_globals > 0 and any(launch.pattern.causal),
    }


def _features(features: int) -> dict[str, int]:
    return {"D": features, "BLOCK_D": max(16, triton.next_power_of_2(features))}


@cache
def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that a program may have; in the interpreter as on Hopper."""
    if device.type != "cuda":
        return HOPPER_SHARED
    properties = torch.cuda.get_device_properties(device)
    return int(getattr(properties, "shared_memory_per_block_optin", 99 * 1024))


@lru_cache(maxsize=64)
def _head_table(pattern: AttentionPattern, device: torch.device) -> Tensor:
    """int32 ``[4, H]``; what no text can hold is cut to 2**30."""
    most = 2**30
    lefts, rights = zip(*pattern.windows, strict=True)
    rows = [[min(int(number), most) for number in row] for row in (lefts, rights, pattern.dilations, pattern.causal)]
    return torch.tensor(rows, dtype=torch.int32, device=device)
