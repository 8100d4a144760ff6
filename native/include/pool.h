/* pool.h - prototypes of pool.c. P planes of H x W (batch times channels), OH x OW windows of KH x KW, strides SH and
 * SW, paddings PH and PW. max_pool2d_backward knows planes only as M positions of dy and N of dx. */
#ifndef REFIMPL_POOL_H
#define REFIMPL_POOL_H
#include "refimpl.h"

int RI(max_pool2d)(const real *x, i64 P, i64 H, i64 W, i64 OH, i64 OW, i64 KH, i64 KW, i64 SH, i64 SW, i64 PH, i64 PW,
                   real *y, i64 *index, int threads);
int RI(max_pool2d_backward)(const real *dy, const i64 *index, i64 P, i64 M, i64 N, real *dx, int threads);
int RI(avg_pool2d)(const real *x, i64 P, i64 H, i64 W, i64 OH, i64 OW, i64 KH, i64 KW, i64 SH, i64 SW, i64 PH, i64 PW,
                   real *y, int threads);
int RI(avg_pool2d_backward)(const real *dy, i64 P, i64 H, i64 W, i64 OH, i64 OW, i64 KH, i64 KW, i64 SH, i64 SW, i64 PH,
                            i64 PW, real *dx, int threads);
int RI(global_avg_pool2d)(const real *x, i64 P, i64 H, i64 W, real *y, int threads);
int RI(global_avg_pool2d_backward)(const real *dy, i64 P, i64 H, i64 W, real *dx, int threads);

#endif
