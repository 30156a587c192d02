/* Products in the tile registers of AMX, of numbers split into terms: bf16 numbers whose sum they are. A bf16 number is
one term and an fp16 number two; weights take two, which leave out 2 ** -16 of them. Tiles multiply terms exactly and add
up in fp32. */

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#define TILES 1

#include <sys/syscall.h>
#include <unistd.h>

#define TILE_SIDE 32 /* two by two tiles of 16 by 16 are multiplied at once */

typedef uint16_t Term;

/* Whether the system lets this process use tile registers, for which it must be asked. */
static int tiles_allowed(void) { return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18) == 0; }

static void tiles_begin(void) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int t = 0; t < 8; t++) shape.bytes[t] = 64, shape.rows[t] = 16;
    _tile_loadconfig(&shape);
}
static void tiles_end(void) { _tile_release(); }

/* The nearest bf16 numbers, and in `x` what is left. */
INLINE __m256i next_term(__m512 *x) {
    __m256i term = (__m256i)_mm512_cvtneps_pbh(*x);
    __m512 near = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(term), 16));
    *x = _mm512_maskz_sub_ps(_mm512_cmp_ps_mask(*x, near, _CMP_NEQ_UQ), *x, near); /* of infinity nothing */
    return term;
}

/* A row beside the next, number by number. */
INLINE __m512i paired(__m256i row, __m256i next) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(row), _mm512_slli_epi32(_mm512_cvtepu16_epi32(next), 16));
}

/* [rows, columns] to [terms, rows, columns]. */
static void split_rows(int64_t rows, int64_t columns, const float *from, int terms, Term *to) {
    for (int64_t at = 0; at < rows * columns; at += 16) {
        __m512 x = _mm512_loadu_ps(from + at);
        for (int t = 0; t < terms; t++)
            _mm256_storeu_si256((__m256i *)(to + t * rows * columns + at), next_term(&x));
    }
}

/* [rows, columns] to [terms, rows / 2, columns, 2]. */
static void split_pairs(int64_t rows, int64_t columns, const float *from, int terms, Term *to) {
    for (int64_t r = 0; r < rows; r += 2)
        for (int64_t c = 0; c < columns; c += 16) {
            __m512 x = _mm512_loadu_ps(from + r * columns + c), y = _mm512_loadu_ps(from + (r + 1) * columns + c);
            for (int t = 0; t < terms; t++) {
                __m256i row = next_term(&x);
                _mm512_storeu_si512(to + (t * rows + r) * columns + 2 * c, paired(row, next_term(&y)));
            }
        }
}

/* 32 fp32 weights, in their place: their first terms, which are cut off, then their second. */
INLINE void put_terms(float *to, __m512 x, __m512 y) {
    const __m512 upper = _mm512_castsi512_ps(_mm512_set1_epi32((int)0xFFFF0000));
    __m512 x_first = _mm512_and_ps(x, upper), y_first = _mm512_and_ps(y, upper);
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(y_first, x_first));
    _mm512_storeu_si512(to + 16, (__m512i)_mm512_cvtne2ps_pbh(_mm512_sub_ps(y, y_first), _mm512_sub_ps(x, x_first)));
}

/* Such weights to [2, rows / 2, columns, 2]. */
static void pair_weights(int64_t rows, int64_t columns, const float *weights, int64_t stride, Term *to) {
    for (int64_t r = 0; r < rows; r += 2)
        for (int64_t c = 0; c < columns; c += 16) {
            const __m256i *x = (const __m256i *)(weights + r * stride + c / 32 * 32 + c % 32 / 2);
            const __m256i *y = (const __m256i *)((const float *)x + stride);
            Term *at = to + r * columns + 2 * c;
            _mm512_storeu_si512(at, paired(_mm256_loadu_si256(x), _mm256_loadu_si256(y)));
            _mm512_storeu_si512(at + rows * columns, paired(_mm256_loadu_si256(x + 2), _mm256_loadu_si256(y + 2)));
        }
}

/* The left side of a product: bytes from a row to the next, from a term to the next, and from 32 columns to the next. */
typedef struct {
    const void *at;
    int64_t row, term, step;
    int terms;
} Left;

/* C[rows, columns] (+)= A . B: A[rows, count * depth] and `count` parts of B[terms, depth / 2, columns, 2] one below
another, all in TILE_SIDEs. */
static void tile_product(int64_t rows, int64_t columns, int64_t depth, Left a, const float *const *parts, int64_t count,
                         int terms, float *c, int64_t cm, int add) {
    __asm__ volatile("" ::: "memory"); /* tile loads don't tell the compiler what they read */
    for (int64_t n = 0; n < columns; n += TILE_SIDE)
        for (int64_t m = 0; m < rows; m += TILE_SIDE) {
            float *to = c + m * cm + n;
            if (add) {
                _tile_loadd(0, to, 4 * cm);
                _tile_loadd(1, to + 16, 4 * cm);
                _tile_loadd(2, to + 16 * cm, 4 * cm);
                _tile_loadd(3, to + 16 * cm + 16, 4 * cm);
            } else {
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
                _tile_zero(3);
            }
            const char *at = (const char *)a.at + m * a.row;
            for (int64_t p = 0; p < count; p++)
                for (int64_t k = 0; k < depth; k += 32, at += a.step)
                    for (int i = 0; i < a.terms; i++) {
                        _tile_loadd(4, at + i * a.term, a.row);
                        _tile_loadd(5, at + i * a.term + 16 * a.row, a.row);
                        for (int j = 0; j < terms; j++) {
                            const Term *right = (const Term *)parts[p] + (j * depth + k) * columns + 2 * n;
                            if (i == 0 || terms > 1) { /* else it is still there */
                                _tile_loadd(6, right, 4 * columns);
                                _tile_loadd(7, right + 32, 4 * columns);
                            }
                            _tile_dpbf16ps(0, 4, 6);
                            _tile_dpbf16ps(1, 4, 7);
                            _tile_dpbf16ps(2, 5, 6);
                            _tile_dpbf16ps(3, 5, 7);
                        }
                    }
            _tile_stored(0, to, 4 * cm);
            _tile_stored(1, to + 16, 4 * cm);
            _tile_stored(2, to + 16 * cm, 4 * cm);
            _tile_stored(3, to + 16 * cm + 16, 4 * cm);
        }
    __asm__ volatile("" ::: "memory");
}
#endif
