/* goodness.c - cosine goodness, its contrast between right and wrong labels, and a layer's whole inner loop. Mirror of
 * refimpl/ops/goodness.py.
 *
 * Roofline: goodness_contrast reads a pair of rows once, while they lie in L1, and writes their gradient: 4 B N
 * elements of traffic, 12 flops an element. goodness_steps does 8 B D N flops of matrix product a step. For the vowels
 * of the paper (412 x 40 -> 20: 1.3 Mflop) u, z and the parameters together take 120 kB and stay in L2 over all steps;
 * there the cost of calls would be several times that of the arithmetic, which is why the loop is one call. It works on
 * transposed activities: 20 units fill one and a quarter vectors of 16, 412 samples fill 26. For images (1000 x 196 ->
 * 196) it is the matrix product's.
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

/* The same contrast for columns: z (N, 2B) lies transposed, so that lanes are samples and every sum over N is a sum of
 * vectors. Columns [lo, hi) of both halves; bias (N,) is added to z first; z becomes dz. */
enum { CHUNK = 64, TILE = 16 };

static void contrast_columns(real *z, const real *bias, const real *a, real theta, real scale, i64 B, i64 N, i64 lo,
                             i64 hi, real *loss) {
    i64 rows = 2 * B;
    for (i64 first = lo; first < hi; first += CHUNK) {
        i64 n = hi - first < CHUNK ? hi - first : CHUNK;
        real outer[2][CHUNK], inner[2][CHUNK], g[2][CHUNK];
        for (i64 half = 0; half < 2; half++) {
            real squared[CHUNK] = {0}, along[CHUNK] = {0};
            for (i64 j = 0; j < N; j++) {
                real *zj = z + j * rows + half * B + first, bj = bias[j], aj = a[j];
#pragma omp simd
                for (i64 c = 0; c < n; c++) {
                    real x = zj[c] + bj;
                    zj[c] = x;
                    squared[c] += x * x;
                    along[c] += ri_abs(x) * aj;
                }
            }
#pragma omp simd
            for (i64 c = 0; c < n; c++) {
#if defined(RI_IS_F32)
                real length = sqrtf(squared[c]);
#else
                real length = sqrt(squared[c]);
#endif
                real safe = length == R(0.0) ? R(1.0) : length;
                real r = length == R(0.0) ? R(0.0) : R(1.0) / safe;
                g[half][c] = along[c] * r;
                outer[half][c] = r;
                inner[half][c] = along[c] * r * r;
            }
        }
#pragma omp simd
        for (i64 c = 0; c < n; c++) {
            real t = -theta * (g[0][c] - g[1][c]);
            real w = scale * ri_sigmoid(t);
            loss[first + c] = ri_softplus(t);
            outer[0][c] *= -w;
            outer[1][c] *= w;
        }
        for (i64 half = 0; half < 2; half++) {
            for (i64 j = 0; j < N; j++) {
                real *zj = z + j * rows + half * B + first, aj = a[j];
#pragma omp simd
                for (i64 c = 0; c < n; c++) {
                    real x = zj[c];
                    real sign = (x > R(0.0) ? R(1.0) : R(0.0)) - (x < R(0.0) ? R(1.0) : R(0.0));
                    zj[c] = outer[half][c] * (sign * aj - inner[half][c] * x);
                }
            }
        }
    }
}

int RI(goodness_steps)(real *param, real *m, real *v, const real *u, const real *p, double theta, i64 step, double lr,
                       i64 steps, double beta1, double beta2, double eps, i64 B, i64 D, i64 N, real *losses,
                       int threads) {
    i64 rows = 2 * B, n = D * N + N;
    real scale = (real)(theta / (double)(B > 0 ? B : 1));
    /* a (N); loss (B), ut (D, 2B), z (N, 2B), dWt (N, D), grad (n) */
    size_t size = (size_t)(N + B + (D + N) * rows + N * D + n);
    real *a = ri_workspace(RI_WS_OP, sizeof(real) * (size + 1));
    if (!a) return RI_NOMEM;
    real *loss = a + N, *ut = loss + B, *z = ut + D * rows, *dWt = z + N * rows, *grad = dWt + N * D,
         *db = grad + D * N;
    direction(p, N, a);
    for (i64 first = 0; first < rows; first += TILE) { /* ut = u^T, a strip of rows at a time: it stays in L1 */
        i64 last = first + TILE < rows ? first + TILE : rows;
        for (i64 d = 0; d < D; d++) {
            for (i64 b = first; b < last; b++) ut[d * rows + b] = u[b * D + d];
        }
    }
    for (i64 k = 0; k < steps; k++) {
        int status = RI_INTERNAL(gemm)(1, 0, N, rows, D, param, N, ut, rows, 0, z, rows, threads);
        if (status) return status;
        int team = ri_team(threads, B * (N + 16));
        if (team == 1) {
            contrast_columns(z, param + D * N, a, (real)theta, scale, B, N, 0, B, loss);
        } else {
#pragma omp parallel for schedule(static) num_threads(team)
            for (int part = 0; part < team; part++) {
                i64 lo, hi;
                ri_share(B, CHUNK, part, team, &lo, &hi);
                contrast_columns(z, param + D * N, a, (real)theta, scale, B, N, lo, hi, loss);
            }
        }
        real sum = R(0.0);
#pragma omp simd reduction(+ : sum)
        for (i64 b = 0; b < B; b++) sum += loss[b];
        losses[k] = sum / (real)(B > 0 ? B : 1);
        status = RI_INTERNAL(gemm)(0, 0, N, D, rows, z, rows, u, D, 0, dWt, D, threads);
        if (status) return status;
        for (i64 j = 0; j < N; j++) {
            real total = R(0.0);
#pragma omp simd reduction(+ : total)
            for (i64 b = 0; b < rows; b++) total += z[j * rows + b];
            db[j] = total;
        }
        for (i64 d = 0; d < D; d++) {
            for (i64 j = 0; j < N; j++) grad[d * N + j] = dWt[j * D + d];
        }
        adam(param, m, v, grad, n, step + k, lr, beta1, beta2, eps);
    }
    return RI_OK;
}
