/* events.h - prototypes of events.c. x (B, D_in), weight (D_in, D_out), y and dy (B, D_out). Outputs overlap no input.
 */
#ifndef REFIMPL_EVENTS_H
#define REFIMPL_EVENTS_H
#include "refimpl.h"

/* bias may be NULL */
int RI(event_linear)(const real *x, const real *weight, const real *bias, i64 B, i64 D_in, i64 D_out, real *y,
                     int threads);
/* dx may be NULL; with `accumulate` dweight and dbias are added to, else written; dbias may be NULL */
int RI(event_linear_backward)(const real *dy, const real *x, const real *weight, i64 B, i64 D_in, i64 D_out,
                              int accumulate, real *dx, real *dweight, real *dbias, int threads);

#endif
