/* sparse.h - prototypes of sparse.c. A (N, M) by indptr (N + 1), indices (nnz), values (nnz, or NULL for ones);
 * x, dx (M, D); y, dy (N, D); dvalues (nnz) or NULL. A corrupt structure gives RI_INDEX. */
#ifndef REFIMPL_SPARSE_H
#define REFIMPL_SPARSE_H
#include "refimpl.h"

int RI(csr_matmul)(const i64 *indptr, const i64 *indices, const real *values, const real *x, i64 N, i64 nnz, i64 M,
                   i64 D, real *y, int threads);
int RI(csr_matmul_backward)(const real *dy, const i64 *indptr, const i64 *indices, const real *values, const real *x,
                            i64 N, i64 nnz, i64 M, i64 D, real *dvalues, real *dx, int threads);

#endif
