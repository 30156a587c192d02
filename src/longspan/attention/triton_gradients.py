# mypy: ignore-errors
"""Triton kernels for the gradients of the local rows, of queries, of keys and values, and of the global columns.

As in the forward (``triton_local.py``) no two programs write to one place. Scores are computed again from the LSE.
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
    load_terms,
    load_tile,
    products,
    store_rows,
    tile_offsets,
    within,
)

_LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit(do_not_specialize=["N", "H"])
def row_terms(
    out,
    grad_out,
    lse,
    grad_lse,
    terms,
    local,
    real,
    row_hash,
    out_b,
    out_h,
    out_n,
    grad_b,
    grad_h,
    grad_n,
    N,
    H,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
    HAS_MASK: tl.constexpr,
    HAS_PADDING: tl.constexpr,
    HAS_GRAD_LSE: tl.constexpr,
    DROPOUT: tl.constexpr,
):
    """Write ``terms [B, H, N, 4]``, what the gradients need of a row, in fp32.

    First the LSE to base 2, +inf in rows that aren't local, whose weights are then 0; second the row sum of ``grad_out
    * out`` minus the gradient of the LSE, 0 in padding, whatever stands there; third the bits of its hash for dropout.
    """
    tiles = tl.cdiv(N, ROWS)
    tile = tl.program_id(0) % tiles
    h = tl.program_id(0) // tiles % H
    b = tl.program_id(0) // tiles // H
    row = tile * ROWS + tl.arange(0, ROWS)
    inside = row < N
    out += b.to(tl.int64) * out_b + h.to(tl.int64) * out_h
    grad_out += b.to(tl.int64) * grad_b + h.to(tl.int64) * grad_h
    of_rows = (b.to(tl.int64) * H + h) * N
    is_local = load_flags(local + b.to(tl.int64) * N, row, inside, HAS_MASK)
    is_real = load_flags(real + b.to(tl.int64) * N, row, inside, HAS_PADDING)
    values = load_rows(out, out_n, row, is_real, D, BLOCK_D).to(tl.float32)
    grads = load_rows(grad_out, grad_n, row, is_real, D, BLOCK_D).to(tl.float32)
    delta = tl.sum(values * grads, 1)
    if HAS_GRAD_LSE:
        delta -= tl.load(grad_lse + of_rows + row, mask=is_real, other=0.0)
    lse2 = tl.load(lse + of_rows + row, mask=is_local, other=float("inf")) / _LN_2
    terms += (of_rows + row) * 4
    tl.store(terms, lse2, mask=inside)
    tl.store(terms + 1, delta, mask=inside)
    if DROPOUT:
        row_random = tl.load(row_hash + of_rows + row, mask=inside, other=0)
        tl.store(terms + 2, row_random.to(tl.float32, bitcast=True), mask=inside)


@triton.jit
def score_gradients(scores, lse2, delta, grad_weights, scale2, keep, is_kept, DROPOUT: tl.constexpr):
    """``(weights after dropout, gradients of the scaled scores)``, from scores that are -inf where masked.

    ``lse2`` and ``delta`` are of the rows and broadcast against the scores; an LSE of +inf makes all of a row 0.
    """
    weights = tl.exp2(scores * scale2 - lse2)
    dropped = weights
    if DROPOUT:
        share = 1.0 / keep
        dropped = tl.where(is_kept, weights, 0.0) * share
        grad_weights = tl.where(is_kept, grad_weights, 0.0) * share
    return dropped, weights * (grad_weights - delta)


@triton.jit(do_not_specialize=["N", "H", "tiles", "slots", "threshold"])
def local_query_gradient(
    query,
    key,
    value,
    grad_out,
    terms,
    grad_query,
    heads,
    local,
    dead,
    positions,
    counts,
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
    grad_b,
    grad_h,
    grad_n,
    N,
    H,
    tiles,
    slots,
    scale2,
    scale,
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
    """Write the gradient of the query, 0 in rows that aren't local; ``terms`` are those of :func:`row_terms`."""
    b, h, residue, first, places, left, right, dilation, causal = find_tile(heads, N, H, tiles, ROWS)
    if first >= places:
        return
    query += b.to(tl.int64) * query_b + h.to(tl.int64) * query_h
    key += b.to(tl.int64) * key_b + h.to(tl.int64) * key_h
    value += b.to(tl.int64) * value_b + h.to(tl.int64) * value_h
    grad_out += b.to(tl.int64) * out_b + h.to(tl.int64) * out_h
    grad_query += b.to(tl.int64) * grad_b + h.to(tl.int64) * grad_h
    of_rows = (b.to(tl.int64) * H + h) * N
    local += b.to(tl.int64) * N
    dead += b.to(tl.int64) * (N + 1)

    place = first + tl.arange(0, ROWS)
    row = residue + place * dilation
    inside = place < places
    is_local = load_flags(local, row, inside, HAS_MASK)
    rows = load_rows(query, query_n, row, is_local, D, BLOCK_D)
    grads = load_rows(grad_out, out_n, row, is_local, D, BLOCK_D)
    lse2, delta, row_random = load_terms(terms + of_rows * 4, row, inside, ROWS)
    result = tl.zeros([ROWS, BLOCK_D], tl.float32)

    low, high, flags_from = find_span(dead, residue, dilation, first, left, right, places, ROWS, KEYS, HAS_MASK)

    if HAS_GLOBALS:
        columns = tl.load(counts + b, mask=low < high, other=0)
        for start in range(0, columns, COLUMNS):
            slot = start + tl.arange(0, COLUMNS)
            filled = slot < columns
            token = tl.load(positions + b.to(tl.int64) * slots + slot, mask=filled, other=0)
            keys = load_rows(key, key_n, token, filled, D, BLOCK_D)
            values = load_rows(value, value_n, token, filled, D, BLOCK_D)
            seen = filled[None, :]
            if CAUSAL:
                seen = seen & ((causal == 0) | (token[None, :] <= row[:, None]))
            scores = tl.where(seen, products(rows, keys, NEGATIVE, PRECISION), float("-inf"))
            grad_weights = products(grads, values, False, PRECISION)
            is_kept = seen
            if DROPOUT:
                key_random = load_hashes(key_hash, token, filled)
                is_kept = kept(row_random[:, None], key_random[None, :], threshold)
            _, grad_scores = score_gradients(
                scores, lse2[:, None], delta[:, None], grad_weights, scale2, keep, is_kept, DROPOUT
            )
            result = tl.dot(grad_scores.to(keys.dtype), keys, result, input_precision=PRECISION)

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
            grad_weights = products(grads, values, False, PRECISION)
            partial = (start < all_see_from) | (start + KEYS > all_see_to)
            if FLAGGED:
                stop = tl.minimum(start + KEYS, places)
                partial = partial | (count_dead(dead, residue, dilation, start, stop) > 0)
            if partial:
                seen = within(place_of_key[None, :], reach_from[:, None], reach[:, None])
                if FLAGGED:
                    seen = seen & load_flags(local, token, place_of_key < places, True, AGAIN=True)[None, :]
                scores = tl.where(seen, scores, float("-inf"))
            is_kept = is_key[None, :]
            if DROPOUT:
                key_random = load_hashes(key_hash, token, place_of_key < places)
                is_kept = kept(row_random[:, None], key_random[None, :], threshold)
            _, grad_scores = score_gradients(
                scores, lse2[:, None], delta[:, None], grad_weights, scale2, keep, is_kept, DROPOUT
            )
            result = tl.dot(grad_scores.to(keys.dtype), keys, result, input_precision=PRECISION)

    store_rows(grad_query, grad_n, row, inside, result * scale, D, BLOCK_D)


@triton.jit(do_not_specialize=["N", "H", "tiles", "threshold"])
def local_key_gradient(
    query,
    key,
    value,
    grad_out,
    terms,
    grad_key,
    grad_value,
    heads,
    local,
    dead,
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
    grad_key_b,
    grad_key_h,
    grad_key_n,
    grad_value_b,
    grad_value_h,
    grad_value_n,
    N,
    H,
    tiles,
    scale2,
    scale,
    keep,
    threshold,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    HAS_MASK: tl.constexpr,
    NEGATIVE: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Write the gradients of key and value as far as they come through windows; 0 for keys that aren't local."""
    b, h, residue, first, places, left, right, dilation, _ = find_tile(heads, N, H, tiles, KEYS)
    if first >= places:
        return
    query += b.to(tl.int64) * query_b + h.to(tl.int64) * query_h
    key += b.to(tl.int64) * key_b + h.to(tl.int64) * key_h
    value += b.to(tl.int64) * value_b + h.to(tl.int64) * value_h
    grad_out += b.to(tl.int64) * out_b + h.to(tl.int64) * out_h
    grad_key += b.to(tl.int64) * grad_key_b + h.to(tl.int64) * grad_key_h
    grad_value += b.to(tl.int64) * grad_value_b + h.to(tl.int64) * grad_value_h
    of_rows = (b.to(tl.int64) * H + h) * N
    local += b.to(tl.int64) * N
    dead += b.to(tl.int64) * (N + 1)

    place = first + tl.arange(0, KEYS)
    token = residue + place * dilation
    inside = place < places
    is_key = load_flags(local, token, inside, HAS_MASK)
    keys = load_rows(key, key_n, token, is_key, D, BLOCK_D)
    values = load_rows(value, value_n, token, is_key, D, BLOCK_D)
    key_random = load_hashes(key_hash, token, inside) if DROPOUT else token
    key_sum = tl.zeros([KEYS, BLOCK_D], tl.float32)
    value_sum = tl.zeros([KEYS, BLOCK_D], tl.float32)

    # The rows whose windows reach this tile: the window turned around.
    low, high, flags_from = find_span(dead, residue, dilation, first, right, left, places, KEYS, ROWS, HAS_MASK)
    see_all_from = first + KEYS - 1 - right
    see_all_to = first + left + 1
    row_offsets = tile_offsets(dilation, query_n, ROWS, BLOCK_D, WIDE)
    grad_offsets = tile_offsets(dilation, out_n, ROWS, BLOCK_D, WIDE)
    for FLAGGED in tl.static_range(2 if HAS_MASK else 1):
        for start in range(flags_from if FLAGGED else low, high if FLAGGED else flags_from, ROWS):
            start_token = residue + start * dilation
            place_of_row = start + tl.arange(0, ROWS)
            row = start_token + tl.arange(0, ROWS) * dilation
            inside_row = place_of_row < places
            is_local = load_flags(local, row, inside_row, FLAGGED)
            rows = load_tile(query, query_n, start_token, row_offsets, is_local, D, BLOCK_D)
            grads = load_tile(grad_out, out_n, start_token, grad_offsets, is_local, D, BLOCK_D)
            # Rows that aren't local drop out by their LSE, rows beyond the text are 0, keys that aren't local drop out
            # when they are stored.
            lse2, delta, row_random = load_terms(terms + of_rows * 4, row, inside_row, ROWS)
            scores = products(keys, rows, NEGATIVE, PRECISION)  # [KEYS, ROWS]
            grad_weights = products(values, grads, False, PRECISION)
            if (start < see_all_from) | (start + ROWS > see_all_to):
                # Two comparisons: with the one of `within` the compiler masks all tiles rather than branch.
                offset = place[:, None] - place_of_row[None, :]
                scores = tl.where((offset >= -left) & (offset <= right), scores, float("-inf"))
            is_kept = inside_row[None, :]
            if DROPOUT:
                is_kept = kept(row_random[None, :], key_random[:, None], threshold)
            dropped, grad_scores = score_gradients(
                scores, lse2[None, :], delta[None, :], grad_weights, scale2, keep, is_kept, DROPOUT
            )
            value_sum = tl.dot(dropped.to(grads.dtype), grads, value_sum, input_precision=PRECISION)
            key_sum = tl.dot(grad_scores.to(rows.dtype), rows, key_sum, input_precision=PRECISION)

    key_sum = tl.where(is_key[:, None], key_sum * scale, 0.0)
    value_sum = tl.where(is_key[:, None], value_sum, 0.0)
    store_rows(grad_key, grad_key_n, token, inside, key_sum, D, BLOCK_D)
    store_rows(grad_value, grad_value_n, token, inside, value_sum, D, BLOCK_D)


@triton.jit(do_not_specialize=["N", "H", "slots", "splits", "chunk", "threshold"])
def column_gradient(
    query,
    key,
    value,
    grad_out,
    terms,
    grad_key,
    grad_value,
    heads,
    local,
    positions,
    counts,
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
    slots,
    splits,
    chunk,
    scale2,
    scale,
    keep,
    threshold,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    HAS_MASK: tl.constexpr,
    CAUSAL: tl.constexpr,
    NEGATIVE: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Sums over ``chunk`` local rows of the gradients of the global keys and values: fp32 ``[splits, B, H, slots, D]``.

    Slots that aren't filled are left as they are.
    """
    program = tl.program_id(0)
    split = program % splits
    blocks = tl.cdiv(slots, COLUMNS)
    block = program // splits % blocks
    h = program // splits // blocks % H
    b = program // splits // blocks // H
    batch = tl.num_programs(0) // splits // blocks // H
    columns = tl.load(counts + b)
    if block * COLUMNS >= columns:
        return
    query += b.to(tl.int64) * query_b + h.to(tl.int64) * query_h
    key += b.to(tl.int64) * key_b + h.to(tl.int64) * key_h
    value += b.to(tl.int64) * value_b + h.to(tl.int64) * value_h
    grad_out += b.to(tl.int64) * out_b + h.to(tl.int64) * out_h
    of_sums = ((split.to(tl.int64) * batch + b) * H + h) * slots * D
    of_rows = (b.to(tl.int64) * H + h) * N
    local += b.to(tl.int64) * N
    causal = tl.load(heads + 3 * H + h)

    slot = block * COLUMNS + tl.arange(0, COLUMNS)
    filled = slot < columns
    token = tl.load(positions + b.to(tl.int64) * slots + slot, mask=filled, other=0)
    keys = load_rows(key, key_n, token, filled, D, BLOCK_D)
    values = load_rows(value, value_n, token, filled, D, BLOCK_D)
    key_random = load_hashes(key_hash, token, filled) if DROPOUT else token
    key_sum = tl.zeros([COLUMNS, BLOCK_D], tl.float32)
    value_sum = tl.zeros([COLUMNS, BLOCK_D], tl.float32)
    for start in range(split * chunk, tl.minimum(split * chunk + chunk, N), ROWS):
        row = start + tl.arange(0, ROWS)
        is_local = load_flags(local, row, row < N, HAS_MASK)
        rows = load_rows(query, query_n, row, is_local, D, BLOCK_D)
        grads = load_rows(grad_out, out_n, row, is_local, D, BLOCK_D)
        lse2, delta, row_random = load_terms(terms + of_rows * 4, row, row < N, ROWS)
        scores = products(keys, rows, NEGATIVE, PRECISION)  # [COLUMNS, ROWS]
        grad_weights = products(values, grads, False, PRECISION)
        if CAUSAL:
            scores = tl.where((causal == 0) | (token[:, None] <= row[None, :]), scores, float("-inf"))
        is_kept = is_local[None, :]
        if DROPOUT:
            is_kept = kept(row_random[None, :], key_random[:, None], threshold)
        dropped, grad_scores = score_gradients(
            scores, lse2[None, :], delta[None, :], grad_weights, scale2, keep, is_kept, DROPOUT
        )
        value_sum = tl.dot(dropped.to(grads.dtype), grads, value_sum, input_precision=PRECISION)
        key_sum = tl.dot(grad_scores.to(rows.dtype), rows, key_sum, input_precision=PRECISION)
    store_rows(grad_key + of_sums, D, slot, filled, key_sum * scale, D, BLOCK_D)
    store_rows(grad_value + of_sums, D, slot, filled, value_sum, D, BLOCK_D)
