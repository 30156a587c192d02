"""Other ways to compute longspan's pattern on a GPU: the package's own blocked path, and PyTorch's flash attention.

The latter takes the plain case that is measured: one window for all heads, the first tokens global, no padding.
"""

from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from benchmarks.cases import Case, Task
from benchmarks.flex_rival import with_global_rows
from benchmarks.rivals import Attention, Longspan, Rival, global_mask
from longspan.attention import longformer_attention


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


CUDA_RIVALS: tuple[Rival, ...] = (BlockedLongspan(), FlashWindow())
"""Measured on a GPU beside the others."""


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
