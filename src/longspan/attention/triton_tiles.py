# mypy: ignore-errors
"""What the Triton kernels share: where a tile lies, loading its rows, masks, dropout. Needs triton; see ``fused.py``.

Legend: B texts, H heads, N tokens, D features; a *place* counts the tokens of one residue of a dilation, so that token
``residue + place * dilation`` is at that place and a dilated window is a plain window of places.
"""

import triton
import triton.language as tl


@triton.jit
def find_tile(heads, N, H, tiles, SIZE: tl.constexpr):
    """Where this program's tile lies: ``(b, h, residue, first place, places, left, right, dilation, causal)``.

    ``heads`` is int32 ``[4, H]``: left, right, dilation, causal. ``tiles`` is the largest number of tiles of a head;
    heads with fewer give a tile without places.
    """
    program = tl.program_id(0)
    tile = program % tiles
    b = program // tiles // H
    h = program // tiles % H
    left = tl.load(heads + h)
    right = tl.load(heads + H + h)
    dilation = tl.load(heads + 2 * H + h)
    causal = tl.load(heads + 3 * H + h)
    alone = dilation >= N  # then a window holds its own token only
    left = tl.where(alone, 0, left)
    right = tl.where(alone, 0, right)
    dilation = tl.where(alone, 1, dilation)
    per_residue = tl.cdiv(tl.cdiv(N, dilation), SIZE)
    residue = tile // per_residue
    first = tile % per_residue * SIZE
    places = tl.where(residue < dilation, tl.cdiv(N - residue, dilation), 0)
    return b, h, residue, first, places, left, right, dilation, causal


@triton.jit
def load_rows(base, stride, token, wanted, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows ``[T, BLOCK_D]`` of the tokens; 0 in rows that aren't wanted and in features from D on.

    Offsets are 64-bit: a million tokens of a fused projection are more than 2**31 numbers.
    """
    feature = tl.arange(0, BLOCK_D)
    mask = wanted[:, None]
    if D != BLOCK_D:
        mask = mask & (feature < D)[None, :]
    return tl.load(base + token.to(tl.int64)[:, None] * stride + feature[None, :], mask=mask, other=0.0)


@triton.jit
def store_rows(base, stride, token, wanted, rows, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Write ``rows [T, BLOCK_D]`` where wanted, rounded to the target's dtype."""
    feature = tl.arange(0, BLOCK_D)
    mask = wanted[:, None]
    if D != BLOCK_D:
        mask = mask & (feature < D)[None, :]
    target = base + token.to(tl.int64)[:, None] * stride + feature[None, :]
    tl.store(target, rows.to(base.dtype.element_ty), mask=mask)


@triton.jit
def tile_offsets(dilation, stride, SIZE: tl.constexpr, BLOCK_D: tl.constexpr, WIDE: tl.constexpr):
    """Where the numbers of a tile of ``SIZE`` places lie, from its first token on: ``[SIZE, BLOCK_D]``.

    That is the same for all tiles of a head, so the address of a row in the next tile is one sum. ``WIDE`` is for
    offsets beyond 32 bits.
    """
    token = tl.arange(0, SIZE) * dilation
    if WIDE:
        token = token.to(tl.int64)
    return token[:, None] * stride + tl.arange(0, BLOCK_D)[None, :]


@triton.jit
def load_tile(base, stride, first_token, offsets, wanted, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """As :func:`load_rows`, of the tile that begins at ``first_token``; ``offsets`` are its :func:`tile_offsets`."""
    mask = wanted[:, None]
    if D != BLOCK_D:
        mask = mask & (tl.arange(0, BLOCK_D) < D)[None, :]
    return tl.load(base + first_token.to(tl.int64) * stride + offsets, mask=mask, other=0.0)


@triton.jit
def load_flags(flags, token, inside, HAS_MASK: tl.constexpr, AGAIN: tl.constexpr = False):
    """bool ``[T]``: inside the text and, with a mask, flagged by int8 ``flags [N]``.

    ``AGAIN`` reads what was read before, where the compiler would otherwise keep it in registers: its load differs.
    """
    if HAS_MASK:
        inside = inside & (tl.load(flags + token, mask=inside, other=1 if AGAIN else 0) != 0)
    return inside


@triton.jit
def load_hashes(hashes, token, wanted):
    """int32 ``[T]`` out of ``hashes [N, 2]``, which holds each twice; 0 where not wanted.

    A tile of single numbers is smaller than the number of threads, each of which would then load all that it needs for
    itself; a tile of pairs is loaded once and shared.
    """
    pairs = tl.load(hashes + token[:, None] * 2 + tl.arange(0, 2)[None, :], mask=wanted[:, None], other=0)
    return tl.split(pairs)[0]


@triton.jit
def load_terms(terms, row, wanted, ROWS: tl.constexpr):
    """``(lse2, delta, random)``, each ``[ROWS]``, out of ``terms [N, 4]`` of ``row_terms``; 0 where not wanted.

    Loaded at once, for the reason given at :func:`load_hashes`.
    """
    fours = tl.load(terms + row[:, None] * 4 + tl.arange(0, 4)[None, :], mask=wanted[:, None], other=0.0)
    first_and_third, second_and_fourth = tl.split(tl.reshape(fours, [ROWS, 2, 2]))
    lse2, random = tl.split(first_and_third)
    delta, _ = tl.split(second_and_fourth)
    return lse2, delta, random.to(tl.int32, bitcast=True)


@triton.jit
def count_dead(dead, residue, dilation, start, stop):
    """How many tokens are not local from place ``start`` to before ``stop``, tokens of other residues included.

    ``dead`` is int32 ``[N + 1]``, for each token how many before it aren't local.
    """
    return tl.load(dead + residue + (stop - 1) * dilation + 1) - tl.load(dead + residue + start * dilation)


@triton.jit
def within(place, start, reach):
    """Whether a place is one of ``start``, ..., ``start + reach``: one comparison, since numbers below 0 are large."""
    return (place - start).to(tl.uint32, bitcast=True) <= reach.to(tl.uint32, bitcast=True)


@triton.jit
def find_span(
    dead,
    residue,
    dilation,
    first,
    before,
    after,
    places,
    OWN: tl.constexpr,
    OTHER: tl.constexpr,
    HAS_MASK: tl.constexpr,
):
    """Which places the tiles of the other side take, for a tile of ``OWN`` places that reaches so far.

    Returns:
        ``(low, high, flags_from)``: from one to before another, empty where no token of the own tile is local; and from
        where on their flags are to be read: ``low`` where a token in them isn't local, else ``high``.
    """
    low = tl.maximum(first - before, 0) // OTHER * OTHER
    high = tl.minimum(first + OWN + after, places)
    if HAS_MASK:
        read_to = tl.minimum(low + tl.cdiv(high - low, OTHER) * OTHER, places)  # the last tile may go on beyond high
        some_dead = count_dead(dead, residue, dilation, low, read_to) > 0
        stop = tl.minimum(first + OWN, places)
        all_dead = count_dead(dead, residue, dilation, first, stop) == (stop - 1 - first) * dilation + 1
        high = tl.where(all_dead, low, high)
        flags_from = tl.where(some_dead, low, high)
    else:
        flags_from = high
    return low, high, flags_from


@triton.jit
def kept(row_hash, key_hash, threshold):
    """Which weights dropout keeps, as :meth:`longspan.attention.dropout.Dropout.drop` decides it."""
    return row_hash * key_hash < threshold


@triton.jit
def products(rows, keys, NEGATIVE: tl.constexpr, PRECISION: tl.constexpr):
    """``rows [R, D]`` times ``keys [K, D]``: ``[R, K]`` in fp32, of the opposite sign where the scale is negative."""
    scores = tl.dot(rows, tl.trans(keys), input_precision=PRECISION)
    if NEGATIVE:
        scores = -scores
    return scores


@triton.jit
def softmax_step(scores, top, total, scale2):
    """One step of the online softmax: ``(weights [R, K], shrink, top, total)``, the last three ``[R]``.

    ``scores`` are -inf where masked; ``scale2`` is positive and holds the factor to base 2. What was summed so far is
    to be multiplied by ``shrink``.
    """
    new_top = tl.maximum(top, tl.max(scores, 1) * scale2)
    base = tl.where(new_top == float("-inf"), 0.0, new_top)  # of a row without a key so far
    weights = tl.exp2(scores * scale2 - base[:, None])
    shrink = tl.exp2(top - base)
    return weights, shrink, new_top, total * shrink + tl.sum(weights, 1)
