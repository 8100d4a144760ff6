/* rotary.h - prototypes of rotary.c. x, dy (rows / T, T, D), D even; cos, sin (T, D / 2). */
#ifndef REFIMPL_ROTARY_H
#define REFIMPL_ROTARY_H
#include "refimpl.h"

int RI(rotary)(const real *x, const real *cos, const real *sin, i64 rows, i64 T, i64 D, real *y, int threads);
int RI(rotary_backward)(const real *dy, const real *cos, const real *sin, i64 rows, i64 T, i64 D, real *dx,
                        int threads);

#endif
