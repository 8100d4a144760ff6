/* upsample.h - prototypes of upsample.c. P planes (batch times channels), H x W small and F H x G W large. */
#ifndef REFIMPL_UPSAMPLE_H
#define REFIMPL_UPSAMPLE_H
#include "refimpl.h"

int RI(upsample_nearest2d)(const real *x, i64 P, i64 H, i64 W, i64 F, i64 G, real *y, int threads);
int RI(upsample_nearest2d_backward)(const real *dy, i64 P, i64 H, i64 W, i64 F, i64 G, real *dx, int threads);
int RI(upsample_bilinear2d)(const real *x, i64 P, i64 H, i64 W, i64 F, i64 G, real *y, int threads);
int RI(upsample_bilinear2d_backward)(const real *dy, i64 P, i64 H, i64 W, i64 F, i64 G, real *dx, int threads);

#endif
