/* norm.h - prototypes of norm.c. gain and bias may be NULL (ones and zeros). */
#ifndef REFIMPL_NORM_H
#define REFIMPL_NORM_H
#include "refimpl.h"

/* B rows of D */
int RI(layernorm)(const real *x, const real *gain, const real *bias, double eps, i64 B, i64 D, real *y, real *mean,
                  real *rstd, int threads);
int RI(layernorm_backward)(const real *dy, const real *x, const real *gain, const real *mean, const real *rstd, i64 B,
                           i64 D, real *dx, real *dgain, real *dbias, int threads);
int RI(rmsnorm)(const real *x, const real *gain, double eps, i64 B, i64 D, real *y, real *rrms, int threads);
int RI(rmsnorm_backward)(const real *dy, const real *x, const real *gain, const real *rrms, i64 B, i64 D, real *dx,
                         real *dgain, int threads);

/* (B, C, S): S positions a channel; mean, rstd (B, groups) */
int RI(groupnorm)(const real *x, const real *gain, const real *bias, i64 groups, double eps, i64 B, i64 C, i64 S,
                  real *y, real *mean, real *rstd, int threads);
int RI(groupnorm_backward)(const real *dy, const real *x, const real *gain, const real *mean, const real *rstd,
                           i64 groups, i64 B, i64 C, i64 S, real *dx, real *dgain, real *dbias, int threads);

/* (B, C, S); mean, rstd, variance (C,) */
int RI(batchnorm)(const real *x, const real *gain, const real *bias, double eps, i64 B, i64 C, i64 S, real *y,
                  real *mean, real *rstd, int threads);
int RI(batchnorm_backward)(const real *dy, const real *x, const real *gain, const real *mean, const real *rstd, i64 B,
                           i64 C, i64 S, real *dx, real *dgain, real *dbias, int threads);
/* y = relu(batchnorm(x)); back from y */
int RI(batchnorm_relu)(const real *x, const real *gain, const real *bias, double eps, i64 B, i64 C, i64 S, real *y,
                       real *mean, real *rstd, int threads);
int RI(batchnorm_relu_backward)(const real *dy, const real *y, const real *x, const real *gain, const real *mean,
                                const real *rstd, i64 B, i64 C, i64 S, real *dx, real *dgain, real *dbias, int threads);
int RI(batchnorm_inference)(const real *x, const real *gain, const real *bias, const real *mean, const real *variance,
                            double eps, i64 B, i64 C, i64 S, real *y, int threads);
int RI(batchnorm_inference_backward)(const real *dy, const real *x, const real *gain, const real *mean,
                                     const real *variance, double eps, i64 B, i64 C, i64 S, real *dx, real *dgain,
                                     real *dbias, int threads);

#endif
