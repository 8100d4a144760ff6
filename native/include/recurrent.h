/* recurrent.h - prototypes of recurrent.c. Whole sequences; a cell is a sequence of one step. x (B, T, D), states
 * (B, N), w_x (D, G N), w_h (N, G N), biases (G N); y, c (B, T, N); gates (B, T, 4 N). Outputs overlap no input.
 * dx may be NULL (not needed); with `accumulate` the gradients of weights and biases are added to what is there. */
#ifndef REFIMPL_RECURRENT_H
#define REFIMPL_RECURRENT_H
#include "refimpl.h"

int RI(rnn_sequence)(const real *x, const real *h0, const real *w_x, const real *w_h, const real *bias, i64 B, i64 T,
                     i64 D, i64 N, real *y, int threads);
int RI(rnn_sequence_backward)(const real *dy, const real *x, const real *h0, const real *w_x, const real *w_h,
                              const real *y, i64 B, i64 T, i64 D, i64 N, int accumulate, real *dx, real *dh0,
                              real *dw_x, real *dw_h, real *dbias, int threads);

int RI(gru_sequence)(const real *x, const real *h0, const real *w_x, const real *w_h, const real *bias_x,
                     const real *bias_h, i64 B, i64 T, i64 D, i64 N, real *y, real *gates, int threads);
int RI(gru_sequence_backward)(const real *dy, const real *x, const real *h0, const real *w_x, const real *w_h,
                              const real *y, const real *gates, i64 B, i64 T, i64 D, i64 N, int accumulate, real *dx,
                              real *dh0, real *dw_x, real *dw_h, real *dbias_x, real *dbias_h, int threads);

int RI(lstm_sequence)(const real *x, const real *h0, const real *c0, const real *w_x, const real *w_h, const real *bias,
                      i64 B, i64 T, i64 D, i64 N, real *y, real *c, real *gates, int threads);
/* dc may be NULL */
int RI(lstm_sequence_backward)(const real *dy, const real *dc, const real *x, const real *h0, const real *c0,
                               const real *w_x, const real *w_h, const real *y, const real *c, const real *gates, i64 B,
                               i64 T, i64 D, i64 N, int accumulate, real *dx, real *dh0, real *dc0, real *dw_x,
                               real *dw_h, real *dbias, int threads);

#endif
