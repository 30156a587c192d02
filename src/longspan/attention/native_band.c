/* The local rows of attention on a CPU: the window and the global columns in one softmax, forward and exact backward.

A unit of work is a stretch of one head's rows of one residue of the dilation. It takes them in blocks of ROWS and keeps
the keys and values around a block in panels of ROWS keys, in a ring that fits a core's own cache: each key is copied
once, to fp32, and transposed where a product wants it so. Every product is made of one register tile; the softmax runs
where the scores lie. Scores are in base 2, as in blocks.py. Numbers depend on the stretches, not on who takes them, nor
on what stands in padding.

Two neighbouring stretches see the panels around their boundary. Each writes its part of these keys' gradients down, and
who does so last adds them up.

With relative positions a score has a second product, of a row with the position of a key's distance: one by offset,
added along the diagonals of the block's scores.

Compiled by native.py for the machine that it runs on. */

#include "native_operands.h"

#include <stdlib.h>

/* A matrix for each head: elements from one head to the next, from one token to the next; features are neighbours. */
typedef struct {
    void *at;
    int64_t head, token;
} Matrix;

/* The arguments of a call; native_band.py has the same. */
typedef struct {
    Matrix query, key, value, out, lse;                           /* lse is fp32 */
    Matrix grad_out, grad_lse, grad_query, grad_key, grad_value;  /* of the backward; grad_lse is fp32, or at null */
    float *global_grad_key, *global_grad_value;                   /* [units, G, D] */
    const uint8_t *local, *keys, *real;                           /* [N]; null: all True */
    const int64_t *global_at;                                     /* [G] */
    const int32_t *row_hash, *key_hash;                           /* [H * d, n] and [n + G]; null: no dropout */
    const float *positions;                                       /* [H, left + 1, D], the furthest first, or null */
    const float *content_bias, *position_bias;                    /* [H, D], in the unit of scores; with positions */
    float *grad_positions, *grad_content_bias, *grad_position_bias; /* the same for each unit */
    float *shared_grads;                                          /* [boundaries, 2 sides, key and value, panels, panel] */
    int32_t *sides_done;                                          /* [boundaries] */
    int64_t *next;                                                /* the next unit that nobody has taken */
    int64_t heads, length, features, num_globals, left, right, dilation;
    int64_t stretch;                                              /* rows of a unit, in ROWS; backward: see `Edge` */
    float scale, keep;
    int32_t dtype, causal_globals, drop_below;
} Call;

/* What a thread works in. */
typedef struct {
    Layout layout; /* of rows, below with `stride` floats each, and of operands */
    float *query, *out, *grad_out, *grad_query;                            /* [ROWS, stride] */
    float *scores, *grads;                                                 /* [ROWS, width] */
    const float **parts;                                                   /* [slots] */
    float *left, *left_grad, *turned, *turned_grad;                        /* operands of query and grad_out */
    float *keys, *keys_t, *values, *values_t;                              /* [slots], operands */
    float *grad_keys, *grad_values;                                        /* [slots, ROWS * stride], sums over rows */
    float *spare, *position_query, *grad_position_query;                   /* [ROWS, stride] */
    float *by_offset;                                                      /* [ROWS, offsets] */
    float *positions, *positions_t, *grad_positions;                       /* [offsets, stride], panel by panel */
    float *bias;                                                           /* [slots, ROWS]: 0, or -inf at no key */
    int32_t *hash;                                                         /* [slots, ROWS] */
    uint8_t *some_dead;                                                    /* [slots]: some bias isn't 0 */
    int64_t slots, global_slots, width, panel;
    float scores_by; /* what scores are multiplied with after the product: with terms, queries can't be before it */
    int64_t offsets; /* left + 1 in whole panels, with positions */
    void *memory;
} Room;

typedef struct {
    int64_t number, head, residue;
    int64_t rows;            /* of the residue */
    int64_t begin, end;      /* its own rows */
    int64_t loaded, flushed; /* panels before these are in the ring; have been written out */
} Unit;

/* A boundary between two stretches of a residue's rows, and the panels that rows on both of its sides see: by these two
stretches alone, since one between two others has at least left + right + ROWS rows. */
typedef struct {
    float *grads;        /* [2 sides, key and value, panels, panel] */
    int32_t *sides_done;
    int64_t first, last; /* panels; none if last < first */
    int64_t panels;      /* places for them */
} Edge;

/* Rows start .. start + rows - 1; their columns are the slots of the global keys, then the panels from `first` on. */
typedef struct {
    int64_t start, rows, filled_up, first, columns, last;
} Block;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* A token's features to fp32, multiplied, the rest of the row 0. */
static void read_row(const Room *room, const Call *call, float *to, const Matrix *from, int64_t head, int64_t token,
                     float by) {
    int64_t at = head * from->head + token * from->token, features = call->features;
    if (call->dtype == FP32)
        for (int64_t e = 0; e < features; e++) to[e] = ((const float *)from->at)[at + e] * by;
    else if (call->dtype == BF16)
        for (int64_t e = 0; e < features; e++) to[e] = half_to_float(((const uint16_t *)from->at)[at + e], BF16) * by;
    else
        for (int64_t e = 0; e < features; e++) to[e] = half_to_float(((const uint16_t *)from->at)[at + e], FP16) * by;
    for (int64_t e = features; e < room->layout.stride; e++) to[e] = 0.0f;
}

/* A token's features from fp32, multiplied, rounded once. */
static void write_row(const Call *call, const Matrix *to, int64_t head, int64_t token, const float *from, float by) {
    int64_t at = head * to->head + token * to->token, features = call->features;
    if (call->dtype == FP32)
        for (int64_t e = 0; e < features; e++) ((float *)to->at)[at + e] = from[e] * by;
    else if (call->dtype == BF16)
        for (int64_t e = 0; e < features; e++) ((uint16_t *)to->at)[at + e] = float_to_half(from[e] * by, BF16);
    else
        for (int64_t e = 0; e < features; e++) ((uint16_t *)to->at)[at + e] = float_to_half(from[e] * by, FP16);
}

INLINE float *number(const Matrix *of, int64_t head, int64_t token) {
    return (float *)of->at + head * of->head + token * of->token;
}

static int64_t token_of(const Call *call, const Unit *unit, int64_t row) {
    return row * call->dilation + unit->residue;
}
static int is_local(const Call *call, int64_t token) { return !call->local || call->local[token]; }

static int64_t slot_of(const Room *room, int64_t panel) {
    return room->global_slots + panel % (room->slots - room->global_slots);
}
static int64_t column_slot(const Room *room, const Block *block, int64_t column) {
    return column < room->global_slots ? column : slot_of(room, block->first + column - room->global_slots);
}

static int64_t rows_of(const Call *call, int64_t residue) {
    return (call->length - residue + call->dilation - 1) / call->dilation;
}

static int make_room(Room *room, const Call *call, int backward) {
    int64_t rows = rows_of(call, 0), reach = least(call->left, rows) + least(call->right, rows);
    /* Without tiles for positions, which are fp32; nor where the largest score isn't that of the largest product. */
    room->layout = layout_of(call->features, call->dtype, !call->positions && call->scale > 0.0f);
    room->scores_by = room->layout.terms ? call->scale * LOG2_E : 1.0f;
    room->panel = ROWS * room->layout.stride;
    room->global_slots = (call->num_globals + ROWS - 1) / ROWS;
    room->slots = room->global_slots + (reach + ROWS - 1) / ROWS + 2;
    room->width = room->slots * ROWS + 16; /* an odd number of cache lines: a column's rows don't share a set */
    if (call->positions) room->offsets = (call->left + 1 + ROWS - 1) / ROWS * ROWS;
    int64_t operand = room->layout.operand, table = room->offsets * room->layout.stride;
    struct {
        float **at;
        int64_t floats;
    } parts[] = {
        {&room->keys_t, room->slots * operand},
        {&room->keys, backward * room->slots * operand},
        {&room->values, !backward * room->slots * operand},
        {&room->values_t, backward * room->slots * operand},
        {&room->grad_keys, backward * room->slots * room->panel},
        {&room->grad_values, backward * room->slots * room->panel},
        {&room->spare, room->panel},
        {&room->query, room->panel},
        {&room->out, !backward * room->panel},
        {&room->grad_out, backward * room->panel},
        {&room->grad_query, backward * room->panel},
        {&room->left, operand},
        {&room->left_grad, backward * operand},
        {&room->turned, backward * operand},
        {&room->turned_grad, backward * operand},
        {&room->layout.between, ROWS * most(ROWS, room->layout.stride)},
        {&room->scores, ROWS * room->width},
        {&room->grads, backward * ROWS * room->width},
        {&room->positions, table},
        {&room->positions_t, table},
        {&room->grad_positions, backward * table},
        {&room->position_query, room->panel},
        {&room->grad_position_query, backward * room->panel},
        {&room->by_offset, ROWS * room->offsets},
        {&room->bias, room->width},
        {(float **)&room->hash, room->width},
        {(float **)&room->parts, room->slots * (int64_t)(sizeof(float *) / 4)},
        {(float **)&room->some_dead, room->slots},
    };
    int64_t floats = 16, count = sizeof parts / sizeof *parts;
    for (int64_t i = 0; i < count; i++) floats += parts[i].floats;
    room->memory = malloc(4 * floats);
    if (!room->memory) return 0;
    float *at = (float *)(((uintptr_t)room->memory + 63) & ~(uintptr_t)63);
    for (int64_t i = 0; i < count; i++) *parts[i].at = at, at += parts[i].floats;
    return 1;
}

/* A panel's rows of `from`; what stands at padding is read as 0, a weight of 0 would not stop a NaN. */
static void read_panel(const Room *room, const Call *call, float *to, const Matrix *from, int64_t head,
                       const int64_t *tokens) {
    for (int64_t j = 0; j < ROWS; j++, to += room->layout.stride)
        if (tokens[j] >= 0 && (!call->real || call->real[tokens[j]]))
            read_row(room, call, to, from, head, tokens[j], 1.0f);
        else
            memset(to, 0, 4 * room->layout.stride);
}

/* Keys and values at `tokens`, -1 where there is none; a window may not hold each. */
static void fill_slot(Room *room, const Call *call, int64_t slot, int64_t head, const int64_t *tokens, int in_window,
                      int backward) {
    room->some_dead[slot] = 0;
    for (int64_t j = 0; j < ROWS; j++) {
        int seen = tokens[j] >= 0 && (!in_window || !call->keys || call->keys[tokens[j]]);
        room->bias[slot * ROWS + j] = seen ? 0.0f : -INFINITY;
        room->some_dead[slot] |= !seen;
    }
    const Layout *layout = &room->layout;
    int64_t at = slot * layout->operand, sums = slot * room->panel;
    read_panel(room, call, room->spare, &call->key, head, tokens);
    to_columns(layout, room->keys_t + at, room->spare);
    if (backward) to_values(layout, room->keys + at, room->spare);
    read_panel(room, call, room->spare, &call->value, head, tokens);
    if (!backward) {
        to_values(layout, room->values + at, room->spare);
        return;
    }
    to_columns(layout, room->values_t + at, room->spare);
    memset(room->grad_keys + sums, 0, 4 * room->panel);
    memset(room->grad_values + sums, 0, 4 * room->panel);
}

static void load_globals(Room *room, const Call *call, const Unit *unit, int backward) {
    int64_t tokens[ROWS];
    for (int64_t slot = 0; slot < room->global_slots; slot++) {
        for (int64_t j = 0; j < ROWS; j++) {
            int64_t g = slot * ROWS + j;
            tokens[j] = g < call->num_globals ? call->global_at[g] : -1;
            if (call->key_hash && tokens[j] >= 0) room->hash[g] = call->key_hash[rows_of(call, 0) + g];
        }
        fill_slot(room, call, slot, unit->head, tokens, 0, backward);
    }
}

static void load_panels(Room *room, const Call *call, Unit *unit, int64_t until, int backward) {
    int64_t tokens[ROWS];
    for (; unit->loaded < until; unit->loaded++) {
        int64_t slot = slot_of(room, unit->loaded);
        for (int64_t j = 0; j < ROWS; j++) {
            int64_t row = unit->loaded * ROWS + j;
            tokens[j] = row < unit->rows ? token_of(call, unit, row) : -1;
            if (call->key_hash && tokens[j] >= 0) room->hash[slot * ROWS + j] = call->key_hash[row];
        }
        fill_slot(room, call, slot, unit->head, tokens, 1, backward);
    }
}

/* What sums for the gradients of keys are still to be multiplied with. */
static float key_sums_by(const Room *room) { return room->scores_by * LN_2; }

/* The boundary that ends the unit before `row`, of which there is one if it is inside of the residue's rows. */
static Edge edge_at(const Room *room, const Call *call, const Unit *unit, int64_t row) {
    if (row <= 0 || row >= unit->rows) return (Edge){.first = 0, .last = -1};
    int64_t problems = call->heads * call->dilation, problem = unit->head * call->dilation + unit->residue;
    int64_t number = (row / call->stretch - 1) * problems + problem, panels = (call->left + call->right) / ROWS + 2;
    return (Edge){
        .grads = call->shared_grads + number * 4 * panels * room->panel,
        .sides_done = call->sides_done + number,
        .first = most(0, row - call->left) / ROWS,
        .last = least(unit->rows - 1, row - 1 + call->right) / ROWS,
        .panels = panels,
    };
}

/* Where one side of a boundary writes down its sums for a panel's keys; those for values come `panels` later. */
static float *edge_sums(const Room *room, const Edge *edge, int side, int64_t panel) {
    return edge->grads + (side * 2 * edge->panels + panel - edge->first) * room->panel;
}

static void write_panel(const Room *room, const Call *call, const Unit *unit, int64_t panel, const float *grad_keys,
                        const float *grad_values) {
    int64_t first = panel * ROWS, rows = least(ROWS, unit->rows - first);
    const float *grads = sums_as_rows(&room->layout, grad_keys, room->spare);
    for (int64_t j = 0; j < rows; j++, grads += room->layout.stride)
        write_row(call, &call->grad_key, unit->head, token_of(call, unit, first + j), grads, key_sums_by(room));
    grads = sums_as_rows(&room->layout, grad_values, room->spare);
    for (int64_t j = 0; j < rows; j++, grads += room->layout.stride)
        write_row(call, &call->grad_value, unit->head, token_of(call, unit, first + j), grads, 1.0f);
}

/* Write out the gradients of the panels that no later row of the unit sees: down, where another unit's rows see them. */
static void flush_panels(const Room *room, const Call *call, Unit *unit, int64_t until) {
    Edge edges[2] = {edge_at(room, call, unit, unit->end), edge_at(room, call, unit, unit->begin)};
    for (; unit->flushed < until; unit->flushed++) {
        int64_t at = slot_of(room, unit->flushed) * room->panel;
        const float *grad_keys = room->grad_keys + at, *grad_values = room->grad_values + at;
        int is_shared = 0;
        for (int side = 0; side < 2; side++) {
            const Edge *edge = edges + side;
            if (unit->flushed < edge->first || unit->flushed > edge->last) continue;
            float *sums = edge_sums(room, edge, side, unit->flushed);
            memcpy(sums, grad_keys, 4 * room->panel);
            memcpy(sums + edge->panels * room->panel, grad_values, 4 * room->panel);
            is_shared = 1;
        }
        if (!is_shared) write_panel(room, call, unit, unit->flushed, grad_keys, grad_values);
    }
}

/* At the end of a unit: where the other side of a boundary is done as well, add the two up and write them out. */
static void join_at(const Room *room, const Call *call, const Unit *unit, int64_t row) {
    Edge edge = edge_at(room, call, unit, row);
    if (edge.last < edge.first || __atomic_fetch_add(edge.sides_done, 1, __ATOMIC_ACQ_REL) == 0) return;
    for (int64_t panel = edge.first; panel <= edge.last; panel++) {
        float *sums = edge_sums(room, &edge, 0, panel), *others = edge_sums(room, &edge, 1, panel);
        int64_t values = edge.panels * room->panel;
        for (int64_t j = 0; j < room->panel; j += LANES) {
            store(sums + j, load(sums + j) + load(others + j));
            store(sums + values + j, load(sums + values + j) + load(others + values + j));
        }
        write_panel(room, call, unit, panel, sums, sums + values);
    }
}

static Block block_at(const Room *room, const Call *call, const Unit *unit, int64_t start) {
    Block block = {.start = start, .rows = least(ROWS, unit->end - start)};
    block.filled_up = (block.rows + room->layout.side - 1) / room->layout.side * room->layout.side;
    block.first = most(0, start - call->left) / ROWS;
    block.last = least(unit->rows - 1, start + block.rows - 1 + call->right) / ROWS;
    block.columns = room->global_slots + block.last - block.first + 1;
    return block;
}

/* A block's rows of `from`, 0 where they aren't local; whether one is. */
static int read_block(const Room *room, const Call *call, const Unit *unit, const Block *block, float *to,
                      const Matrix *from, float by) {
    int some = 0;
    for (int64_t i = 0; i < block->filled_up; i++, to += room->layout.stride) {
        int64_t token = token_of(call, unit, block->start + i);
        int alive = i < block->rows && is_local(call, token);
        some |= alive;
        if (alive)
            read_row(room, call, to, from, unit->head, token, by);
        else
            memset(to, 0, 4 * room->layout.stride);
    }
    return some;
}

/* What queries are multiplied with when they are read. */
static float query_by(const Room *room, const Call *call) { return room->layout.terms ? 1.0f : call->scale * LOG2_E; }

static void score_block(const Room *room, const Block *block, const float *left, const float *panels, float *to) {
    for (int64_t c = 0; c < block->columns; c++, to += ROWS) {
        const float *panel = panels + column_slot(room, block, c) * room->layout.operand;
        score(&room->layout, block->filled_up, left, panel, to, room->width);
    }
}

static void gather_block(const Room *room, const Block *block, const float *weights, const float *panels, float *to) {
    for (int64_t c = 0; c < block->columns; c++)
        room->parts[c] = panels + column_slot(room, block, c) * room->layout.operand;
    gather(&room->layout, block->filled_up, weights, room->width, room->parts, block->columns, to);
}

static void scatter_block(const Room *room, const Block *block, const float *weights, const float *turned, float *sums) {
    for (int64_t c = 0; c < block->columns; c++, weights += ROWS) {
        float *panel = sums + column_slot(room, block, c) * room->panel;
        scatter(&room->layout, block->filled_up, weights, room->width, turned, panel);
    }
}

/* A head's positions, as rows and transposed. */
static void load_positions(Room *room, const Call *call, int64_t head) {
    int64_t features = call->features, offsets = call->left + 1;
    memset(room->positions, 0, 4 * room->offsets * room->layout.stride);
    for (int64_t t = 0; t < offsets; t++)
        memcpy(room->positions + t * room->layout.stride, call->positions + (head * offsets + t) * features, 4 * features);
    for (int64_t t = 0; t < room->offsets; t += ROWS)
        to_columns(&room->layout, room->positions_t + t * room->layout.stride, room->positions + t * room->layout.stride);
}

/* Add a head's biases to the rows that meet keys and, apart, to those that meet positions. */
static void add_biases(Room *room, const Call *call, const Unit *unit, const Block *block) {
    const float *content = call->content_bias + unit->head * call->features;
    const float *position = call->position_bias + unit->head * call->features;
    for (int64_t i = 0; i < block->filled_up; i++) {
        float *query = room->query + i * room->layout.stride, *moved = room->position_query + i * room->layout.stride;
        for (int64_t e = 0; e < call->features; e++) moved[e] = query[e] + position[e], query[e] += content[e];
        for (int64_t e = call->features; e < room->layout.stride; e++) moved[e] = 0.0f;
    }
}

/* Of row i the first column, the first offset and their number, where its window's keys meet their positions. */
INLINE int64_t diagonal(const Room *room, const Call *call, const Block *block, int64_t i, int64_t *column,
                        int64_t *offset) {
    int64_t row = block->start + i, from = most(0, row - call->left);
    *column = room->global_slots * ROWS - block->first * ROWS + from;
    *offset = from - (row - call->left);
    return row - from + 1;
}

/* Add the scores of positions. */
static void score_positions(Room *room, const Call *call, const Unit *unit, const Block *block) {
    add_biases(room, call, unit, block);
    for (int64_t t = 0; t < room->offsets; t += ROWS)
        score(&room->layout, block->filled_up, room->position_query, room->positions_t + t * room->layout.stride,
              room->by_offset + t, room->offsets);
}
static void add_positions(const Room *room, const Call *call, const Block *block, int64_t i) {
    int64_t column, offset, count = diagonal(room, call, block, i, &column, &offset);
    float *to = room->scores + i * room->width + column;
    const float *from = room->by_offset + i * room->offsets + offset;
    for (int64_t j = 0; j < count; j++) to[j] += from[j];
}

/* From the gradients of the scores those of positions, biases and rows. */
static void differentiate_positions(Room *room, const Call *call, const Unit *unit, const Block *block) {
    int64_t at = unit->number * call->features;
    memset(room->by_offset, 0, 4 * ROWS * room->offsets);
    for (int64_t i = 0; i < block->rows; i++) {
        int64_t column, offset, count = diagonal(room, call, block, i, &column, &offset);
        memcpy(room->by_offset + i * room->offsets + offset, room->grads + i * room->width + column, 4 * count);
    }
    for (int64_t t = 0; t < room->offsets; t += ROWS) {
        int64_t table = t * room->layout.stride;
        room->parts[t / ROWS] = room->positions + table;
        scatter(&room->layout, block->filled_up, room->by_offset + t, room->offsets, room->position_query,
                room->grad_positions + table);
    }
    gather(&room->layout, block->filled_up, room->by_offset, room->offsets, room->parts, room->offsets / ROWS,
           room->grad_position_query);
    for (int64_t i = 0; i < block->rows; i++) {
        if (!is_local(call, token_of(call, unit, block->start + i))) continue;
        float *query = room->grad_query + i * room->layout.stride, *moved = room->grad_position_query + i * room->layout.stride;
        for (int64_t e = 0; e < call->features; e++) {
            call->grad_content_bias[at + e] += query[e] * call->scale;
            call->grad_position_bias[at + e] += moved[e] * call->scale;
            query[e] += moved[e];
        }
    }
}

/* -inf into the scores of row i wherever it doesn't see a key. */
static void mask_row(const Room *room, const Call *call, const Unit *unit, const Block *block, int64_t i) {
    float *scores = room->scores + i * room->width;
    int64_t row = block->start + i, in_window = room->global_slots * ROWS, shift = in_window - block->first * ROWS;
    int64_t from = shift + most(0, row - call->left), to = shift + least(unit->rows - 1, row + call->right) + 1;
    for (int64_t c = 0; c < block->columns; c++) {
        int64_t slot = column_slot(room, block, c);
        if (!room->some_dead[slot]) continue;
        for (int64_t j = 0; j < ROWS; j += LANES)
            store(scores + c * ROWS + j, load(scores + c * ROWS + j) + load(room->bias + slot * ROWS + j));
    }
    if (call->causal_globals)
        for (int64_t g = 0; g < call->num_globals; g++)
            if (call->global_at[g] > token_of(call, unit, row)) scores[g] = -INFINITY;
    for (int64_t j = in_window; j < from; j++) scores[j] = -INFINITY;
    for (int64_t j = to; j < block->columns * ROWS; j++) scores[j] = -INFINITY;
}

/* All ones where the weights of a row with some keys are kept, all zeros where they are dropped; as dropout.py. */
INLINE Integers kept(const Call *call, int32_t row_hash, const int32_t *key_hash) {
    Integers keys;
    memcpy(&keys, key_hash, sizeof keys);
    return (Integers)((Naturals)keys * (uint32_t)row_hash) < call->drop_below;
}

static int32_t row_hash(const Call *call, const Unit *unit, int64_t row) {
    return call->row_hash[(unit->head * call->dilation + unit->residue) * rows_of(call, 0) + row];
}

/* Scores of row i to weights, 2 ** (score - top), as far as they are kept, in place. */
static void weigh_row(const Room *room, const Call *call, const Unit *unit, const Block *block, int64_t i, float *top,
                      float *total) {
    float *scores = room->scores + i * room->width;
    Vector tops[4] = {all(-INFINITY), all(-INFINITY), all(-INFINITY), all(-INFINITY)};
    for (int64_t j = 0; j < block->columns * ROWS; j += 4 * LANES)
        for (int v = 0; v < 4; v++) tops[v] = larger(tops[v], load(scores + j + v * LANES));
    *top = largest_of(larger(larger(tops[0], tops[1]), larger(tops[2], tops[3]))) * room->scores_by;
    Vector down = all(*top == -INFINITY ? 0.0f : *top), by = all(room->scores_by), sum = {0};
    int32_t hash = call->key_hash ? row_hash(call, unit, block->start + i) : 0;
    for (int64_t c = 0; c < block->columns; c++, scores += ROWS) {
        const int32_t *keys = room->hash + column_slot(room, block, c) * ROWS;
        for (int64_t j = 0; j < ROWS; j += 2 * LANES) {
            Vector weights[2];
            for (int v = 0; v < 2; v++) {
                int64_t at = j + v * LANES;
                weights[v] = exp2_of(load(scores + at) * by - down);
                sum += weights[v];
                if (call->key_hash) weights[v] = (Vector)((Integers)weights[v] & kept(call, hash, keys + at));
            }
            put_weights(&room->layout, scores + j, weights[0], weights[1]);
        }
    }
    *total = sum_of(sum);
}

static void forward_rows(Room *room, const Call *call, Unit *unit) {
    load_globals(room, call, unit, 0);
    if (call->positions) load_positions(room, call, unit->head);
    for (int64_t start = unit->begin; start < unit->end; start += ROWS) {
        Block block = block_at(room, call, unit, start);
        load_panels(room, call, unit, block.last + 1, 0);
        float top[ROWS] = {0}, total[ROWS] = {0};
        if (read_block(room, call, unit, &block, room->query, &call->query, query_by(room, call))) {
            if (call->positions) score_positions(room, call, unit, &block);
            const float *left = as_left(&room->layout, block.filled_up, room->query, room->left);
            score_block(room, &block, left, room->keys_t, room->scores);
            for (int64_t i = 0; i < block.rows; i++) {
                if (call->positions) add_positions(room, call, &block, i);
                mask_row(room, call, unit, &block, i);
                weigh_row(room, call, unit, &block, i, top + i, total + i);
            }
            gather_block(room, &block, room->scores, room->values, room->out);
        }
        for (int64_t i = 0; i < block.rows; i++) {
            int64_t token = token_of(call, unit, start + i);
            float *out = room->out + i * room->layout.stride;
            int alive = is_local(call, token);
            if (!alive) memset(out, 0, 4 * room->layout.stride);
            write_row(call, &call->out, unit->head, token, out, alive ? 1.0f / (total[i] * call->keep) : 0.0f);
            *number(&call->lse, unit->head, token) = alive ? (top[i] + log2f(total[i])) * LN_2 : -INFINITY;
        }
    }
}

/* Scores to the softmax's weights, as far as they are kept, and products of the gradient with values to gradients of
the scores, both in place; 0 in a row that isn't local. What a softmax's backward takes from the gradient of each weight
is summed up from the weights themselves: from the output it would bring the rounding of 16 bits along. And the weights
add up to 1 whatever the rounding of a large LSE. */
static void differentiate_row(const Room *room, const Call *call, const Unit *unit, const Block *block, int64_t i) {
    float *weights = room->scores + i * room->width, *grads = room->grads + i * room->width;
    int64_t token = token_of(call, unit, block->start + i);
    if (i >= block->rows || !is_local(call, token)) {
        memset(weights, 0, 4 * block->columns * ROWS);
        memset(grads, 0, 4 * block->columns * ROWS);
        return;
    }
    if (call->positions) add_positions(room, call, block, i);
    mask_row(room, call, unit, block, i);
    Vector lse = all(*number(&call->lse, unit->head, token) * LOG2_E), by = all(room->scores_by);
    Vector more = all(1.0f / call->keep); /* what is kept stands for what is dropped */
    int32_t hash = call->key_hash ? row_hash(call, unit, block->start + i) : 0;
    Vector sums[2] = {{0}, {0}}, totals[2] = {{0}, {0}};
    for (int64_t c = 0; c < block->columns; c++) {
        const int32_t *keys = room->hash + column_slot(room, block, c) * ROWS;
        for (int64_t j = 0; j < ROWS; j += 2 * LANES)
            for (int v = 0; v < 2; v++) {
                int64_t at = j + v * LANES, to = c * ROWS + at;
                Vector weight = exp2_of(load(weights + to) * by - lse), grad = load(grads + to);
                if (call->key_hash) {
                    grad = (Vector)((Integers)(grad * more) & kept(call, hash, keys + at));
                    store(grads + to, grad);
                }
                store(weights + to, weight);
                sums[v] += weight * grad;
                totals[v] += weight;
            }
    }
    float share = 1.0f / sum_of(totals[0] + totals[1]), less = sum_of(sums[0] + sums[1]) * share;
    if (call->grad_lse.at) less -= *number(&call->grad_lse, unit->head, token);
    Vector by_total = all(share), delta = all(less);
    for (int64_t c = 0; c < block->columns; c++, weights += ROWS, grads += ROWS) {
        const int32_t *keys = room->hash + column_slot(room, block, c) * ROWS;
        for (int64_t j = 0; j < ROWS; j += 2 * LANES) {
            Vector left[2], of_scores[2];
            for (int v = 0; v < 2; v++) {
                int64_t at = j + v * LANES;
                left[v] = load(weights + at) * by_total;
                of_scores[v] = left[v] * (load(grads + at) - delta);
                if (call->key_hash) left[v] = (Vector)((Integers)(left[v] * more) & kept(call, hash, keys + at));
            }
            put_weights(&room->layout, grads + j, of_scores[0], of_scores[1]);
            put_weights(&room->layout, weights + j, left[0], left[1]);
        }
    }
}

static void backward_rows(Room *room, const Call *call, Unit *unit) {
    const Layout *layout = &room->layout;
    load_globals(room, call, unit, 1);
    if (call->positions) {
        load_positions(room, call, unit->head);
        memset(room->grad_positions, 0, 4 * room->offsets * room->layout.stride);
    }
    for (int64_t start = unit->begin; start < unit->end; start += ROWS) {
        Block block = block_at(room, call, unit, start);
        flush_panels(room, call, unit, block.first);
        load_panels(room, call, unit, block.last + 1, 1);
        if (read_block(room, call, unit, &block, room->query, &call->query, query_by(room, call))) {
            read_block(room, call, unit, &block, room->grad_out, &call->grad_out, 1.0f);
            if (call->positions) score_positions(room, call, unit, &block);
            int64_t rows = block.filled_up;
            score_block(room, &block, as_left(layout, rows, room->query, room->left), room->keys_t, room->scores);
            score_block(room, &block, as_left(layout, rows, room->grad_out, room->left_grad), room->values_t, room->grads);
            for (int64_t i = 0; i < rows; i++) differentiate_row(room, call, unit, &block, i);
            const float *query = as_turned(layout, rows, room->query, room->turned);
            const float *grad_out = as_turned(layout, rows, room->grad_out, room->turned_grad);
            gather_block(room, &block, room->grads, room->keys, room->grad_query);
            scatter_block(room, &block, room->grads, query, room->grad_keys);
            scatter_block(room, &block, room->scores, grad_out, room->grad_values);
            if (call->positions) differentiate_positions(room, call, unit, &block);
        }
        for (int64_t i = 0; i < block.rows; i++) {
            float *grad = room->grad_query + i * room->layout.stride;
            if (!is_local(call, token_of(call, unit, start + i))) memset(grad, 0, 4 * room->layout.stride); /* 0 times inf */
            write_row(call, &call->grad_query, unit->head, token_of(call, unit, start + i), grad, call->scale);
        }
    }
    flush_panels(room, call, unit, unit->loaded);
    join_at(room, call, unit, unit->begin);
    join_at(room, call, unit, unit->end);
    for (int64_t t = 0; call->positions && t <= call->left; t++)
        for (int64_t e = 0; e < call->features; e++) {
            int64_t to = (unit->number * (call->left + 1) + t) * call->features + e;
            call->grad_positions[to] = room->grad_positions[t * room->layout.stride + e] * LN_2;
        }
    for (int64_t g = 0; g < call->num_globals; g++)
        for (int64_t e = 0; e < call->features; e++) {
            int64_t to = (unit->number * call->num_globals + g) * call->features + e;
            int64_t from = g / ROWS * room->panel + place_of(layout, g % ROWS, e);
            call->global_grad_key[to] = room->grad_keys[from] * key_sums_by(room);
            call->global_grad_value[to] = room->grad_values[from];
        }
}

/* Whether the compiler knew fp16 (GCC 12 on x86); else it must not be asked for. */
int longspan_has_fp16(void) {
#ifdef __FLT16_MANT_DIG__
    return 1;
#else
    return 0;
#endif
}

/* Take the next unit that nobody has taken; 0 if there is none. */
static int take_unit(const Call *call, Unit *unit) {
    /* The same rows of all heads one after another: where tokens are rows of all heads' features, they share pages. */
    int64_t problems = call->heads * call->dilation;
    int64_t units = problems * ((rows_of(call, 0) + call->stretch - 1) / call->stretch);
    for (;;) {
        int64_t number = __atomic_fetch_add(call->next, 1, __ATOMIC_RELAXED);
        if (number >= units) return 0;
        *unit = (Unit){.number = number, .head = number % problems / call->dilation, .residue = number % call->dilation};
        unit->rows = rows_of(call, unit->residue);
        unit->begin = number / problems * call->stretch;
        unit->end = least(unit->rows, unit->begin + call->stretch);
        unit->loaded = unit->flushed = most(0, unit->begin - call->left) / ROWS;
        if (unit->begin < unit->end) return 1; /* of the residues some have a row less */
    }
}

/* Work on units until none is left; any number of threads may do so at once. Gives 0 if there is no memory. */
static int work(const Call *call, int backward) {
    Unit unit;
    Room room = {0};
    if (!take_unit(call, &unit)) return 1;
    if (!make_room(&room, call, backward)) return 0;
    products_begin(&room.layout);
    do {
        if (backward) backward_rows(&room, call, &unit);
        else forward_rows(&room, call, &unit);
    } while (take_unit(call, &unit));
    products_end(&room.layout);
    free(room.memory);
    return 1;
}

/* A call for several threads. */
typedef struct {
    const Call *call;
    int backward, done;
} Shared;

static void share(void *of) {
    Shared *shared = of;
    if (!work(shared->call, shared->backward)) __atomic_store_n(&shared->done, 0, __ATOMIC_RELAXED);
}

/* Work in `threads` threads by `parallel`, OpenMP's, which runs a function in each; or in this one alone, where it is
null. Gives 0 if there is no memory. */
int longspan_band(const Call *call, int backward, void (*parallel)(void (*)(void *), void *, unsigned, unsigned),
                  unsigned threads) {
    Shared shared = {.call = call, .backward = backward, .done = 1};
    if (parallel) parallel(share, &shared, threads, 0);
    else share(&shared);
    return shared.done;
}
