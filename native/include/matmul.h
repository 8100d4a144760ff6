/* matmul.h - prototypes of matmul.c. Outputs overlap no input, but where RI_NOT_PLAIN is the answer to one that does.
 */
#ifndef REFIMPL_MATMUL_H
#define REFIMPL_MATMUL_H
#include "refimpl.h"

/* Nothing was done: the output overlaps an input, or an array is not aligned to its elements. Copy, and ask again. */
enum { RI_NOT_PLAIN = 16 };

/* out[i] = op(a[i]) op(b[i]) for B pairs: op(a) is M x K, op(b) is K x N, out C-contiguous. lda, ldb: elements from one
 * row to the next; a_step, b_step: from one matrix to the next, 0 where the batch shares it. out_step is M N, or 0: the
 * sum over the batch. */
int RI(matmul)(const real *a, const real *b, int transpose_a, int transpose_b, i64 B, i64 M, i64 N, i64 K, i64 lda,
               i64 a_step, i64 ldb, i64 b_step, real *out, i64 out_step, int threads);

/* out = op(a) op(b) for two matrices, all three C-contiguous; a call with little to convert. RI_NOT_PLAIN: see above.
 */
int RI(matmul_plain)(const real *a, const real *b, int transpose_a, int transpose_b, i64 M, i64 N, i64 K, real *out,
                     int threads);

/* x (B, D_in), weight (D_in, D_out), in memory (D_out, D_in) where `transposed`; bias may be NULL. RI_NOT_PLAIN: see
 * above. */
int RI(linear)(const real *x, const real *weight, int transposed, const real *bias, i64 B, i64 D_in, i64 D_out,
               real *out, int threads);

/* dx may be NULL (not needed), and dbias (no bias). With `accumulate`, dweight and dbias are added to. dweight is
 * (D_in, D_out) in memory, whatever `transposed` says of the weight. */
int RI(linear_backward)(const real *dy, const real *x, const real *weight, int transposed, i64 B, i64 D_in, i64 D_out,
                        int accumulate, real *dx, real *dweight, real *dbias, int threads);

/* out = f(x weight + bias) for the activation numbered so in activate.h, and where `before` is not NULL its argument.
 * Otherwise as linear. */
int RI(dense)(const real *x, const real *weight, int transposed, const real *bias, int activation, i64 B, i64 D_in,
              i64 D_out, real *out, real *before, int threads);

/* dz = dy f'(kept), then as linear_backward with dz for dy. kept is f's value for relu, tanh and sigmoid, else its
 * argument. */
int RI(dense_backward)(const real *dy, const real *x, const real *weight, int transposed, const real *kept,
                       int activation, i64 B, i64 D_in, i64 D_out, int accumulate, real *dz, real *dx, real *dweight,
                       real *dbias, int threads);

#endif
