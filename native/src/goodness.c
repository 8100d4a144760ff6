/* goodness.c - cosine goodness, its contrast between right and wrong labels, and a layer's whole inner loop. Mirror of
 * refimpl/ops/goodness.py.
 *
 * Roofline: goodness_contrast reads a pair of rows once, while they lie in L1, and writes their gradient: 4 B N
 * elements of traffic, 12 flops an element. goodness_steps does 8 B D N flops of matrix product a step. For the vowels
 * of the paper (412 x 40 -> 20: 1.3 Mflop) u, z and the parameters together take 120 kB and stay in L2 over all steps;
 * there the cost of calls would be several times that of the arithmetic, which is why the loop is one call. For images
 * (1000 x 196 -> 196) it is the matrix product's.
 */
#include "goodness.h"
#include "gemm.h"
#include "vmath.h"

static inline real inverse(real length) {
    return length == R(0.0) ? R(0.0) : R(1.0) / length;
}

/* g and 1 / |z| of one row; a is p / |p|. */
static inline void goodness_row(const real *z, const real *a, int magnitude, i64 N, real *g, real *r) {
    real squared = R(0.0), along = R(0.0);
    if (magnitude) {
#pragma omp simd reduction(+ : squared, along)
        for (i64 j = 0; j < N; j++) {
            squared += z[j] * z[j];
            along += ri_abs(z[j]) * a[j];
        }
    } else {
#pragma omp simd reduction(+ : squared, along)
        for (i64 j = 0; j < N; j++) {
            squared += z[j] * z[j];
            along += z[j] * a[j];
        }
    }
    *r = inverse((real)sqrt((double)squared));
    *g = along * *r;
}

/* dz = w r (sign(z) a - g r z) of one row; dz may be z itself. */
static inline void gradient_row(const real *z, const real *a, int magnitude, i64 N, real w, real g, real r, real *dz) {
    real outer = w * r, inner = g * r;
    if (magnitude) {
#pragma omp simd
        for (i64 j = 0; j < N; j++) {
            real sign = (z[j] > R(0.0) ? R(1.0) : R(0.0)) - (z[j] < R(0.0) ? R(1.0) : R(0.0));
            dz[j] = outer * (sign * a[j] - inner * z[j]);
        }
    } else {
#pragma omp simd
        for (i64 j = 0; j < N; j++) dz[j] = outer * (a[j] - inner * z[j]);
    }
}

/* a = p / |p| */
static void direction(const real *p, i64 N, real *a) {
    real squared = R(0.0);
#pragma omp simd reduction(+ : squared)
    for (i64 j = 0; j < N; j++) squared += p[j] * p[j];
    real r = inverse((real)sqrt((double)squared));
#pragma omp simd
    for (i64 j = 0; j < N; j++) a[j] = r * p[j];
}

/* The pairs [lo, hi) of 2B rows: g, r (2B,), loss (B,), w (B,), dz. */
static void contrast_pairs(const real *z, const real *a, real theta, real scale, int magnitude, i64 B, i64 N, i64 lo,
                           i64 hi, real *loss, real *g, real *r, real *w, real *dz) {
    for (i64 half = 0; half < 2; half++) {
        for (i64 b = half * B + lo; b < half * B + hi; b++) goodness_row(z + b * N, a, magnitude, N, g + b, r + b);
    }
#pragma omp simd
    for (i64 b = lo; b < hi; b++) {
        real t = -theta * (g[b] - g[B + b]);
        loss[b] = ri_softplus(t);
        w[b] = scale * ri_sigmoid(t);
    }
    for (i64 b = lo; b < hi; b++) {
        i64 wrong = B + b;
        gradient_row(z + b * N, a, magnitude, N, -w[b], g[b], r[b], dz + b * N);
        gradient_row(z + wrong * N, a, magnitude, N, w[b], g[wrong], r[wrong], dz + wrong * N);
    }
}

/* scratch: a (N), r (2B), w (B) */
static size_t contrast_scratch(i64 B, i64 N) {
    return (size_t)(N + 3 * B);
}

static void contrast(const real *z, const real *a, double theta, int magnitude, i64 B, i64 N, real *loss, real *g,
                     real *r, real *w, real *dz, int threads) {
    real scale = (real)(theta / (double)(B > 0 ? B : 1));
    int team = ri_team(threads, B * (N + 16));
    if (team == 1) {
        contrast_pairs(z, a, (real)theta, scale, magnitude, B, N, 0, B, loss, g, r, w, dz);
        return;
    }
#pragma omp parallel for schedule(static) num_threads(team)
    for (int part = 0; part < team; part++) {
        i64 lo, hi;
        ri_share(B, 16, part, team, &lo, &hi);
        contrast_pairs(z, a, (real)theta, scale, magnitude, B, N, lo, hi, loss, g, r, w, dz);
    }
}

int RI(goodness_contrast)(const real *z, const real *p, double theta, int magnitude, i64 B, i64 N, real *loss, real *g,
                          real *dz, int threads) {
    real *a = ri_workspace(RI_WS_OP, sizeof(real) * (contrast_scratch(B, N) + 1));
    if (!a) return RI_NOMEM;
    direction(p, N, a);
    contrast(z, a, theta, magnitude, B, N, loss, g, a + N, a + N + 2 * B, dz, threads);
    return RI_OK;
}

/* Adam's step number `step` over n parameters. */
static void adam(real *param, real *m, real *v, const real *grad, i64 n, i64 step, double lr, double beta1,
                 double beta2, double eps) {
    real rate = (real)(lr / (1 - pow(beta1, (double)step))), scale = (real)(1 / sqrt(1 - pow(beta2, (double)step)));
    real keep1 = (real)beta1, more1 = (real)(1 - beta1), keep2 = (real)beta2, more2 = (real)(1 - beta2);
    real least = (real)eps;
#pragma omp simd
    for (i64 i = 0; i < n; i++) {
        real m1 = keep1 * m[i] + more1 * grad[i], v1 = keep2 * v[i] + more2 * (grad[i] * grad[i]);
        m[i] = m1;
        v[i] = v1;
#if defined(RI_IS_F32)
        param[i] -= rate * (m1 / (sqrtf(v1) * scale + least));
#else
        param[i] -= rate * (m1 / (sqrt(v1) * scale + least));
#endif
    }
}

int RI(goodness_steps)(real *param, real *m, real *v, const real *u, const real *p, double theta, i64 step, double lr,
                       i64 steps, double beta1, double beta2, double eps, i64 B, i64 D, i64 N, real *losses,
                       int threads) {
    i64 rows = 2 * B, n = D * N + N;
    /* a, r, w; g (2B), loss (B), z (2B N), grad (n) */
    size_t size = contrast_scratch(B, N) + (size_t)(3 * B + rows * N + n);
    real *a = ri_workspace(RI_WS_OP, sizeof(real) * (size + 1));
    if (!a) return RI_NOMEM;
    real *r = a + N, *w = r + rows, *g = w + B, *loss = g + rows, *z = loss + B, *grad = z + rows * N,
         *db = grad + D * N;
    direction(p, N, a);
    for (i64 k = 0; k < steps; k++) {
        int status = RI_INTERNAL(gemm_bias)(0, 0, rows, N, D, u, D, param, N, param + D * N, 0, z, N, threads);
        if (status) return status;
        contrast(z, a, theta, 1, B, N, loss, g, r, w, z, threads);
        real sum = R(0.0);
        for (i64 b = 0; b < B; b++) sum += loss[b];
        losses[k] = sum / (real)(B > 0 ? B : 1);
        status = RI_INTERNAL(gemm)(1, 0, D, N, rows, u, D, z, N, 0, grad, N, threads);
        if (status) return status;
        for (i64 j = 0; j < N; j++) db[j] = R(0.0);
        for (i64 b = 0; b < rows; b++) {
#pragma omp simd
            for (i64 j = 0; j < N; j++) db[j] += z[b * N + j];
        }
        adam(param, m, v, grad, n, step + k, lr, beta1, beta2, eps);
    }
    return RI_OK;
}
