/* update.c - optimiser steps, moving averages, linear combinations and norms. Mirror of refimpl/ops/update.py.
 *
 * Roofline: all are bound by memory; each array is read once and written once, in one pass. In float32 a step of SGD
 * with momentum moves 20 bytes a parameter and Adam 28, for about 5 and 12 operations, a square root and a quotient,
 * which vectorise. What NumPy does in a dozen passes is one here.
 *
 * The bits of a result do not depend on the threads: sums are made of blocks of fixed length with fixed lanes, added in
 * order, and every element-wise loop exists once (a function that is not inlined, called for aligned parts), because a
 * compiler may contract a b + c d to a fused multiply-add in two ways.
 */
#include "update.h"
#include "vmath.h"

#if defined(RI_IS_F32)
#define SQRT sqrtf
#else
#define SQRT sqrt
#endif

#define INLINE static inline __attribute__((always_inline))

/* Arrays and numbers of one element-wise loop. */
typedef struct {
    real *p, *q, *r;       /* written */
    const real *x, *y, *z; /* read */
    real k[9];             /* numbers */
} operands;

/* A loop over the elements [lo, hi). */
typedef void loop(const operands *o, i64 lo, i64 hi);
#define LOOP(name) static __attribute__((noinline)) void name(const operands *o, i64 lo, i64 hi)
#define EACH _Pragma("omp simd") for (i64 i = lo; i < hi; i++)

/* The loop over n elements, shared by the threads when there is enough to do: `cost` nanoseconds per four elements. */
static int each(loop *f, const operands *o, i64 n, i64 cost, int threads) {
    enum { GRAIN = 64 }; /* no vector of any level crosses the border of a part */
    int team = ri_team(threads, n / 4 * cost);
    if (team == 1) {
        f(o, 0, n);
        return RI_OK;
    }
#pragma omp parallel for schedule(static) num_threads(team)
    for (int part = 0; part < team; part++) {
        i64 lo, hi;
        ri_share(n, GRAIN, part, team, &lo, &hi);
        f(o, lo, hi);
    }
    return RI_OK;
}

/* What all optimisers share, weight decay: `coupled` is added to the gradient, `keep` multiplies the parameter. */
static void weight_decay_of(double weight_decay, int decoupled, double lr, real *coupled, real *keep) {
    *coupled = (real)(decoupled ? 0 : weight_decay);
    *keep = (real)(decoupled && weight_decay != 0 ? 1 - lr * weight_decay : 1);
}

/* ------------------------------------------------------------------------------------------------ SGD */

/* p: param, q: velocity, x: grad; k: coupled, keep, lr, momentum. The flags are constants, so none is tested inside. */
INLINE void sgd(int with_velocity, int nesterov, int coupled, const operands *o, i64 lo, i64 hi) {
    real *param = o->p, *velocity = o->q;
    const real *grad = o->x;
    real decay = o->k[0], keep = o->k[1], lr = o->k[2], mu = o->k[3];
    EACH {
        real g = coupled ? grad[i] + decay * param[i] : grad[i];
        real step = g;
        if (with_velocity) {
            real v = mu * velocity[i] + g;
            velocity[i] = v;
            step = nesterov ? g + mu * v : v;
        }
        param[i] = keep * param[i] - lr * step;
    }
}

LOOP(sgd_plain) {
    sgd(0, 0, 0, o, lo, hi);
}
LOOP(sgd_plain_coupled) {
    sgd(0, 0, 1, o, lo, hi);
}
LOOP(sgd_momentum) {
    sgd(1, 0, 0, o, lo, hi);
}
LOOP(sgd_momentum_coupled) {
    sgd(1, 0, 1, o, lo, hi);
}
LOOP(sgd_nesterov) {
    sgd(1, 1, 0, o, lo, hi);
}
LOOP(sgd_nesterov_coupled) {
    sgd(1, 1, 1, o, lo, hi);
}

int RI(sgd_update)(real *param, const real *grad, real *velocity, double lr, double momentum, int nesterov,
                   double weight_decay, int decoupled, i64 n, int threads) {
    operands o = {.p = param, .q = velocity, .x = grad, .k = {0, 1, (real)lr, (real)momentum}};
    weight_decay_of(weight_decay, decoupled, lr, &o.k[0], &o.k[1]);
    loop *kinds[3][2] = {
        {sgd_plain, sgd_plain_coupled}, {sgd_momentum, sgd_momentum_coupled}, {sgd_nesterov, sgd_nesterov_coupled}};
    int kind = !velocity ? 0 : nesterov ? 2 : 1;
    return each(kinds[kind][o.k[0] != R(0.0)], &o, n, velocity ? 2 : 1, threads);
}

/* ------------------------------------------------------------------------------------------------ Adam */

/* p: param, q: m, r: v, x: grad; k: coupled, keep, rate, beta1, 1 - beta1, beta2, 1 - beta2, eps,
 * 1 / sqrt(1 - beta2^step) */
INLINE void adam(int coupled, const operands *o, i64 lo, i64 hi) {
    real *param = o->p, *m = o->q, *v = o->r;
    const real *grad = o->x;
    real decay = o->k[0], keep = o->k[1], rate = o->k[2], beta1 = o->k[3], more1 = o->k[4], beta2 = o->k[5];
    real more2 = o->k[6], eps = o->k[7], scale = o->k[8];
    EACH {
        real g = coupled ? grad[i] + decay * param[i] : grad[i];
        real m1 = beta1 * m[i] + more1 * g;
        real v1 = beta2 * v[i] + more2 * (g * g);
        m[i] = m1;
        v[i] = v1;
        param[i] = keep * param[i] - rate * (m1 / (SQRT(v1) * scale + eps));
    }
}

LOOP(adam_plain) {
    adam(0, o, lo, hi);
}
LOOP(adam_coupled) {
    adam(1, o, lo, hi);
}

int RI(adam_update)(real *param, const real *grad, real *m, real *v, i64 step, double lr, double beta1, double beta2,
                    double eps, double weight_decay, int decoupled, i64 n, int threads) {
    double rate = lr / (1 - pow(beta1, (double)step)), scale = 1 / sqrt(1 - pow(beta2, (double)step));
    operands o = {.p = param,
                  .q = m,
                  .r = v,
                  .x = grad,
                  .k = {0, 1, (real)rate, (real)beta1, (real)(1 - beta1), (real)beta2, (real)(1 - beta2), (real)eps,
                        (real)scale}};
    weight_decay_of(weight_decay, decoupled, lr, &o.k[0], &o.k[1]);
    return each(o.k[0] != R(0.0) ? adam_coupled : adam_plain, &o, n, 3, threads);
}

/* ------------------------------------------------------------------------------------------------ RMSprop */

/* p: param, q: v, r: velocity, x: grad; k: coupled, keep, lr, alpha, 1 - alpha, eps, momentum */
INLINE void rmsprop(int with_velocity, int coupled, const operands *o, i64 lo, i64 hi) {
    real *param = o->p, *v = o->q, *velocity = o->r;
    const real *grad = o->x;
    real decay = o->k[0], keep = o->k[1], lr = o->k[2], alpha = o->k[3], more = o->k[4], eps = o->k[5], mu = o->k[6];
    EACH {
        real g = coupled ? grad[i] + decay * param[i] : grad[i];
        real v1 = alpha * v[i] + more * (g * g);
        real step = g / (SQRT(v1) + eps);
        v[i] = v1;
        if (with_velocity) {
            step = mu * velocity[i] + step;
            velocity[i] = step;
        }
        param[i] = keep * param[i] - lr * step;
    }
}

LOOP(rmsprop_plain) {
    rmsprop(0, 0, o, lo, hi);
}
LOOP(rmsprop_plain_coupled) {
    rmsprop(0, 1, o, lo, hi);
}
LOOP(rmsprop_momentum) {
    rmsprop(1, 0, o, lo, hi);
}
LOOP(rmsprop_momentum_coupled) {
    rmsprop(1, 1, o, lo, hi);
}

int RI(rmsprop_update)(real *param, const real *grad, real *v, real *velocity, double lr, double alpha, double eps,
                       double momentum, double weight_decay, int decoupled, i64 n, int threads) {
    operands o = {.p = param,
                  .q = v,
                  .r = velocity,
                  .x = grad,
                  .k = {0, 1, (real)lr, (real)alpha, (real)(1 - alpha), (real)eps, (real)momentum}};
    weight_decay_of(weight_decay, decoupled, lr, &o.k[0], &o.k[1]);
    loop *kinds[2][2] = {{rmsprop_plain, rmsprop_plain_coupled}, {rmsprop_momentum, rmsprop_momentum_coupled}};
    return each(kinds[velocity != NULL][o.k[0] != R(0.0)], &o, n, 3, threads);
}

/* ------------------------------------------------------------------------------------------------ linear */

LOOP(combine_two) {
    real *out = o->p;
    const real *x = o->x, *y = o->y;
    real a = o->k[0], b = o->k[1];
    EACH out[i] = a * x[i] + b * y[i];
}

LOOP(combine_three) {
    real *out = o->p;
    const real *x = o->x, *y = o->y, *z = o->z;
    real a = o->k[0], b = o->k[1], c = o->k[2];
    EACH out[i] = a * x[i] + b * y[i] + c * z[i];
}

LOOP(add_scaled) {
    real *y = o->p;
    const real *x = o->x;
    real a = o->k[0];
    EACH y[i] += a * x[i];
}

LOOP(scale) {
    real *x = o->p;
    real f = o->k[0];
    EACH x[i] *= f;
}

int RI(ema_update)(real *average, const real *value, double decay, i64 n, int threads) {
    operands o = {.p = average, .x = average, .y = value, .k = {(real)decay, (real)(1 - decay)}};
    return each(combine_two, &o, n, 1, threads);
}

int RI(scale_inplace)(real *x, double factor, i64 n, int threads) {
    operands o = {.p = x, .k = {(real)factor}};
    return each(scale, &o, n, 1, threads);
}

int RI(axpy)(real *y, const real *x, double alpha, i64 n, int threads) {
    operands o = {.p = y, .x = x, .k = {(real)alpha}};
    return each(add_scaled, &o, n, 1, threads);
}

int RI(fma_combine)(double a, const real *x, double b, const real *y, double c, const real *z, i64 n, real *out,
                    int threads) {
    operands o = {.p = out, .x = x, .y = y, .z = z, .k = {(real)a, (real)b, (real)c}};
    return each(z ? combine_three : combine_two, &o, n, z ? 2 : 1, threads);
}

int RI(row_scaled_sum)(const real *a, const real *x, const real *b, const real *y, i64 B, i64 D, real *out,
                       int threads) {
    int team = ri_team(threads, B * D / 4);
    if (team == 1) {
        for (i64 i = 0; i < B; i++) {
            operands o = {.p = out, .x = x, .y = y, .k = {a[i], b[i]}};
            combine_two(&o, i * D, i * D + D);
        }
        return RI_OK;
    }
#pragma omp parallel for schedule(static) num_threads(team)
    for (i64 i = 0; i < B; i++) {
        operands o = {.p = out, .x = x, .y = y, .k = {a[i], b[i]}};
        combine_two(&o, i * D, i * D + D);
    }
    return RI_OK;
}

/* ------------------------------------------------------------------------------------------------ sums */

enum { LANES = 32, BLOCK = 8192 };

/* Sum over n terms x y: LANES sums side by side, then the lanes in pairs. */
INLINE double add_lanes(const real *x, const real *y, i64 n) {
    double s[LANES] = {0};
    i64 whole = n / LANES * LANES;
    for (i64 i = 0; i < whole; i += LANES) {
#pragma omp simd
        for (i64 q = 0; q < LANES; q++) s[q] += (double)x[i + q] * (double)y[i + q];
    }
    for (i64 i = whole; i < n; i++) s[i - whole] += (double)x[i] * (double)y[i];
    for (i64 half = LANES / 2; half > 0; half /= 2) {
        for (i64 q = 0; q < half; q++) s[q] += s[q + half];
    }
    return s[0];
}

static __attribute__((noinline)) double block_of_squares(const real *x, const real *y, i64 n) {
    return add_lanes(x, x, n);
}
static __attribute__((noinline)) double block_of_products(const real *x, const real *y, i64 n) {
    return add_lanes(x, y, n);
}

typedef double block(const real *x, const real *y, i64 n);

static int sum_blocks(block *f, const real *x, const real *y, i64 n, double *result, int threads) {
    i64 blocks = (n + BLOCK - 1) / BLOCK;
    int team = ri_team(threads, n / 4);
    double sum = 0;
    if (team == 1) {
        for (i64 k = 0; k < blocks; k++) {
            i64 lo = k * BLOCK, length = n - lo < BLOCK ? n - lo : BLOCK;
            sum += f(x + lo, y + lo, length);
        }
    } else {
        double *part = ri_workspace(RI_WS_OP, sizeof(double) * (size_t)blocks);
        if (!part) return RI_NOMEM;
#pragma omp parallel for schedule(static) num_threads(team)
        for (i64 k = 0; k < blocks; k++) {
            i64 lo = k * BLOCK, length = n - lo < BLOCK ? n - lo : BLOCK;
            part[k] = f(x + lo, y + lo, length);
        }
        for (i64 k = 0; k < blocks; k++) sum += part[k];
    }
    *result = sum;
    return RI_OK;
}

int RI(sum_of_squares)(const real *x, i64 n, double *result, int threads) {
    return sum_blocks(block_of_squares, x, x, n, result, threads);
}

int RI(dot)(const real *x, const real *y, i64 n, double *result, int threads) {
    return sum_blocks(block_of_products, x, y, n, result, threads);
}
