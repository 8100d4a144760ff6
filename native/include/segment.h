/* segment.h - prototypes of segment.c. x, dx (E, D); segment (E); y, dy of a reduction (n_segments, D);
 * scores (E, H). An index out of range gives RI_INDEX. */
#ifndef REFIMPL_SEGMENT_H
#define REFIMPL_SEGMENT_H
#include "refimpl.h"

int RI(segment_sum)(const real *x, const i64 *segment, i64 n_segments, i64 E, i64 D, real *y, int threads);
int RI(segment_sum_backward)(const real *dy, const i64 *segment, i64 n_segments, i64 E, i64 D, real *dx, int threads);
int RI(segment_mean)(const real *x, const i64 *segment, i64 n_segments, i64 E, i64 D, real *y, int threads);
int RI(segment_mean_backward)(const real *dy, const i64 *segment, i64 n_segments, i64 E, i64 D, real *dx, int threads);
int RI(segment_max)(const real *x, const i64 *segment, i64 n_segments, i64 E, i64 D, real *y, i64 *argmax, int threads);
int RI(segment_max_backward)(const real *dy, const i64 *argmax, i64 E, i64 n_segments, i64 D, real *dx, int threads);
int RI(segment_softmax)(const real *scores, const i64 *segment, i64 n_segments, i64 E, i64 H, real *y, int threads);
int RI(segment_softmax_backward)(const real *dy, const real *y, const i64 *segment, i64 n_segments, i64 E, i64 H,
                                 real *dscores, int threads);

#endif
