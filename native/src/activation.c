/* activation.c - element-wise activations and their gradients. Mirror of refimpl/ops/activation.py.
 *
 * Roofline: one pass, 2 arrays read or written forward and 3 backward; relu, leaky relu and the y-based gradients run
 * at copy bandwidth, the transcendental ones need 10-45 instructions a vector and
 * vectorise through vmath.h: in the last cache a sigmoid reaches half, a gelu a quarter of the copy bandwidth.
 */
#include "activation.h"
#include "activate.h"

int RI(relu)(const real *x, i64 n, real *y, int threads) {
    RI_EACH(1, y[i] = ri_relu(x[i]));
}

int RI(relu_backward)(const real *dy, const real *y, i64 n, real *dx, int threads) {
    RI_EACH(1, real d = dy[i]; dx[i] = y[i] > R(0.0) ? d : R(0.0));
}

int RI(leaky_relu)(const real *x, double slope, i64 n, real *y, int threads) {
    real a = (real)slope;
    RI_EACH(1, y[i] = ri_leaky_relu(x[i], a));
}

int RI(leaky_relu_backward)(const real *dy, const real *x, double slope, i64 n, real *dx, int threads) {
    real a = (real)slope;
    RI_EACH(1, real d = dy[i]; dx[i] = x[i] >= R(0.0) ? d : a * d);
}

int RI(elu)(const real *x, double alpha, i64 n, real *y, int threads) {
    real a = (real)alpha;
    RI_EACH(3, y[i] = ri_elu(x[i], a));
}

int RI(elu_backward)(const real *dy, const real *x, double alpha, i64 n, real *dx, int threads) {
    real a = (real)alpha;
    RI_EACH(3, dx[i] = x[i] > R(0.0) ? dy[i] : dy[i] * (a * ri_exp_neg(ri_min(x[i], R(0.0)))));
}

int RI(gelu)(const real *x, i64 n, real *y, int threads) {
    RI_EACH(6, y[i] = ri_gelu(x[i]));
}

int RI(gelu_backward)(const real *dy, const real *x, i64 n, real *dx, int threads) {
    RI_EACH(4, real e; real cdf = ri_normal_cdf_and(x[i], &e); /* e: the density without its factor */
            dx[i] = dy[i] * (cdf + x[i] * (R(0.39894228040143267794) * e)));
}

int RI(gelu_tanh)(const real *x, i64 n, real *y, int threads) {
    RI_EACH(4, y[i] = ri_gelu_tanh(x[i]));
}

int RI(gelu_tanh_backward)(const real *dy, const real *x, i64 n, real *dx, int threads) {
    RI_EACH(5, real v = x[i]; real t = ri_tanh(RI_GELU_C * (v + RI_GELU_A * v * v * v));
            real du = RI_GELU_C * (R(1.0) + R(3.0) * RI_GELU_A * v * v);
            dx[i] = dy[i] * (R(0.5) * (R(1.0) + t) + R(0.5) * v * (R(1.0) - t * t) * du));
}

int RI(silu)(const real *x, i64 n, real *y, int threads) {
    RI_EACH(3, y[i] = ri_silu(x[i]));
}

int RI(silu_backward)(const real *dy, const real *x, i64 n, real *dx, int threads) {
    RI_EACH(4, real s = ri_sigmoid(x[i]); dx[i] = dy[i] * (s * (R(1.0) + x[i] * (R(1.0) - s))));
}

int RI(tanh)(const real *x, i64 n, real *y, int threads) {
    RI_EACH(3, y[i] = ri_tanh(x[i]));
}

int RI(tanh_backward)(const real *dy, const real *y, i64 n, real *dx, int threads) {
    RI_EACH(1, dx[i] = dy[i] * (R(1.0) - y[i] * y[i]));
}

int RI(sigmoid)(const real *x, i64 n, real *y, int threads) {
    RI_EACH(3, y[i] = ri_sigmoid(x[i]));
}

int RI(sigmoid_backward)(const real *dy, const real *y, i64 n, real *dx, int threads) {
    RI_EACH(1, dx[i] = dy[i] * (y[i] * (R(1.0) - y[i])));
}

int RI(softplus)(const real *x, i64 n, real *y, int threads) {
    RI_EACH(6, y[i] = ri_softplus(x[i]));
}

int RI(softplus_backward)(const real *dy, const real *x, i64 n, real *dx, int threads) {
    RI_EACH(3, dx[i] = dy[i] * ri_sigmoid(x[i]));
}

/* BODY for each row, shared by the threads */
#define EACH_ROW(cost, BODY)                                                                                      \
    do {                                                                                                          \
        const int team = ri_team(threads, rows * D * (cost));                                                     \
        if (team == 1) {                                                                                          \
            for (i64 row = 0; row < rows; row++) {                                                                \
                BODY;                                                                                             \
            }                                                                                                     \
        } else {                                                                                                  \
            _Pragma("omp parallel for schedule(static) num_threads(team)") for (i64 row = 0; row < rows; row++) { \
                BODY;                                                                                             \
            }                                                                                                     \
        }                                                                                                         \
        return RI_OK;                                                                                             \
    } while (0)

static void swiglu_row(const real *g, const real *u, i64 D, real *y) {
#pragma omp simd
    for (i64 i = 0; i < D; i++) y[i] = g[i] * ri_sigmoid(g[i]) * u[i];
}

static void swiglu_backward_row(const real *dy, const real *g, const real *u, i64 D, real *dg, real *du) {
#pragma omp simd
    for (i64 i = 0; i < D; i++) {
        const real s = ri_sigmoid(g[i]);
        dg[i] = dy[i] * u[i] * (s * (R(1.0) + g[i] * (R(1.0) - s)));
        du[i] = dy[i] * (g[i] * s);
    }
}

int RI(swiglu)(const real *x, i64 rows, i64 D, real *y, int threads) {
    EACH_ROW(4, swiglu_row(x + row * 2 * D, x + row * 2 * D + D, D, y + row * D));
}

int RI(swiglu_backward)(const real *dy, const real *x, i64 rows, i64 D, real *dx, int threads) {
    EACH_ROW(6, swiglu_backward_row(dy + row * D, x + row * 2 * D, x + row * 2 * D + D, D, dx + row * 2 * D,
                                    dx + row * 2 * D + D));
}
