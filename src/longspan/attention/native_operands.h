/* The products of attention, and how what they multiply lies: as rows of floats; or, where tiles multiply, as terms. */

#include "native_products.h"

#include "native_tiles.h"

/* Of a block of rows or a panel of keys, ROWS of both. Sums over rows, [ROWS, stride], lie turned where tiles multiply. */
typedef struct {
    int64_t features;
    int64_t stride;  /* floats of a row: the features, filled up with 0 */
    int64_t side;    /* a block's rows are filled up to a multiple of it */
    int64_t operand; /* floats of what is multiplied */
    int terms;       /* of a number, where tiles multiply; else 0 */
    float *between;  /* room for an operand, with tiles */
} Layout;

/* Of numbers of a type. */
static Layout layout_of(int64_t features, int dtype, int may_be_tiles) {
    Layout layout = {.features = features, .side = TILE_ROWS};
    int64_t in = LANES;
#ifdef TILES
    if (may_be_tiles && dtype != FP32 && tiles_allowed()) {
        in = layout.side = TILE_SIDE;
        layout.terms = dtype == BF16 ? 1 : 2;
    }
#else
    (void)dtype, (void)may_be_tiles;
#endif
    layout.stride = (features + in - 1) / in * in;
    layout.operand = layout.terms == 1 ? ROWS * layout.stride / 2 : ROWS * layout.stride;
    return layout;
}

/* A thread does so before and after its products. */
static void products_begin(const Layout *layout) {
#ifdef TILES
    if (layout->terms) tiles_begin();
#else
    (void)layout;
#endif
}
static void products_end(const Layout *layout) {
#ifdef TILES
    if (layout->terms) tiles_end();
#else
    (void)layout;
#endif
}

/* A panel's rows as columns, which rows are multiplied with. */
static void to_columns(const Layout *layout, float *to, const float *rows) {
#ifdef TILES
    if (layout->terms) {
        int64_t pairs = layout->stride / 2;
        split_rows(ROWS, layout->stride, rows, layout->terms, (Term *)layout->between);
        for (int t = 0; t < layout->terms; t++)
            turn(ROWS, pairs, layout->between + t * ROWS * pairs, pairs, to + t * ROWS * pairs, ROWS);
        return;
    }
#endif
    turn(ROWS, layout->stride, rows, layout->stride, to, ROWS);
}

/* A panel's rows as values, which weights are multiplied with. */
static void to_values(const Layout *layout, float *to, const float *rows) {
#ifdef TILES
    if (layout->terms) {
        split_pairs(ROWS, layout->stride, rows, layout->terms, (Term *)to);
        return;
    }
#endif
    memcpy(to, rows, 4 * ROWS * layout->stride);
}

/* A block's rows to multiply columns with: `rows` themselves, or `to`. */
static const float *as_left(const Layout *layout, int64_t num_rows, const float *rows, float *to) {
#ifdef TILES
    if (layout->terms) {
        split_rows(num_rows, layout->stride, rows, layout->terms, (Term *)to);
        return to;
    }
#else
    (void)layout, (void)num_rows, (void)to;
#endif
    return rows;
}

/* A block's rows to be multiplied with the weights' transpose. */
static const float *as_turned(const Layout *layout, int64_t num_rows, const float *rows, float *to) {
#ifdef TILES
    if (layout->terms) {
        turn(num_rows, layout->stride, rows, layout->stride, layout->between, num_rows);
        split_rows(layout->stride, num_rows, layout->between, layout->terms, (Term *)to);
        return to;
    }
#else
    (void)layout, (void)num_rows, (void)to;
#endif
    return rows;
}

/* Where a sum over rows has a panel's element. */
INLINE int64_t place_of(const Layout *layout, int64_t row, int64_t feature) {
    return layout->terms ? feature * ROWS + row : row * layout->stride + feature;
}

/* A panel's sums over rows: themselves, or turned back to `to`. */
static const float *sums_as_rows(const Layout *layout, const float *sums, float *to) {
    if (!layout->terms) return sums;
    turn(layout->stride, ROWS, sums, ROWS, to, layout->stride);
    return to;
}

/* Two vectors of weights to where they are multiplied; 0 may be written as zeros. */
INLINE void put_weights(const Layout *layout, float *to, Vector weights, Vector next) {
#ifdef TILES
    if (layout->terms) {
        put_terms(to, (__m512)weights, (__m512)next);
        return;
    }
#else
    (void)layout;
#endif
    store(to, weights);
    store(to + LANES, next);
}

/* The three products, compiled once each. Of rows with columns: */
static void score(const Layout *layout, int64_t rows, const float *left, const float *columns, float *to, int64_t width) {
#ifdef TILES
    if (layout->terms) {
        int64_t bytes = 2 * layout->stride;
        Left a = {.at = left, .row = bytes, .term = rows * bytes, .step = 64, .terms = layout->terms};
        tile_product(rows, ROWS, layout->stride, a, &columns, 1, layout->terms, to, width, 0);
        return;
    }
#endif
    product(rows, ROWS, layout->features, left, layout->stride, 1, columns, ROWS, to, width, 0);
}

/* Of weights with the values of `count` panels: */
static void gather(const Layout *layout, int64_t rows, const float *weights, int64_t width,
                   const float *const *panels, int64_t count, float *to) {
    int64_t stride = layout->stride;
#ifdef TILES
    if (layout->terms) {
        Left a = {.at = weights, .row = 4 * width, .term = 64, .step = 128, .terms = 2};
        tile_product(rows, stride, ROWS, a, panels, count, layout->terms, to, stride, 0);
        return;
    }
#endif
    memset(to, 0, 4 * rows * stride);
    for (int64_t p = 0; p < count; p++)
        product(rows, stride, ROWS, weights + p * ROWS, width, 1, panels[p], stride, to, stride, 1);
}

/* Of the weights' transpose with rows, added to sums over rows. */
static void scatter(const Layout *layout, int64_t rows, const float *weights, int64_t width, const float *turned,
                    float *to) {
    int64_t stride = layout->stride;
#ifdef TILES
    if (layout->terms) {
        Left a = {.at = turned, .row = 2 * rows, .term = 2 * rows * stride, .step = 64, .terms = layout->terms};
        pair_weights(rows, ROWS, weights, width, (Term *)layout->between);
        const float *paired_weights = layout->between;
        tile_product(stride, ROWS, rows, a, &paired_weights, 1, 2, to, ROWS, 1);
        return;
    }
#endif
    product(ROWS, stride, rows, weights, 1, width, turned, stride, to, stride, 1);
}
