/* reduce.h - prototypes of reduce.c. x is (outer, n, inner), reduced along n; y, dy and index are (outer, inner). */
#ifndef REFIMPL_REDUCE_H
#define REFIMPL_REDUCE_H
#include "refimpl.h"

/* n elements; result: one double */
int RI(total)(const real *x, i64 n, double *result, int threads);
/* x (N, D), y (D) */
int RI(sum_rows)(const real *x, i64 N, i64 D, real *y, int threads);
int RI(reduce_sum)(const real *x, i64 outer, i64 n, i64 inner, real *y, int threads);
int RI(reduce_sum_backward)(const real *dy, i64 outer, i64 n, i64 inner, real *dx, int threads);
/* n > 0 */
int RI(reduce_mean)(const real *x, i64 outer, i64 n, i64 inner, real *y, int threads);
int RI(reduce_mean_backward)(const real *dy, i64 outer, i64 n, i64 inner, real *dx, int threads);
int RI(reduce_max)(const real *x, i64 outer, i64 n, i64 inner, real *y, i64 *index, int threads);
/* every index in [0, n) */
int RI(reduce_max_backward)(const real *dy, const i64 *index, i64 outer, i64 n, i64 inner, real *dx, int threads);

#endif
