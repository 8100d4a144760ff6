/* update.c - optimiser steps and vector sums over flat arrays. Mirror of refimpl/ops/update.py.
 *
 * Roofline: pure streaming. Adam reads 4 and writes 3 arrays (28 bytes an element in float32) for about 15 operations,
 * so one pass at copy bandwidth is the limit; NumPy needs some 15 passes. Sums are accumulated in double over blocks of
 * a fixed length and added in the order of the blocks: the result does not depend on the number of threads.
 */
#include "update.h"

#include <math.h>
#include <stdlib.h>

#if defined(RI_IS_F32)
#define SQRT sqrtf
#else
#define SQRT sqrt
#endif

/* p after decoupled decay and g after coupled decay: shrink = 1 - lr wd or 1, couple = wd or 0 */
#define DECAY                                                            \
    real shrink = decoupled ? (real)(1.0 - lr * weight_decay) : (real)1; \
    real couple = decoupled ? (real)0 : (real)weight_decay

int RI(sgd_update)(real *param, const real *grad, real *velocity, double lr, double momentum, int nesterov,
                   double weight_decay, int decoupled, i64 n, int threads) {
    DECAY;
    real rate = (real)lr, mu = (real)momentum;
    if (momentum == 0.0) RI_EACH(1, real p = shrink * param[i]; param[i] = p - rate * (grad[i] + couple * p));
    if (nesterov)
        RI_EACH(1, real p = shrink * param[i]; real g = grad[i] + couple * p; real v = mu * velocity[i] + g;
                velocity[i] = v; param[i] = p - rate * (g + mu * v));
    RI_EACH(1, real p = shrink * param[i]; real v = mu * velocity[i] + (grad[i] + couple * p); velocity[i] = v;
            param[i] = p - rate * v);
}

int RI(adam_update)(real *param, const real *grad, real *m, real *v, double lr, double beta1, double beta2, double eps,
                    double weight_decay, int decoupled, double c1, double c2, i64 n, int threads) {
    DECAY;
    real rate = (real)(lr / c1), root = (real)(1.0 / sqrt(c2)), tiny = (real)eps;
    real b1 = (real)beta1, a1 = (real)(1.0 - beta1), b2 = (real)beta2, a2 = (real)(1.0 - beta2);
    RI_EACH(2, real p = shrink * param[i]; real g = grad[i] + couple * p; real mi = b1 * m[i] + a1 * g;
            real vi = b2 * v[i] + a2 * (g * g); m[i] = mi; v[i] = vi;
            param[i] = p - rate * mi / (SQRT(vi) * root + tiny));
}

int RI(rmsprop_update)(real *param, const real *grad, real *v, real *velocity, double lr, double alpha, double eps,
                       double momentum, double weight_decay, int decoupled, i64 n, int threads) {
    DECAY;
    real rate = (real)lr, keep = (real)alpha, take = (real)(1.0 - alpha), tiny = (real)eps, mu = (real)momentum;
    if (momentum == 0.0)
        RI_EACH(2, real p = shrink * param[i]; real g = grad[i] + couple * p; real vi = keep * v[i] + take * (g * g);
                v[i] = vi; param[i] = p - rate * (g / (SQRT(vi) + tiny)));
    RI_EACH(2, real p = shrink * param[i]; real g = grad[i] + couple * p; real vi = keep * v[i] + take * (g * g);
            real b = mu * velocity[i] + g / (SQRT(vi) + tiny); v[i] = vi; velocity[i] = b; param[i] = p - rate * b);
}

int RI(ema_update)(real *average, const real *value, double decay, i64 n, int threads) {
    real keep = (real)decay, take = (real)(1.0 - decay);
    RI_EACH(1, average[i] = keep * average[i] + take * value[i]);
}

int RI(scale_inplace)(real *x, double factor, i64 n, int threads) {
    real f = (real)factor;
    RI_EACH(1, x[i] = f * x[i]);
}

int RI(axpy)(real *y, const real *x, double alpha, i64 n, int threads) {
    real a = (real)alpha;
    RI_EACH(1, y[i] = y[i] + a * x[i]);
}

#define BLOCK 8192

static double block_dot(const real *x, const real *y, i64 n) {
    double total = 0.0;
#pragma omp simd reduction(+ : total)
    for (i64 i = 0; i < n; i++) total += (double)x[i] * (double)y[i];
    return total;
}

int RI(dot)(const real *x, const real *y, i64 n, double *result, int threads) {
    i64 blocks = (n + BLOCK - 1) / BLOCK;
    *result = 0.0;
    if (blocks <= 1) {
        *result = block_dot(x, y, n);
        return RI_OK;
    }
    double *partial = ri_workspace(RI_WS_OP, (size_t)blocks * sizeof(double));
    if (!partial) return RI_NOMEM;
    int team = ri_team(threads, n);
    if (team == 1) {
        for (i64 b = 0; b < blocks; b++)
            partial[b] = block_dot(x + b * BLOCK, y + b * BLOCK, n - b * BLOCK < BLOCK ? n - b * BLOCK : BLOCK);
    } else {
#pragma omp parallel for schedule(static) num_threads(team)
        for (i64 b = 0; b < blocks; b++)
            partial[b] = block_dot(x + b * BLOCK, y + b * BLOCK, n - b * BLOCK < BLOCK ? n - b * BLOCK : BLOCK);
    }
    for (i64 b = 0; b < blocks; b++) *result += partial[b];
    return RI_OK;
}

int RI(sum_of_squares)(const real *x, i64 n, double *result, int threads) {
    return RI(dot)(x, x, n, result, threads);
}

int RI(fma_combine)(double a, const real *x, double b, const real *y, double c, const real *z, i64 n, real *out,
                    int threads) {
    real p = (real)a, q = (real)b, r = (real)c;
    if (!z) RI_EACH(1, out[i] = p * x[i] + q * y[i]);
    RI_EACH(1, out[i] = p * x[i] + q * y[i] + r * z[i]);
}

int RI(row_scaled_sum)(const real *a, const real *x, const real *b, const real *y, i64 B, i64 width, real *out,
                       int threads) {
    int team = ri_team(threads, B * width);
#pragma omp parallel for schedule(static) num_threads(team) if (team > 1)
    for (i64 r = 0; r < B; r++) {
        const real *xr = x + r * width, *yr = y + r * width;
        real p = a[r], q = b[r], *o = out + r * width;
#pragma omp simd
        for (i64 i = 0; i < width; i++) o[i] = p * xr[i] + q * yr[i];
    }
    return RI_OK;
}
