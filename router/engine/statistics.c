/* What one row of logits says about the model's certainty, in two passes over the vocabulary, and
 * in a third one its most likely tokens.
 *
 * numpy (router/engine/sampling.py, used where no compiler was at hand) takes six. The loops are
 * over vectors of 16 numbers, which any compiler maps onto what the machine has; on x86 it does so
 * for several kinds of CPU, and the fitting one is taken when the library is loaded.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

enum {
    LANES = 16,
    BLOCK = 1024, /* of so many logits sums are taken in 32 bits */
    STRIDE = 64,  /* so many are passed over at once if none of them is large enough */
    MOST = 64     /* tokens that `most_likely` finds */
};

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));

#if defined(__x86_64__) && defined(__GLIBC__)
#define FOR_SEVERAL_CPUS __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_SEVERAL_CPUS
#endif
#define INLINE static inline __attribute__((always_inline))

struct distribution {
    int64_t best;    /* of the largest logit; of the first that is not a number, if there is one */
    float largest;   /* logit */
    float second;    /* the largest of the others */
    double tail;     /* the sum of exp(logit - largest) over all but the best */
    double weighted; /* of (logit - largest) exp(logit - largest) */
};

INLINE void load(floats *to, const float *from) {
    memcpy(to, from, sizeof *to);
}

INLINE void keep_larger(floats *largest, const floats *x) {
    const ints larger = *x > *largest;
    *largest = (floats) ((larger & (ints) *x) | (~larger & (ints) *largest));
}

INLINE float largest_of(const floats *x) {
    float largest = (*x)[0];
    for (int i = 1; i < LANES; i++) largest = (*x)[i] > largest ? (*x)[i] : largest;
    return largest;
}

INLINE double sum_of(const floats *x) {
    double sum = 0;
    for (int i = 0; i < LANES; i++) sum += (*x)[i];
    return sum;
}

/* exp(x) for x <= 0 to about 1e-7, by a polynomial around the next power of 2; below -87 it is 0,
 * and so is *x then. Not a number stays so. */
INLINE void exponentials(floats *x, floats *result) {
    const ints counts = ~(*x < -87.0f);
    *x = (floats) (counts & (ints) *x);
    const floats power = (*x * 1.44269504f + 0x1.8p23f) - 0x1.8p23f;
    const floats r = (*x - power * 0.693359375f) + power * 2.12194440e-4f;
    floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const ints shift = __builtin_convertvector(power, ints) << 23;
    *result = (floats) (counts & ((ints) p + shift));
}

/* Takes in a block in which the best has been taken out; `n` is a multiple of 16. */
INLINE void add_block(struct distribution *d, const float *logits, int n) {
    floats tail = {0}, weighted = {0}, second, x, e;
    load(&second, logits);
    for (int i = 0; i < n; i += LANES) {
        load(&x, logits + i);
        keep_larger(&second, &x);
        x -= d->largest;
        exponentials(&x, &e);
        tail += e;
        weighted += e * x;
    }
    const float of_block = largest_of(&second);
    d->second = of_block > d->second ? of_block : d->second;
    d->tail += sum_of(&tail);
    d->weighted += sum_of(&weighted);
}

/* The `n` <= 1024 logits of a block that is not taken as it is, padded to whole vectors. */
INLINE int copy_block(float *to, const float *from, int n) {
    memcpy(to, from, n * sizeof *to);
    for (; n % LANES != 0; n++) to[n] = -INFINITY;
    return n;
}

INLINE int64_t first_best(const float *row, int64_t n, float *largest) {
    int64_t block = 0;
    *largest = -INFINITY;
    for (int64_t i = 0; i < n; i += BLOCK) {
        float padded[BLOCK];
        const float *logits = row + i;
        int size = n - i < BLOCK ? (int) (n - i) : BLOCK;
        if (size % LANES != 0) {
            size = copy_block(padded, logits, size);
            logits = padded;
        }
        floats of_block, x;
        load(&of_block, logits);
        for (int j = LANES; j < size; j += LANES) {
            load(&x, logits + j);
            keep_larger(&of_block, &x);
        }
        const float found = largest_of(&of_block);
        if (found > *largest) *largest = found, block = i;
    }
    int64_t best = block;
    while (best < n - 1 && row[best] != *largest) best++;
    return best;
}

FOR_SEVERAL_CPUS void read_distribution(const float *row, int64_t n, struct distribution *out) {
    struct distribution d = {.second = -INFINITY};
    d.best = first_best(row, n, &d.largest);
    for (int64_t i = 0; i < n; i += BLOCK) {
        float others[BLOCK];
        const float *logits = row + i;
        int size = n - i < BLOCK ? (int) (n - i) : BLOCK;
        const int64_t place = d.best - i;
        const int has_best = 0 <= place && place < size;
        if (has_best || size % LANES != 0) {
            size = copy_block(others, logits, size);
            if (has_best) others[place] = -INFINITY;
            logits = others;
        }
        add_block(&d, logits, size);
    }
    if (d.tail != d.tail) {
        d.best = 0;
        while (d.best < n - 1 && row[d.best] == row[d.best]) d.best++;
        d.largest = row[d.best];
    }
    *out = d;
}

/* The ids of the `k` <= 64 largest logits of `n` >= k, largest first, the lowest first among equals.
 * What is not a number counts as the smallest. */
FOR_SEVERAL_CPUS void most_likely(const float *row, int64_t n, int k, int64_t *ids) {
    float logits[MOST];
    int found = 0;
    for (int64_t i = 0; i < n; i += STRIDE) {
        const int size = n - i < STRIDE ? (int) (n - i) : STRIDE;
        if (found == k && size == STRIDE) {
            floats largest, x;
            load(&largest, row + i);
            for (int j = LANES; j < STRIDE; j += LANES) {
                load(&x, row + i + j);
                keep_larger(&largest, &x);
            }
            /* A lane that began with no number keeps it; what it hides is looked at below. */
            int none_is_larger = 1;
            for (int j = 0; j < LANES; j++) none_is_larger &= largest[j] <= logits[k - 1];
            if (none_is_larger) continue;
        }
        for (int64_t id = i; id < i + size; id++) {
            const float logit = row[id] == row[id] ? row[id] : -INFINITY;
            if (found == k && !(logit > logits[k - 1])) continue;
            int place = found < k ? found++ : k - 1;
            for (; place > 0 && logit > logits[place - 1]; place--) {
                logits[place] = logits[place - 1];
                ids[place] = ids[place - 1];
            }
            logits[place] = logit;
            ids[place] = id;
        }
    }
}
