/* gemm_internal.h - what the files of the family share: the register tile, vectors, a product, its epilogue. */
#ifndef REFIMPL_GEMM_INTERNAL_H
#define REFIMPL_GEMM_INTERNAL_H
#include "activate.h"
#include "gemm.h"

#include <string.h>

/* The register tile: MR rows of NV vectors, as large as the register file allows (accumulators, NV vectors of B and
 * one broadcast of A). */
#if defined(__AVX512F__)
#define BYTES 64
#define MR 14
#elif defined(__AVX__)
#define BYTES 32
#define MR 6
#elif defined(__aarch64__)
#define BYTES 16
#define MR 12
#else
#define BYTES 16
#define MR 6
#endif
#define NV 2
#ifdef RI_IS_F32
#define LANES (BYTES / 4)
#else
#define LANES (BYTES / 8)
#endif
#define VL ((i64)LANES)
#define NR (NV * VL)

typedef real vec __attribute__((vector_size(BYTES)));
/* the same at any address that suits an element */
typedef real loose __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));

#define INLINE static inline __attribute__((always_inline))

#include "transpose.h"

typedef struct {
    int ta, tb;
    i64 M, N, K;
    const real *a;
    i64 lda;
    const real *b;
    i64 ldb;
    const real *bias;
    int accumulate;
    real *c;
    i64 ldc;
    int activation;
    real *before; /* lies as C does */
} product;

INLINE vec load(const real *x) {
    return *(const loose *)x;
}

INLINE void store(real *x, vec v) {
    *(loose *)x = v;
}

INLINE i64 least(i64 a, i64 b) {
    return a < b ? a : b;
}

INLINE i64 up(i64 n, i64 grain) {
    return (n + grain - 1) / grain * grain;
}

/* Nanoseconds of a product on one thread, about (never more than fits an i64). */
static inline i64 product_cost(i64 batch, i64 M, i64 N, i64 K) {
    double ns = (double)batch * (double)M * (double)N * (double)K / (double)(6 * VL);
    return ns < 1e15 ? (i64)ns : (i64)1e15;
}

/* x = f(x) for n consecutive numbers. */
void RI_INTERNAL(gemm_activate)(int activation, i64 n, real *x);

/* The same for n numbers of C, with a copy of what they were where `before` is given. */
void RI_INTERNAL(gemm_finish)(int activation, i64 n, real *c, real *before);

/* A product of at most THIN rows or columns. */
enum { THIN = 4 };
int RI_INTERNAL(gemm_thin)(const product *p, int threads);

/* A product of at most FEW steps, with consecutive rows of B. */
enum { FEW = 4 };
int RI_INTERNAL(gemm_outer)(const product *p, int threads);

#endif
