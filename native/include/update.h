/* update.h - prototypes of update.c. All arrays have n elements unless stated otherwise. Arrays that are not const are
 * written in place, element by element; inputs may be the same array as an output, never a shifted one. */
#ifndef REFIMPL_UPDATE_H
#define REFIMPL_UPDATE_H
#include "refimpl.h"

/* velocity may be NULL (momentum 0) */
int RI(sgd_update)(real *param, const real *grad, real *velocity, double lr, double momentum, int nesterov,
                   double weight_decay, int decoupled, i64 n, int threads);
int RI(adam_update)(real *param, const real *grad, real *m, real *v, i64 step, double lr, double beta1, double beta2,
                    double eps, double weight_decay, int decoupled, i64 n, int threads);
/* velocity may be NULL (momentum 0) */
int RI(rmsprop_update)(real *param, const real *grad, real *v, real *velocity, double lr, double alpha, double eps,
                       double momentum, double weight_decay, int decoupled, i64 n, int threads);
int RI(ema_update)(real *average, const real *value, double decay, i64 n, int threads);
int RI(scale_inplace)(real *x, double factor, i64 n, int threads);
int RI(axpy)(real *y, const real *x, double alpha, i64 n, int threads);

/* result: one number */
int RI(sum_of_squares)(const real *x, i64 n, double *result, int threads);
int RI(dot)(const real *x, const real *y, i64 n, double *result, int threads);

/* z may be NULL; out may be x, y or z */
int RI(fma_combine)(double a, const real *x, double b, const real *y, double c, const real *z, i64 n, real *out,
                    int threads);
/* a, b (B,), x, y, out (B, D); out may be x or y */
int RI(row_scaled_sum)(const real *a, const real *x, const real *b, const real *y, i64 B, i64 D, real *out,
                       int threads);

#endif
