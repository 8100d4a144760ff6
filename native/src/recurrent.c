/* recurrent.c - plain, GRU and LSTM sequences and back-propagation through time. Mirror of refimpl/ops/recurrent.py.
 *
 * Roofline: the input's product, dx and the weights' gradients are products over all B T rows at once, at gemm.c's
 * speed. The recurrent product of a step has only B rows: w_h is packed once for all steps, so that a step reads each
 * weight once per ROWS samples, from L2 where it fits, and the gates follow while its result is in L1. Samples are
 * independent, so each thread takes some through all steps without waiting for the others.
 *
 * The bits of a result do not depend on the threads: each element is summed in an order of its own sample alone.
 */
#include "recurrent.h"
#include "gemm.h"
#include "reduce.h"
#include "vmath.h"

#include <string.h>

/* A tile of the step's product: ROWS samples by two vectors of columns, in registers. */
#if defined(__AVX512F__)
#define BYTES 64
#define ROWS 8
#elif defined(__AVX__)
#define BYTES 32
#define ROWS 4
#else
#define BYTES 16
#define ROWS 4
#endif
#define VL ((i64)(BYTES / sizeof(real)))
#define WIDE (2 * VL)

typedef real vec __attribute__((vector_size(BYTES)));
typedef real loose __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))

/* ------------------------------------------------------------------------------------------------ the step's product
 */

static i64 packed_size(i64 K, i64 n) {
    return (n + WIDE - 1) / WIDE * WIDE * K;
}

/* W (K x n), element (k, j) at w[k sk + j sj], as slivers of WIDE columns: out[sliver][k][WIDE], padded by zeros */
static void pack(const real *w, i64 sk, i64 sj, i64 K, i64 n, real *out) {
    for (i64 j0 = 0; j0 < n; j0 += WIDE, out += WIDE * K) {
        i64 width = n - j0 < WIDE ? n - j0 : WIDE;
        if (sj == 1) {
            for (i64 k = 0; k < K; k++) {
                for (i64 j = 0; j < width; j++) out[k * WIDE + j] = w[k * sk + j0 + j];
                for (i64 j = width; j < WIDE; j++) out[k * WIDE + j] = 0;
            }
            continue;
        }
        for (i64 k0 = 0; k0 < K; k0 += 64) { /* read along k, where W lies so, in parts whose slivers stay in L1 */
            i64 k1 = k0 + 64 < K ? k0 + 64 : K;
            for (i64 j = 0; j < WIDE; j++) {
                for (i64 k = k0; k < k1; k++) out[k * WIDE + j] = j < width ? w[k * sk + (j0 + j) * sj] : 0;
            }
        }
    }
}

/* `rows` (constant) by `width` columns: C = (add ? C : 0) + A times one sliver */
INLINE void tile(int rows, i64 K, i64 width, const real *a, i64 lda, const real *w, int add, real *c, i64 ldc) {
    vec t[ROWS][2];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) t[i][0] = t[i][1] = (vec){0};
    for (i64 k = 0; k < K; k++) {
        vec w0 = *(const loose *)(w + k * WIDE), w1 = *(const loose *)(w + k * WIDE + VL);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            real s = a[i * lda + k];
            t[i][0] += s * w0;
            t[i][1] += s * w1;
        }
    }
    if (width == WIDE) {
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            loose *to = (loose *)(c + i * ldc), *next = (loose *)(c + i * ldc + VL);
            if (add) t[i][0] += *to, t[i][1] += *next;
            *to = t[i][0];
            *next = t[i][1];
        }
        return;
    }
    for (int i = 0; i < rows; i++) {
        real row[2 * BYTES / sizeof(real)];
        memcpy(row, t[i], sizeof row);
        for (i64 j = 0; j < width; j++) c[i * ldc + j] = add ? c[i * ldc + j] + row[j] : row[j];
    }
}

/* C (m x n) = (add ? C : 0) + A (m x K) W, W packed */
NOINLINE void product(i64 m, i64 n, i64 K, const real *a, i64 lda, const real *w, int add, real *c, i64 ldc) {
    for (i64 j = 0; j < n; j += WIDE, w += WIDE * K) {
        i64 width = n - j < WIDE ? n - j : WIDE, i = 0;
        for (; i + ROWS <= m; i += ROWS) tile(ROWS, K, width, a + i * lda, lda, w, add, c + i * ldc + j, ldc);
        for (; ROWS > 4 && i + 4 <= m; i += 4) tile(4, K, width, a + i * lda, lda, w, add, c + i * ldc + j, ldc);
        for (; i + 2 <= m; i += 2) tile(2, K, width, a + i * lda, lda, w, add, c + i * ldc + j, ldc);
        for (; i < m; i++) tile(1, K, width, a + i * lda, lda, w, add, c + i * ldc + j, ldc);
    }
}

/* ------------------------------------------------------------------------------------------------ shared */

/* sigmoid and tanh of arguments with |x| <= FAR, for which no exponential leaves the normal range: fewer steps than
 * those in vmath.h take, which would else make a seventh of the forward pass. */
#define FAR R(40.0)

/* Whether all of a gate's n sums are so small, and none is NaN. */
INLINE int near(const real *a, i64 n) {
    ri_int far = 0;
#pragma omp simd reduction(| : far)
    for (i64 j = 0; j < n; j++) far |= ri_abs(a[j]) <= FAR ? 0 : 1;
    return !far;
}

INLINE real near_sigmoid(real x) {
    real scale;
    real r = ri_reduce(-x, R(0.0), &scale);
    real e = (R(1.0) + (r + r * r * ri_exp_tail(r))) * scale;
    return R(1.0) / (R(1.0) + e);
}

INLINE real near_tanh(real x) {
    real scale;
    real r = ri_reduce(R(-2.0) * ri_abs(x), R(0.0), &scale);
    real t = scale * (r + r * r * ri_exp_tail(r)) + (scale - R(1.0));
    return ri_copysign(-t / (t + R(2.0)), x);
}

/* Threads worth starting for T steps of B samples with N units and G gates. */
static int sequence_team(int threads, i64 B, i64 T, i64 N, i64 G) {
    double ns = (double)B * (double)T * (double)N * (double)G * ((double)N / (double)(2 * VL) + 2);
    int team = ri_team(threads, ns < 1e15 ? (i64)ns : (i64)1e15);
    return team < B ? team : B > 1 ? (int)B : 1;
}

/* The step before: rows (b, t) of `out` are h0 for t = 0 and y (b, t - 1) else. */
static void states_before(const real *h0, const real *y, i64 B, i64 T, i64 N, real *out) {
    if (T == 0 || N == 0) return;
    for (i64 b = 0; b < B; b++) {
        memcpy(out + b * T * N, h0 + b * N, sizeof(real) * (size_t)N);
        if (T > 1) memcpy(out + (b * T + 1) * N, y + b * T * N, sizeof(real) * (size_t)((T - 1) * N));
    }
}

/* dbias = (accumulate ? dbias : 0) + the sum over the rows of da (R x n); `sum` has room for n */
static int bias_backward(const real *da, i64 R, i64 n, int accumulate, real *dbias, real *sum, int threads) {
    if (!accumulate) return RI(sum_rows)(da, R, n, dbias, threads);
    int status = RI(sum_rows)(da, R, n, sum, threads);
    for (i64 j = 0; j < n && status == RI_OK; j++) dbias[j] += sum[j];
    return status;
}

/* a = x W + b over R rows: dx = da W^T where asked for, dW = x^T da, db = sum of da */
static int input_backward(const real *da, const real *x, const real *w_x, i64 R, i64 D, i64 n, int accumulate, real *dx,
                          real *dw_x, real *dbias, real *sum, int threads) {
    int status = RI_OK;
    if (dx) status = RI_INTERNAL(gemm)(0, 1, R, D, n, da, n, w_x, n, 0, dx, D, threads);
    if (status != RI_OK) return status;
    status = RI_INTERNAL(gemm)(1, 0, D, n, R, x, D, da, n, accumulate, dw_x, n, threads);
    if (status != RI_OK) return status;
    return bias_backward(da, R, n, accumulate, dbias, sum, threads);
}

/* BODY for the samples [b0, b1) of each of `team` parts */
#define SAMPLES(team, BODY)                                                                                          \
    do {                                                                                                             \
        if ((team) == 1) {                                                                                           \
            i64 b0 = 0, b1 = B;                                                                                      \
            BODY;                                                                                                    \
        } else {                                                                                                     \
            _Pragma("omp parallel for schedule(static) num_threads(team)") for (int part = 0; part < team; part++) { \
                i64 b0, b1;                                                                                          \
                ri_share(B, 1, part, team, &b0, &b1);                                                                \
                BODY;                                                                                                \
            }                                                                                                        \
        }                                                                                                            \
    } while (0)

/* ------------------------------------------------------------------------------------------------ plain */

/* y holds x W + b and becomes the states, for the samples [b0, b1) */
NOINLINE void rnn_steps(const real *h0, const real *w, i64 b0, i64 b1, i64 T, i64 N, real *y) {
    for (i64 t = 0; t < T; t++) {
        real *now = y + (b0 * T + t) * N;
        const real *h = t ? now - N : h0 + b0 * N;
        product(b1 - b0, N, N, h, t ? T * N : N, w, 1, now, T * N);
        for (i64 b = b0; b < b1; b++, now += T * N) {
#pragma omp simd
            for (i64 j = 0; j < N; j++) now[j] = ri_tanh(now[j]);
        }
    }
}

int RI(rnn_sequence)(const real *x, const real *h0, const real *w_x, const real *w_h, const real *bias, i64 B, i64 T,
                     i64 D, i64 N, real *y, int threads) {
    real *w = ri_workspace(RI_WS_OP, sizeof(real) * (size_t)packed_size(N, N));
    if (!w) return RI_NOMEM;
    pack(w_h, N, 1, N, N, w);
    int status = RI_INTERNAL(gemm_bias)(0, 0, B * T, N, D, x, D, w_x, N, bias, 0, y, N, threads);
    if (status != RI_OK) return status;
    int team = sequence_team(threads, B, T, N, 1);
    SAMPLES(team, rnn_steps(h0, w, b0, b1, T, N, y));
    return RI_OK;
}

/* dh (B, N) holds the gradient that the later steps send back: dh0 in the end */
NOINLINE void rnn_steps_backward(const real *dy, const real *w, const real *y, i64 b0, i64 b1, i64 T, i64 N, real *da,
                                 real *dh) {
    for (i64 i = b0 * N; i < b1 * N; i++) dh[i] = 0;
    for (i64 t = T - 1; t >= 0; t--) {
        for (i64 b = b0; b < b1; b++) {
            const real *g = dy + (b * T + t) * N, *h = y + (b * T + t) * N, *later = dh + b * N;
            real *out = da + (b * T + t) * N;
#pragma omp simd
            for (i64 j = 0; j < N; j++) out[j] = (g[j] + later[j]) * (R(1.0) - h[j] * h[j]);
        }
        product(b1 - b0, N, N, da + (b0 * T + t) * N, T * N, w, 0, dh + b0 * N, N);
    }
}

int RI(rnn_sequence_backward)(const real *dy, const real *x, const real *h0, const real *w_x, const real *w_h,
                              const real *y, i64 B, i64 T, i64 D, i64 N, int accumulate, real *dx, real *dh0,
                              real *dw_x, real *dw_h, real *dbias, int threads) {
    real *w = ri_workspace(RI_WS_OP, sizeof(real) * (size_t)packed_size(N, N));
    real *da = ri_workspace(RI_WS_OP2, sizeof(real) * (size_t)(2 * B * T * N + N));
    if (!w || !da) return RI_NOMEM;
    real *before = da + B * T * N, *sum = before + B * T * N;
    pack(w_h, 1, N, N, N, w);
    int team = sequence_team(threads, B, T, N, 1);
    SAMPLES(team, rnn_steps_backward(dy, w, y, b0, b1, T, N, da, dh0));
    states_before(h0, y, B, T, N, before);
    int status = input_backward(da, x, w_x, B * T, D, N, accumulate, dx, dw_x, dbias, sum, threads);
    if (status != RI_OK) return status;
    return RI_INTERNAL(gemm)(1, 0, N, N, B * T, before, N, da, N, accumulate, dw_h, N, threads);
}

/* ------------------------------------------------------------------------------------------------ GRU */

/* gates (B, T, 4N) holds x W + b (with c for r and z) in its first three blocks, and becomes r, z, n, q. w: U_r and U_z
 * packed, then U_n packed. */
NOINLINE void gru_steps(const real *h0, const real *w, const real *bias_n, i64 b0, i64 b1, i64 T, i64 N, real *y,
                        real *gates) {
    const real *w_n = w + packed_size(N, 2 * N);
    for (i64 t = 0; t < T; t++) {
        const real *h = t ? y + (b0 * T + t - 1) * N : h0 + b0 * N;
        i64 next = t ? T * N : N; /* from one sample's state to the next */
        real *a = gates + (b0 * T + t) * 4 * N;
        product(b1 - b0, 2 * N, N, h, next, w, 1, a, T * 4 * N);
        product(b1 - b0, N, N, h, next, w_n, 0, a + 3 * N, T * 4 * N);
        for (i64 b = b0; b < b1; b++, h += next, a += T * 4 * N) {
            real *r = a, *z = a + N, *n = a + 2 * N, *q = a + 3 * N, *now = y + (b * T + t) * N;
            if (near(r, 2 * N)) {
#pragma omp simd
                for (i64 j = 0; j < N; j++) r[j] = near_sigmoid(r[j]), z[j] = near_sigmoid(z[j]), q[j] += bias_n[j];
            } else {
#pragma omp simd
                for (i64 j = 0; j < N; j++) r[j] = ri_sigmoid(r[j]), z[j] = ri_sigmoid(z[j]), q[j] += bias_n[j];
            }
#pragma omp simd
            for (i64 j = 0; j < N; j++) {
                n[j] = ri_tanh(n[j] + r[j] * q[j]);
                now[j] = (R(1.0) - z[j]) * n[j] + z[j] * h[j];
            }
        }
    }
}

int RI(gru_sequence)(const real *x, const real *h0, const real *w_x, const real *w_h, const real *bias_x,
                     const real *bias_h, i64 B, i64 T, i64 D, i64 N, real *y, real *gates, int threads) {
    i64 size = packed_size(N, 2 * N);
    real *w = ri_workspace(RI_WS_OP, sizeof(real) * (size_t)(size + packed_size(N, N) + 3 * N));
    if (!w) return RI_NOMEM;
    real *bias = w + size + packed_size(N, N); /* r and z add both biases at once */
    for (i64 j = 0; j < 3 * N; j++) bias[j] = j < 2 * N ? bias_x[j] + bias_h[j] : bias_x[j];
    pack(w_h, 3 * N, 1, N, 2 * N, w);
    pack(w_h + 2 * N, 3 * N, 1, N, N, w + size);
    int status = RI_INTERNAL(gemm_bias)(0, 0, B * T, 3 * N, D, x, D, w_x, 3 * N, bias, 0, gates, 4 * N, threads);
    if (status != RI_OK) return status;
    int team = sequence_team(threads, B, T, N, 3);
    SAMPLES(team, gru_steps(h0, w, bias_h + 2 * N, b0, b1, T, N, y, gates));
    return RI_OK;
}

/* da and du: gradients of the input's and the recurrent product; dh as in rnn_steps_backward */
NOINLINE void gru_steps_backward(const real *dy, const real *w, const real *before, const real *gates, i64 b0, i64 b1,
                                 i64 T, i64 N, real *da, real *du, real *dh) {
    for (i64 i = b0 * N; i < b1 * N; i++) dh[i] = 0;
    for (i64 t = T - 1; t >= 0; t--) {
        for (i64 b = b0; b < b1; b++) {
            i64 row = b * T + t;
            const real *g = dy + row * N, *h = before + row * N, *r = gates + row * 4 * N;
            const real *z = r + N, *n = r + 2 * N, *q = r + 3 * N;
            real *later = dh + b * N, *a = da + row * 3 * N, *u = du + row * 3 * N;
#pragma omp simd
            for (i64 j = 0; j < N; j++) {
                real d = g[j] + later[j];
                real da_z = d * (h[j] - n[j]) * z[j] * (R(1.0) - z[j]);
                real da_n = d * (R(1.0) - z[j]) * (R(1.0) - n[j] * n[j]);
                real da_r = da_n * q[j] * r[j] * (R(1.0) - r[j]);
                a[j] = u[j] = da_r;
                a[N + j] = u[N + j] = da_z;
                a[2 * N + j] = da_n;
                u[2 * N + j] = da_n * r[j];
                later[j] = d * z[j];
            }
        }
        product(b1 - b0, N, 3 * N, du + (b0 * T + t) * 3 * N, T * 3 * N, w, 1, dh + b0 * N, N);
    }
}

int RI(gru_sequence_backward)(const real *dy, const real *x, const real *h0, const real *w_x, const real *w_h,
                              const real *y, const real *gates, i64 B, i64 T, i64 D, i64 N, int accumulate, real *dx,
                              real *dh0, real *dw_x, real *dw_h, real *dbias_x, real *dbias_h, int threads) {
    real *w = ri_workspace(RI_WS_OP, sizeof(real) * (size_t)packed_size(3 * N, N));
    real *da = ri_workspace(RI_WS_OP2, sizeof(real) * (size_t)(7 * B * T * N + 3 * N));
    if (!w || !da) return RI_NOMEM;
    real *du = da + 3 * B * T * N, *before = du + 3 * B * T * N, *sum = before + B * T * N;
    pack(w_h, 1, 3 * N, 3 * N, N, w);
    states_before(h0, y, B, T, N, before);
    int team = sequence_team(threads, B, T, N, 3);
    SAMPLES(team, gru_steps_backward(dy, w, before, gates, b0, b1, T, N, da, du, dh0));
    int status = input_backward(da, x, w_x, B * T, D, 3 * N, accumulate, dx, dw_x, dbias_x, sum, threads);
    if (status != RI_OK) return status;
    status = bias_backward(du, B * T, 3 * N, accumulate, dbias_h, sum, threads);
    if (status != RI_OK) return status;
    return RI_INTERNAL(gemm)(1, 0, N, 3 * N, B * T, before, N, du, 3 * N, accumulate, dw_h, 3 * N, threads);
}

/* ------------------------------------------------------------------------------------------------ LSTM */

/* gates (B, T, 4N) holds x W + b and becomes i, f, g, o */
NOINLINE void lstm_steps(const real *h0, const real *c0, const real *w, i64 b0, i64 b1, i64 T, i64 N, real *y, real *c,
                         real *gates) {
    for (i64 t = 0; t < T; t++) {
        const real *h = t ? y + (b0 * T + t - 1) * N : h0 + b0 * N;
        product(b1 - b0, 4 * N, N, h, t ? T * N : N, w, 1, gates + (b0 * T + t) * 4 * N, T * 4 * N);
        for (i64 b = b0; b < b1; b++) {
            real *i = gates + (b * T + t) * 4 * N, *f = i + N, *g = i + 2 * N, *o = i + 3 * N;
            real *c_now = c + (b * T + t) * N, *now = y + (b * T + t) * N;
            const real *c_before = t ? c_now - N : c0 + b * N;
            if (near(i, 4 * N)) {
#pragma omp simd
                for (i64 j = 0; j < N; j++) {
                    i[j] = near_sigmoid(i[j]);
                    f[j] = near_sigmoid(f[j]);
                    g[j] = near_tanh(g[j]);
                    o[j] = near_sigmoid(o[j]);
                }
            } else {
#pragma omp simd
                for (i64 j = 0; j < N; j++) {
                    i[j] = ri_sigmoid(i[j]);
                    f[j] = ri_sigmoid(f[j]);
                    g[j] = ri_tanh(g[j]);
                    o[j] = ri_sigmoid(o[j]);
                }
            }
#pragma omp simd
            for (i64 j = 0; j < N; j++) {
                real cell = f[j] * c_before[j] + i[j] * g[j];
                c_now[j] = cell;
                now[j] = o[j] * ri_tanh(cell);
            }
        }
    }
}

int RI(lstm_sequence)(const real *x, const real *h0, const real *c0, const real *w_x, const real *w_h, const real *bias,
                      i64 B, i64 T, i64 D, i64 N, real *y, real *c, real *gates, int threads) {
    real *w = ri_workspace(RI_WS_OP, sizeof(real) * (size_t)packed_size(N, 4 * N));
    if (!w) return RI_NOMEM;
    pack(w_h, 4 * N, 1, N, 4 * N, w);
    int status = RI_INTERNAL(gemm_bias)(0, 0, B * T, 4 * N, D, x, D, w_x, 4 * N, bias, 0, gates, 4 * N, threads);
    if (status != RI_OK) return status;
    int team = sequence_team(threads, B, T, N, 4);
    SAMPLES(team, lstm_steps(h0, c0, w, b0, b1, T, N, y, c, gates));
    return RI_OK;
}

/* dh and dc_later (B, N) hold the gradients that the later steps send back: dh0 and dc0 in the end */
NOINLINE void lstm_steps_backward(const real *dy, const real *dc, const real *c0, const real *w, const real *c,
                                  const real *gates, i64 b0, i64 b1, i64 T, i64 N, real *da, real *dh, real *dc_later) {
    for (i64 i = b0 * N; i < b1 * N; i++) dh[i] = dc_later[i] = 0;
    for (i64 t = T - 1; t >= 0; t--) {
        for (i64 b = b0; b < b1; b++) {
            i64 row = b * T + t;
            const real *dy_now = dy + row * N, *c_now = c + row * N, *c_before = t ? c_now - N : c0 + b * N;
            const real *i = gates + row * 4 * N, *f = i + N, *g = i + 2 * N, *o = i + 3 * N;
            real *a = da + row * 4 * N, *later = dh + b * N, *cell = dc_later + b * N;
            if (dc) {
                const real *dc_now = dc + row * N;
#pragma omp simd
                for (i64 j = 0; j < N; j++) cell[j] += dc_now[j];
            }
#pragma omp simd
            for (i64 j = 0; j < N; j++) {
                real d = dy_now[j] + later[j];
                real tanh_c = ri_tanh(c_now[j]);
                real dcell = cell[j] + d * o[j] * (R(1.0) - tanh_c * tanh_c);
                a[j] = dcell * g[j] * i[j] * (R(1.0) - i[j]);
                a[N + j] = dcell * c_before[j] * f[j] * (R(1.0) - f[j]);
                a[2 * N + j] = dcell * i[j] * (R(1.0) - g[j] * g[j]);
                a[3 * N + j] = d * tanh_c * o[j] * (R(1.0) - o[j]);
                cell[j] = dcell * f[j];
            }
        }
        product(b1 - b0, N, 4 * N, da + (b0 * T + t) * 4 * N, T * 4 * N, w, 0, dh + b0 * N, N);
    }
}

int RI(lstm_sequence_backward)(const real *dy, const real *dc, const real *x, const real *h0, const real *c0,
                               const real *w_x, const real *w_h, const real *y, const real *c, const real *gates, i64 B,
                               i64 T, i64 D, i64 N, int accumulate, real *dx, real *dh0, real *dc0, real *dw_x,
                               real *dw_h, real *dbias, int threads) {
    real *w = ri_workspace(RI_WS_OP, sizeof(real) * (size_t)packed_size(4 * N, N));
    real *da = ri_workspace(RI_WS_OP2, sizeof(real) * (size_t)(5 * B * T * N + 4 * N));
    if (!w || !da) return RI_NOMEM;
    real *before = da + 4 * B * T * N, *sum = before + B * T * N;
    pack(w_h, 1, 4 * N, 4 * N, N, w);
    int team = sequence_team(threads, B, T, N, 4);
    SAMPLES(team, lstm_steps_backward(dy, dc, c0, w, c, gates, b0, b1, T, N, da, dh0, dc0));
    states_before(h0, y, B, T, N, before);
    int status = input_backward(da, x, w_x, B * T, D, 4 * N, accumulate, dx, dw_x, dbias, sum, threads);
    if (status != RI_OK) return status;
    return RI_INTERNAL(gemm)(1, 0, N, 4 * N, B * T, before, N, da, 4 * N, accumulate, dw_h, 4 * N, threads);
}
