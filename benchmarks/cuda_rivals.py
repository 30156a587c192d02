"""Other ways to compute longspan's pattern on a GPU from PyTorch's own parts: candidates for the package, and rivals.

Both take the plain case that is measured: one window for all heads, the first tokens global, no padding. The global
rows are PyTorch's ``scaled_dot_product_attention`` over the global projections.
"""

from collections.abc import Callable
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from benchmarks.cases import Case, Task
from benchmarks.rivals import Attention, Longspan, Rival, global_mask
from longspan.attention import longformer_attention

BLOCK = 128
"""Rows and keys of one block of FlexAttention's mask."""


class BlockedLongspan(Longspan):
    """The package's path for any device, without its kernels."""

    name = "longspan-blocked"
    label = "longspan, blocked"
    tasks: ClassVar[tuple[Task, ...]] = ("attention",)

    def attention(self, case: Case) -> Attention:
        """:func:`longspan.longformer_attention` with ``backend="blocked"``."""
        side = case.window // 2
        is_global = global_mask(case) if case.global_tokens else None

        def run(query: Tensor, key: Tensor, value: Tensor, global_qkv: tuple[Tensor, Tensor, Tensor] | None) -> Tensor:
            return longformer_attention(
                query,
                key,
                value,
                window=(side, side),
                global_mask=is_global,
                global_qkv=global_qkv,
                backend="blocked",
            )

        return run


class FlexWindow(Rival):
    """FlexAttention: the global keys gathered in front of the others, the block mask built from arithmetic alone.

    Compiled on a GPU. On a CPU it is run uncompiled, quadratic and forward only: there it shows the mask is right.
    """

    name = "flex"
    label = "FlexAttention"
    pattern = "longformer"
    tasks: ClassVar[tuple[Task, ...]] = ("attention",)

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
        flex = _compiled_flex() if case.device != "cpu" else cast(Callable[..., Any], flex_attention)

        def run(query: Tensor, key: Tensor, value: Tensor, global_qkv: tuple[Tensor, Tensor, Tensor] | None) -> Tensor:
            if G:
                key, value = (torch.cat([F.pad(t[:, :, :G], (0, 0, 0, front - G)), t], 2) for t in (key, value))
            local: Tensor = flex(query, key, value, block_mask=mask)
            return with_global_rows(local, global_qkv, G)

        return run


class FlashWindow(Rival):
    """PyTorch's flash attention with its window, the global columns apart, joined by their log-sum-exps.

    The window can't leave single keys out, so the columns leave out the global keys that a row's window holds. The
    backward of both parts gets the joined output and log-sum-exp, which makes the sum of their gradients exact.
    """

    name = "flash-window"
    label = "windowed flash"
    pattern = "longformer"
    tasks: ClassVar[tuple[Task, ...]] = ("attention",)

    def supports(self, case: Case) -> str | None:
        """Flash attention is for 16 bits on a GPU."""
        if case.device == "cpu":
            return "needs a GPU"
        if case.torch_dtype.itemsize != 2:
            return "takes float16 and bfloat16 only"
        return None

    def attention(self, case: Case) -> Attention:
        """One autograd function for the local rows, one call of SDPA for the global rows."""
        G, side = case.global_tokens, case.window // 2

        def run(query: Tensor, key: Tensor, value: Tensor, global_qkv: tuple[Tensor, Tensor, Tensor] | None) -> Tensor:
            local = cast(Tensor, _FlashWindow.apply(query, key, value, side, G))
            return with_global_rows(local, global_qkv, G)

        return run


CUDA_RIVALS: tuple[Rival, ...] = (BlockedLongspan(), FlexWindow(), FlashWindow())
"""Measured on a GPU beside the others."""


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


def _compiled_flex() -> Callable[..., Any]:
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


class _FlashWindow(torch.autograd.Function):
    """Local rows ``[B, H, N, D]``."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, side: int, num_globals: int) -> Tensor:
        N, D = query.shape[2:]
        q, k, v = (t.transpose(1, 2) for t in (query, key, value))  # [B, N, H, D]
        out, lse, state, offset, _ = torch.ops.aten._flash_attention_forward(
            q, k, v, None, None, N, N, 0.0, False, False, window_size_left=side, window_size_right=side
        )
        out = out.transpose(1, 2)
        if num_globals:
            scores = _column_scores(query, key, side, num_globals)
            column_lse = scores.logsumexp(-1)  # [B, H, N], -inf where the window holds all global keys
            total = torch.logaddexp(lse, column_lse)
            columns = (scores - total[..., None]).exp().to(value.dtype) @ value[:, :, :num_globals]
            out = (out * (lse - total).exp()[..., None] + columns).to(query.dtype)
            lse = total
        ctx.side, ctx.num_globals, ctx.scale = side, num_globals, D**-0.5
        ctx.save_for_backward(query, key, value, out, lse, state, offset)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse, state, offset = ctx.saved_tensors
        (grad_out,) = grads
        N, G = query.shape[2], ctx.num_globals
        grad_out = grad_out.clone()
        grad_out[:, :, :G] = 0  # of rows that the global ones replace
        g, q, k, v, o = (t.transpose(1, 2) for t in (grad_out, query, key, value, out))
        by_token = torch.ops.aten._flash_attention_backward(
            *(t.contiguous() for t in (g, q, k, v, o)),
            lse.contiguous(),
            None,
            None,
            N,
            N,
            0.0,
            False,
            state,
            offset,
            window_size_left=ctx.side,
            window_size_right=ctx.side,
        )
        grad_query, grad_key, grad_value = (t.transpose(1, 2).contiguous() for t in by_token)
        if G:
            weights = (_column_scores(query, key, ctx.side, G) - lse[..., None]).exp()
            delta = (grad_out.to(weights.dtype) * out).sum(-1, keepdim=True)
            grad_scores = weights * (grad_out @ value[:, :, :G].mT - delta) * ctx.scale
            grad_scores = grad_scores.to(query.dtype)
            grad_query += grad_scores @ key[:, :, :G]
            grad_key[:, :, :G] += grad_scores.mT @ query
            grad_value[:, :, :G] += weights.to(query.dtype).mT @ grad_out
        return grad_query, grad_key, grad_value, None, None


def _column_scores(query: Tensor, key: Tensor, side: int, num_globals: int) -> Tensor:
    """Scores of the global keys, ``[B, H, N, G]`` in at least fp32, -inf for those that a row's window holds."""
    wide = torch.promote_types(query.dtype, torch.float32)
    scores = (query @ key[:, :, :num_globals].mT).to(wide) * query.shape[-1] ** -0.5
    row = torch.arange(query.shape[2], device=query.device)[:, None]
    in_window = (row - torch.arange(num_globals, device=query.device)).abs() <= side
    return scores.masked_fill(in_window, -torch.inf)
