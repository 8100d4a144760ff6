/* denoise.h - prototypes of denoise.c. embedding (K, D) may be NULL: the one-hot embedding, D = K. Outputs overlap no
 * input. */
#ifndef REFIMPL_DENOISE_H
#define REFIMPL_DENOISE_H
#include "refimpl.h"

/* uhat (B, D) is not written where embedding is NULL (it equals p (B, K)). */
int RI(softmax_mixture)(const real *f, const real *embedding, i64 B, i64 K, i64 D, real *uhat, real *p, int threads);

/* dembedding (K, D) is not written where embedding is NULL. */
int RI(softmax_mixture_backward)(const real *duhat, const real *p, const real *embedding, i64 B, i64 K, i64 D, real *df,
                                 real *dembedding, int threads);

/* target (B,) was checked to lie in [0, K). Writes squared (B,), p (B, K), duhat (B, D), df (B, K). */
int RI(denoise_loss)(const real *f, const i64 *target, const real *weight, const real *embedding, i64 B, i64 K, i64 D,
                     real *squared, real *p, real *duhat, real *df, int threads);

#endif
