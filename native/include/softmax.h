/* softmax.h - prototypes of softmax.c. B rows of K; the result may be the same array as an input. */
#ifndef REFIMPL_SOFTMAX_H
#define REFIMPL_SOFTMAX_H
#include "refimpl.h"

int RI(softmax)(const real *z, i64 B, i64 K, real *y, int threads);
int RI(softmax_backward)(const real *dy, const real *y, i64 B, i64 K, real *dz, int threads);
int RI(log_softmax)(const real *z, i64 B, i64 K, real *y, int threads);
int RI(log_softmax_backward)(const real *dy, const real *y, i64 B, i64 K, real *dz, int threads);
int RI(logsumexp)(const real *z, i64 B, i64 K, real *y, int threads); /* y (B,) */
int RI(logsumexp_backward)(const real *dy, const real *z, const real *y, i64 B, i64 K, real *dz, int threads);

#endif
