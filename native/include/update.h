/* update.h - prototypes of update.c. n elements each; the optimiser steps write param, velocity, m, v in place. */
#ifndef REFIMPL_UPDATE_H
#define REFIMPL_UPDATE_H
#include "refimpl.h"

/* velocity may be NULL when momentum is 0 */
int RI(sgd_update)(real *param, const real *grad, real *velocity, double lr, double momentum, int nesterov,
                   double weight_decay, int decoupled, i64 n, int threads);
/* c1 = 1 - beta1^t, c2 = 1 - beta2^t */
int RI(adam_update)(real *param, const real *grad, real *m, real *v, double lr, double beta1, double beta2, double eps,
                    double weight_decay, int decoupled, double c1, double c2, i64 n, int threads);
int RI(rmsprop_update)(real *param, const real *grad, real *v, real *velocity, double lr, double alpha, double eps,
                       double momentum, double weight_decay, int decoupled, i64 n, int threads);
int RI(ema_update)(real *average, const real *value, double decay, i64 n, int threads);
int RI(scale_inplace)(real *x, double factor, i64 n, int threads);
int RI(axpy)(real *y, const real *x, double alpha, i64 n, int threads);
/* result: one double */
int RI(sum_of_squares)(const real *x, i64 n, double *result, int threads);
int RI(dot)(const real *x, const real *y, i64 n, double *result, int threads);
/* z may be NULL */
int RI(fma_combine)(double a, const real *x, double b, const real *y, double c, const real *z, i64 n, real *out,
                    int threads);
/* rows of `width` elements */
int RI(row_scaled_sum)(const real *a, const real *x, const real *b, const real *y, i64 B, i64 width, real *out,
                       int threads);

#endif
