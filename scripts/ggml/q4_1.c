/* The scalar product of Q4_1 weights, the default model's, with 8-bit activations.
 *
 * The same bits as ggml's own (tests/router/engine/test_kernels.py), with fewer instructions: both
 * 16-bit floats of a block are loaded and widened together, and the products of the blocks' minima
 * and sums are added up in the lane beside those of the scales.
 */
#define GGML_COMMON_DECL_C
#include "ggml-common.h"

#include "quants.h"

void ggml_vec_dot_q4_1_q8_1_stock(int n, float *s, size_t bs, const void *vx, size_t bx,
                                  const void *vy, size_t by, int nrc);

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

#else

void ggml_vec_dot_q4_1_q8_1(int n, float *s, size_t bs, const void *vx, size_t bx, const void *vy,
                            size_t by, int nrc) {
    ggml_vec_dot_q4_1_q8_1_stock(n, s, bs, vx, bx, vy, by, nrc);
}

#endif
