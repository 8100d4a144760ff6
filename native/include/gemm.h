/* gemm.h - the matrix product that other C files build on. Nothing here is offered to Python.
 *
 * All matrices are row-major with a leading dimension (elements from one row to the next). op(X) is X, or X transposed
 * where its flag (ta, tb) is set: a holds M x K (ta: K x M), b holds K x N (tb: N x K), c holds M x N. c overlaps no
 * input. K = 0 is an empty sum; M = 0 or N = 0 does nothing. Every element of C is summed over K in an order that
 * depends on the shape alone, so the result's bits do not depend on `threads`. `threads` is the number the mirror was
 * given: small products stay on the calling thread (ri_team). Returns RI_OK or RI_NOMEM.
 *
 * Safe inside another parallel region with threads = 1. Uses the workspace slots RI_WS_GEMM_A and RI_WS_GEMM_B.
 */
#ifndef REFIMPL_GEMM_H
#define REFIMPL_GEMM_H
#include "refimpl.h"

#ifdef RI_REAL

/* C = (accumulate ? C : 0) + op(A) op(B) */
int RI_INTERNAL(gemm)(int ta, int tb, i64 M, i64 N, i64 K, const real *a, i64 lda, const real *b, i64 ldb,
                      int accumulate, real *c, i64 ldc, int threads);

/* C = (accumulate ? C : 0) + op(A) op(B) + 1 bias^T: bias (N,), or NULL for none, is added to every row. */
int RI_INTERNAL(gemm_bias)(int ta, int tb, i64 M, i64 N, i64 K, const real *a, i64 lda, const real *b, i64 ldb,
                           const real *bias, int accumulate, real *c, i64 ldc, int threads);

/* What is done to a tile of C on its way to memory: C = f(op(A) op(B) + 1 bias^T), f an activation of activate.h.
 * `before`, laid out as C, receives what f is applied to; NULL for none. */
typedef struct {
    const real *bias;
    int activation;
    real *before;
} RI_INTERNAL(epilogue);

int RI_INTERNAL(gemm_activated)(int ta, int tb, i64 M, i64 N, i64 K, const real *a, i64 lda, const real *b, i64 ldb,
                                RI_INTERNAL(epilogue) end, real *c, i64 ldc, int threads);

/* The same product for `batch` matrices, each `*_step` elements after the one before; a_step or b_step 0: shared by the
 * batch, c_step 0: C is the sum over the batch. */
int RI_INTERNAL(gemm_batch)(int ta, int tb, i64 batch, i64 M, i64 N, i64 K, const real *a, i64 lda, i64 a_step,
                            const real *b, i64 ldb, i64 b_step, int accumulate, real *c, i64 ldc, i64 c_step,
                            int threads);

#endif
#endif
