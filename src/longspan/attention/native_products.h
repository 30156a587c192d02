/* Arithmetic on rows of floats: vectors, products from one register tile, 2 ** x, 16-bit numbers. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define LANES 16
#define TILE_VECTORS 4 /* with four rows: as many sums as registers hold beside what is multiplied */
#elif defined(__AVX__)
#define LANES 8
#define TILE_VECTORS 2
#else
#define LANES 4
#define TILE_VECTORS 2
#endif
#define TILE_ROWS 4
#define ROWS 64
#define INLINE static inline __attribute__((always_inline))

#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f

typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t Naturals __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

enum { FP32, BF16, FP16 };

INLINE Vector load(const float *from) { return *(const Vector *)from; }
INLINE void store(float *to, Vector x) { *(Vector *)to = x; }
INLINE Vector all(float x) { return x - (Vector){0}; }

#ifdef __AVX512F__
INLINE float sum_of(Vector x) { return _mm512_reduce_add_ps((__m512)x); }
INLINE float largest_of(Vector x) { return _mm512_reduce_max_ps((__m512)x); }
#else
INLINE float sum_of(Vector x) {
    float sum = 0.0f;
    for (int lane = 0; lane < LANES; lane++) sum += x[lane];
    return sum;
}
INLINE float largest_of(Vector x) {
    float largest = -INFINITY;
    for (int lane = 0; lane < LANES; lane++) largest = largest > x[lane] ? largest : x[lane];
    return largest;
}
#endif

/* 2 ** x, of NaN NaN; 0 below 2 ** -126, inf from 2 ** 128. The series is within an ulp on -1/2 .. 1/2. */
INLINE Vector exp2_series(Vector f) {
    Vector power = all(1.52527338e-5f); /* ln(2) ** k / k!, from k = 7 */
    power = power * f + all(1.54035304e-4f);
    power = power * f + all(1.33335581e-3f);
    power = power * f + all(9.61812911e-3f);
    power = power * f + all(5.55041087e-2f);
    power = power * f + all(2.40226507e-1f);
    power = power * f + all(6.93147181e-1f);
    return power * f + all(1.0f);
}
#ifdef __AVX512DQ__
INLINE Vector exp2_of(Vector x) {
    __mmask16 large = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
    __m512 power = (__m512)exp2_series((Vector)_mm512_reduce_ps((__m512)x, 0)); /* of x less the nearest whole number */
    return (Vector)_mm512_maskz_scalef_ps(large, power, _mm512_roundscale_ps((__m512)x, 0));
}
#else
INLINE Vector exp2_of(Vector x) {
    Integers tiny = x < all(-126.0f), huge = x > all(128.0f);
    Vector clamped = (Vector)(((Integers)all(-126.0f) & tiny) | ((Integers)x & ~tiny));
    clamped = (Vector)(((Integers)all(128.0f) & huge) | ((Integers)clamped & ~huge));
    Vector whole = (clamped + all(12582912.0f)) - all(12582912.0f); /* rounded: 1.5 * 2 ** 23 leaves no fraction */
    Integers exponent = (__builtin_convertvector(whole, Integers) + 127) << 23;
    return (Vector)((Integers)(exp2_series(clamped - whole) * (Vector)exponent) & ~tiny);
}
#endif

#ifdef __AVX512F__
INLINE Vector larger(Vector a, Vector b) { return (Vector)_mm512_max_ps((__m512)a, (__m512)b); }
#else
INLINE Vector larger(Vector a, Vector b) {
    Integers first = a > b;
    return (Vector)(((Integers)a & first) | ((Integers)b & ~first));
}
#endif

/* [rows, columns] to [columns, rows]; both in LANES. */
#ifdef __AVX512F__
INLINE void turn(int64_t rows, int64_t columns, const float *from, int64_t stride, float *to, int64_t to_stride) {
    for (int64_t r = 0; r < rows; r += 16)
        for (int64_t c = 0; c < columns; c += 16) {
            __m512 x[16], y[16];
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++) x[i] = _mm512_loadu_ps(from + (r + i) * stride + c);
#pragma GCC unroll 8
            for (int i = 0; i < 16; i += 2) {
                y[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
                y[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
            }
#pragma GCC unroll 4
            for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
                for (int j = 0; j < 2; j++) {
                    __m512d low = (__m512d)y[i + j], high = (__m512d)y[i + j + 2];
                    x[i + 2 * j] = (__m512)_mm512_unpacklo_pd(low, high);
                    x[i + 2 * j + 1] = (__m512)_mm512_unpackhi_pd(low, high);
                }
#pragma GCC unroll 2
            for (int i = 0; i < 16; i += 8)
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++) {
                    y[i + j] = _mm512_shuffle_f32x4(x[i + j], x[i + j + 4], 0x88);
                    y[i + j + 4] = _mm512_shuffle_f32x4(x[i + j], x[i + j + 4], 0xDD);
                }
#pragma GCC unroll 8
            for (int j = 0; j < 8; j++) {
                _mm512_storeu_ps(to + (c + j) * to_stride + r, _mm512_shuffle_f32x4(y[j], y[j + 8], 0x88));
                _mm512_storeu_ps(to + (c + j + 8) * to_stride + r, _mm512_shuffle_f32x4(y[j], y[j + 8], 0xDD));
            }
        }
}
#else
INLINE void turn(int64_t rows, int64_t columns, const float *from, int64_t stride, float *to, int64_t to_stride) {
    for (int64_t r = 0; r < rows; r += 4)
        for (int64_t c = 0; c < columns; c++)
            for (int64_t s = 0; s < 4; s++) to[c * to_stride + r + s] = from[(r + s) * stride + c];
}
#endif

/* C[TILE_ROWS, vectors * LANES] (+)= A . B, where A[m, k] is a[m * am + k * ak] and B and C lie by rows. */
INLINE void tile(const int vectors, int64_t depth, const float *a, int64_t am, int64_t ak,
                 const float *b, int64_t bk, float *c, int64_t cm, const int add) {
    Vector sum[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 4
    for (int m = 0; m < TILE_ROWS; m++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sum[m][v] = add ? load(c + m * cm + v * LANES) : (Vector){0};
    for (int64_t k = 0; k < depth; k++) {
        Vector right[TILE_VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) right[v] = load(b + k * bk + v * LANES);
#pragma GCC unroll 4
        for (int m = 0; m < TILE_ROWS; m++) {
            Vector left = all(a[m * am + k * ak]);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sum[m][v] += left * right[v];
        }
    }
#pragma GCC unroll 4
    for (int m = 0; m < TILE_ROWS; m++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) store(c + m * cm + v * LANES, sum[m][v]);
}

/* The same with any number of whole tiles of rows and of whole vectors of columns. */
INLINE void product(int64_t rows, int64_t columns, int64_t depth, const float *a, int64_t am, int64_t ak,
                    const float *b, int64_t bk, float *c, int64_t cm, const int add) {
    int64_t n = 0;
    for (; n + TILE_VECTORS * LANES <= columns; n += TILE_VECTORS * LANES)
        for (int64_t m = 0; m < rows; m += TILE_ROWS)
            tile(TILE_VECTORS, depth, a + m * am, am, ak, b + n, bk, c + m * cm + n, cm, add);
    for (; n < columns; n += LANES)
        for (int64_t m = 0; m < rows; m += TILE_ROWS)
            tile(1, depth, a + m * am, am, ak, b + n, bk, c + m * cm + n, cm, add);
}

INLINE float half_to_float(uint16_t bits, const int dtype) {
    if (dtype == BF16) {
        uint32_t wide = (uint32_t)bits << 16;
        float value;
        memcpy(&value, &wide, 4);
        return value;
    }
#ifdef __FLT16_MANT_DIG__
    _Float16 half;
    memcpy(&half, &bits, 2);
    return (float)half;
#else
    return NAN;
#endif
}

INLINE uint16_t float_to_half(float value, const int dtype) {
    if (dtype == BF16) { /* to nearest, ties to even */
        uint32_t bits;
        memcpy(&bits, &value, 4);
        return value != value ? 0x7FC0 : (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    }
    uint16_t half_bits = 0;
#ifdef __FLT16_MANT_DIG__
    _Float16 half = (_Float16)value;
    memcpy(&half_bits, &half, 2);
#endif
    return half_bits;
}
