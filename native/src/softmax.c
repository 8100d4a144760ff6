/* softmax.c - softmax, its logarithm, and the logarithm of its denominator. Mirror of refimpl/ops/softmax.py.
 *
 * Roofline: a row is read from memory once and stays in the first cache for the passes max, exp and sum, scale. An
 * exponential takes some 14 instructions for 8 bytes moved (float32): from the last cache 30 % of the copy bandwidth
 * forward, bound by them; the gradient of softmax runs at 75-90 %. Short rows (a dozen
 * classes) are grouped, so that the exponentials still fill whole vectors. Rows are independent: any number of threads
 * gives the same bits.
 */
#include "softmax.h"
#include "rows.h"

/* STATEMENT for every group of rows: `b` is its first row, `rows` their number. */
#define EACH_GROUP(cost, STATEMENT)                    \
    do {                                               \
        const i64 group = ri_group(K);                 \
        int team = ri_team(threads, B * K * (cost));   \
        RI_FOR(team, block, ri_blocks(B, group), {     \
            const i64 b = block * group;               \
            const i64 rows = ri_smaller(group, B - b); \
            STATEMENT;                                 \
        });                                            \
        return RI_OK;                                  \
    } while (0)

static void softmax_group(const real *z, i64 rows, i64 K, real *y) {
    real m[RI_FLAT], s[RI_FLAT];
    ri_exp_group(z, rows, K, y, m, s); /* y = exp(z - m) */
    for (i64 b = 0; b < rows; b++) {
        real scale = R(1.0) / s[b];
        real *row = y + b * K;
        RI_STRIPS(K, row, (void)0, { row[i] *= scale; });
    }
}

int RI(softmax)(const real *z, i64 B, i64 K, real *y, int threads) {
    EACH_GROUP(2, softmax_group(z + b * K, rows, K, y + b * K));
}

/* dz = y (dy - sum(dy y)) */
static void softmax_backward_group(const real *dy, const real *y, i64 rows, i64 K, real *dz) {
    for (i64 b = 0; b < rows; b++, dy += K, y += K, dz += K) {
        real inner = (real)ri_row_dot(dy, y, K);
        RI_STRIPS(
            K, dz,
            {
                ri_fetch(y, K + first, length);
                ri_fetch(dy, K + first, length);
            },
            { dz[i] = y[i] * (dy[i] - inner); });
    }
}

int RI(softmax_backward)(const real *dy, const real *y, i64 B, i64 K, real *dz, int threads) {
    EACH_GROUP(1, softmax_backward_group(dy + b * K, y + b * K, rows, K, dz + b * K));
}

/* m, and log s for s = sum exp(z - m), of a group of rows; the exponentials themselves are not kept */
static void log_sum_group(const real *z, i64 rows, i64 K, real *m, real *log_s) {
    if (K < RI_SHORT) {
        real e[RI_FLAT];
        ri_exp_group(z, rows, K, e, m, log_s);
    } else {
        for (i64 b = 0; b < rows; b++) {
            m[b] = ri_row_max(z + b * K, K);
            log_s[b] = (real)ri_row_exp(z + b * K, m[b], K, NULL);
        }
    }
#pragma omp simd
    for (i64 b = 0; b < rows; b++) log_s[b] = ri_log(log_s[b]);
}

static void log_softmax_group(const real *z, i64 rows, i64 K, real *y) {
    real m[RI_FLAT], log_s[RI_FLAT];
    log_sum_group(z, rows, K, m, log_s);
    for (i64 b = 0; b < rows; b++) {
        const real *from = z + b * K;
        real *to = y + b * K, shift = m[b], log_sum = log_s[b];
        RI_STRIPS(K, to, (void)0, { to[i] = (from[i] - shift) - log_sum; });
    }
}

int RI(log_softmax)(const real *z, i64 B, i64 K, real *y, int threads) {
    EACH_GROUP(2, log_softmax_group(z + b * K, rows, K, y + b * K));
}

/* dz = dy - exp(y) sum(dy) */
static void log_softmax_backward_group(const real *dy, const real *y, i64 rows, i64 K, real *dz) {
    if (K >= RI_SHORT) {
        for (i64 b = 0; b < rows; b++, dy += K, y += K, dz += K) {
            const real sum = (real)ri_row_sum(dy, K);
            RI_STRIPS(K, dz, ri_fetch(dy, K + first, length), { dz[i] = dy[i] - ri_exp(y[i]) * sum; });
        }
        return;
    }
    real p[RI_FLAT];
#pragma omp simd
    for (i64 i = 0; i < rows * K; i++) p[i] = ri_exp(y[i]);
    for (i64 b = 0; b < rows; b++) {
        real sum = R(0.0);
        for (i64 k = b * K; k < (b + 1) * K; k++) sum += dy[k];
        for (i64 k = b * K; k < (b + 1) * K; k++) dz[k] = dy[k] - p[k] * sum;
    }
}

int RI(log_softmax_backward)(const real *dy, const real *y, i64 B, i64 K, real *dz, int threads) {
    EACH_GROUP(2, log_softmax_backward_group(dy + b * K, y + b * K, rows, K, dz + b * K));
}

static void logsumexp_group(const real *z, i64 rows, i64 K, real *y) {
    real m[RI_FLAT], log_s[RI_FLAT];
    log_sum_group(z, rows, K, m, log_s);
    for (i64 b = 0; b < rows; b++) {
        y[b] = log_s[b] + m[b];
        if (m[b] == RI_INF || m[b] == -RI_INF) { /* z - m is NaN where both are the same infinity: */
            real sum = m[b];                     /* the sum is m itself, unless there is a NaN */
            for (i64 k = b * K; k < (b + 1) * K; k++) sum = z[k] != z[k] ? z[k] : sum;
            y[b] = sum;
        }
    }
}

int RI(logsumexp)(const real *z, i64 B, i64 K, real *y, int threads) {
    EACH_GROUP(2, logsumexp_group(z + b * K, rows, K, y + b));
}

/* dz = dy exp(z - y) */
static void logsumexp_backward_group(const real *dy, const real *z, const real *y, i64 rows, i64 K, real *dz) {
    for (i64 b = 0; b < rows; b++, z += K, dz += K) {
        real g = dy[b], log_sum = y[b];
#pragma omp simd
        for (i64 k = 0; k < K; k++) dz[k] = g * ri_exp(z[k] - log_sum);
    }
}

int RI(logsumexp_backward)(const real *dy, const real *z, const real *y, i64 B, i64 K, real *dz, int threads) {
    EACH_GROUP(2, logsumexp_backward_group(dy + b, z + b * K, y + b, rows, K, dz + b * K));
}
