/* segment.c - sums, means, maxima and softmax over segments of rows. Mirror of refimpl/ops/segment.py.
 *
 * Roofline: one pass over x and one over the segments' rows, which are met in the order that `segment` names: memory
 * bandwidth where the segments' rows fit in cache, else latency. Each result is summed by one thread in the order of
 * the rows (scatter.h), so the bits do not depend on the team.
 */
#include "segment.h"
#include "scatter.h"
#include "vmath.h"

#include <stdlib.h>

/* WORK for each part [lo, hi) of n rows, shared by the team */
#define SHARED(n, WORK)                                                                                              \
    do {                                                                                                             \
        if (team == 1) {                                                                                             \
            const i64 lo = 0, hi = (n);                                                                              \
            WORK;                                                                                                    \
        } else {                                                                                                     \
            _Pragma("omp parallel for schedule(static) num_threads(team)") for (int rank = 0; rank < team; rank++) { \
                i64 lo, hi;                                                                                          \
                ri_share((n), 1, rank, team, &lo, &hi);                                                              \
                WORK;                                                                                                \
            }                                                                                                        \
        }                                                                                                            \
    } while (0)

/* WORK for each part of a scatter into n rows of D columns */
#define SCATTERED(n, D, WORK)                                                                                        \
    do {                                                                                                             \
        if (team == 1) {                                                                                             \
            const struct ri_part part = ri_scatter_part((n), (D), 0, 1);                                             \
            WORK;                                                                                                    \
        } else {                                                                                                     \
            _Pragma("omp parallel for schedule(static) num_threads(team)") for (int rank = 0; rank < team; rank++) { \
                const struct ri_part part = ri_scatter_part((n), (D), rank, team);                                   \
                WORK;                                                                                                \
            }                                                                                                        \
        }                                                                                                            \
    } while (0)

int RI(segment_sum)(const real *x, const i64 *segment, i64 n_segments, i64 E, i64 D, real *y, int threads) {
    if (!ri_in_range(segment, E, n_segments)) return RI_INDEX;
    int team = ri_team(threads, (E + n_segments) * D);
    SCATTERED(n_segments, D, ri_scatter_add(x, segment, E, D, y, part));
    return RI_OK;
}

static void spread(const real *dy, const i64 *segment, i64 lo, i64 hi, i64 D, real *dx) {
    for (i64 e = lo; e < hi; e++) memcpy(dx + e * D, dy + segment[e] * D, sizeof(real) * (size_t)D);
}

int RI(segment_sum_backward)(const real *dy, const i64 *segment, i64 n_segments, i64 E, i64 D, real *dx, int threads) {
    if (!ri_in_range(segment, E, n_segments)) return RI_INDEX;
    if (D == 0) return RI_OK;
    int team = ri_team(threads, E * D / 2);
    SHARED(E, spread(dy, segment, lo, hi, D, dx));
    return RI_OK;
}

/* The rows of each segment, at least 1; NULL when memory is out. The caller frees. */
static real *counts(const i64 *segment, i64 n_segments, i64 E) {
    i64 *count = calloc((size_t)n_segments + 1, sizeof *count);
    real *result = malloc(sizeof *result * ((size_t)n_segments + 1));
    if (count && result) {
        for (i64 e = 0; e < E; e++) count[segment[e]]++;
        for (i64 s = 0; s < n_segments; s++) result[s] = count[s] > 1 ? (real)count[s] : R(1.0);
    } else {
        free(result);
        result = NULL;
    }
    free(count);
    return result;
}

static void divide_rows(const real *count, i64 lo, i64 hi, i64 D, real *y) {
    for (i64 s = lo; s < hi; s++) {
#pragma omp simd
        for (i64 d = 0; d < D; d++) y[s * D + d] /= count[s];
    }
}

int RI(segment_mean)(const real *x, const i64 *segment, i64 n_segments, i64 E, i64 D, real *y, int threads) {
    int status = RI(segment_sum)(x, segment, n_segments, E, D, y, threads);
    if (status || n_segments == 0 || D == 0) return status;
    real *count = counts(segment, n_segments, E);
    if (!count) return RI_NOMEM;
    int team = ri_team(threads, n_segments * D);
    SHARED(n_segments, divide_rows(count, lo, hi, D, y));
    free(count);
    return RI_OK;
}

static void spread_mean(const real *dy, const i64 *segment, const real *count, i64 lo, i64 hi, i64 D, real *dx) {
    for (i64 e = lo; e < hi; e++) {
        const real *from = dy + segment[e] * D, n = count[segment[e]];
#pragma omp simd
        for (i64 d = 0; d < D; d++) dx[e * D + d] = from[d] / n;
    }
}

int RI(segment_mean_backward)(const real *dy, const i64 *segment, i64 n_segments, i64 E, i64 D, real *dx, int threads) {
    if (!ri_in_range(segment, E, n_segments)) return RI_INDEX;
    if (E == 0 || D == 0) return RI_OK;
    real *count = counts(segment, n_segments, E);
    if (!count) return RI_NOMEM;
    int team = ri_team(threads, E * D);
    SHARED(E, spread_mean(dy, segment, count, lo, hi, D, dx));
    free(count);
    return RI_OK;
}

static void max_part(const real *x, const i64 *segment, i64 E, i64 D, real *y, i64 *argmax, struct ri_part part) {
    for (i64 s = part.r0; s < part.r1; s++)
        for (i64 d = part.c0; d < part.c1; d++) y[s * D + d] = R(0.0), argmax[s * D + d] = -1;
    for (i64 e = 0; e < E; e++) {
        if (segment[e] < part.r0 || segment[e] >= part.r1) continue;
        const real *from = x + e * D;
        real *best = y + segment[e] * D;
        i64 *at = argmax + segment[e] * D;
#pragma omp simd
        for (i64 d = part.c0; d < part.c1; d++) {
            real a = from[d], b = best[d];
            /* the first row of the segment, a greater one, or the first NaN */
            int wins = (at[d] < 0) | (a > b) | ((a != a) & (b == b));
            best[d] = wins ? a : b;
            at[d] = wins ? e : at[d];
        }
    }
}

int RI(segment_max)(const real *x, const i64 *segment, i64 n_segments, i64 E, i64 D, real *y, i64 *argmax,
                    int threads) {
    if (!ri_in_range(segment, E, n_segments)) return RI_INDEX;
    int team = ri_team(threads, (E + n_segments) * D);
    SCATTERED(n_segments, D, max_part(x, segment, E, D, y, argmax, part));
    return RI_OK;
}

static void max_gradient(const real *dy, const i64 *argmax, i64 E, i64 n_segments, i64 D, real *dx, i64 c0, i64 c1) {
    for (i64 e = 0; e < E; e++)
        for (i64 d = c0; d < c1; d++) dx[e * D + d] = R(0.0);
    for (i64 s = 0; s < n_segments; s++) {
        for (i64 d = c0; d < c1; d++) {
            i64 e = argmax[s * D + d];
            if (e >= 0) dx[e * D + d] = dy[s * D + d];
        }
    }
}

int RI(segment_max_backward)(const real *dy, const i64 *argmax, i64 E, i64 n_segments, i64 D, real *dx, int threads) {
    int outside = 0;
#pragma omp simd reduction(| : outside)
    for (i64 i = 0; i < n_segments * D; i++) outside |= (argmax[i] < -1) | (argmax[i] >= E);
    if (outside) return RI_INDEX;
    int team = ri_team(threads, (E + n_segments) * D);
    SHARED(D, max_gradient(dy, argmax, E, n_segments, D, dx, lo, hi));
    return RI_OK;
}

/* max (n_segments, H) = the largest score of each segment, -inf for none */
static void softmax_max(const real *scores, const i64 *segment, i64 E, i64 H, real *max, struct ri_part part) {
    for (i64 s = part.r0; s < part.r1; s++)
        for (i64 h = part.c0; h < part.c1; h++) max[s * H + h] = -RI_INF;
    for (i64 e = 0; e < E; e++) {
        if (segment[e] < part.r0 || segment[e] >= part.r1) continue;
        real *m = max + segment[e] * H;
        for (i64 h = part.c0; h < part.c1; h++) m[h] = ri_max(m[h], scores[e * H + h]);
    }
}

/* y = exp(scores - max): all differences first, so that the exponentials run over whole vectors */
static void softmax_exp(const real *scores, const i64 *segment, const real *max, i64 lo, i64 hi, i64 H, real *y) {
    for (i64 e = lo; e < hi; e++) {
        const real *m = max + segment[e] * H;
        for (i64 h = 0; h < H; h++) {
            real shift = m[h] == -RI_INF ? R(0.0) : m[h];
            y[e * H + h] = scores[e * H + h] - shift;
        }
    }
#pragma omp simd
    for (i64 i = lo * H; i < hi * H; i++) y[i] = ri_exp(y[i]);
}

static void softmax_divide(const i64 *segment, const real *total, i64 lo, i64 hi, i64 H, real *y) {
    for (i64 e = lo; e < hi; e++) {
        const real *t = total + segment[e] * H;
        for (i64 h = 0; h < H; h++) y[e * H + h] = t[h] == R(0.0) ? y[e * H + h] : y[e * H + h] / t[h];
    }
}

int RI(segment_softmax)(const real *scores, const i64 *segment, i64 n_segments, i64 E, i64 H, real *y, int threads) {
    if (!ri_in_range(segment, E, n_segments)) return RI_INDEX;
    if (E == 0 || H == 0) return RI_OK;
    real *max = calloc((size_t)n_segments, sizeof *max * (size_t)H); /* later the sums */
    if (!max) return RI_NOMEM;
    int team = ri_team(threads, E * H * 4);
    SCATTERED(n_segments, H, softmax_max(scores, segment, E, H, max, part));
    SHARED(E, softmax_exp(scores, segment, max, lo, hi, H, y));
    SCATTERED(n_segments, H, ri_scatter_add(y, segment, E, H, max, part));
    SHARED(E, softmax_divide(segment, max, lo, hi, H, y));
    free(max);
    return RI_OK;
}

/* total = sum over the segment of dy y */
static void softmax_total(const real *dy, const real *y, const i64 *segment, i64 E, i64 H, real *total,
                          struct ri_part part) {
    for (i64 s = part.r0; s < part.r1; s++)
        for (i64 h = part.c0; h < part.c1; h++) total[s * H + h] = R(0.0);
    for (i64 e = 0; e < E; e++) {
        if (segment[e] < part.r0 || segment[e] >= part.r1) continue;
        real *t = total + segment[e] * H;
        for (i64 h = part.c0; h < part.c1; h++) t[h] += dy[e * H + h] * y[e * H + h];
    }
}

static void softmax_gradient(const real *dy, const real *y, const i64 *segment, const real *total, i64 lo, i64 hi,
                             i64 H, real *dscores) {
    for (i64 e = lo; e < hi; e++) {
        const real *t = total + segment[e] * H;
        for (i64 h = 0; h < H; h++) dscores[e * H + h] = y[e * H + h] * (dy[e * H + h] - t[h]);
    }
}

int RI(segment_softmax_backward)(const real *dy, const real *y, const i64 *segment, i64 n_segments, i64 E, i64 H,
                                 real *dscores, int threads) {
    if (!ri_in_range(segment, E, n_segments)) return RI_INDEX;
    if (E == 0 || H == 0) return RI_OK;
    real *total = calloc((size_t)n_segments, sizeof *total * (size_t)H);
    if (!total) return RI_NOMEM;
    int team = ri_team(threads, E * H * 2);
    SCATTERED(n_segments, H, softmax_total(dy, y, segment, E, H, total, part));
    SHARED(E, softmax_gradient(dy, y, segment, total, lo, hi, H, dscores));
    free(total);
    return RI_OK;
}
