/* target.c - layers with targets of their own: local losses, errors, and whole local steps. Mirror of
 * refimpl/ops/target.py.
 *
 * Roofline: target_loss reads z and a code and writes y and d, 4 B N elements of traffic and some 20 flops an element.
 * target_step for one sample reads and writes each weight once, 8 D N bytes in float32 for 4 D N flops: the bandwidth
 * of the memory that holds the weights bounds it. Two separate passes (a product, then a rank-one update) would read
 * them twice, and a gradient kept in between would make it 20 bytes a weight. What allows one visit is that the error
 * of a unit needs its own activity alone. A batch goes the same way, a block of units at a time: its rows of W are
 * read, used B times, updated by a product of rank B and written while they lie in L2. Blocks share nothing, so threads
 * need no barrier, and the result does not depend on their number. The cosine couples the units and takes two passes.
 * rnn_target_sequence does 4 B T N (D + N) flops; the input's products and both gradients are one product each over all
 * steps, only h U goes step by step, on weights that stay in cache.
 */
#include "target.h"
#include "gemm.h"
#include "parameter.h"
#include "vmath.h"

RI_PARAMETER(target_units, 32, 8, 16, 32, 64, 128); /* units of a block */

enum { L2, L1, LOGISTIC, HUBER, COSINE, LINEAR, LOSSES };
enum { TANH, SIGMOID, RELU, IDENTITY, ACTIVATIONS };

#define INLINE static inline __attribute__((always_inline))

INLINE real output(int activation, real z) {
    switch (activation) {
        case TANH:
            return ri_tanh(z);
        case SIGMOID:
            return ri_sigmoid(z);
        case RELU:
            return z < R(0.0) ? R(0.0) : z; /* NaN stays */
        default:
            return z;
    }
}

/* d s'(z), from y = s(z) */
INLINE real sloped(int activation, real d, real y) {
    switch (activation) {
        case TANH:
            return d * (R(1.0) - y * y);
        case SIGMOID:
            return d * (y * (R(1.0) - y));
        case RELU:
            return d * (y > R(0.0) ? R(1.0) : R(0.0));
        default:
            return d;
    }
}

/* dJ/dz of one unit; not for the cosine */
INLINE real error(int loss, int activation, real y, real t, real delta) {
    real r = y - t;
    switch (loss) {
        case L2:
            return sloped(activation, r, y);
        case L1:
            return sloped(activation, r != r ? r : (r > R(0.0) ? R(1.0) : R(0.0)) - (r < R(0.0) ? R(1.0) : R(0.0)), y);
        case LOGISTIC:
            return r;
        case HUBER:
            return sloped(activation, r > delta ? delta : (r < -delta ? -delta : r), y);
        default:
            return sloped(activation, -t, y);
    }
}

/* the unit's part of J */
INLINE real part(int loss, int activation, real z, real y, real t, real delta) {
    real r = y - t, size = ri_abs(r);
    switch (loss) {
        case L2:
            return R(0.5) * (r * r);
        case L1:
            return size;
        case LOGISTIC:
            if (activation == TANH) return ri_abs(z) - t * z + ri_log1p(ri_exp(R(-2.0) * ri_abs(z)));
            return (z < R(0.0) ? R(0.0) : z) - t * z + ri_log1p(ri_exp(-ri_abs(z)));
        case HUBER:
            return size <= delta ? R(0.5) * (r * r) : delta * (size - R(0.5) * delta);
        default:
            return -(t * y);
    }
}

/* y and d = scale dJ/dz of n units; y may be z itself. */
INLINE void errors_as(int loss, int activation, const real *z, const real *t, i64 n, real delta, real scale, real *y,
                      real *d) {
#pragma omp simd
    for (i64 j = 0; j < n; j++) {
        real out = output(activation, z[j]);
        d[j] = scale * error(loss, activation, out, t[j], delta);
        y[j] = out;
    }
}

INLINE real loss_as(int loss, int activation, const real *z, const real *y, const real *t, i64 n, real delta) {
    real sum = R(0.0);
#pragma omp simd reduction(+ : sum)
    for (i64 j = 0; j < n; j++) sum += part(loss, activation, z[j], y[j], t[j], delta);
    return sum;
}

#define EACH_ACTIVATION(LOSS, DO) \
    case 4 * LOSS + TANH:         \
        DO(LOSS, TANH);           \
    case 4 * LOSS + SIGMOID:      \
        DO(LOSS, SIGMOID);        \
    case 4 * LOSS + RELU:         \
        DO(LOSS, RELU);           \
    case 4 * LOSS + IDENTITY:     \
        DO(LOSS, IDENTITY);
#define EACH_KIND(DO)                 \
    switch (4 * loss + activation) {  \
        EACH_ACTIVATION(L2, DO)       \
        EACH_ACTIVATION(L1, DO)       \
        EACH_ACTIVATION(LOGISTIC, DO) \
        EACH_ACTIVATION(HUBER, DO)    \
        EACH_ACTIVATION(LINEAR, DO)   \
        default:                      \
            break;                    \
    }

static void errors(int loss, int activation, const real *z, const real *t, i64 n, real delta, real scale, real *y,
                   real *d) {
#define DO(L, A)                                  \
    errors_as(L, A, z, t, n, delta, scale, y, d); \
    return
    EACH_KIND(DO)
#undef DO
}

static real losses(int loss, int activation, const real *z, const real *y, const real *t, i64 n, real delta) {
#define DO(L, A) return loss_as(L, A, z, y, t, n, delta)
    EACH_KIND(DO)
#undef DO
    return R(0.0);
}

static inline real inverse_root(real squared) {
    return squared == R(0.0) ? R(0.0) : R(1.0) / (real)sqrt((double)squared);
}

/* The cosine of a row: returns J. */
static real cosine(int activation, const real *z, const real *t, i64 n, real scale, real *y, real *d) {
    real tt = R(0.0), yy = R(0.0), ty = R(0.0);
#define ROW(A)                                                              \
    _Pragma("omp simd") for (i64 j = 0; j < n; j++) y[j] = output(A, z[j]); \
    break
    switch (activation) {
        case TANH:
            ROW(TANH);
        case SIGMOID:
            ROW(SIGMOID);
        case RELU:
            ROW(RELU);
        default:
            ROW(IDENTITY);
    }
#undef ROW
#pragma omp simd reduction(+ : tt, yy, ty)
    for (i64 j = 0; j < n; j++) {
        tt += t[j] * t[j];
        yy += y[j] * y[j];
        ty += t[j] * y[j];
    }
    real u = inverse_root(tt), v = inverse_root(yy), g = ty * u * v, along = g * v * v, towards = u * v;
#define ROW(A)                                                                                                     \
    _Pragma("omp simd") for (i64 j = 0; j < n; j++) d[j] = scale * sloped(A, along * y[j] - towards * t[j], y[j]); \
    break
    switch (activation) {
        case TANH:
            ROW(TANH);
        case SIGMOID:
            ROW(SIGMOID);
        case RELU:
            ROW(RELU);
        default:
            ROW(IDENTITY);
    }
#undef ROW
    return R(1.0) - g;
}

/* y, d and J of a whole row; y is not z. */
static real row(int loss, int activation, const real *z, const real *t, i64 n, real delta, real scale, real *y,
                real *d) {
    if (loss == COSINE) return cosine(activation, z, t, n, scale, y, d);
    errors(loss, activation, z, t, n, delta, scale, y, d);
    return losses(loss, activation, z, y, t, n, delta);
}

static int outside(const i64 *labels, i64 B, i64 K) {
    for (i64 b = 0; b < B; b++)
        if (labels[b] < 0 || labels[b] >= K) return 1;
    return 0;
}

int RI(target_loss)(const real *z, const i64 *labels, const real *codes, int loss, int activation, double delta,
                    double scale, i64 B, i64 N, i64 K, real *y, real *J, real *d, int threads) {
    if (outside(labels, B, K)) return RI_INDEX;
    int team = ri_team(threads, B * N * 4);
    if (team == 1) {
        for (i64 b = 0; b < B; b++)
            J[b] = row(loss, activation, z + b * N, codes + labels[b] * N, N, (real)delta, (real)scale, y + b * N,
                       d + b * N);
        return RI_OK;
    }
#pragma omp parallel for schedule(static) num_threads(team)
    for (i64 b = 0; b < B; b++)
        J[b] =
            row(loss, activation, z + b * N, codes + labels[b] * N, N, (real)delta, (real)scale, y + b * N, d + b * N);
    return RI_OK;
}

/* ---------------------------------------------------------------- one sample: a visit to each row of W */

enum { TOGETHER = 4 }; /* rows whose products share the loads of x */

/* w[q] . x for the `count` rows q that begin D apart */
static inline void products(const real *w, const real *x, i64 D, int count, real *sums) {
    if (count == TOGETHER) {
        const real *w1 = w + D, *w2 = w1 + D, *w3 = w2 + D;
        real s0 = R(0.0), s1 = R(0.0), s2 = R(0.0), s3 = R(0.0);
#pragma omp simd reduction(+ : s0, s1, s2, s3)
        for (i64 i = 0; i < D; i++) {
            s0 += w[i] * x[i];
            s1 += w1[i] * x[i];
            s2 += w2[i] * x[i];
            s3 += w3[i] * x[i];
        }
        sums[0] = s0;
        sums[1] = s1;
        sums[2] = s2;
        sums[3] = s3;
        return;
    }
    for (int q = 0; q < count; q++, w += D) {
        real sum = R(0.0);
#pragma omp simd reduction(+ : sum)
        for (i64 i = 0; i < D; i++) sum += w[i] * x[i];
        sums[q] = sum;
    }
}

/* Units [j0, j1): z, y, d and the update of their rows. */
static void visit(const real *x, real *weight, real *bias, const real *t, real *v_weight, real *v_bias, real lr,
                  real momentum, int loss, int activation, real delta, i64 D, i64 j0, i64 j1, real *z, real *y) {
    for (i64 j = j0; j < j1; j += TOGETHER) {
        int count = j1 - j < TOGETHER ? (int)(j1 - j) : TOGETHER;
        real d[TOGETHER];
        products(weight + j * D, x, D, count, z + j);
        for (int q = 0; q < count; q++) z[j + q] += bias[j + q];
        errors(loss, activation, z + j, t + j, count, delta, R(1.0), y + j, d);
        for (int q = 0; q < count; q++) {
            real *w = weight + (j + q) * D;
            if (v_weight) {
                real *v = v_weight + (j + q) * D;
#pragma omp simd
                for (i64 i = 0; i < D; i++) {
                    v[i] = momentum * v[i] + d[q] * x[i];
                    w[i] -= lr * v[i];
                }
                v_bias[j + q] = momentum * v_bias[j + q] + d[q];
                bias[j + q] -= lr * v_bias[j + q];
            } else {
                real step = lr * d[q];
#pragma omp simd
                for (i64 i = 0; i < D; i++) w[i] -= step * x[i];
                bias[j + q] -= step;
            }
        }
    }
}

/* ---------------------------------------------------------------- a batch: a visit to each block of rows of W */

/* b (n,) += the sum of B rows of d, N apart; first the sum, so that b is rounded once. */
static void add_rows(const real *d, i64 B, i64 N, i64 n, real *b) {
    enum { WIDTH = 32 };
    for (i64 j = 0; j < n; j += WIDTH) {
        i64 width = n - j < WIDTH ? n - j : WIDTH;
        real sum[WIDTH] = {0};
        for (i64 i = 0; i < B; i++) {
#pragma omp simd
            for (i64 q = 0; q < width; q++) sum[q] += d[i * N + j + q];
        }
        for (i64 q = 0; q < width; q++) b[j + q] += sum[q];
    }
}

/* The update of units [j0, j1) from d (B, N), which holds -lr dJ/dz / B (or dJ/dz / B where there is a velocity). */
static int descend(const real *x, real *weight, real *bias, real *v_weight, real *v_bias, real lr, real momentum,
                   const real *d, i64 B, i64 D, i64 N, i64 j0, i64 j1, int threads) {
    i64 n = j1 - j0;
    real *w = v_weight ? v_weight + j0 * D : weight + j0 * D, *b = v_weight ? v_bias + j0 : bias + j0;
    if (v_weight) {
#pragma omp simd
        for (i64 i = 0; i < n * D; i++) w[i] *= momentum;
#pragma omp simd
        for (i64 j = 0; j < n; j++) b[j] *= momentum;
    }
    int status = RI_INTERNAL(gemm)(1, 0, n, D, B, d + j0, N, x, D, 1, w, D, threads);
    if (status != RI_OK) return status;
    add_rows(d + j0, B, N, n, b);
    if (v_weight) {
        real *out = weight + j0 * D;
#pragma omp simd
        for (i64 i = 0; i < n * D; i++) out[i] -= lr * w[i];
#pragma omp simd
        for (i64 j = 0; j < n; j++) bias[j0 + j] -= lr * b[j];
    }
    return RI_OK;
}

int RI(target_step)(const real *x, const i64 *labels, real *weight, real *bias, const real *codes, real *v_weight,
                    real *v_bias, double lr, double momentum, int loss, int activation, double delta, i64 B, i64 D,
                    i64 N, i64 K, real *y, real *J, int threads) {
    if (outside(labels, B, K) || B < 1) return RI_INDEX;
    real *z = ri_workspace(RI_WS_OP, sizeof(real) * (size_t)(B * N + 1));
    real *d = ri_workspace(RI_WS_OP2, sizeof(real) * (size_t)(B * N + 1));
    if (!z || !d) return RI_NOMEM;
    real rate = (real)lr, mu = (real)momentum, bend = (real)delta;
    real scale = v_weight ? (real)(1.0 / (double)B) : (real)(-lr / (double)B);
    if (loss == COSINE) {
        int status = RI_INTERNAL(gemm_bias)(0, 1, B, N, D, x, D, weight, D, bias, 0, z, N, threads);
        if (status != RI_OK) return status;
        for (i64 b = 0; b < B; b++)
            J[b] = cosine(activation, z + b * N, codes + labels[b] * N, N, scale, y + b * N, d + b * N);
        return descend(x, weight, bias, v_weight, v_bias, rate, mu, d, B, D, N, 0, N, threads);
    }
    i64 units = B == 1 ? TOGETHER : RI_VALUE(target_units), blocks = (N + units - 1) / units;
    int team = ri_team(threads, B == 1 ? D * N / 8 : B * D * N / 16), failed = 0;
    if (team > blocks) team = blocks > 0 ? (int)blocks : 1;
#define BLOCK(k)                                                                                                       \
    do {                                                                                                               \
        i64 j0 = (k) * units, j1 = j0 + units < N ? j0 + units : N;                                                    \
        if (B == 1) {                                                                                                  \
            visit(x, weight, bias, codes + labels[0] * N, v_weight, v_bias, rate, mu, loss, activation, bend, D, j0,   \
                  j1, z, y);                                                                                           \
            break;                                                                                                     \
        }                                                                                                              \
        int status =                                                                                                   \
            RI_INTERNAL(gemm_bias)(0, 1, B, j1 - j0, D, x, D, weight + j0 * D, D, bias + j0, 0, z + j0, N, 1);         \
        for (i64 b = 0; b < B && status == RI_OK; b++)                                                                 \
            errors(loss, activation, z + b * N + j0, codes + labels[b] * N + j0, j1 - j0, bend, scale, y + b * N + j0, \
                   d + b * N + j0);                                                                                    \
        if (status == RI_OK) status = descend(x, weight, bias, v_weight, v_bias, rate, mu, d, B, D, N, j0, j1, 1);     \
        if (status != RI_OK) failed = status;                                                                          \
    } while (0)
    if (team == 1) {
        for (i64 k = 0; k < blocks; k++) BLOCK(k);
    } else {
#pragma omp parallel for schedule(static) num_threads(team) reduction(max : failed)
        for (i64 k = 0; k < blocks; k++) BLOCK(k);
    }
#undef BLOCK
    if (failed) return failed;
    for (i64 b = 0; b < B; b++) J[b] = losses(loss, activation, z + b * N, y + b * N, codes + labels[b] * N, N, bend);
    return RI_OK;
}

/* ---------------------------------------------------------------- a recurrent layer */

int RI(rnn_target_sequence)(const real *x, const real *h0, const i64 *labels, const real *codes, const real *w_x,
                            const real *w_h, const real *bias, real *dw_x, real *dw_h, real *dbias, const real *weights,
                            int loss, double delta, i64 B, i64 T, i64 D, i64 N, i64 K, real *y, real *J, int threads) {
    i64 rows = B * T;
    if (outside(labels, rows, K)) return RI_INDEX;
    real *z = ri_workspace(RI_WS_OP, sizeof(real) * (size_t)(rows * N + 1));
    real *d = ri_workspace(RI_WS_OP2, sizeof(real) * (size_t)(2 * rows * N + 1));
    if (!z || !d) return RI_NOMEM;
    real *before = d + rows * N;
    int status = RI_INTERNAL(gemm_bias)(0, 0, rows, N, D, x, D, w_x, N, bias, 0, z, N, threads);
    for (i64 t = 0; t < T && status == RI_OK; t++) {
        const real *h = t ? y + (t - 1) * N : h0;
        i64 step = t ? T * N : N; /* from one sample's state to the next */
        status = RI_INTERNAL(gemm)(0, 0, B, N, N, h, step, w_h, N, 1, z + t * N, T * N, threads);
        for (i64 b = 0; b < B && status == RI_OK; b++) {
            i64 at = b * T + t;
            for (i64 j = 0; j < N; j++) before[at * N + j] = h[b * step + j];
            J[at] =
                row(loss, TANH, z + at * N, codes + labels[at] * N, N, (real)delta, weights[t], y + at * N, d + at * N);
        }
    }
    if (status == RI_OK) status = RI_INTERNAL(gemm)(1, 0, D, N, rows, x, D, d, N, 1, dw_x, N, threads);
    if (status == RI_OK) status = RI_INTERNAL(gemm)(1, 0, N, N, rows, before, N, d, N, 1, dw_h, N, threads);
    if (status == RI_OK) add_rows(d, rows, N, N, dbias);
    return status;
}
