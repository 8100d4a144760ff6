/* goodness.h - prototypes of goodness.c. Outputs overlap no input. */
#ifndef REFIMPL_GOODNESS_H
#define REFIMPL_GOODNESS_H
#include "refimpl.h"

/* z (2B, N), p (N,); writes loss (B,), g (2B,), dz (2B, N). */
int RI(goodness_contrast)(const real *z, const real *p, double theta, int magnitude, i64 B, i64 N, real *loss, real *g,
                          real *dz, int threads);

/* param, m and v (D N + N,) are changed in place; u (2B, D), p (N,); writes losses (steps,). */
int RI(goodness_steps)(real *param, real *m, real *v, const real *u, const real *p, double theta, i64 step, double lr,
                       i64 steps, double beta1, double beta2, double eps, i64 B, i64 D, i64 N, real *losses,
                       int threads);

#endif
