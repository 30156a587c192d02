"""FlexAttention with longspan's pattern: on a GPU a candidate for the package, on a CPU a rival without a backward.

It takes the plain case that is measured: one window for all heads, the first tokens global, no padding. The global
rows are PyTorch's ``scaled_dot_product_attention`` over the global projections.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from benchmarks.cases import Case, Task
from benchmarks.rivals import Attention, Rival

BLOCK = 128
"""Rows and keys of one block of FlexAttention's mask."""


class FlexWindow(Rival):
    """FlexAttention: the global keys gathered in front of the others, the block mask built from arithmetic alone.

    Compiled, as PyTorch wants it: uncompiled it would compute all pairs.
    """

    name = "flex"
    label = "FlexAttention"
    pattern = "longformer"
    tasks: ClassVar[tuple[Task, ...]] = ("attention",)
    compiles = True

    def supports(self, case: Case) -> str | None:
        """Training needs a GPU."""
        if case.device == "cpu" and case.backward:
            return "FlexAttention has no backward on a CPU"
        return None

    def attention(self, case: Case) -> Attention:
        """One call for the local rows, one of SDPA for the global rows."""
        G = case.global_tokens
        front = -(-G // BLOCK) * BLOCK  # places of the global keys
        mask = window_block_mask(case.length, case.window // 2, G, case.device)
        flex = compiled_flex()

        def run(query: Tensor, key: Tensor, value: Tensor, global_qkv: tuple[Tensor, Tensor, Tensor] | None) -> Tensor:
            if G:
                key, value = (torch.cat([F.pad(t[:, :, :G], (0, 0, 0, front - G)), t], 2) for t in (key, value))
            local: Tensor = flex(query, key, value, block_mask=mask)
            return with_global_rows(local, global_qkv, G)

        return run


def window_block_mask(length: int, side: int, num_globals: int, device: str) -> BlockMask:
    """The pattern as a block mask of ``[N, front + N]``, without ever looking at single pairs.

    Args:
        length: N.
        side: tokens seen on each side.
        num_globals: G; the keys of the first G tokens stand in front, filled up to whole blocks.
        device: where the mask lives.
    """
    front = -(-num_globals // BLOCK)
    rows = -(-length // BLOCK)
    block = torch.arange(rows, device=device)
    first = ((block * BLOCK - side).clamp(min=0) // BLOCK)[:, None]  # [rows, 1]
    last = ((block * BLOCK + BLOCK - 1 + side).clamp(max=length - 1) // BLOCK)[:, None]
    # Blocks of keys that every row of a block of rows sees; those with global keys or past the text are left out.
    most = int((last - first).max()) + 1
    candidate = first + torch.arange(most, device=device)  # [rows, most]
    inside = candidate <= last
    offset = (candidate - block[:, None]).abs()
    full = inside & (offset * BLOCK + BLOCK - 1 <= side) & (candidate * BLOCK >= num_globals)
    full &= ((candidate + 1) * BLOCK <= length) & ((block[:, None] + 1) * BLOCK <= length)
    in_front = torch.arange(front, device=device).expand(rows, front)
    every = torch.cat([in_front, candidate + front], 1)
    partial = torch.cat([torch.ones_like(in_front, dtype=torch.bool), inside & ~full], 1)
    full = torch.cat([torch.zeros_like(in_front, dtype=torch.bool), full], 1)

    def seen(b: Tensor, h: Tensor, row: Tensor, place: Tensor) -> Tensor:
        token = place - front * BLOCK
        in_window = ((row - token).abs() <= side) & (token >= num_globals)
        return torch.where(token < 0, place < num_globals, in_window)

    return BlockMask.from_kv_blocks(
        *_compact(partial, every, front + rows),
        *_compact(full, every, front + rows),
        BLOCK_SIZE=BLOCK,
        mask_mod=seen,
        seq_lengths=(length, front * BLOCK + length),
    )


def with_global_rows(local: Tensor, global_qkv: tuple[Tensor, Tensor, Tensor] | None, num_globals: int) -> Tensor:
    """``local [B, H, N, D]`` with the first rows replaced by dense attention with the global projections."""
    if global_qkv is None:
        return local
    query, key, value = global_qkv
    rows = F.scaled_dot_product_attention(query[:, :, :num_globals], key, value)
    return torch.cat([rows, local[:, :, num_globals:]], 2)


def compiled_flex() -> Callable[..., Any]:
    """FlexAttention compiled anew for a case: after eight shapes PyTorch would silently run it uncompiled, dense."""
    torch.compiler.reset()
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


def _compact(chosen: Tensor, block: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
    """The chosen blocks of each row as FlexAttention wants them: counts ``[1, 1, rows]`` and ``[1, 1, rows, blocks]``,
    the indices in front.
    """
    order = torch.sort(chosen.int(), dim=1, descending=True, stable=True).indices
    indices = torch.zeros(len(chosen), blocks, dtype=torch.int32, device=chosen.device)
    indices[:, : block.shape[1]] = block.gather(1, order).masked_fill(~chosen.gather(1, order), 0)[:, :blocks].int()
    return chosen.sum(1, dtype=torch.int32)[None, None], indices[None, None]
