/* matmul.c - matrix products and the linear layer. Mirror of refimpl/ops/matmul.py.
 *
 * Roofline: the products are gemm.c's, bound by multiply-adds but for the thinnest shapes. The bias is added while a
 * tile of the result is still in registers; its gradient is one more pass over dy, D_in times less work than dweight.
 * dense applies its activation to a tile in L1 as long as the result stays in L2: one region of the team instead of
 * two, and one pass less. Beyond, the rows of a tile lie pages apart, and what waits for their lines to arrive is no
 * longer hidden behind the multiply-adds; a pass of its own over consecutive numbers is quicker there (by a tenth for
 * GELU).
 */
#include "matmul.h"
#include "activate.h"
#include "activation.h"
#include "gemm.h"
#include "parameter.h"

/* Up to so many KiB of result an activation is applied tile by tile. */
RI_PARAMETER(dense_fused, 1024, 0, 256, 1024, 4096);

/* Whether the output's n elements overlap none of the input's m, and both are aligned. */
static int plain(const real *out, i64 n, const real *in, i64 m) {
    uintptr_t o = (uintptr_t)out, i = (uintptr_t)in;
    int apart = n == 0 || m == 0 || o + (uintptr_t)n * sizeof(real) <= i || i + (uintptr_t)m * sizeof(real) <= o;
    return apart && (o | i) % _Alignof(real) == 0;
}

int RI(matmul)(const real *a, const real *b, int transpose_a, int transpose_b, i64 B, i64 M, i64 N, i64 K, i64 lda,
               i64 a_step, i64 ldb, i64 b_step, real *out, i64 out_step, int threads) {
    return RI_INTERNAL(gemm_batch)(transpose_a, transpose_b, B, M, N, K, a, lda, a_step, b, ldb, b_step, 0, out, N,
                                   out_step, threads);
}

int RI(matmul_plain)(const real *a, const real *b, int transpose_a, int transpose_b, i64 M, i64 N, i64 K, real *out,
                     int threads) {
    if (!plain(out, M * N, a, M * K) || !plain(out, M * N, b, K * N)) return RI_NOT_PLAIN;
    return RI_INTERNAL(gemm)(transpose_a, transpose_b, M, N, K, a, transpose_a ? M : K, b, transpose_b ? K : N, 0, out,
                             N, threads);
}

int RI(linear)(const real *x, const real *weight, int transposed, const real *bias, i64 B, i64 D_in, i64 D_out,
               real *out, int threads) {
    if (!plain(out, B * D_out, x, B * D_in) || !plain(out, B * D_out, weight, D_in * D_out)) return RI_NOT_PLAIN;
    if (bias && !plain(out, B * D_out, bias, D_out)) return RI_NOT_PLAIN;
    return RI_INTERNAL(gemm_bias)(0, transposed, B, D_out, D_in, x, D_in, weight, transposed ? D_in : D_out, bias, 0,
                                  out, D_out, threads);
}

/* dbias = (accumulate ? dbias : 0) + the sum over the rows of dy, for the columns [j0, j1). Rows in order. */
static void sum_rows(const real *dy, i64 B, i64 D_out, i64 j0, i64 j1, int accumulate, real *dbias) {
    enum { WIDTH = 128 }; /* columns whose sums stay in registers or L1 */
    for (i64 j = j0; j < j1; j += WIDTH) {
        i64 n = j1 - j < WIDTH ? j1 - j : WIDTH;
        real sum[WIDTH] = {0};
        if (n == WIDTH) {
            for (i64 i = 0; i < B; i++) {
#pragma omp simd
                for (i64 q = 0; q < WIDTH; q++) sum[q] += dy[i * D_out + j + q];
            }
        } else {
            for (i64 i = 0; i < B; i++) {
#pragma omp simd
                for (i64 q = 0; q < n; q++) sum[q] += dy[i * D_out + j + q];
            }
        }
        for (i64 q = 0; q < n; q++) dbias[j + q] = accumulate ? dbias[j + q] + sum[q] : sum[q];
    }
}

int RI(linear_backward)(const real *dy, const real *x, const real *weight, int transposed, i64 B, i64 D_in, i64 D_out,
                        int accumulate, real *dx, real *dweight, real *dbias, int threads) {
    if (dx) {
        int status = RI_INTERNAL(gemm)(0, !transposed, B, D_in, D_out, dy, D_out, weight, transposed ? D_in : D_out, 0,
                                       dx, D_in, threads);
        if (status != RI_OK) return status;
    }
    int status = RI_INTERNAL(gemm)(1, 0, D_in, D_out, B, x, D_in, dy, D_out, accumulate, dweight, D_out, threads);
    if (status != RI_OK || !dbias) return status;
    int team = ri_team(threads, B * D_out / 8);
    if (team == 1) {
        sum_rows(dy, B, D_out, 0, D_out, accumulate, dbias);
        return RI_OK;
    }
#pragma omp parallel for schedule(static) num_threads(team)
    for (int part = 0; part < team; part++) {
        i64 j0, j1;
        ri_share(D_out, 16, part, team, &j0, &j1);
        sum_rows(dy, B, D_out, j0, j1, accumulate, dbias);
    }
    return RI_OK;
}

static int apply(int activation, const real *x, i64 n, real *y, int threads) {
    switch (activation) {
        case RI_ACT_RELU:
            return RI(relu)(x, n, y, threads);
        case RI_ACT_TANH:
            return RI(tanh)(x, n, y, threads);
        case RI_ACT_SIGMOID:
            return RI(sigmoid)(x, n, y, threads);
        case RI_ACT_LEAKY_RELU:
            return RI(leaky_relu)(x, RI_LEAKY_SLOPE, n, y, threads);
        case RI_ACT_ELU:
            return RI(elu)(x, RI_ELU_ALPHA, n, y, threads);
        case RI_ACT_GELU:
            return RI(gelu)(x, n, y, threads);
        case RI_ACT_GELU_TANH:
            return RI(gelu_tanh)(x, n, y, threads);
        case RI_ACT_SILU:
            return RI(silu)(x, n, y, threads);
        default:
            return RI(softplus)(x, n, y, threads);
    }
}

int RI(dense)(const real *x, const real *weight, int transposed, const real *bias, int activation, i64 B, i64 D_in,
              i64 D_out, real *out, real *before, int threads) {
    const i64 ld = transposed ? D_in : D_out, n = B * D_out;
    if (n <= RI_VALUE(dense_fused) * 1024 / (i64)sizeof(real)) {
        RI_INTERNAL(epilogue) end = {bias, activation, before};
        return RI_INTERNAL(gemm_activated)(0, transposed, B, D_out, D_in, x, D_in, weight, ld, end, out, D_out,
                                           threads);
    }
    real *z = before ? before : out;
    int status = RI_INTERNAL(gemm_bias)(0, transposed, B, D_out, D_in, x, D_in, weight, ld, bias, 0, z, D_out, threads);
    return status != RI_OK ? status : apply(activation, z, n, out, threads);
}

static int activation_backward(int activation, const real *dy, const real *kept, i64 n, real *dz, int threads) {
    switch (activation) {
        case RI_ACT_RELU:
            return RI(relu_backward)(dy, kept, n, dz, threads);
        case RI_ACT_TANH:
            return RI(tanh_backward)(dy, kept, n, dz, threads);
        case RI_ACT_SIGMOID:
            return RI(sigmoid_backward)(dy, kept, n, dz, threads);
        case RI_ACT_LEAKY_RELU:
            return RI(leaky_relu_backward)(dy, kept, RI_LEAKY_SLOPE, n, dz, threads);
        case RI_ACT_ELU:
            return RI(elu_backward)(dy, kept, RI_ELU_ALPHA, n, dz, threads);
        case RI_ACT_GELU:
            return RI(gelu_backward)(dy, kept, n, dz, threads);
        case RI_ACT_GELU_TANH:
            return RI(gelu_tanh_backward)(dy, kept, n, dz, threads);
        case RI_ACT_SILU:
            return RI(silu_backward)(dy, kept, n, dz, threads);
        default:
            return RI(softplus_backward)(dy, kept, n, dz, threads);
    }
}

int RI(dense_backward)(const real *dy, const real *x, const real *weight, int transposed, const real *kept,
                       int activation, i64 B, i64 D_in, i64 D_out, int accumulate, real *dz, real *dx, real *dweight,
                       real *dbias, int threads) {
    int status = activation_backward(activation, dy, kept, B * D_out, dz, threads);
    if (status != RI_OK) return status;
    return RI(linear_backward)(dz, x, weight, transposed, B, D_in, D_out, accumulate, dx, dweight, dbias, threads);
}
