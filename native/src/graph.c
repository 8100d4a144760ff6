/* graph.c - attention along the edges of a graph. Mirror of refimpl/ops/graph.py.
 *
 * Roofline: forward 2 E K D multiply-adds on E K D gathered numbers (the weighted sum) and 2 N K D for the scores; the
 * backward pass gathers twice, h by target and dy by source. About half an operation a gathered byte: bound by L2
 * where h fits there, else by memory. Scores, maximum, exponential, sum and weighted sum of a node are done in one
 * visit, so that its edges' scores stay in L1. The backward pass needs the edges by source too: a stable counting sort
 * (two passes over E) instead of atomics. Each number is summed by one thread in the order of the edges, so the bits
 * do not depend on the team.
 */
#include "graph.h"
#include "scatter.h"
#include "vmath.h"

#include <string.h>

enum { HANDFUL = 32 }; /* nodes differ in their edges: threads take handfuls as they become free */

static int structure_ok(const i64 *indptr, const i64 *indices, i64 N, i64 E) {
    if (indptr[0] != 0 || indptr[N] != E) return 0;
    int falls = 0;
#pragma omp simd reduction(| : falls)
    for (i64 i = 0; i < N; i++) falls |= indptr[i + 1] < indptr[i];
    return !falls && ri_in_range(indices, E, N);
}

/* WORK for all handfuls [lo, hi) of N nodes */
#define HANDFULS(N, WORK)                                                                              \
    do {                                                                                               \
        if (team == 1) {                                                                               \
            const i64 lo = 0, hi = (N);                                                                \
            WORK;                                                                                      \
        } else {                                                                                       \
            _Pragma("omp parallel for schedule(dynamic) num_threads(team)") for (i64 lo = 0; lo < (N); \
                                                                                 lo += HANDFUL) {      \
                const i64 hi = lo + HANDFUL < (N) ? lo + HANDFUL : (N);                                \
                WORK;                                                                                  \
            }                                                                                          \
        }                                                                                              \
    } while (0)

static inline real inner_product(const real *restrict a, const real *restrict b, i64 D) {
    real sum = R(0.0);
#pragma omp simd reduction(+ : sum)
    for (i64 d = 0; d < D; d++) sum += a[d] * b[d];
    return sum;
}

static inline void add_scaled(real *restrict y, real a, const real *restrict x, i64 D) {
#pragma omp simd
    for (i64 d = 0; d < D; d++) y[d] += a * x[d];
}

/* s_nk = <source_k, h_nk>, t_nk = <target_k, h_nk> */
static void node_scores(const real *h, const real *source, const real *target, i64 lo, i64 hi, i64 K, i64 D, real *s,
                        real *t) {
    for (i64 n = lo; n < hi; n++) {
        for (i64 k = 0; k < K; k++) {
            const real *own = h + (n * K + k) * D;
            s[n * K + k] = inner_product(source + k * D, own, D);
            t[n * K + k] = inner_product(target + k * D, own, D);
        }
    }
}

/* The weights and the weighted sum of nodes [lo, hi) */
static void attend(const i64 *indptr, const i64 *indices, const real *h, const real *s, const real *t, real slope,
                   i64 lo, i64 hi, i64 K, i64 D, real *y, real *alpha) {
    for (i64 i = lo; i < hi; i++) {
        const i64 first = indptr[i], last = indptr[i + 1];
        for (i64 k = 0; k < K; k++) {
            real m = -RI_INF;
            for (i64 e = first; e < last; e++) {
                real u = s[indices[e] * K + k] + t[i * K + k];
                u = u > R(0.0) ? u : slope * u;
                alpha[e * K + k] = u;
                m = ri_max(m, u);
            }
            for (i64 e = first; e < last; e++) alpha[e * K + k] -= m;
        }
#pragma omp simd
        for (i64 a = first * K; a < last * K; a++) alpha[a] = ri_exp(alpha[a]);
        for (i64 k = 0; k < K; k++) {
            real total = R(0.0);
            for (i64 e = first; e < last; e++) total += alpha[e * K + k];
            for (i64 e = first; e < last; e++) alpha[e * K + k] /= total;
        }
        real *out = y + i * K * D;
        memset(out, 0, sizeof(real) * (size_t)(K * D));
        for (i64 e = first; e < last; e++)
            for (i64 k = 0; k < K; k++) add_scaled(out + k * D, alpha[e * K + k], h + (indices[e] * K + k) * D, D);
    }
}

int RI(graph_attention)(const i64 *indptr, const i64 *indices, const real *h, const real *source, const real *target,
                        double slope, i64 N, i64 E, i64 K, i64 D, real *y, real *alpha, int threads) {
    if (!structure_ok(indptr, indices, N, E)) return RI_INDEX;
    if (N == 0 || K == 0) return RI_OK;
    real *s = ri_workspace(RI_WS_OP, sizeof *s * 2 * (size_t)(N * K));
    if (!s) return RI_NOMEM;
    real *t = s + N * K;
    int team = ri_team(threads, (E + 2 * N) * K * (D / 4 + 4));
    HANDFULS(N, node_scores(h, source, target, lo, hi, K, D, s, t));
    HANDFULS(N, attend(indptr, indices, h, s, t, (real)slope, lo, hi, K, D, y, alpha));
    return RI_OK;
}

/* du and dt of the edges to nodes [lo, hi) */
static void score_gradients(const real *dy, const real *alpha, const i64 *indptr, const i64 *indices, const real *h,
                            const real *s, const real *t, real slope, i64 lo, i64 hi, i64 K, i64 D, real *du,
                            real *dt) {
    for (i64 i = lo; i < hi; i++) {
        const i64 first = indptr[i], last = indptr[i + 1];
        for (i64 e = first; e < last; e++) /* dalpha */
            for (i64 k = 0; k < K; k++)
                du[e * K + k] = inner_product(dy + (i * K + k) * D, h + (indices[e] * K + k) * D, D);
        for (i64 k = 0; k < K; k++) {
            real inner = R(0.0), sum = R(0.0);
            for (i64 e = first; e < last; e++) inner += alpha[e * K + k] * du[e * K + k];
            for (i64 e = first; e < last; e++) {
                real de = alpha[e * K + k] * (du[e * K + k] - inner);
                real u = s[indices[e] * K + k] + t[i * K + k];
                de = u > R(0.0) ? de : slope * de;
                du[e * K + k] = de;
                sum += de;
            }
            dt[i * K + k] = sum;
        }
    }
}

/* ds and dh of nodes [lo, hi); edges of node j by source: edge[start[j]] .. to node[..] */
static void node_gradients(const real *dy, const real *alpha, const real *du, const i64 *start, const i64 *edge,
                           const i64 *node, const real *source, const real *target, const real *dt, i64 lo, i64 hi,
                           i64 K, i64 D, real *ds, real *dh) {
    for (i64 j = lo; j < hi; j++) {
        real *out = dh + j * K * D;
        memset(out, 0, sizeof(real) * (size_t)(K * D));
        for (i64 k = 0; k < K; k++) ds[j * K + k] = R(0.0);
        for (i64 a = start[j]; a < start[j + 1]; a++) {
            const i64 e = edge[a], i = node[a];
            for (i64 k = 0; k < K; k++) {
                ds[j * K + k] += du[e * K + k];
                add_scaled(out + k * D, alpha[e * K + k], dy + (i * K + k) * D, D);
            }
        }
        for (i64 k = 0; k < K; k++) {
            const real a = ds[j * K + k], b = dt[j * K + k];
            const real *restrict p = source + k * D, *restrict q = target + k * D;
            real *restrict own = out + k * D;
#pragma omp simd
            for (i64 d = 0; d < D; d++) own[d] += a * p[d] + b * q[d];
        }
    }
}

/* dsource_k and dtarget_k of one head: sums over all nodes in their order */
static void head_gradients(const real *h, const real *ds, const real *dt, i64 k, i64 N, i64 K, i64 D, real *dsource,
                           real *dtarget) {
    memset(dsource + k * D, 0, sizeof(real) * (size_t)D);
    memset(dtarget + k * D, 0, sizeof(real) * (size_t)D);
    for (i64 n = 0; n < N; n++) {
        add_scaled(dsource + k * D, ds[n * K + k], h + (n * K + k) * D, D);
        add_scaled(dtarget + k * D, dt[n * K + k], h + (n * K + k) * D, D);
    }
}

int RI(graph_attention_backward)(const real *dy, const real *alpha, const i64 *indptr, const i64 *indices,
                                 const real *h, const real *source, const real *target, double slope, i64 N, i64 E,
                                 i64 K, i64 D, real *dh, real *dsource, real *dtarget, int threads) {
    if (!structure_ok(indptr, indices, N, E)) return RI_INDEX;
    if (K == 0) return RI_OK;
    real *s = ri_workspace(RI_WS_OP, sizeof *s * (size_t)((4 * N + E) * K + 1));
    i64 *start = ri_workspace(RI_WS_OP2, sizeof *start * (size_t)(N + 2 + 2 * E));
    if (!s || !start) return RI_NOMEM;
    real *t = s + N * K, *ds = t + N * K, *dt = ds + N * K, *du = dt + N * K;
    i64 *edge = start + N + 2, *node = edge + E;
    int team = ri_team(threads, (2 * E + 4 * N) * K * (D / 4 + 4));

    HANDFULS(N, node_scores(h, source, target, lo, hi, K, D, s, t));
    HANDFULS(N, score_gradients(dy, alpha, indptr, indices, h, s, t, (real)slope, lo, hi, K, D, du, dt));

    i64 *next = start + 1; /* runs from the start of node j's edges to that of j + 1 */
    memset(start, 0, sizeof *start * (size_t)(N + 2));
    for (i64 e = 0; e < E; e++) next[indices[e] + 1]++;
    for (i64 j = 0; j < N; j++) next[j + 1] += next[j];
    for (i64 i = 0; i < N; i++) {
        for (i64 e = indptr[i]; e < indptr[i + 1]; e++) {
            i64 at = next[indices[e]]++;
            edge[at] = e;
            node[at] = i;
        }
    }
    HANDFULS(N, node_gradients(dy, alpha, du, start, edge, node, source, target, dt, lo, hi, K, D, ds, dh));
    if (team == 1) {
        for (i64 k = 0; k < K; k++) head_gradients(h, ds, dt, k, N, K, D, dsource, dtarget);
    } else {
#pragma omp parallel for schedule(static) num_threads(team)
        for (i64 k = 0; k < K; k++) head_gradients(h, ds, dt, k, N, K, D, dsource, dtarget);
    }
    return RI_OK;
}
