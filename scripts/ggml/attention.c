/* Flash attention for keys in Q8_0 and values in 16 bits, the types that make answers repeatable.
 *
 * ggml's own takes one row (a head at a token) after the other and one cell of the cache at a time,
 * and adds up in 16 bits. This one takes several rows at once, which share what is read and
 * unpacked, and 64 cells at a time, and adds up in 32 bits: faster and more exact. What it computes
 * for a row depends on nothing but that row and the cells that it sees: the cells' tiles begin at
 * the same places whatever else is computed, so a row has the same bits alone and among others
 * (tests/router/engine/test_kernels.py).
 */
#define GGML_COMMON_DECL_C
#include "ggml-common.h"

#include "ggml-cpu-impl.h"
#include "ops.h"
#include "quants.h"
#include "vec.h"

void ggml_compute_forward_flash_attn_ext_stock(const struct ggml_compute_params *params,
                                               struct ggml_tensor *dst);

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__) && \
    defined(__AVX512DQ__)
#include <immintrin.h>
#include <math.h>
#include <string.h>

enum {
    ROWS = 6,        /* computed at once: 32 registers hold 4 vectors of sums of each */
    LANES = 16,      /* of a vector */
    CELLS = 64,      /* of a tile */
    MOST_NUMBERS = 256, /* of a head's key or value */
    MOST_BLOCKS = MOST_NUMBERS / QK8_0,
    GROUPS = QK8_0 / 4 /* of a block: four bytes are multiplied and added up at once */
};

/* A tile of keys, turned: the same four numbers of all cells side by side, as unsigned bytes. */
typedef struct {
    _Alignas(64) uint32_t numbers[MOST_BLOCKS][GROUPS][CELLS];
    float scales[MOST_BLOCKS][CELLS];
} key_tile;

typedef struct {
    block_q8_0 query[MOST_BLOCKS];
    float scales[MOST_BLOCKS];
    int32_t offsets[MOST_BLOCKS]; /* what unsigned keys add to a product too much, negated */
    const ggml_fp16_t *mask;      /* NULL: sees all cells */
    uint64_t seen;                /* cells of the tile that it sees, a bit each */
    float largest, total;         /* of the scores so far; of their exponentials */
    float weights[CELLS];         /* of the tile's cells */
    _Alignas(64) float sums[MOST_NUMBERS];
    float *out;
} row;

static inline __m512i two_cells(const char *low, const char *high) {
    const __m256i of_low = _mm256_loadu_si256((const __m256i *) low);
    const __m256i of_high = _mm256_loadu_si256((const __m256i *) high);
    return _mm512_inserti64x4(_mm512_castsi256_si512(of_low), of_high, 1);
}

/* Turns one block of 16 keys, `stride` bytes apart: out[g] is their four numbers g. */
static inline void turn(const char *numbers, size_t stride, uint32_t out[GROUPS][CELLS]) {
    __m512i pairs[8], fours[8];
    for (int i = 0; i < 8; i++) {
        pairs[i] = two_cells(numbers + i * stride, numbers + (i + 8) * stride);
    }
    for (int half = 0; half < 8; half += 4) {
        const __m512i a = _mm512_unpacklo_epi32(pairs[half], pairs[half + 1]);
        const __m512i b = _mm512_unpackhi_epi32(pairs[half], pairs[half + 1]);
        const __m512i c = _mm512_unpacklo_epi32(pairs[half + 2], pairs[half + 3]);
        const __m512i d = _mm512_unpackhi_epi32(pairs[half + 2], pairs[half + 3]);
        fours[half] = _mm512_unpacklo_epi64(a, c);
        fours[half + 1] = _mm512_unpackhi_epi64(a, c);
        fours[half + 2] = _mm512_unpacklo_epi64(b, d);
        fours[half + 3] = _mm512_unpackhi_epi64(b, d);
    }
    const __m512i even = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
    const __m512i odd = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    const __m512i sign = _mm512_set1_epi8(-128); /* signed bytes become unsigned, plus 128 */
    for (int g = 0; g < 4; g++) {
        const __m512i low = _mm512_permutex2var_epi64(fours[g], even, fours[g + 4]);
        const __m512i high = _mm512_permutex2var_epi64(fours[g], odd, fours[g + 4]);
        _mm512_store_si512(out[g], _mm512_xor_si512(low, sign));
        _mm512_store_si512(out[g + 4], _mm512_xor_si512(high, sign));
    }
}

/* Reads `n` keys; of the others nothing is used, whatever the tile held before. */
static void read_keys(key_tile *tile, const char *keys, size_t stride, int n, int n_blocks) {
    static const block_q8_0 none;
    for (int b = 0; b < n_blocks; b++) {
        const char *blocks = keys + b * sizeof(block_q8_0);
        for (int first = 0; first < CELLS; first += LANES) {
            uint32_t(*out)[CELLS] = (uint32_t(*)[CELLS]) &tile->numbers[b][0][first];
            if (first + LANES <= n) {
                turn(blocks + first * stride + offsetof(block_q8_0, qs), stride, out);
                continue;
            }
            block_q8_0 some[LANES];
            for (int i = 0; i < LANES; i++) {
                const bool there = first + i < n;
                some[i] = there ? *(const block_q8_0 *) (blocks + (first + i) * stride) : none;
            }
            turn((const char *) some[0].qs, sizeof some[0], out);
        }
        for (int i = 0; i < CELLS; i++) {
            const block_q8_0 *block = (const block_q8_0 *) (blocks + i * stride);
            tile->scales[b][i] = i < n ? GGML_CPU_FP16_TO_FP32(block->d) : 0.0f;
        }
    }
}

/* Which of the `n` cells from `first` on a row sees. */
static inline uint64_t cells_seen(const ggml_fp16_t *mask, int64_t first, int n) {
    const uint64_t there = n == CELLS ? UINT64_MAX : (UINT64_C(1) << n) - 1;
    if (mask == NULL) return there;
    const __m512i hidden = _mm512_set1_epi16((short) 0xFC00); /* minus infinity */
    uint64_t seen = 0;
    for (int half = 0; half < CELLS; half += 32) {
        const __mmask32 lanes = (__mmask32) (there >> half);
        const __m512i values = _mm512_maskz_loadu_epi16(lanes, mask + first + half);
        seen |= (uint64_t) _mm512_mask_cmpneq_epi16_mask(lanes, values, hidden) << half;
    }
    return seen;
}

/* The scores of all rows at a vector of cells: query times key, scaled. */
static inline __attribute__((always_inline)) void products(const row *rows, const key_tile *tile,
                                                           int vector, int n_blocks,
                                                           __m512 scores[ROWS], const int n_rows) {
    for (int r = 0; r < n_rows; r++) scores[r] = _mm512_setzero_ps();
    for (int b = 0; b < n_blocks; b++) {
        __m512i sums[ROWS];
        for (int r = 0; r < n_rows; r++) sums[r] = _mm512_set1_epi32(rows[r].offsets[b]);
        for (int g = 0; g < GROUPS; g++) {
            const __m512i keys = _mm512_load_si512(&tile->numbers[b][g][vector * LANES]);
            for (int r = 0; r < n_rows; r++) {
                int32_t four;
                memcpy(&four, rows[r].query[b].qs + 4 * g, sizeof four);
                sums[r] = _mm512_dpbusd_epi32(sums[r], keys, _mm512_set1_epi32(four));
            }
        }
        const __m512 of_keys = _mm512_loadu_ps(&tile->scales[b][vector * LANES]);
        for (int r = 0; r < n_rows; r++) {
            const __m512 scale = _mm512_mul_ps(of_keys, _mm512_set1_ps(rows[r].scales[b]));
            scores[r] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(sums[r]), scores[r]);
        }
    }
}

/* Turns scores into weights, and what was summed up so far to the same scale. */
static inline void weigh(row *r, __m512 scores[CELLS / LANES], int64_t first, int n_numbers) {
    if (r->seen == 0) return;
    const __m512 none = _mm512_set1_ps(-INFINITY);
    __m512 largest = none, total = _mm512_setzero_ps();
    for (int v = 0; v < CELLS / LANES; v++) {
        const __mmask16 seen = (__mmask16) (r->seen >> (v * LANES));
        if (r->mask != NULL) {
            const void *mask = r->mask + first + v * LANES;
            const __m256i added = _mm256_maskz_loadu_epi16(seen, mask);
            scores[v] = _mm512_add_ps(scores[v], _mm512_cvtph_ps(added));
        }
        scores[v] = _mm512_mask_blend_ps(seen, none, scores[v]);
        largest = _mm512_max_ps(largest, scores[v]);
    }
    const float before = r->largest, now = _mm512_reduce_max_ps(largest);
    if (now > before) {
        const float shrink = expf(before - now);
        r->largest = now;
        r->total *= shrink;
        for (int i = 0; i < n_numbers; i++) r->sums[i] *= shrink;
    }
    for (int v = 0; v < CELLS / LANES; v++) {
        const __mmask16 seen = (__mmask16) (r->seen >> (v * LANES));
        const __m512 distance = _mm512_sub_ps(scores[v], _mm512_set1_ps(r->largest));
        const __m512 weights = _mm512_maskz_mov_ps(seen, ggml_v_expf(distance));
        _mm512_storeu_ps(r->weights + v * LANES, weights);
        total = _mm512_add_ps(total, weights);
    }
    r->total += _mm512_reduce_add_ps(total);
}

/* Adds the weighted `vectors` x 16 numbers of the tile's values to the sums. */
static inline __attribute__((always_inline)) void add_values(row *rows, const char *values,
                                                             size_t stride, uint64_t seen,
                                                             int first_number, const int n_rows,
                                                             const int vectors) {
    __m512 sums[ROWS][4];
    for (int r = 0; r < n_rows; r++) {
        for (int v = 0; v < vectors; v++) {
            sums[r][v] = _mm512_load_ps(rows[r].sums + first_number + v * LANES);
        }
    }
    for (; seen != 0; seen &= seen - 1) {
        const int cell = __builtin_ctzll(seen);
        const ggml_fp16_t *halves = (const ggml_fp16_t *) (values + cell * stride) + first_number;
        __m512 numbers[4];
        for (int v = 0; v < vectors; v++) {
            const void *of_vector = halves + v * LANES;
            numbers[v] = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) of_vector));
        }
        for (int r = 0; r < n_rows; r++) {
            if ((rows[r].seen >> cell & 1) == 0) continue; /* it may be infinite, or no number */
            const __m512 weight = _mm512_set1_ps(rows[r].weights[cell]);
            for (int v = 0; v < vectors; v++) {
                sums[r][v] = _mm512_fmadd_ps(weight, numbers[v], sums[r][v]);
            }
        }
    }
    for (int r = 0; r < n_rows; r++) {
        for (int v = 0; v < vectors; v++) {
            _mm512_store_ps(rows[r].sums + first_number + v * LANES, sums[r][v]);
        }
    }
}

typedef struct {
    const struct ggml_tensor *k, *v;
    const char *keys, *values; /* of one head of one sequence */
} cache;

static inline __attribute__((always_inline)) void attend(row *rows, const cache *c,
                                                         const int n_rows) {
    const int n_blocks = (int) (c->k->ne[0] / QK8_0), n_numbers = (int) c->v->ne[0];
    const int64_t n_cells = c->k->ne[1];
    const size_t key_stride = c->k->nb[1], value_stride = c->v->nb[1];
    key_tile tile;
    for (int64_t first = 0; first < n_cells; first += CELLS) {
        const int n = n_cells - first < CELLS ? (int) (n_cells - first) : CELLS;
        uint64_t seen = 0;
        for (int r = 0; r < n_rows; r++) {
            rows[r].seen = cells_seen(rows[r].mask, first, n);
            seen |= rows[r].seen;
        }
        if (seen == 0) continue;
        read_keys(&tile, c->keys + first * key_stride, key_stride, n, n_blocks);
        __m512 scores[CELLS / LANES][ROWS];
        for (int v = 0; v < CELLS / LANES; v++) {
            products(rows, &tile, v, n_blocks, scores[v], n_rows);
        }
        for (int r = 0; r < n_rows; r++) {
            __m512 of_row[CELLS / LANES];
            for (int v = 0; v < CELLS / LANES; v++) of_row[v] = scores[v][r];
            weigh(&rows[r], of_row, first, n_numbers);
        }
        const char *values = c->values + first * value_stride;
        int d = 0;
        for (; d + 4 * LANES <= n_numbers; d += 4 * LANES) {
            add_values(rows, values, value_stride, seen, d, n_rows, 4);
        }
        for (; d < n_numbers; d += LANES) {
            add_values(rows, values, value_stride, seen, d, n_rows, 1);
        }
    }
    for (int r = 0; r < n_rows; r++) {
        const float share = rows[r].total == 0.0f ? 0.0f : 1.0f / rows[r].total;
        for (int i = 0; i < n_numbers; i++) rows[r].out[i] = rows[r].sums[i] * share;
    }
}

static void begin(row *r, const struct ggml_tensor *dst, int64_t token, int64_t head,
                  int64_t sequence, float scale) {
    const struct ggml_tensor *q = dst->src[0], *mask = dst->src[3];
    const char *query =
        (const char *) q->data + token * q->nb[1] + head * q->nb[2] + sequence * q->nb[3];
    quantize_row_q8_0((const float *) query, r->query, q->ne[0]);
    for (int b = 0; b < q->ne[0] / QK8_0; b++) {
        int32_t sum = 0;
        for (int i = 0; i < QK8_0; i++) sum += r->query[b].qs[i];
        r->offsets[b] = -128 * sum;
        r->scales[b] = scale * GGML_CPU_FP16_TO_FP32(r->query[b].d);
    }
    r->mask = NULL;
    if (mask != NULL) {
        r->mask = (const ggml_fp16_t *) ((const char *) mask->data + token * mask->nb[1] +
                                         (head % mask->ne[2]) * mask->nb[2] +
                                         (sequence % mask->ne[3]) * mask->nb[3]);
    }
    r->largest = -INFINITY;
    r->total = 0.0f;
    memset(r->sums, 0, sizeof r->sums);
    const int64_t place = (sequence * dst->ne[2] + token) * dst->ne[1] + head;
    r->out = (float *) ((char *) dst->data + place * dst->nb[1]);
}

/* The rows of one head of keys at some tokens: rows `first` to `end`, by token, then by head. */
static void attend_rows(const struct ggml_tensor *dst, float scale, int64_t sequence,
                        int64_t key_head, int64_t first, int64_t end) {
    const struct ggml_tensor *q = dst->src[0], *k = dst->src[1], *v = dst->src[2];
    const int64_t heads = q->ne[2] / k->ne[2]; /* that share keys and values */
    const int64_t of_cache = sequence / (q->ne[3] / k->ne[3]);
    const cache c = {k, v, (const char *) k->data + key_head * k->nb[2] + of_cache * k->nb[3],
                     (const char *) v->data + key_head * v->nb[2] + of_cache * v->nb[3]};
    row rows[ROWS];
    for (int64_t i = first; i < end; i++) {
        const int64_t head = key_head * heads + i % heads;
        begin(&rows[i - first], dst, i / heads, head, sequence, scale);
    }
    switch (end - first) {
        case 1: attend(rows, &c, 1); break;
        case 2: attend(rows, &c, 2); break;
        case 3: attend(rows, &c, 3); break;
        case 4: attend(rows, &c, 4); break;
        case 5: attend(rows, &c, 5); break;
        case 6: attend(rows, &c, 6); break;
    }
}

static bool is_ours(const struct ggml_compute_params *params, const struct ggml_tensor *dst,
                    float max_bias, float softcap) {
    const struct ggml_tensor *q = dst->src[0], *k = dst->src[1], *v = dst->src[2];
    return !params->use_ref && q->type == GGML_TYPE_F32 && k->type == GGML_TYPE_Q8_0 &&
           v->type == GGML_TYPE_F16 && dst->src[4] == NULL && max_bias == 0.0f &&
           softcap == 0.0f && k->ne[0] <= MOST_NUMBERS && v->ne[0] <= MOST_NUMBERS &&
           v->ne[0] % LANES == 0 && v->ne[2] == k->ne[2] && v->ne[3] == k->ne[3];
}

void ggml_compute_forward_flash_attn_ext(const struct ggml_compute_params *params,
                                         struct ggml_tensor *dst) {
    float of_op[3]; /* scale, max_bias, softcap */
    memcpy(of_op, dst->op_params, sizeof of_op);
    if (!is_ours(params, dst, of_op[1], of_op[2])) {
        ggml_compute_forward_flash_attn_ext_stock(params, dst);
        return;
    }
    const struct ggml_tensor *q = dst->src[0], *k = dst->src[1];
    const int64_t n_rows = q->ne[1] * (q->ne[2] / k->ne[2]); /* of a head of keys */
    const int64_t n_tiles = (n_rows + ROWS - 1) / ROWS;
    const int64_t n_jobs = q->ne[3] * k->ne[2] * n_tiles;
    if (params->ith == 0) ggml_threadpool_chunk_set(params->threadpool, params->nth);
    ggml_barrier(params->threadpool);
    for (int64_t job = params->ith; job < n_jobs;
         job = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        const int64_t of_head = job / n_tiles, first = job % n_tiles * ROWS;
        const int64_t end = first + ROWS < n_rows ? first + ROWS : n_rows;
        attend_rows(dst, of_op[0], of_head / k->ne[2], of_head % k->ne[2], first, end);
    }
}

#else

void ggml_compute_forward_flash_attn_ext(const struct ggml_compute_params *params,
                                         struct ggml_tensor *dst) {
    ggml_compute_forward_flash_attn_ext_stock(params, dst);
}

#endif
