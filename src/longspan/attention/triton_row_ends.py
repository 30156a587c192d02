# mypy: ignore-errors
"""Triton kernels for the two ends of the global rows' forward: queries absorbed into weights, and parts joined to rows.

One program for each text, head and global token, since there are few; everything is in fp32, so nothing is rounded that
need not be. In torch's operations the same takes some forty small ones, which cost more time than their work.
"""

import triton
import triton.language as tl

_LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _find_slot(positions, counts, slots, H, G):
    """``(b, h, g, whether the slot is filled, its token)`` of this program."""
    program = tl.program_id(0)
    g = program % G
    h = program // G % H
    b = program // G // H
    is_filled = g < tl.load(counts + b)
    token = tl.load(positions + b.to(tl.int64) * slots + g, mask=is_filled, other=0)
    return b, h, g, is_filled, token


@triton.jit
def _load_weight(weight, h, feature, column, D: tl.constexpr, C: tl.constexpr):
    """fp32 ``[BLOCK_D, BLOCK_C]`` of head ``h``'s weight out of ``[H * D, C]``."""
    mask = (feature < D)[:, None] & (column < C)[None, :]
    return tl.load(weight + (h * D + feature)[:, None] * C + column[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["H", "G", "slots"])
def absorb_queries(
    hidden,
    query_weight,
    query_bias,
    key_weight,
    key_bias,
    absorbed,
    key_score,
    positions,
    counts,
    hidden_b,
    hidden_n,
    H,
    G,
    slots,
    scale,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    C: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Project the global tokens and turn their queries to hidden states: ``absorbed [B, H * G, C]``.

    ``hidden [B, N, C]`` has features one behind another, weights are ``[H * D, C]``, biases ``[H * D]``. ``key_score
    [B, H * G]``, fp32, is what the key's bias adds to every score of a row. Slots without a token get 0.
    """
    b, h, g, is_filled, token = _find_slot(positions, counts, slots, H, G)
    feature = tl.arange(0, BLOCK_D)
    query = tl.load(query_bias + h * D + feature, mask=feature < D, other=0.0).to(tl.float32)
    of_token = hidden + b.to(tl.int64) * hidden_b + token.to(tl.int64) * hidden_n
    for start in range(0, C, BLOCK_C):
        column = start + tl.arange(0, BLOCK_C)
        state = tl.load(of_token + column, mask=column < C, other=0.0).to(tl.float32)
        query += tl.sum(_load_weight(query_weight, h, feature, column, D, C) * state[None, :], 1)
    query = tl.where(is_filled, query, 0.0)
    row = b.to(tl.int64) * H * G + h * G + g
    bias = tl.load(key_bias + h * D + feature, mask=feature < D, other=0.0).to(tl.float32)
    tl.store(key_score + row, scale * tl.sum(query * bias, 0))
    for start in range(0, C, BLOCK_C):
        column = start + tl.arange(0, BLOCK_C)
        result = tl.sum(_load_weight(key_weight, h, feature, column, D, C) * query[:, None], 0)
        tl.store(absorbed + row * C + column, result.to(absorbed.dtype.element_ty), mask=column < C)


@triton.jit(do_not_specialize=["H", "G", "slots", "splits"])
def join_parts(
    parts,
    lse2,
    mass,
    key_score,
    value_weight,
    value_bias,
    out,
    lse,
    positions,
    counts,
    out_b,
    out_h,
    out_n,
    out_d,
    N,
    H,
    G,
    slots,
    splits,
    C: tl.constexpr,
    BLOCK_C: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_S: tl.constexpr,
    ABSORBED: tl.constexpr,
):
    """Write the global rows into ``out [B, H, N, D]`` and the natural LSE into ``lse [B, H, N]``.

    ``parts`` fp32 ``[splits, B, H * G, C]``, ``lse2`` and ``mass`` ``[splits, B, H * G]`` are those of
    ``rows_forward``. With ``ABSORBED`` they are of hidden states, to be projected to values, and ``key_score`` is added
    to the LSE; else C is D.
    """
    b, h, g, is_filled, token = _find_slot(positions, counts, slots, H, G)
    if not is_filled:
        return
    row = b.to(tl.int64) * H * G + h * G + g
    step = (tl.num_programs(0)).to(tl.int64)  # rows of a split
    top = tl.max(tl.full([BLOCK_S], float("-inf"), tl.float32), 0)
    for start in range(0, splits, BLOCK_S):
        split = start + tl.arange(0, BLOCK_S)
        top = tl.maximum(top, tl.max(tl.load(lse2 + split * step + row, mask=split < splits, other=float("-inf")), 0))
    base = tl.where(top == float("-inf"), 0.0, top)  # of a row that sees nothing
    total = tl.sum(tl.zeros([BLOCK_S], tl.float32), 0)
    kept = tl.sum(tl.zeros([BLOCK_S], tl.float32), 0)
    for start in range(0, splits, BLOCK_S):
        split = start + tl.arange(0, BLOCK_S)
        share = tl.exp2(tl.load(lse2 + split * step + row, mask=split < splits, other=float("-inf")) - base)
        total += tl.sum(share, 0)
        kept += tl.sum(share * tl.load(mass + split * step + row, mask=split < splits, other=0.0), 0)
    divisor = tl.where(total > 0, total, 1.0)
    natural = (top + tl.log2(divisor)) * _LN_2
    feature = tl.arange(0, BLOCK_D)
    out += b.to(tl.int64) * out_b + h.to(tl.int64) * out_h + token.to(tl.int64) * out_n
    result = tl.zeros([BLOCK_D], tl.float32)
    if ABSORBED:
        result += tl.load(value_bias + h * D + feature, mask=feature < D, other=0.0).to(tl.float32) * (kept / divisor)
        natural += tl.load(key_score + row)
    for first in range(0, C, BLOCK_C):
        column = first + tl.arange(0, BLOCK_C)
        state = tl.zeros([BLOCK_C], tl.float32)
        for start in range(0, splits, BLOCK_S):
            split = start + tl.arange(0, BLOCK_S)
            share = tl.exp2(tl.load(lse2 + split * step + row, mask=split < splits, other=float("-inf")) - base)
            place = (split * step + row)[:, None] * C + column[None, :]
            part = tl.load(parts + place, mask=(split < splits)[:, None] & (column < C)[None, :], other=0.0)
            state += tl.sum(part * share[:, None], 0)
        state /= divisor
        if ABSORBED:
            result += tl.sum(_load_weight(value_weight, h, feature, column, D, C) * state[None, :], 1)
        else:
            tl.store(out + column * out_d, state.to(out.dtype.element_ty), mask=column < C)
    if ABSORBED:
        tl.store(out + feature * out_d, result.to(out.dtype.element_ty), mask=feature < D)
    tl.store(lse + (b.to(tl.int64) * H + h) * N + token, natural)
