/* conv.h - prototypes of conv.c. Sizes as in refimpl/ops/conv.py: picture (B, C, H, W), map (B, O, OH, OW), weight
 * (O, C/groups, KH, KW), for the transposed convolutions too (their x is the map, their result the picture). Strides SH
 * and SW, paddings PH and PW, dilations DH and DW. bias, dx and dbias may be NULL; accumulate: add to dweight and dbias
 * instead of overwriting them. */
#ifndef REFIMPL_CONV_H
#define REFIMPL_CONV_H
#include "refimpl.h"

int RI(conv2d)(const real *x, const real *weight, const real *bias, i64 B, i64 C, i64 H, i64 W, i64 O, i64 KH, i64 KW,
               i64 OH, i64 OW, i64 SH, i64 SW, i64 PH, i64 PW, i64 DH, i64 DW, i64 groups, real *y, int threads);
int RI(conv2d_backward)(const real *dy, const real *x, const real *weight, i64 B, i64 C, i64 H, i64 W, i64 O, i64 KH,
                        i64 KW, i64 OH, i64 OW, i64 SH, i64 SW, i64 PH, i64 PW, i64 DH, i64 DW, i64 groups, real *dx,
                        real *dweight, real *dbias, int accumulate, int threads);
int RI(conv_transpose2d)(const real *x, const real *weight, const real *bias, i64 B, i64 C, i64 H, i64 W, i64 O, i64 KH,
                         i64 KW, i64 OH, i64 OW, i64 SH, i64 SW, i64 PH, i64 PW, i64 DH, i64 DW, i64 groups, real *y,
                         int threads);
int RI(conv_transpose2d_backward)(const real *dy, const real *x, const real *weight, i64 B, i64 C, i64 H, i64 W, i64 O,
                                  i64 KH, i64 KW, i64 OH, i64 OW, i64 SH, i64 SW, i64 PH, i64 PW, i64 DH, i64 DW,
                                  i64 groups, real *dx, real *dweight, real *dbias, int accumulate, int threads);

#endif
