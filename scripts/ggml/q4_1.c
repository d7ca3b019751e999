/* Q4_1 weights, the default model's, times 8-bit activations.
 *
 * The same bits as ggml's own (tests/router/engine/test_kernels.py), with fewer instructions. Both
 * 16-bit floats of a block are loaded and widened together, and the products of the blocks' minima
 * and sums are added up in vectors. Where there are several columns of activations (sequences, or
 * tokens of a prompt), a block of weights is unpacked once for eight of them.
 */
#define GGML_COMMON_DECL_C
#include "ggml-common.h"

#include "ggml-cpu-impl.h"
#include "llamafile/sgemm.h"
#include "quants.h"

void ggml_vec_dot_q4_1_q8_1_stock(int n, float *s, size_t bs, const void *vx, size_t bx,
                                  const void *vy, size_t by, int nrc);
bool llamafile_sgemm_stock(const struct ggml_compute_params *params, int64_t m, int64_t n,
                           int64_t k, const void *A, int64_t lda, const void *B, int64_t ldb,
                           void *C, int64_t ldc, int Atype, int Btype, int Ctype);

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>
#include <string.h>

/* (d, m) of weights, (d, s) of activations */
static inline __m128 two_halves(const void *block) {
    int halves;
    memcpy(&halves, block, sizeof halves);
    return _mm_cvtph_ps(_mm_cvtsi32_si128(halves));
}

/* 32 numbers of 4 bits as bytes: the low halves of 16 bytes, then the high ones */
static inline __m256i nibbles(const uint8_t *packed) {
    const __m128i low = _mm_loadu_si128((const __m128i *) packed);
    const __m128i high = _mm_srli_epi16(low, 4);
    const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    return _mm256_and_si256(both, _mm256_set1_epi8(15));
}

/* sums of four products each, exact as integers, so that any instruction gives the same bits */
static inline __m256 sums_of_four(__m256i x, __m256i y) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    return _mm256_cvtepi32_ps(_mm256_dpbusd_epi32(_mm256_setzero_si256(), x, y));
#elif defined(__AVXVNNI__)
    return _mm256_cvtepi32_ps(_mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), x, y));
#else
    const __m256i pairs = _mm256_maddubs_epi16(x, y);
    return _mm256_cvtepi32_ps(_mm256_madd_epi16(_mm256_set1_epi16(1), pairs));
#endif
}

static inline float sum(__m256 x) {
    __m128 four = _mm_add_ps(_mm256_extractf128_ps(x, 1), _mm256_castps256_ps128(x));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

void ggml_vec_dot_q4_1_q8_1(int n, float *s, size_t bs, const void *vx, size_t bx, const void *vy,
                            size_t by, int nrc) {
    (void) bs, (void) bx, (void) by, (void) nrc; /* one row, one column */
    const block_q4_1 *x = vx;
    const block_q8_1 *y = vy;
    __m256 products = _mm256_setzero_ps();
    __m128 minima = _mm_setzero_ps(); /* in its second lane */
    for (int i = 0; i < n / QK8_1; i++) {
        const __m128 of_x = two_halves(&x[i]), of_y = two_halves(&y[i]);
        const __m256 scale = _mm256_broadcastss_ps(_mm_mul_ss(of_x, of_y));
        const __m256i bytes = _mm256_loadu_si256((const __m256i *) y[i].qs);
        products = _mm256_fmadd_ps(scale, sums_of_four(nibbles(x[i].qs), bytes), products);
        minima = _mm_fmadd_ps(of_x, of_y, minima);
    }
    *s = sum(products) + _mm_cvtss_f32(_mm_movehdup_ps(minima));
}

enum {
    COLUMNS = 8, /* of a panel: one lane of a vector each */
#if defined(__AVX512VL__)
    ROWS = 2, /* at once, with 32 registers */
#else
    ROWS = 1,
#endif
    CHUNK = 32,       /* rows that a thread takes at a time */
    MOST_BLOCKS = 256 /* of a row: a panel must fit the stack of a thread */
};

/* Blocks at the same place of a panel's columns. */
typedef struct {
    _Alignas(32) int8_t qs[COLUMNS][QK8_1];
    float d[COLUMNS], s[COLUMNS];
} panel_block;

typedef struct {
    const block_q4_1 *weights;
    const block_q8_1 *activations;
    float *out;
    int64_t n_blocks, row_blocks, column_blocks, out_stride;
} product;

/* `rows` x `columns` numbers; the compiler knows how many, and keeps all sums in registers. */
static inline __attribute__((always_inline)) void tile(const product *p, const panel_block *y,
                                                       int64_t row, int64_t column, const int rows,
                                                       const int columns) {
    const block_q4_1 *x = p->weights + row * p->row_blocks;
    _Alignas(32) float scales[ROWS][MOST_BLOCKS][COLUMNS];
    __m256 products[ROWS][COLUMNS], minima[ROWS];
    for (int r = 0; r < rows; r++) {
        minima[r] = _mm256_setzero_ps();
        for (int c = 0; c < columns; c++) products[r][c] = _mm256_setzero_ps();
    }
    /* The scales first, so that they lie in memory when each is spread over a vector. */
    for (int r = 0; r < rows; r++) {
        for (int64_t i = 0; i < p->n_blocks; i++) {
            const __m128 of_x = two_halves(&x[r * p->row_blocks + i]);
            const __m256 d = _mm256_broadcastss_ps(of_x);
            const __m256 m = _mm256_broadcastss_ps(_mm_movehdup_ps(of_x));
            _mm256_store_ps(scales[r][i], _mm256_mul_ps(d, _mm256_load_ps(y[i].d)));
            minima[r] = _mm256_fmadd_ps(m, _mm256_load_ps(y[i].s), minima[r]);
        }
    }
    for (int64_t i = 0; i < p->n_blocks; i++) {
        __m256i numbers[ROWS];
        for (int r = 0; r < rows; r++) numbers[r] = nibbles(x[r * p->row_blocks + i].qs);
        for (int c = 0; c < columns; c++) {
            const __m256i bytes = _mm256_load_si256((const __m256i *) y[i].qs[c]);
            for (int r = 0; r < rows; r++) {
                const __m256 scale = _mm256_broadcast_ss(&scales[r][i][c]);
                const __m256 sums = sums_of_four(numbers[r], bytes);
                products[r][c] = _mm256_fmadd_ps(scale, sums, products[r][c]);
            }
        }
    }
    for (int r = 0; r < rows; r++) {
        float of_minima[COLUMNS];
        _mm256_storeu_ps(of_minima, minima[r]);
        for (int c = 0; c < columns; c++) {
            p->out[(column + c) * p->out_stride + row + r] = sum(products[r][c]) + of_minima[c];
        }
    }
}

static inline __attribute__((always_inline)) void tiles(const product *p, const panel_block *y,
                                                        int64_t row, int64_t end, int64_t column,
                                                        const int columns) {
    for (; row + ROWS <= end; row += ROWS) tile(p, y, row, column, ROWS, columns);
    for (; row < end; row++) tile(p, y, row, column, 1, columns);
}

static void fill(panel_block *y, const product *p, int64_t column, int columns) {
    for (int c = 0; c < columns; c++) {
        const block_q8_1 *blocks = p->activations + (column + c) * p->column_blocks;
        for (int64_t i = 0; i < p->n_blocks; i++) {
            const __m128 of_block = two_halves(&blocks[i]);
            y[i].d[c] = _mm_cvtss_f32(of_block);
            y[i].s[c] = _mm_cvtss_f32(_mm_movehdup_ps(of_block));
            memcpy(y[i].qs[c], blocks[i].qs, QK8_1);
        }
    }
}

/* Rows `row` to `end` of the weights times all `n` columns, in panels of about the same width. */
static void rows_times_columns(const product *p, int64_t row, int64_t end, int64_t n) {
    panel_block y[MOST_BLOCKS];
    const int64_t n_panels = (n + COLUMNS - 1) / COLUMNS;
    for (int64_t i = 0; i < n_panels; i++) {
        const int64_t column = i * n / n_panels;
        const int columns = (int) ((i + 1) * n / n_panels - column);
        fill(y, p, column, columns);
        switch (columns) {
            case 1: tiles(p, y, row, end, column, 1); break;
            case 2: tiles(p, y, row, end, column, 2); break;
            case 3: tiles(p, y, row, end, column, 3); break;
            case 4: tiles(p, y, row, end, column, 4); break;
            case 5: tiles(p, y, row, end, column, 5); break;
            case 6: tiles(p, y, row, end, column, 6); break;
            case 7: tiles(p, y, row, end, column, 7); break;
            case 8: tiles(p, y, row, end, column, 8); break;
        }
    }
}

/* ggml asks this for the product of two matrices: m rows of A, n of B, of k blocks each. */
bool llamafile_sgemm(const struct ggml_compute_params *params, int64_t m, int64_t n, int64_t k,
                     const void *A, int64_t lda, const void *B, int64_t ldb, void *C, int64_t ldc,
                     int Atype, int Btype, int Ctype) {
    const bool ours = Atype == GGML_TYPE_Q4_1 && Btype == GGML_TYPE_Q8_1 && Ctype == GGML_TYPE_F32;
    if (!ours || n < 2 || k > MOST_BLOCKS) {
        return llamafile_sgemm_stock(params, m, n, k, A, lda, B, ldb, C, ldc, Atype, Btype, Ctype);
    }
    const product p = {A, B, C, k, lda, ldb, ldc};
    if (params->ith == 0) ggml_threadpool_chunk_set(params->threadpool, params->nth);
    ggml_barrier(params->threadpool);
    for (int64_t chunk = params->ith; chunk * CHUNK < m;
         chunk = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        const int64_t end = (chunk + 1) * CHUNK;
        rows_times_columns(&p, chunk * CHUNK, end < m ? end : m, n);
    }
    ggml_barrier(params->threadpool);
    return true;
}

#else

void ggml_vec_dot_q4_1_q8_1(int n, float *s, size_t bs, const void *vx, size_t bx, const void *vy,
                            size_t by, int nrc) {
    ggml_vec_dot_q4_1_q8_1_stock(n, s, bs, vx, bx, vy, by, nrc);
}

bool llamafile_sgemm(const struct ggml_compute_params *params, int64_t m, int64_t n, int64_t k,
                     const void *A, int64_t lda, const void *B, int64_t ldb, void *C, int64_t ldc,
                     int Atype, int Btype, int Ctype) {
    return llamafile_sgemm_stock(params, m, n, k, A, lda, B, ldb, C, ldc, Atype, Btype, Ctype);
}

#endif
