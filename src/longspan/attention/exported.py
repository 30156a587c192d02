"""The attention as plain torch operations, for graphs that leave Python: ``torch.export``, ONNX.

The fast path is an operator of this package, which no other runtime knows, and looks at each text. Here all texts are
computed together, in blocks of rows against the blocks of keys around them; memory stays linear in the length. The one
size that depends on values is the number of global tokens.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout

from longspan.attention.pattern import AttentionPattern, Window
from longspan.attention.transforms import unwrapped

_ROWS = 128
_WIDEST = 2**17  # keys of a row that a graph for any length may hold


def exported_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pattern: AttentionPattern,
    global_mask: Tensor | None,
    key_mask: Tensor | None,
    global_qkv: tuple[Tensor, Tensor, Tensor],
    scale: float,
    dropout_p: float,
) -> tuple[Tensor, Tensor]:
    """Attention by the definition in :class:`AttentionPattern`, traceable with symbolic B and N.

    Args:
        query, key, value: ``[B, H, N, D]``, the local projections.
        pattern: who attends whom.
        global_mask, key_mask: bool ``[B, N]`` or None.
        global_qkv: the global projections, each ``[B, H, N, D]``.
        scale: factor on the scores.
        dropout_p: probability of zeroing an attention weight.

    Returns:
        ``(out, lse)``: ``[B, H, N, D]`` in the dtype of ``query``, ``[B, H, N]`` in at least fp32.
    """
    dtype = query.dtype
    wide = torch.promote_types(dtype, torch.float32)
    query, key, value, *global_rows = (tensor.to(wide) for tensor in (query, key, value, *global_qkv))
    if key_mask is None:
        real = query.new_ones(query.shape[0], query.shape[2], dtype=torch.bool)
    else:
        real = key_mask
        padding = ~real[:, None, :, None]
        # Padding may hold anything, even NaN, which a weight of 0 would not stop.
        key, value, *global_rows = (t.masked_fill(padding, 0.0) for t in (key, value, *global_rows))
    globals_ = None if global_mask is None else _Globals(global_mask & real)
    local = real if globals_ is None else real & ~globals_.mask

    outs, lses, order = [], [], []
    length = query.shape[2]
    is_fixed = isinstance(length, int) and not torch.compiler.is_dynamo_compiling()  # Dynamo calls any size an int
    for heads, window, dilation, causal in pattern.head_groups(length if is_fixed else None):
        if sum(window) > _WIDEST:
            raise ValueError(
                f"window {window} is too wide to export for any length; one that covers the longest text will do"
            )
        band = _Band(window, dilation, causal)
        out, lse = band.attend(query[:, heads] * scale, key[:, heads], value[:, heads], local, globals_, dropout_p)
        outs.append(out)
        lses.append(lse)
        order += heads
    out, lse = torch.cat(outs, 1), torch.cat(lses, 1)
    if order != sorted(order):
        back = torch.tensor(order, device=out.device).argsort()
        out, lse = out[:, back], lse[:, back]

    out = out.masked_fill(~local[:, None, :, None], 0.0)
    lse = lse.masked_fill(~local[:, None], -torch.inf)
    if globals_ is not None:
        rows_out, rows_lse = globals_.rows(global_rows, pattern, real, scale, dropout_p)
        is_global = globals_.mask[:, None]
        out = torch.where(is_global[..., None], globals_.spread(rows_out), out)
        lse = torch.where(is_global, globals_.spread(rows_lse[..., None]).squeeze(-1), lse)
    return out.to(dtype), lse


class _Globals:
    """The global tokens of a batch, gathered into G slots, G the most that a text has and at least two."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask
        N = mask.shape[1]
        rank = mask.long().cumsum(1)  # [B, N]: of a global token, its place among them from 1
        count = rank[:, -1:]  # [B, 1]
        # A symbol under tracing, which int() would ask for a value; under vmap the most of all that is mapped over.
        # Inductor's products would ask whether it is 1.
        G: Any = unwrapped(count).max().clamp(min=2).item()
        torch._check(G >= 2)
        torch._check(G <= N + 1)
        slot = torch.arange(G, device=mask.device)
        self.present = slot < count  # [B, G]
        self.position = (rank[:, None] <= slot[:, None]).sum(-1).clamp(max=N - 1)  # [B, G]: tokens before the g-th
        self.slot = (rank - 1).clamp(min=0)  # [B, N]

    def gather(self, tensor: Tensor) -> Tensor:
        """``[B, h, N, D]`` to ``[B, h, G, D]``."""
        return _take(tensor, self.position)

    def spread(self, rows: Tensor) -> Tensor:
        """``[B, h, G, D]`` to ``[B, h, N, D]``: each global token's own row, and anything elsewhere."""
        return _take(rows, self.slot)

    def rows(
        self, global_qkv: list[Tensor], pattern: AttentionPattern, real: Tensor, scale: float, dropout_p: float
    ) -> tuple[Tensor, Tensor]:
        """The global rows, ``[B, H, G, D]``, and their LSE, ``[B, H, G]``."""
        query, key, value = global_qkv
        scores = (self.gather(query) * scale) @ key.mT  # [B, H, G, N]
        scores = scores.masked_fill(~real[:, None, None], -torch.inf)
        if any(pattern.causal):
            token = torch.arange(key.shape[2], device=key.device)
            causal = torch.tensor(pattern.causal, device=key.device)[:, None, None]
            scores = scores.masked_fill((token > self.position[:, None, :, None]) & causal, -torch.inf)
        weights, total, top = _exponentials(scores)
        out = dropout(weights, dropout_p) @ value
        total = total.masked_fill(total == 0, 1.0)  # only an empty slot of a text of padding has no key
        return out / total, (top + total.log()).squeeze(-1)


class _Band:
    """The local rows of heads that share window, dilation and causality."""

    def __init__(self, window: Window, dilation: int, causal: bool) -> None:
        self.left, self.right = window
        self.dilation = dilation
        self.causal = causal
        self.before, self.after = -(-self.left // _ROWS), -(-self.right // _ROWS)  # blocks of keys on each side

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, local: Tensor, globals_: _Globals | None, dropout_p: float
    ) -> tuple[Tensor, Tensor]:
        """``[B, h, N, D]`` and the LSE ``[B, h, N]``; rows that are not ``local [B, N]`` hold anything.

        ``query`` comes multiplied by the scale.
        """
        N = query.shape[2]
        row, key_of_row = self._positions(N, query.device)  # [d, blocks, R], [d, blocks, K]
        in_text = (key_of_row >= 0) & (key_of_row < N)
        row, key_of_row = row.clamp(max=N - 1), key_of_row.clamp(min=0, max=N - 1)
        rows, keys, values = query[:, :, row], key[:, :, key_of_row], value[:, :, key_of_row]  # [B, h, d, blocks, *, D]

        allowed = local[:, key_of_row] & in_text  # [B, d, blocks, K]
        inside = self._inside(query.device) & allowed[:, None, ..., None, :]
        scores = (rows @ keys.mT).masked_fill(~inside, -torch.inf)  # [B, h, d, blocks, R, K]
        K = scores.shape[-1]
        if globals_ is not None:
            seen = globals_.present[:, None, None, None]  # [B, 1, 1, 1, G]
            if self.causal:
                seen = seen & (globals_.position[:, None, None, None] <= row[..., None])  # [B, d, blocks, R, G]
            columns = rows @ globals_.gather(key).mT[:, :, None, None]
            scores = torch.cat([scores, columns.masked_fill(~seen[:, None], -torch.inf)], -1)
        weights, total, top = _exponentials(scores)
        kept = dropout(weights, dropout_p)
        out = kept[..., :K] @ values
        if globals_ is not None:
            out = out + kept[..., K:] @ globals_.gather(value)[:, :, None, None]
        total = total.masked_fill(total == 0, 1.0)  # only rows that are not local have no key
        lse = top + total.log()
        token = torch.arange(N, device=query.device)
        place = token % self.dilation * row[0].numel() + token // self.dilation
        return (out / total).flatten(2, 4)[:, :, place], lse.flatten(2, 5)[:, :, place]

    def _positions(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Where in the text the rows of each block stand and the keys around them, by residue: reaching beyond it."""
        size = _ROWS * self.dilation
        # One block more than needed, since tracing takes a size of 1 for a constant.
        block = torch.arange((length + size - 1) // size + 1, device=device)[:, None] * _ROWS
        residue = torch.arange(self.dilation, device=device)[:, None, None]
        step = torch.arange(_ROWS, device=device)
        steps_around = torch.arange(-self.before * _ROWS, (1 + self.after) * _ROWS, device=device)
        return (block + step) * self.dilation + residue, (block + steps_around) * self.dilation + residue

    def _inside(self, device: torch.device) -> Tensor:
        """bool ``[R, K]``: the window."""
        row = torch.arange(_ROWS, device=device)[:, None]
        offset = torch.arange(-self.before * _ROWS, (1 + self.after) * _ROWS, device=device) - row
        return (offset >= -self.left) & (offset <= self.right)


def _take(tensor: Tensor, index: Tensor) -> Tensor:
    """``[B, h, n, D]`` at ``index [B, m]`` to ``[B, h, m, D]``."""
    return tensor.gather(2, index[:, None, :, None].expand(-1, tensor.shape[1], -1, tensor.shape[3]))


def _exponentials(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unnormalised weights, their sums and the scores' maxima, both ``[..., 1]``; 0, 0 and finite without a key."""
    top = scores.detach().amax(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
    weights = (scores - top).exp()
    return weights, weights.sum(-1, keepdim=True), top
