/* denoise.c - softmax, mixture of class embeddings, squared distance and their gradients. Mirror of
 * refimpl/ops/denoise.py.
 *
 * Roofline: with one-hot embeddings one row of K numbers is read once and written twice (p, df) while it lies in
 * registers and L1: about 4 K B elements of traffic and 30 flops an element (exp), so for the usual K = 10 and B = 128
 * the call is shorter than starting a second thread. With an embedding, 4 K D B flops of matrix product are added.
 */
#include "denoise.h"
#include "gemm.h"
#include "vmath.h"

/* BODY for every row b, shared by the threads when there is enough to do (`cost` nanoseconds a row). */
#define EACH_ROW(cost, BODY)                                                                                \
    do {                                                                                                    \
        int team = ri_team(threads, B * (cost));                                                            \
        if (team == 1) {                                                                                    \
            for (i64 b = 0; b < B; b++) BODY                                                                \
        } else {                                                                                            \
            _Pragma("omp parallel for schedule(static) num_threads(team)") for (i64 b = 0; b < B; b++) BODY \
        }                                                                                                   \
    } while (0)

/* p = softmax(f) of one row; the largest logit is taken off first, so exp cannot overflow. */
static inline void softmax_row(const real *f, i64 K, real *p) {
    real most = f[0], sum = R(0.0);
#pragma omp simd reduction(max : most)
    for (i64 k = 0; k < K; k++) most = f[k] > most ? f[k] : most;
#pragma omp simd reduction(+ : sum)
    for (i64 k = 0; k < K; k++) {
        p[k] = ri_exp(f[k] - most);
        sum += p[k];
    }
    real scale = R(1.0) / sum;
#pragma omp simd
    for (i64 k = 0; k < K; k++) p[k] *= scale;
}

/* df = p (dp - <p, dp>) of one row; dp may be df itself. */
static inline void softmax_backward_row(const real *dp, const real *p, i64 K, real *df) {
    real mean = R(0.0);
#pragma omp simd reduction(+ : mean)
    for (i64 k = 0; k < K; k++) mean += p[k] * dp[k];
#pragma omp simd
    for (i64 k = 0; k < K; k++) df[k] = p[k] * (dp[k] - mean);
}

int RI(softmax_mixture)(const real *f, const real *embedding, i64 B, i64 K, i64 D, real *uhat, real *p, int threads) {
    EACH_ROW(3 * K, { softmax_row(f + b * K, K, p + b * K); });
    if (!embedding) return RI_OK;
    return RI_INTERNAL(gemm)(0, 0, B, D, K, p, K, embedding, D, 0, uhat, D, threads);
}

int RI(softmax_mixture_backward)(const real *duhat, const real *p, const real *embedding, i64 B, i64 K, i64 D, real *df,
                                 real *dembedding, int threads) {
    const real *dp = duhat;
    if (embedding) {
        int status = RI_INTERNAL(gemm)(0, 1, B, K, D, duhat, D, embedding, D, 0, df, K, threads);
        if (status) return status;
        dp = df;
    }
    EACH_ROW(2 * K, { softmax_backward_row(dp + b * K, p + b * K, K, df + b * K); });
    if (!embedding) return RI_OK;
    return RI_INTERNAL(gemm)(1, 0, K, D, B, p, K, duhat, D, 0, dembedding, D, threads);
}

/* squared = |r|^2 and duhat = 2 weight r of one row, r = uhat - u; uhat is given in duhat. */
static inline real residual_row(const real *u, i64 D, real twice_weight, real *duhat) {
    real squared = R(0.0);
#pragma omp simd reduction(+ : squared)
    for (i64 d = 0; d < D; d++) {
        real r = duhat[d] - u[d];
        squared += r * r;
        duhat[d] = twice_weight * r;
    }
    return squared;
}

/* The same for u = e_target: one pass over a row that is still in L1. */
static inline real onehot_row(const real *p, i64 target, i64 K, real twice_weight, real *duhat) {
    real squared = R(0.0);
#pragma omp simd reduction(+ : squared)
    for (i64 k = 0; k < K; k++) {
        real r = p[k] - (k == target ? R(1.0) : R(0.0));
        squared += r * r;
        duhat[k] = twice_weight * r;
    }
    return squared;
}

int RI(denoise_loss)(const real *f, const i64 *target, const real *weight, const real *embedding, i64 B, i64 K, i64 D,
                     real *squared, real *p, real *duhat, real *df, int threads) {
    if (!embedding) {
        EACH_ROW(6 * K, {
            softmax_row(f + b * K, K, p + b * K);
            squared[b] = onehot_row(p + b * K, target[b], K, R(2.0) * weight[b], duhat + b * K);
            softmax_backward_row(duhat + b * K, p + b * K, K, df + b * K);
        });
        return RI_OK;
    }
    EACH_ROW(3 * K, { softmax_row(f + b * K, K, p + b * K); });
    int status = RI_INTERNAL(gemm)(0, 0, B, D, K, p, K, embedding, D, 0, duhat, D, threads);
    if (status) return status;
    EACH_ROW(D, { squared[b] = residual_row(embedding + target[b] * D, D, R(2.0) * weight[b], duhat + b * D); });
    status = RI_INTERNAL(gemm)(0, 1, B, K, D, duhat, D, embedding, D, 0, df, K, threads);
    if (status) return status;
    EACH_ROW(2 * K, { softmax_backward_row(df + b * K, p + b * K, K, df + b * K); });
    return RI_OK;
}
