/* wave.h - prototypes of wave.c. Outputs overlap no input. */
#ifndef REFIMPL_WAVE_H
#define REFIMPL_WAVE_H
#include "refimpl.h"

/* x (B, D), mixing (D, 2N), coupling (2N, 2N); writes y (B, N). */
int RI(cubic_wave)(const real *x, const real *mixing, const real *coupling, double strength, i64 B, i64 D, i64 N,
                   real *y, int threads);

#endif
