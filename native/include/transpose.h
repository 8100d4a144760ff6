/* transpose.h - a square of vectors, transposed in registers. To be included where LANES (2, 4, 8 or 16, a macro) and
 * `vec`, a vector of that many reals, are defined. HAVE_TRANSPOSE is defined where the compiler knows the shuffles. */
#ifndef REFIMPL_TRANSPOSE_H
#define REFIMPL_TRANSPOSE_H

#if defined(__clang__) || __GNUC__ >= 12
#define HAVE_TRANSPOSE 1
#if LANES == 16
#define LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif LANES == 8
#define LOW 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH 4, 12, 5, 13, 6, 14, 7, 15
#elif LANES == 4
#define LOW 0, 4, 1, 5
#define HIGH 2, 6, 3, 7
#else
#define LOW 0, 2
#define HIGH 1, 3
#endif

/* v (LANES x LANES) = v^T. Each round deals the first half of the rows and the second half like two hands of cards;
 * after log2(LANES) rounds row and column indices have changed places. */
static inline __attribute__((always_inline)) void transpose(vec v[LANES]) {
#pragma GCC unroll 4
    for (int round = 1; round < LANES; round *= 2) {
        vec w[LANES];
#pragma GCC unroll 8
        for (int i = 0; i < LANES / 2; i++) {
            w[2 * i] = __builtin_shufflevector(v[i], v[i + LANES / 2], LOW);
            w[2 * i + 1] = __builtin_shufflevector(v[i], v[i + LANES / 2], HIGH);
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) v[i] = w[i];
    }
}
#endif

#endif
