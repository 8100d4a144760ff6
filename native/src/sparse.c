/* sparse.c - sparse (CSR) times dense, and its gradients. Mirror of refimpl/ops/sparse.py.
 *
 * Roofline: nnz D multiply-adds on nnz D numbers gathered from x: bound by memory (by L2 where x fits). A row of y is
 * held in registers, a block of columns at a time, while its entries are summed in their order; rows are independent,
 * so the bits do not depend on the team. dx = A^T dy takes the same kernel on A^T, built here by a stable counting
 * sort (about two passes over nnz).
 */
#include "sparse.h"
#include "scatter.h"

#include <stdlib.h>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
typedef real vec __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));
enum { LANES = VECTOR_BYTES / sizeof(real), BLOCK = 4 * LANES };

static int structure_ok(const i64 *indptr, const i64 *indices, i64 N, i64 nnz, i64 M) {
    if (indptr[0] != 0 || indptr[N] != nnz) return 0;
    int falls = 0;
#pragma omp simd reduction(| : falls)
    for (i64 i = 0; i < N; i++) falls |= indptr[i + 1] < indptr[i];
    return !falls && ri_in_range(indices, nnz, M);
}

/* y[row] = sum over the row's entries e of values[e] x[indices[e]] */
static void matmul_rows(const i64 *indptr, const i64 *indices, const real *values, const real *x, i64 lo, i64 hi, i64 D,
                        real *y) {
    for (i64 row = lo; row < hi; row++) {
        const i64 first = indptr[row], last = indptr[row + 1];
        real *out = y + row * D;
        i64 d = 0;
        for (; d + BLOCK <= D; d += BLOCK) {
            vec s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
            for (i64 e = first; e < last; e++) {
                const real *from = x + indices[e] * D + d;
                real a = values ? values[e] : (real)1;
                s0 += a * *(const vec *)(from);
                s1 += a * *(const vec *)(from + LANES);
                s2 += a * *(const vec *)(from + 2 * LANES);
                s3 += a * *(const vec *)(from + 3 * LANES);
            }
            *(vec *)(out + d) = s0;
            *(vec *)(out + d + LANES) = s1;
            *(vec *)(out + d + 2 * LANES) = s2;
            *(vec *)(out + d + 3 * LANES) = s3;
        }
        for (; d + LANES <= D; d += LANES) {
            vec s = {0};
            for (i64 e = first; e < last; e++) {
                real a = values ? values[e] : (real)1;
                s += a * *(const vec *)(x + indices[e] * D + d);
            }
            *(vec *)(out + d) = s;
        }
        const i64 left = D - d;
        if (left == 0) continue;
        real sum[LANES];
        for (i64 c = 0; c < left; c++) sum[c] = (real)0;
        for (i64 e = first; e < last; e++) {
            const real *from = x + indices[e] * D + d;
            real a = values ? values[e] : (real)1;
            for (i64 c = 0; c < left; c++) sum[c] += a * from[c];
        }
        for (i64 c = 0; c < left; c++) out[d + c] = sum[c];
    }
}

/* Rows differ in length: threads take handfuls as they become free */
enum { HANDFUL = 32 };

static void matmul_all(const i64 *indptr, const i64 *indices, const real *values, const real *x, i64 N, i64 D, real *y,
                       int team) {
    if (team == 1) {
        matmul_rows(indptr, indices, values, x, 0, N, D, y);
    } else {
#pragma omp parallel for schedule(dynamic) num_threads(team)
        for (i64 row = 0; row < N; row += HANDFUL)
            matmul_rows(indptr, indices, values, x, row, row + HANDFUL < N ? row + HANDFUL : N, D, y);
    }
}

int RI(csr_matmul)(const i64 *indptr, const i64 *indices, const real *values, const real *x, i64 N, i64 nnz, i64 M,
                   i64 D, real *y, int threads) {
    if (!structure_ok(indptr, indices, N, nnz, M)) return RI_INDEX;
    if (D > 0) matmul_all(indptr, indices, values, x, N, D, y, ri_team(threads, (nnz + N) * D / 2));
    return RI_OK;
}

/* dvalues[e] = dy[row of e] . x[indices[e]] */
static void value_gradients(const real *dy, const i64 *indptr, const i64 *indices, const real *x, i64 lo, i64 hi, i64 D,
                            real *dvalues) {
    for (i64 row = lo; row < hi; row++) {
        for (i64 e = indptr[row]; e < indptr[row + 1]; e++) {
            const real *a = dy + row * D, *b = x + indices[e] * D;
            real sum = (real)0;
#pragma omp simd reduction(+ : sum)
            for (i64 d = 0; d < D; d++) sum += a[d] * b[d];
            dvalues[e] = sum;
        }
    }
}

int RI(csr_matmul_backward)(const real *dy, const i64 *indptr, const i64 *indices, const real *values, const real *x,
                            i64 N, i64 nnz, i64 M, i64 D, real *dvalues, real *dx, int threads) {
    if (!structure_ok(indptr, indices, N, nnz, M)) return RI_INDEX;
    int team = ri_team(threads, (nnz + M) * D / 2);
    if (dvalues && team == 1) {
        value_gradients(dy, indptr, indices, x, 0, N, D, dvalues);
    } else if (dvalues) {
#pragma omp parallel for schedule(dynamic) num_threads(team)
        for (i64 row = 0; row < N; row += HANDFUL)
            value_gradients(dy, indptr, indices, x, row, row + HANDFUL < N ? row + HANDFUL : N, D, dvalues);
    }
    if (D == 0) return RI_OK;

    /* A^T: column m of A has its entries at [start[m], start[m + 1]), in the order of their rows */
    i64 *start = calloc((size_t)M + 2, sizeof *start), *rows = malloc(sizeof *rows * ((size_t)nnz + 1));
    real *sorted = values ? malloc(sizeof *sorted * ((size_t)nnz + 1)) : NULL;
    if (!start || !rows || (values && !sorted)) {
        free(start);
        free(rows);
        free(sorted);
        return RI_NOMEM;
    }
    i64 *next = start + 1; /* next[m] runs from the start of column m to that of m + 1 */
    for (i64 e = 0; e < nnz; e++) next[indices[e] + 1]++;
    for (i64 m = 0; m < M; m++) next[m + 1] += next[m];
    for (i64 row = 0; row < N; row++) {
        for (i64 e = indptr[row]; e < indptr[row + 1]; e++) {
            i64 at = next[indices[e]]++;
            rows[at] = row;
            if (values) sorted[at] = values[e];
        }
    }
    matmul_all(start, rows, sorted, dy, M, D, dx, team);
    free(start);
    free(rows);
    free(sorted);
    return RI_OK;
}
