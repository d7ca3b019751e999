/* 16-bit floats by the CPU's own instruction, included before every file of ggml's CPU backend.
 *
 * ggml looks them up in a table of 256 KB, which does not stay in the fastest cache while weights
 * stream through it: where one sequence is decoded, that took a sixth of the time. On x86 a 16-bit
 * load into a vector register takes two micro-operations, a broadcast of it one; the compiler does
 * not find this by itself.
 */
#if defined(__F16C__) && defined(__AVX2__)
#define GGML_CPU_FP16_TO_FP32(x) _mm_cvtss_f32(_mm_cvtph_ps(_mm_set1_epi16((short) (x))))
#endif
