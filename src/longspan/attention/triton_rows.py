# mypy: ignore-errors
"""Triton kernels for the global rows: few rows against all tokens of a text, forward and backward.

A *problem* is one head, or with absorbed projections (``global_rows.py``) all heads together: then E is the hidden
size, keys and values are the hidden states themselves, and problem 0 holds the rows of all heads, head after head. R is
the number of rows of a problem, G that of one head; row ``head * G + g`` belongs to the g-th global token. The tokens
are split into chunks, since few rows alone would leave most of a GPU idle; what each chunk gives is summed afterwards.
"""

import triton
import triton.language as tl

from longspan.attention.triton_gradients import score_gradients
from longspan.attention.triton_tiles import (
    kept,
    load_flags,
    load_hashes,
    load_rows,
    products,
    softmax_step,
    store_rows,
)


@triton.jit
def _find_rows(block, problem, positions, heads, filled, R, G, slots, H, ROWS: tl.constexpr):
    """``(row, whether it is filled, its head, its position, whether it is causal)``, each ``[ROWS]``."""
    row = block * ROWS + tl.arange(0, ROWS)
    slot = row % G
    head = problem * (R // G) + row // G
    wanted = (row < R) & (slot < filled)
    position = tl.load(positions + slot, mask=wanted, other=0)
    causal = tl.load(heads + 3 * H + head, mask=wanted, other=0) != 0
    return row, wanted, head, position, causal


@triton.jit(do_not_specialize=["N", "H", "P", "R", "G", "slots", "splits", "chunk", "threshold"])
def rows_forward(
    query,
    key,
    value,
    out,
    lse2,
    mass,
    heads,
    real,
    positions,
    counts,
    row_hash,
    key_hash,
    key_b,
    key_p,
    key_n,
    value_b,
    value_p,
    value_n,
    N,
    H,
    P,
    R,
    G,
    slots,
    splits,
    chunk,
    scale2,
    keep,
    threshold,
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    HAS_PADDING: tl.constexpr,
    CAUSAL: tl.constexpr,
    NEGATIVE: tl.constexpr,
    DROPOUT: tl.constexpr,
    SHARED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write, for one chunk of tokens, normalised ``out [splits, B, P, R, E]``, base-2 ``lse2`` and ``mass``.

    ``query`` is ``[B, P, R, E]``, contiguous. ``mass [splits, B, P, R]`` sums a row's weights after dropout. With
    ``SHARED`` the values are the keys. Rows without a global token are left as they are.
    """
    program = tl.program_id(0)
    split = program % splits
    blocks = tl.cdiv(R, ROWS)
    block = program // splits % blocks
    problem = program // splits // blocks % P
    b = program // splits // blocks // P
    batch = tl.num_programs(0) // splits // blocks // P
    filled = tl.load(counts + b)
    if (filled == 0) | ((R == G) & (block * ROWS >= filled)):
        return
    at = b.to(tl.int64) * P + problem
    into = ((split.to(tl.int64) * batch + b) * P + problem) * R
    key += b.to(tl.int64) * key_b + problem.to(tl.int64) * key_p
    value += b.to(tl.int64) * value_b + problem.to(tl.int64) * value_p
    real += b.to(tl.int64) * N
    row, wanted, head, position, causal = _find_rows(
        block, problem, positions + b.to(tl.int64) * slots, heads, filled, R, G, slots, H, ROWS
    )
    rows = load_rows(query + at * R * E, E, row, wanted, E, BLOCK_E)
    row_random = row
    if DROPOUT:
        row_random = tl.load(row_hash + (b.to(tl.int64) * H + head) * N + position, mask=wanted, other=0)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    kept_total = tl.zeros([ROWS], tl.float32)
    weighted = tl.zeros([ROWS, BLOCK_E], tl.float32)
    for start in range(split * chunk, tl.minimum(split * chunk + chunk, N), KEYS):
        token = start + tl.arange(0, KEYS)
        is_key = load_flags(real, token, token < N, HAS_PADDING)
        keys = load_rows(key, key_n, token, is_key, E, BLOCK_E)
        values = keys if SHARED else load_rows(value, value_n, token, is_key, E, BLOCK_E)
        scores = products(rows, keys, NEGATIVE, PRECISION)
        seen = is_key[None, :]
        if CAUSAL:
            seen = seen & ((token[None, :] <= position[:, None]) | (causal[:, None] == 0))
        scores = tl.where(seen, scores, float("-inf"))
        weights, shrink, top, total = softmax_step(scores, top, total, scale2)
        if DROPOUT:
            key_random = load_hashes(key_hash, token, token < N)
            weights = tl.where(kept(row_random[:, None], key_random[None, :], threshold), weights, 0.0)
            kept_total = kept_total * shrink + tl.sum(weights, 1)
        weighted = tl.dot(weights.to(values.dtype), values, weighted * shrink[:, None], input_precision=PRECISION)
    seen_any = total > 0
    divisor = tl.where(seen_any, total * keep, 1.0)
    store_rows(out + into * E, E, row, wanted, weighted / divisor[:, None], E, BLOCK_E)
    share = kept_total / divisor if DROPOUT else tl.where(seen_any, 1.0, 0.0)
    tl.store(mass + into + row, share, mask=wanted)
    tl.store(lse2 + into + row, top + tl.log2(tl.where(seen_any, total, 1.0)), mask=wanted)


@triton.jit(do_not_specialize=["N", "H", "P", "R", "G", "slots", "splits", "chunk", "threshold"])
def rows_query_gradient(
    query,
    key,
    value,
    grad_out,
    lse2,
    delta,
    grad_mass,
    grad_query,
    weights,
    heads,
    real,
    positions,
    counts,
    row_hash,
    key_hash,
    key_b,
    key_p,
    key_n,
    value_b,
    value_p,
    value_n,
    N,
    H,
    P,
    R,
    G,
    slots,
    splits,
    chunk,
    scale2,
    scale,
    keep,
    threshold,
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    HAS_PADDING: tl.constexpr,
    CAUSAL: tl.constexpr,
    NEGATIVE: tl.constexpr,
    DROPOUT: tl.constexpr,
    SHARED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write one chunk's part of the query's gradient, fp32 ``[splits, B, P, R, E]``.

    ``lse2``, ``delta`` and ``grad_mass`` are ``[B, P, R]``, ``grad_out`` contiguous like ``query``.

    With ``SHARED`` also write what the gradient of the keys is a product of, ``weights [B, P, 2 R, N]``: the gradients
    of the scores, with their scale, then the weights after dropout. Rows without a global token and padding are left
    as they are.
    """
    program = tl.program_id(0)
    split = program % splits
    blocks = tl.cdiv(R, ROWS)
    block = program // splits % blocks
    problem = program // splits // blocks % P
    b = program // splits // blocks // P
    batch = tl.num_programs(0) // splits // blocks // P
    filled = tl.load(counts + b)
    if (filled == 0) | ((R == G) & (block * ROWS >= filled)):
        return
    at = b.to(tl.int64) * P + problem
    into = ((split.to(tl.int64) * batch + b) * P + problem) * R
    key += b.to(tl.int64) * key_b + problem.to(tl.int64) * key_p
    value += b.to(tl.int64) * value_b + problem.to(tl.int64) * value_p
    real += b.to(tl.int64) * N
    row, wanted, head, position, causal = _find_rows(
        block, problem, positions + b.to(tl.int64) * slots, heads, filled, R, G, slots, H, ROWS
    )
    rows = load_rows(query + at * R * E, E, row, wanted, E, BLOCK_E)
    grads = load_rows(grad_out + at * R * E, E, row, wanted, E, BLOCK_E)
    row_lse2 = tl.load(lse2 + at * R + row, mask=wanted, other=float("inf"))
    row_delta = tl.load(delta + at * R + row, mask=wanted, other=0.0)
    row_grad_mass = tl.load(grad_mass + at * R + row, mask=wanted, other=0.0)
    row_random = row
    if DROPOUT:
        row_random = tl.load(row_hash + (b.to(tl.int64) * H + head) * N + position, mask=wanted, other=0)
    result = tl.zeros([ROWS, BLOCK_E], tl.float32)
    for start in range(split * chunk, tl.minimum(split * chunk + chunk, N), KEYS):
        token = start + tl.arange(0, KEYS)
        is_key = load_flags(real, token, token < N, HAS_PADDING)
        keys = load_rows(key, key_n, token, is_key, E, BLOCK_E)
        values = keys if SHARED else load_rows(value, value_n, token, is_key, E, BLOCK_E)
        seen = is_key[None, :]
        if CAUSAL:
            seen = seen & ((token[None, :] <= position[:, None]) | (causal[:, None] == 0))
        scores = tl.where(seen, products(rows, keys, NEGATIVE, PRECISION), float("-inf"))
        grad_weights = products(grads, values, False, PRECISION) + row_grad_mass[:, None]
        is_kept = seen
        if DROPOUT:
            key_random = load_hashes(key_hash, token, token < N)
            is_kept = kept(row_random[:, None], key_random[None, :], threshold)
        dropped, grad_scores = score_gradients(
            scores, row_lse2[:, None], row_delta[:, None], grad_weights, scale2, keep, is_kept, DROPOUT
        )
        result = tl.dot(grad_scores.to(keys.dtype), keys, result, input_precision=PRECISION)
        if SHARED:
            held = wanted[:, None] & is_key[None, :]
            of_score, of_weight = 2 * at * R + row, (2 * at + 1) * R + row
            into_score = weights + of_score[:, None] * N + token[None, :]
            tl.store(into_score, (grad_scores * scale).to(keys.dtype), mask=held)
            tl.store(weights + of_weight[:, None] * N + token[None, :], dropped.to(keys.dtype), mask=held)
    store_rows(grad_query + into * E, E, row, wanted, result * scale, E, BLOCK_E)


@triton.jit(do_not_specialize=["N", "H", "P", "R", "G", "slots", "threshold"])
def rows_key_gradient(
    query,
    key,
    value,
    grad_out,
    lse2,
    delta,
    grad_mass,
    grad_key,
    grad_value,
    heads,
    real,
    positions,
    counts,
    row_hash,
    key_hash,
    key_b,
    key_p,
    key_n,
    value_b,
    value_p,
    value_n,
    grad_key_b,
    grad_key_p,
    grad_key_n,
    grad_value_b,
    grad_value_p,
    grad_value_n,
    N,
    H,
    P,
    R,
    G,
    slots,
    scale2,
    scale,
    keep,
    threshold,
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    HAS_PADDING: tl.constexpr,
    CAUSAL: tl.constexpr,
    NEGATIVE: tl.constexpr,
    DROPOUT: tl.constexpr,
    ADD: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write the gradients of key and value, or with ``ADD`` add them."""
    program = tl.program_id(0)
    tiles = tl.cdiv(N, KEYS)
    tile = program % tiles
    problem = program // tiles % P
    b = program // tiles // P
    filled = tl.load(counts + b)
    at = b.to(tl.int64) * P + problem
    key += b.to(tl.int64) * key_b + problem.to(tl.int64) * key_p
    value += b.to(tl.int64) * value_b + problem.to(tl.int64) * value_p
    grad_key += b.to(tl.int64) * grad_key_b + problem.to(tl.int64) * grad_key_p
    grad_value += b.to(tl.int64) * grad_value_b + problem.to(tl.int64) * grad_value_p
    real += b.to(tl.int64) * N
    token = tile * KEYS + tl.arange(0, KEYS)
    inside = token < N
    is_key = load_flags(real, token, inside, HAS_PADDING)
    keys = load_rows(key, key_n, token, is_key, E, BLOCK_E)
    values = load_rows(value, value_n, token, is_key, E, BLOCK_E)
    key_random = load_hashes(key_hash, token, inside) if DROPOUT else token
    key_sum = tl.zeros([KEYS, BLOCK_E], tl.float32)
    value_sum = tl.zeros([KEYS, BLOCK_E], tl.float32)
    last = tl.where(R == G, filled, R)
    last = tl.where(filled == 0, 0, last)
    for start in range(0, last, ROWS):
        row, wanted, head, position, causal = _find_rows(
            start // ROWS, problem, positions + b.to(tl.int64) * slots, heads, filled, R, G, slots, H, ROWS
        )
        rows = load_rows(query + at * R * E, E, row, wanted, E, BLOCK_E)
        grads = load_rows(grad_out + at * R * E, E, row, wanted, E, BLOCK_E)
        row_lse2 = tl.load(lse2 + at * R + row, mask=wanted, other=float("inf"))
        row_delta = tl.load(delta + at * R + row, mask=wanted, other=0.0)
        row_grad_mass = tl.load(grad_mass + at * R + row, mask=wanted, other=0.0)
        scores = products(keys, rows, NEGATIVE, PRECISION)  # [KEYS, ROWS]
        grad_weights = products(values, grads, False, PRECISION) + row_grad_mass[None, :]
        if CAUSAL:
            seen = (token[:, None] <= position[None, :]) | (causal[None, :] == 0)
            scores = tl.where(seen, scores, float("-inf"))
        is_kept = wanted[None, :]
        if DROPOUT:
            row_random = tl.load(row_hash + (b.to(tl.int64) * H + head) * N + position, mask=wanted, other=0)
            is_kept = kept(row_random[None, :], key_random[:, None], threshold)
        dropped, grad_scores = score_gradients(
            scores, row_lse2[None, :], row_delta[None, :], grad_weights, scale2, keep, is_kept, DROPOUT
        )
        key_sum = tl.dot(grad_scores.to(rows.dtype), rows, key_sum, input_precision=PRECISION)
        value_sum = tl.dot(dropped.to(grads.dtype), grads, value_sum, input_precision=PRECISION)
    key_sum = tl.where(is_key[:, None], key_sum * scale, 0.0)
    if ADD:
        key_sum += load_rows(grad_key, grad_key_n, token, inside, E, BLOCK_E).to(tl.float32)
    store_rows(grad_key, grad_key_n, token, inside, key_sum, E, BLOCK_E)
    value_sum = tl.where(is_key[:, None], value_sum, 0.0)
    if ADD:
        value_sum += load_rows(grad_value, grad_value_n, token, inside, E, BLOCK_E).to(tl.float32)
    store_rows(grad_value, grad_value_n, token, inside, value_sum, E, BLOCK_E)
