/* heads.h - prototypes of heads.c. x, dx of split_heads (B, T, (heads + 2 kv_heads) E), q (B, heads, T, E), k, v
 * (B, kv_heads, T, E); cos, sin (T, E / 2) or both NULL. y of merge_heads (B, H, T, E), its result (B, T, H E). */
#ifndef REFIMPL_HEADS_H
#define REFIMPL_HEADS_H
#include "refimpl.h"

int RI(split_heads)(const real *x, i64 heads, i64 kv_heads, const real *cos, const real *sin, i64 B, i64 T, i64 E,
                    real *q, real *k, real *v, int threads);
int RI(split_heads_backward)(const real *dq, const real *dk, const real *dv, const real *cos, const real *sin, i64 B,
                             i64 T, i64 H, i64 G, i64 E, real *dx, int threads);
int RI(merge_heads)(const real *y, i64 B, i64 H, i64 T, i64 E, real *x, int threads);
int RI(merge_heads_backward)(const real *dy, i64 heads, i64 B, i64 T, i64 E, real *dx, int threads);

#endif
