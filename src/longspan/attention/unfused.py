"""The attention weights themselves, for those who ask: plain differentiable torch, slower, still linear in memory."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import dropout, pad

from longspan.attention.dilation import Residues
from longspan.attention.pattern import AttentionPattern

_WIDEST = 2**17
"""Columns that may lie outside the text."""


@dataclass
class Weights:
    """What :func:`unfused_attention` returns; layouts as in :class:`longspan.attention.AttentionResult`."""

    out: Tensor
    lse: Tensor
    local: Tensor
    global_: Tensor | None


def unfused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pattern: AttentionPattern,
    global_mask: Tensor | None,
    key_mask: Tensor | None,
    global_qkv: tuple[Tensor, Tensor, Tensor],
    scale: float,
    dropout_p: float,
) -> Weights:
    """Attention with its weights, ``O(N (W + G))`` memory; arguments as :func:`reference_attention`.

    Raises:
        ValueError: a window that is far wider than the text; the weights have a column for each of its places.
    """
    B, H, N, _ = query.shape
    for window in pattern.windows:
        if sum(window) > max(_WIDEST, 2 * N):
            raise ValueError(
                f"window {window} is too wide for return_probabilities, which has a column for each of its places; one "
                f"that covers the {N} tokens will do"
            )
    dtype = query.dtype
    wide = torch.promote_types(dtype, torch.float32)
    real = torch.ones(B, N, dtype=torch.bool, device=query.device) if key_mask is None else key_mask
    is_global = torch.zeros_like(real) if global_mask is None else global_mask & real
    local_row = real & ~is_global
    # Padding may hold anything, even NaN, which a weight of 0 would not stop.
    query, key, value, global_query, global_key, global_value = (
        tensor.to(wide).masked_fill(~real[:, None, :, None], 0.0) for tensor in (query, key, value, *global_qkv)
    )
    positions, present = _positions(is_global)  # [B, G]
    G = positions.shape[1]
    causal = torch.tensor(pattern.causal, device=query.device)[None, :, None, None]  # [1, H, 1, 1]
    index = positions[:, None, :, None]

    bands, left, right = _band_scores(query * scale, key, local_row, pattern)
    columns = (query * scale) @ _take(key, index).mT  # [B, H, N, G]
    token = torch.arange(N, device=query.device)
    future = positions[:, None, None, :] > token[None, None, :, None]
    columns = columns.masked_fill((future & causal) | ~present[:, None, None, :], -torch.inf)
    scores = torch.cat([columns, bands], -1)
    dead = ~local_row[:, None, :, None]
    scores = scores.masked_fill(dead, 0.0)  # no NaN where a row has no key, in the backward neither
    weights = dropout(scores.softmax(-1).masked_fill(dead, 0.0), dropout_p)
    lse = scores.logsumexp(-1).masked_fill(dead.squeeze(-1), -torch.inf)
    out = weights[..., :G] @ _take(value, index) + _band_values(weights[..., G:], value, pattern, left, right)

    # Without a global token this is empty, but gives the global projections their gradients of 0.
    rows = (_take(global_query, index) * scale) @ global_key.mT  # [B, H, G, N]
    rows = rows.masked_fill((token > positions[:, None, :, None]) & causal, -torch.inf)
    rows = rows.masked_fill(~real[:, None, None, :], -torch.inf).masked_fill(~present[:, None, :, None], 0.0)
    row_weights = dropout(rows.softmax(-1).masked_fill(~present[:, None, :, None], 0.0), dropout_p)
    # Absent slots all point at token 0, so rows are added into place rather than copied.
    where = index.expand(B, H, G, out.shape[-1])
    out = out.scatter_add(2, where, row_weights @ global_value)
    row_lse = rows.logsumexp(-1).masked_fill(~present[:, None, :], 0.0)
    lse = lse.masked_fill(is_global[:, None], 0.0).scatter_add(2, where[..., 0], row_lse)
    return Weights(out.to(dtype), lse, weights.to(dtype), row_weights.mT.to(dtype) if G else None)


def _positions(is_global: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of global tokens in order, ``[B, G]`` with G the largest number, and which of the slots are filled."""
    count = is_global.sum(1)
    G = int(count.max()) if count.numel() else 0  # a batch of no text has no largest
    order = torch.sort(is_global.to(torch.uint8), dim=1, descending=True, stable=True).indices[:, :G]
    present = torch.arange(G, device=is_global.device)[None] < count[:, None]
    return order.masked_fill(~present, 0), present


def _take(tensor: Tensor, index: Tensor) -> Tensor:
    """``[B, H, N, D]`` at ``[B, 1, G, 1]`` to ``[B, H, G, D]``."""
    B, H, _, D = tensor.shape
    return tensor.gather(2, index.expand(B, H, -1, D))


def _band_scores(query: Tensor, key: Tensor, keys: Tensor, pattern: AttentionPattern) -> tuple[Tensor, int, int]:
    """Scores by offset, ``[B, H, N, left + 1 + right]`` for the widest window, -inf outside a head's window."""
    B, H, N, _ = query.shape
    left, right = (max(side) for side in zip(*pattern.windows, strict=True))
    scores = query.new_full((B, H, N, left + 1 + right), -torch.inf)
    for heads, (head_left, head_right), dilation, _ in pattern.head_groups(N):
        residues = Residues(N, dilation)
        rows, columns = (_flat(tensor[:, heads], residues) for tensor in (query, key))  # [P, n, D]
        blocks = _Blocks(residues.n, head_left, head_right, query.device)
        band = blocks.diagonals(blocks.rows(rows) @ blocks.keys(columns).mT)  # [P, n, W]
        allowed = keys[:, None].expand(B, len(heads), N)
        band = band.masked_fill(~blocks.window(_flat(allowed, residues)), -torch.inf)
        placed = _unflat(band, residues, B, len(heads))
        scores[:, heads, :, left - head_left : left + 1 + head_right] = placed
    return scores, left, right


def _band_values(weights: Tensor, value: Tensor, pattern: AttentionPattern, left: int, right: int) -> Tensor:
    B, _, N, _ = weights.shape
    parts: list[Tensor] = []
    order: list[int] = []
    for heads, (head_left, head_right), dilation, _ in pattern.head_groups(N):
        residues = Residues(N, dilation)
        band = _flat(weights[:, heads, :, left - head_left : left + 1 + head_right], residues)
        blocks = _Blocks(residues.n, head_left, head_right, value.device)
        result = blocks.spread(band) @ blocks.keys(_flat(value[:, heads], residues))  # [P, blocks, R, D]
        parts.append(_unflat(result.flatten(1, 2)[:, : residues.n], residues, B, len(heads)))
        order += heads
    return torch.cat(parts, 1)[:, torch.tensor(order, device=value.device).argsort()]


class _Blocks:
    """Rows in blocks of R against the ``R + left + right`` keys around each: the window as small dense products."""

    def __init__(self, n: int, left: int, right: int, device: torch.device) -> None:
        self.n, self.left, self.right = n, left, right
        self.size = min(n, max(16, left + right + 1))
        self.count = -(-n // self.size)
        row, offset = (torch.arange(size, device=device) for size in (self.size, left + right + 1))
        self.index = row[:, None] + offset  # [R, W]: the key column of a row's offset

    def rows(self, tensor: Tensor) -> Tensor:
        """``[P, n, D]`` to ``[P, blocks, R, D]``."""
        padded = pad(tensor, (0, 0, 0, self.count * self.size - self.n))
        return padded.view(tensor.shape[0], self.count, self.size, tensor.shape[-1])

    def keys(self, tensor: Tensor) -> Tensor:
        """``[P, n, D]`` to ``[P, blocks, R + left + right, D]``, 0 outside the text."""
        padded = pad(tensor, (0, 0, self.left, self.right + self.count * self.size - self.n))
        return padded.unfold(1, self.size + self.left + self.right, self.size).mT

    def window(self, allowed: Tensor) -> Tensor:
        """bool ``[P, n]`` to ``[P, n, W]``: which offsets hold an allowed key."""
        return pad(allowed, (self.left, self.right)).unfold(1, self.left + self.right + 1, 1)

    def diagonals(self, scores: Tensor) -> Tensor:
        """``[P, blocks, R, keys]`` to ``[P, n, W]``."""
        index = self.index.expand(*scores.shape[:2], -1, -1)
        return scores.gather(-1, index).flatten(1, 2)[:, : self.n]

    def spread(self, band: Tensor) -> Tensor:
        """``[P, n, W]`` to ``[P, blocks, R, keys]``, 0 elsewhere."""
        rows = self.rows(band)
        index = self.index.expand_as(rows)
        return rows.new_zeros(*rows.shape[:3], self.size + self.left + self.right).scatter(-1, index, rows)


def _flat(tensor: Tensor, residues: Residues) -> Tensor:
    """``[B, h, N, ...]`` to ``[B * h * d, n, ...]``."""
    return residues.split(tensor.flatten(0, 1))


def _unflat(tensor: Tensor, residues: Residues, batch: int, heads: int) -> Tensor:
    """``[B * h * d, n, ...]`` to ``[B, h, N, ...]``."""
    return residues.join(tensor).unflatten(0, (batch, heads))
