/* target.h - prototypes of target.c. Outputs overlap no input. `loss` and `activation` are numbered as in target.c. */
#ifndef REFIMPL_TARGET_H
#define REFIMPL_TARGET_H
#include "refimpl.h"

/* z (B, N), labels (B,), codes (K, N); writes y (B, N), J (B,), d (B, N). */
int RI(target_loss)(const real *z, const i64 *labels, const real *codes, int loss, int activation, double delta,
                    double scale, i64 B, i64 N, i64 K, real *y, real *J, real *d, int threads);

/* x (B, D), weight (N, D) and bias (N,) are changed in place, so are their velocities, which may both be NULL; writes y
 * (B, N), J (B,). */
int RI(target_step)(const real *x, const i64 *labels, real *weight, real *bias, const real *codes, real *v_weight,
                    real *v_bias, double lr, double momentum, int loss, int activation, double delta, i64 B, i64 D,
                    i64 N, i64 K, real *y, real *J, int threads);

/* x (B, T, D), h0 (B, N), labels (B, T), w_x (D, N), w_h (N, N), bias (N,), weights (T,); dw_x, dw_h, dbias are added
 * to; writes y (B, T, N), J (B, T). */
int RI(rnn_target_sequence)(const real *x, const real *h0, const i64 *labels, const real *codes, const real *w_x,
                            const real *w_h, const real *bias, real *dw_x, real *dw_h, real *dbias, const real *weights,
                            int loss, double delta, i64 B, i64 T, i64 D, i64 N, i64 K, real *y, real *J, int threads);

#endif
