/* spiking.h - prototypes of spiking.c. A sequence is (B, T, N), a state (B, N); time-first arrays (T, B, N) are one
 * sequence of B N neurons: B = 1, N = B N. A step is a sequence of one. reset: 0 subtract, 1 zero; surrogate: 0
 * rectangle, 1 triangle, 2 sigmoid, 3 atan. Outputs overlap no input. */
#ifndef REFIMPL_SPIKING_H
#define REFIMPL_SPIKING_H
#include "refimpl.h"

int RI(lif_sequence)(const real *x, const real *v0, double leak, double threshold, int reset, double gain, i64 B, i64 T,
                     i64 N, real *spikes, real *v_last, real *u, int threads);
/* dv_last may be NULL */
int RI(lif_sequence_backward)(const real *dspikes, const real *dv_last, const real *u, double leak, double threshold,
                              int reset, double gain, int surrogate, double width, int detach_reset, int temporal,
                              i64 B, i64 T, i64 N, real *dx, real *dv0, int threads);

/* x (B, C, S). v may be NULL (from rest), or v_next; running_mean and running_variance may be NULL */
int RI(batchnorm_lif_step)(const real *x, const real *v, const real *gain, const real *bias, double leak,
                           double threshold, int reset, double eps, double momentum, i64 B, i64 C, i64 S, real *spike,
                           real *v_next, real *u, real *mean, real *rstd, real *running_mean, real *running_variance,
                           int threads);
/* dv_next may be NULL, dv too; dgain and dbias are added to with `accumulate`, else written */
int RI(batchnorm_lif_step_backward)(const real *dspike, const real *dv_next, const real *x, const real *u,
                                    const real *gain, const real *mean, const real *rstd, double leak, double threshold,
                                    int reset, int surrogate, double width, int detach_reset, i64 B, i64 C, i64 S,
                                    int accumulate, real *dx, real *dv, real *dgain, real *dbias, int threads);

int RI(leaky_integrator_sequence)(const real *x, const real *v0, double leak, i64 B, i64 T, i64 N, real *v,
                                  int threads);
int RI(leaky_integrator_sequence_backward)(const real *dv, double leak, i64 B, i64 T, i64 N, real *dx, real *dv0,
                                           int threads);

#endif
