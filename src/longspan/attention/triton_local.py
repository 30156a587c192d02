# mypy: ignore-errors
"""The Triton kernel for the local rows: the window and the global columns in one softmax.

Nothing of the size of the scores is stored. No two programs write to one place and none waits for another, so results
are the same bits in every run. The tiles of keys that no row of a tile of rows sees are skipped, and those that all of
them see are not masked; where a program's window holds global tokens or padding, a second loop reads their flags. A
dilated window is the plain one on places (``triton_tiles.py``): nothing is copied.
"""

import triton
import triton.language as tl

from longspan.attention.triton_tiles import (
    count_dead,
    find_span,
    find_tile,
    kept,
    load_flags,
    load_hashes,
    load_rows,
    load_tile,
    products,
    softmax_step,
    store_rows,
    tile_offsets,
    within,
)

_LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit(do_not_specialize=["N", "H", "tiles", "slots", "threshold"])
def local_forward(
    query,
    key,
    value,
    out,
    lse,
    heads,
    local,
    dead,
    positions,
    counts,
    row_hash,
    key_hash,
    query_b,
    query_h,
    query_n,
    key_b,
    key_h,
    key_n,
    value_b,
    value_h,
    value_n,
    out_b,
    out_h,
    out_n,
    N,
    H,
    tiles,
    slots,
    scale2,
    keep,
    threshold,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    COLUMNS: tl.constexpr,
    HAS_MASK: tl.constexpr,
    HAS_GLOBALS: tl.constexpr,
    CAUSAL: tl.constexpr,
    NEGATIVE: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Write ``out [B, H, N, D]`` and the natural LSE ``[B, H, N]``: 0 and -inf in rows that aren't local.

    ``local`` is int8 ``[B, N]``; ``positions`` int32 ``[B, slots]`` of the global tokens, the first ``counts [B]`` of
    which are filled; the hashes are those of :meth:`longspan.attention.dropout.Dropout.hashes`.
    """
    b, h, residue, first, places, left, right, dilation, causal = find_tile(heads, N, H, tiles, ROWS)
    if first >= places:
        return
    query += b.to(tl.int64) * query_b + h.to(tl.int64) * query_h
    key += b.to(tl.int64) * key_b + h.to(tl.int64) * key_h
    value += b.to(tl.int64) * value_b + h.to(tl.int64) * value_h
    out += b.to(tl.int64) * out_b + h.to(tl.int64) * out_h
    of_rows = (b.to(tl.int64) * H + h) * N
    local += b.to(tl.int64) * N
    dead += b.to(tl.int64) * (N + 1)

    place = first + tl.arange(0, ROWS)
    row = residue + place * dilation
    inside = place < places
    is_local = load_flags(local, row, inside, HAS_MASK)
    rows = load_rows(query, query_n, row, is_local, D, BLOCK_D)
    row_random = tl.load(row_hash + of_rows + row, mask=inside, other=0) if DROPOUT else row
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    weighted = tl.zeros([ROWS, BLOCK_D], tl.float32)

    low, high, flags_from = find_span(dead, residue, dilation, first, left, right, places, ROWS, KEYS, HAS_MASK)

    if HAS_GLOBALS:
        columns = tl.load(counts + b, mask=low < high, other=0)
        for start in range(0, columns, COLUMNS):
            slot = start + tl.arange(0, COLUMNS)
            filled = slot < columns
            token = tl.load(positions + b.to(tl.int64) * slots + slot, mask=filled, other=0)
            keys = load_rows(key, key_n, token, filled, D, BLOCK_D)
            values = load_rows(value, value_n, token, filled, D, BLOCK_D)
            scores = products(rows, keys, NEGATIVE, PRECISION)
            seen = filled[None, :]
            if CAUSAL:
                seen = seen & ((causal == 0) | (token[None, :] <= row[:, None]))
            scores = tl.where(seen, scores, float("-inf"))
            weights, shrink, top, total = softmax_step(scores, top, total, scale2)
            if DROPOUT:
                key_random = load_hashes(key_hash, token, filled)
                weights = tl.where(kept(row_random[:, None], key_random[None, :], threshold), weights, 0.0)
            weighted = tl.dot(weights.to(values.dtype), values, weighted * shrink[:, None], input_precision=PRECISION)

    # All rows of the tile see the places from the one on to before the other.
    all_see_from = first + ROWS - 1 - left
    all_see_to = tl.minimum(first + right + 1, places)
    reach_from = place - left
    reach = tl.minimum(place + right, places - 1) - reach_from
    key_offsets = tile_offsets(dilation, key_n, KEYS, BLOCK_D, WIDE)
    value_offsets = tile_offsets(dilation, value_n, KEYS, BLOCK_D, WIDE)
    for FLAGGED in tl.static_range(2 if HAS_MASK else 1):
        for start in range(flags_from if FLAGGED else low, high if FLAGGED else flags_from, KEYS):
            start_token = residue + start * dilation
            place_of_key = start + tl.arange(0, KEYS)
            token = start_token + tl.arange(0, KEYS) * dilation
            is_key = load_flags(local, token, place_of_key < places, FLAGGED)
            keys = load_tile(key, key_n, start_token, key_offsets, is_key, D, BLOCK_D)
            values = load_tile(value, value_n, start_token, value_offsets, is_key, D, BLOCK_D)
            scores = products(rows, keys, NEGATIVE, PRECISION)
            partial = (start < all_see_from) | (start + KEYS > all_see_to)
            if FLAGGED:
                stop = tl.minimum(start + KEYS, places)
                partial = partial | (count_dead(dead, residue, dilation, start, stop) > 0)
            if partial:
                seen = within(place_of_key[None, :], reach_from[:, None], reach[:, None])
                if FLAGGED:
                    seen = seen & load_flags(local, token, place_of_key < places, True, AGAIN=True)[None, :]
                scores = tl.where(seen, scores, float("-inf"))
            weights, shrink, top, total = softmax_step(scores, top, total, scale2)
            if DROPOUT:
                key_random = load_hashes(key_hash, token, place_of_key < places)
                weights = tl.where(kept(row_random[:, None], key_random[None, :], threshold), weights, 0.0)
            weighted = tl.dot(weights.to(values.dtype), values, weighted * shrink[:, None], input_precision=PRECISION)

    divisor = tl.where(is_local, total * keep, 1.0)
    result = tl.where(is_local[:, None], weighted / divisor[:, None], 0.0)
    store_rows(out, out_n, row, inside, result, D, BLOCK_D)
    natural = tl.where(is_local, (top + tl.log2(tl.where(is_local, total, 1.0))) * _LN_2, float("-inf"))
    tl.store(lse + of_rows + row, natural, mask=inside)
