/* attention.h - prototypes of attention.c. q, dq (B, H, T, D); k, dk (B, G, S, D); v, dv (B, G, S, E);
 * y, dy (B, H, T, E); lse (B, H, T). mask may be NULL; else its four extents follow, each 1 or full.
 * padding (B, S) may be NULL; a non-zero byte hides the key. k and v may be the first S of `rows` keys a head, dk and
 * dv the first S of `drows`, added to where `adding`. */
#ifndef REFIMPL_ATTENTION_H
#define REFIMPL_ATTENTION_H
#include "refimpl.h"

int RI(attention)(const real *q, const real *k, const real *v, const real *mask, i64 mask_B, i64 mask_H, i64 mask_T,
                  i64 mask_S, const uint8_t *padding, int causal, double scale, i64 B, i64 H, i64 G, i64 T, i64 S,
                  i64 D, i64 E, i64 rows, real *y, real *lse, int threads);
int RI(attention_backward)(const real *dy, const real *q, const real *k, const real *v, const real *y, const real *lse,
                           const real *mask, i64 mask_B, i64 mask_H, i64 mask_T, i64 mask_S, const uint8_t *padding,
                           int causal, double scale, i64 B, i64 H, i64 G, i64 T, i64 S, i64 D, i64 E, i64 rows,
                           i64 drows, int adding, real *dq, real *dk, real *dv, int threads);

#endif
