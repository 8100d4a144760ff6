/* activation.h - prototypes of activation.c. All but the last two: n elements, y or dx may be the same array as x or
 * dy. */
#ifndef REFIMPL_ACTIVATION_H
#define REFIMPL_ACTIVATION_H
#include "refimpl.h"

int RI(relu)(const real *x, i64 n, real *y, int threads);
int RI(relu_backward)(const real *dy, const real *y, i64 n, real *dx, int threads);
int RI(leaky_relu)(const real *x, double slope, i64 n, real *y, int threads);
int RI(leaky_relu_backward)(const real *dy, const real *x, double slope, i64 n, real *dx, int threads);
int RI(elu)(const real *x, double alpha, i64 n, real *y, int threads);
int RI(elu_backward)(const real *dy, const real *x, double alpha, i64 n, real *dx, int threads);
int RI(gelu)(const real *x, i64 n, real *y, int threads);
int RI(gelu_backward)(const real *dy, const real *x, i64 n, real *dx, int threads);
int RI(gelu_tanh)(const real *x, i64 n, real *y, int threads);
int RI(gelu_tanh_backward)(const real *dy, const real *x, i64 n, real *dx, int threads);
int RI(silu)(const real *x, i64 n, real *y, int threads);
int RI(silu_backward)(const real *dy, const real *x, i64 n, real *dx, int threads);
int RI(tanh)(const real *x, i64 n, real *y, int threads);
int RI(tanh_backward)(const real *dy, const real *y, i64 n, real *dx, int threads);
int RI(sigmoid)(const real *x, i64 n, real *y, int threads);
int RI(sigmoid_backward)(const real *dy, const real *y, i64 n, real *dx, int threads);
int RI(softplus)(const real *x, i64 n, real *y, int threads);
int RI(softplus_backward)(const real *dy, const real *x, i64 n, real *dx, int threads);

/* rows of x, dx are 2 D long, those of y, dy D; no array may be another */
int RI(swiglu)(const real *x, i64 rows, i64 D, real *y, int threads);
int RI(swiglu_backward)(const real *dy, const real *x, i64 rows, i64 D, real *dx, int threads);

#endif
