/* norm.c - layer, RMS, group and batch normalisation and their gradients. Mirror of refimpl/ops/norm.py.
 *
 * Roofline: forward reads x and writes y, 8 bytes an element (float32); backward reads dy and x and writes dx, 12
 * bytes; about 10 FMAs. What is normalised together (a row, a group, a channel of the batch) is passed over two or
 * three times, but comes from memory once as long as it fits the second cache.
 *
 * Measured (float32, one thread, 1 MB of second cache): 20-60 % of the copy bandwidth forward, 25-75 % backward. Short
 * rows wait for sums and roots, so several are taken through each step together. Long ones wait for memory in the pass
 * that stores: there two rows side by side took up to 1.6 times as long as one after the other, and arrays that do not
 * start with a cache line (NumPy's large ones) up to 1.6 times as long as those that do; fetching the next row ahead
 * and starting each row with a whole line win back a part of that.
 *
 * Statistics: with m the mean as first computed and d = x - m, the mean is m + sum(d)/n and the variance
 * sum(d^2)/n - (sum(d)/n)^2. The first pass may be wrong by the rounding of a sum of large numbers; the second corrects
 * it, so that a mean far from zero costs no accuracy.
 *
 * Two layouts. Where the positions of a channel are many (S >= SEGMENT), each channel is a contiguous segment with one
 * gain. Where they are few, rows are taken as they lie, and gain and bias are repeated S times to the row's length.
 *
 * Sums over rows (dgain, dbias, statistics of columns) are partial sums over blocks of rows, cut by size and added in
 * order: any number of threads gives the same bits.
 */
#include "norm.h"
#include "rows.h"

#define INLINE static inline __attribute__((always_inline))

enum {
    SEGMENT = 32,
    LEAST_ROWS = 16,               /* rows of a partial sum, at least; */
    LONG = 8192,                   /* of rows longer than this, */
    LEAST_LONG_ROWS = 8,           /* so many */
    BUNCH = 16,                    /* most rows of a bunch */
    TWO_ROWS = 512 / sizeof(real), /* longest rows of which two are worked on together: longer ones, written side by
                                    * side, cost more where memory is far */
};

/* ---------------------------------------------------------------- parts that several kernels share */

/* sum(d) and sum(d^2) of d = x - m over a row */
static inline void moments(const real *x, real m, i64 n, double *sum, double *sum2) {
    RI_ROW_SUMS(n, *sum, RI_AT(x) - m, *sum2, (RI_AT(x) - m) * (RI_AT(x) - m));
}

/* From the moments about m: mean and 1/sqrt(variance + eps). A NaN stays. */
static inline void statistics(real m, double sum, double sum2, double n, double eps, real *mean, real *rstd) {
    double shift = sum / n;
    double variance = sum2 / n - shift * shift;
    variance = variance < 0.0 ? 0.0 : variance;
    *mean = (real)((double)m + shift);
    *rstd = (real)(1.0 / sqrt(variance + eps));
}

static inline void row_statistics(const real *x, i64 n, double eps, real *mean, real *rstd) {
    real m = (real)(ri_row_sum(x, n) / (double)n);
    double sum, sum2;
    moments(x, m, n, &sum, &sum2);
    statistics(m, sum, sum2, (double)n, eps, mean, rstd);
}

/* The same for the rows of a bunch, step by step for all of them: what one row waits for, the others fill. */
static inline void bunch_statistics(const real *x, i64 rows, i64 n, double eps, real *mean, real *rstd) {
    double sum[BUNCH], sum2[BUNCH];
    for (i64 r = 0; r < rows; r++) mean[r] = (real)(ri_row_sum(x + r * n, n) / (double)n);
    for (i64 r = 0; r < rows; r++) moments(x + r * n, mean[r], n, &sum[r], &sum2[r]);
#pragma omp simd
    for (i64 r = 0; r < rows; r++) statistics(mean[r], sum[r], sum2[r], (double)n, eps, &mean[r], &rstd[r]);
}

/* How many rows of n are worked on together: several short ones. */
static inline i64 bunch_of(i64 n) {
    const i64 bytes = n * (i64)sizeof(real);
    return bytes <= 1024 ? ri_smaller(BUNCH, 8192 / bytes) : 1;
}

/* a with each entry repeated S times, in `room`, or `value` everywhere where a is NULL; a itself where it will do. */
static const real *spread(const real *a, real value, i64 C, i64 S, real *room) {
    if (a && S == 1) return a;
    for (i64 c = 0; c < C; c++) {
        real v = a ? a[c] : value;
        for (i64 s = c * S; s < (c + 1) * S; s++) room[s] = v;
    }
    return room;
}

/* How B rows of D are cut into blocks for partial sums. */
static i64 block_rows(i64 B, i64 D) {
    return ri_block_rows(B, D > LONG ? LEAST_LONG_ROWS : LEAST_ROWS);
}

/* out[c] = the sum of partial[block][c S .. c S + S), blocks in order */
static void fold(const real *partial, i64 stride, i64 blocks, i64 C, i64 S, real *out) {
    enum { WIDTH = 4 * RI_LANES };
    if (S == 1) {
        i64 c = 0;
        for (; c + WIDTH <= C; c += WIDTH) {
            double sum[WIDTH] = {0};
            for (i64 k = 0; k < blocks; k++) {
                const real *row = partial + k * stride + c;
#pragma omp simd
                for (int j = 0; j < WIDTH; j++) sum[j] += (double)row[j];
            }
#pragma omp simd
            for (int j = 0; j < WIDTH; j++) out[c + j] = (real)sum[j];
        }
        for (; c < C; c++) {
            double sum = 0.0;
            for (i64 k = 0; k < blocks; k++) sum += partial[k * stride + c];
            out[c] = (real)sum;
        }
        return;
    }
    for (i64 c = 0; c < C; c++) {
        double sum = 0.0;
        for (i64 k = 0; k < blocks; k++)
            for (i64 s = c * S; s < (c + 1) * S; s++) sum += partial[k * stride + s];
        out[c] = (real)sum;
    }
}

/* What a normalisation is followed by, a constant of each kernel: `relu`, or nothing. A NaN stays. */
INLINE real ended(const int relu, real y) {
    return relu && y < R(0.0) ? R(0.0) : y;
}

/* The gradient that comes through it, from its result y (dy again where nothing follows). */
INLINE real passed(const int relu, real dy, real y) {
    return !relu || y > R(0.0) ? dy : R(0.0);
}

INLINE ri_vec passed_lanes(const int relu, ri_vec dy, ri_vec y) {
    return relu ? (ri_vec)((ri_lanemask)dy & (y > R(0.0))) : dy;
}

/* y = (x - mean) rstd gain + bias for one gain and bias */
INLINE void scale_segment(const int relu, const real *x, real mean, real scale, real bias, i64 n, real *y) {
    RI_STRIPS(n, y, (void)0, { y[i] = ended(relu, (x[i] - mean) * scale + bias); });
}

/* sum(dy) and sum(dy (x - mean)) over a row */
INLINE void gradient_sums(const int relu, const real *dy, const real *y, const real *x, real mean, i64 n, double *sum,
                          double *inner) {
    RI_ROW_SUMS(n, *sum, passed_lanes(relu, RI_AT(dy), RI_AT(y)), *inner,
                passed_lanes(relu, RI_AT(dy), RI_AT(y)) * (RI_AT(x) - mean));
}

/* ---------------------------------------------------------------- groups of a row: layer and group normalisation */

/* Rows [lo, hi) of D = groups * M, gain and bias of length D. */
static void group_rows(const real *x, const real *gain, const real *bias, i64 groups, double eps, i64 lo, i64 hi, i64 M,
                       real *y, real *mean, real *rstd) {
    const i64 bunch = bunch_of(M);
    i64 k = 0; /* the group within its row */
    for (i64 first_row = lo * groups; first_row < hi * groups; first_row += bunch) {
        const i64 end = ri_smaller(first_row + bunch, hi * groups);
        bunch_statistics(x + first_row * M, end - first_row, M, eps, mean + first_row, rstd + first_row);
        for (i64 r = first_row; r < end; r++) {
            const real *row = x + r * M, *g = gain + k * M, *h = bias + k * M;
            real *out = y + r * M;
            const real m = mean[r], scale = rstd[r];
            const i64 ahead = bunch * M;
            RI_STRIPS(M, out, ri_fetch(row, ahead + first, length), { out[i] = (row[i] - m) * scale * g[i] + h[i]; });
            k = k + 1 < groups ? k + 1 : 0;
        }
    }
}

/* What the gradient of a row needs besides its elements. */
struct row_gradient {
    const real *x, *dy;
    real *dx;
    real mean, rstd, mean_dy, mean_dy_xhat;
};

static inline struct row_gradient row_gradient_of(const real *dy, const real *x, const real *gain, real mean, real rstd,
                                                  i64 M, real *dx) {
    double sum, inner;
    RI_ROW_SUMS(M, sum, RI_AT(gain) * RI_AT(dy), inner, RI_AT(gain) * RI_AT(dy) * (RI_AT(x) - mean));
    return (struct row_gradient){
        x, dy, dx, mean, rstd, (real)(sum / (double)M), (real)(inner * (double)rstd / (double)M)};
}

/* Element i of row a: its part of dgain and dbias is added to dg and db. */
#define ROW_GRADIENT(a)                                                               \
    do {                                                                              \
        const real xhat = ((a).x[i] - (a).mean) * (a).rstd, d = (a).dy[i];            \
        dg += d * xhat;                                                               \
        db += d;                                                                      \
        (a).dx[i] = (a).rstd * (d * gain[i] - (a).mean_dy - xhat * (a).mean_dy_xhat); \
    } while (0)

/* dx of two rows, or of one, in one pass; dgain and dbias are read and written once for both. */
static void two_rows_backward(const struct row_gradient *rows, const real *gain, i64 M, real *dgain, real *dbias) {
    const struct row_gradient p = rows[0], q = rows[1];
#pragma omp simd
    for (i64 i = 0; i < M; i++) {
        real dg = dgain[i], db = dbias[i];
        ROW_GRADIENT(p);
        ROW_GRADIENT(q);
        dgain[i] = dg;
        dbias[i] = db;
    }
}

static void row_backward(const struct row_gradient *row, const real *gain, i64 M, real *dgain, real *dbias) {
    const struct row_gradient p = *row;
    RI_STRIPS(
        M, p.dx,
        {
            ri_fetch(p.x, M + first, length);
            ri_fetch(p.dy, M + first, length);
        },
        {
            real dg = dgain[i], db = dbias[i];
            ROW_GRADIENT(p);
            dgain[i] = dg;
            dbias[i] = db;
        });
}

/* dx of rows [lo, hi), and what they add to dgain and dbias (both of length D, overwritten). */
static void group_rows_backward(const real *dy, const real *x, const real *gain, const real *mean, const real *rstd,
                                i64 groups, i64 lo, i64 hi, i64 M, real *dx, real *dgain, real *dbias) {
    const i64 D = groups * M, together = M <= TWO_ROWS ? 2 : 1;
    for (i64 i = 0; i < D; i++) dgain[i] = dbias[i] = R(0.0);
    for (i64 b = lo; b < hi;) {
        const i64 count = hi - b >= together ? together : 1;
        for (i64 k = 0; k < groups; k++) {
            struct row_gradient rows[2];
            for (i64 j = 0; j < count; j++) {
                const i64 r = (b + j) * groups + k;
                rows[j] = row_gradient_of(dy + r * M, x + r * M, gain + k * M, mean[r], rstd[r], M, dx + r * M);
            }
            (count == 2 ? two_rows_backward : row_backward)(rows, gain + k * M, M, dgain + k * M, dbias + k * M);
        }
        b += count;
    }
}

/* Segments of S positions: the groups [lo, hi) of all B * groups. */
static void group_segments(const real *x, const real *gain, const real *bias, i64 groups, double eps, i64 lo, i64 hi,
                           i64 C, i64 S, real *y, real *mean, real *rstd) {
    const i64 per = C / groups, bunch = bunch_of(per * S);
    for (i64 first = lo; first < hi; first += bunch) {
        const i64 end = ri_smaller(first + bunch, hi);
        bunch_statistics(x + first * per * S, end - first, per * S, eps, mean + first, rstd + first);
        for (i64 r = first; r < end; r++) {
            const i64 start = r % groups * per;
            for (i64 k = 0; k < per; k++) {
                const i64 c = start + k, at = (r * per + k) * S;
                scale_segment(0, x + at, mean[r], gain ? rstd[r] * gain[c] : rstd[r], bias ? bias[c] : R(0.0), S,
                              y + at);
            }
        }
    }
}

/* dx of groups [lo, hi); sum(dy xhat) and sum(dy) of each of their segments go to dgain and dbias (B, C). */
static void group_segments_backward(const real *dy, const real *x, const real *gain, const real *mean, const real *rstd,
                                    i64 groups, i64 lo, i64 hi, i64 C, i64 S, real *dx, real *dgain, real *dbias) {
    const i64 per = C / groups, bunch = bunch_of(per * S);
    const double M = (double)per * (double)S;
    for (i64 first = lo; first < hi; first += bunch) {
        const i64 end = ri_smaller(first + bunch, hi);
        double total[BUNCH], total_inner[BUNCH];
        for (i64 r = first; r < end; r++) {
            const real *g = gain ? gain + r % groups * per : NULL;
            double all = 0.0, all_inner = 0.0;
            for (i64 k = 0; k < per; k++) {
                const i64 segment = r * per + k;
                double sum, inner;
                gradient_sums(0, dy + segment * S, dy + segment * S, x + segment * S, mean[r], S, &sum, &inner);
                inner *= (double)rstd[r];
                dgain[segment] = (real)inner;
                dbias[segment] = (real)sum;
                all += g ? (double)g[k] * sum : sum;
                all_inner += g ? (double)g[k] * inner : inner;
            }
            total[r - first] = all;
            total_inner[r - first] = all_inner;
        }
        for (i64 r = first; r < end; r++) {
            const real *g = gain ? gain + r % groups * per : NULL;
            const real m = mean[r], scale = rstd[r];
            const real mean_dy = (real)(total[r - first] / M), mean_dy_xhat = (real)(total_inner[r - first] / M);
            for (i64 k = 0; k < per; k++) {
                const real *row = x + (r * per + k) * S, *grad = dy + (r * per + k) * S;
                real *out = dx + (r * per + k) * S;
                const real gk = g ? g[k] : R(1.0);
                RI_STRIPS(S, out, (void)0,
                          { out[i] = scale * (grad[i] * gk - mean_dy - (row[i] - m) * scale * mean_dy_xhat); });
            }
        }
    }
}

int RI(groupnorm)(const real *x, const real *gain, const real *bias, i64 groups, double eps, i64 B, i64 C, i64 S,
                  real *y, real *mean, real *rstd, int threads) {
    if (groups < 1 || C % groups) return RI_BADARG;
    const i64 D = C * S;
    int team = ri_team(threads, B * D);
    if (S >= SEGMENT) {
        const i64 all = B * groups, some = bunch_of(D / groups);
        RI_FOR(
            team, k, ri_blocks(all, some),
            group_segments(x, gain, bias, groups, eps, k * some, ri_smaller((k + 1) * some, all), C, S, y, mean, rstd));
        return RI_OK;
    }
    real *room = ri_workspace(RI_WS_OP, (size_t)(2 * D) * sizeof(real));
    if (!room) return RI_NOMEM;
    const real *gains = spread(gain, R(1.0), C, S, room), *biases = spread(bias, R(0.0), C, S, room + D);
    const i64 rows = ri_larger(1, RI_CHUNK / ri_larger(D, 1));
    RI_FOR(
        team, k, ri_blocks(B, rows),
        group_rows(x, gains, biases, groups, eps, k * rows, ri_smaller((k + 1) * rows, B), D / groups, y, mean, rstd));
    return RI_OK;
}

int RI(groupnorm_backward)(const real *dy, const real *x, const real *gain, const real *mean, const real *rstd,
                           i64 groups, i64 B, i64 C, i64 S, real *dx, real *dgain, real *dbias, int threads) {
    if (groups < 1 || C % groups) return RI_BADARG;
    const i64 D = C * S;
    int team = ri_team(threads, B * D * 2);
    if (S >= SEGMENT) {
        real *sums = ri_workspace(RI_WS_OP, (size_t)(2 * B * C) * sizeof(real));
        if (!sums) return RI_NOMEM;
        const i64 all = B * groups, some = bunch_of(D / groups);
        RI_FOR(team, k, ri_blocks(all, some),
               group_segments_backward(dy, x, gain, mean, rstd, groups, k * some, ri_smaller((k + 1) * some, all), C, S,
                                       dx, sums, sums + B * C));
        fold(sums, C, B, C, 1, dgain);
        fold(sums + B * C, C, B, C, 1, dbias);
        return RI_OK;
    }
    const i64 rows = block_rows(B, D), blocks = ri_blocks(B, rows);
    real *room = ri_workspace(RI_WS_OP, (size_t)((2 * blocks + 1) * D) * sizeof(real));
    if (!room) return RI_NOMEM;
    real *partial = room + D;
    const real *gains = spread(gain, R(1.0), C, S, room);
    RI_FOR(team, k, blocks,
           group_rows_backward(dy, x, gains, mean, rstd, groups, k * rows, ri_smaller((k + 1) * rows, B), D / groups,
                               dx, partial + 2 * k * D, partial + (2 * k + 1) * D));
    fold(partial, 2 * D, blocks, C, S, dgain);
    fold(partial + D, 2 * D, blocks, C, S, dbias);
    return RI_OK;
}

/* One group with a gain for each of its elements. */
int RI(layernorm)(const real *x, const real *gain, const real *bias, double eps, i64 B, i64 D, real *y, real *mean,
                  real *rstd, int threads) {
    return RI(groupnorm)(x, gain, bias, 1, eps, B, D, 1, y, mean, rstd, threads);
}

int RI(layernorm_backward)(const real *dy, const real *x, const real *gain, const real *mean, const real *rstd, i64 B,
                           i64 D, real *dx, real *dgain, real *dbias, int threads) {
    return RI(groupnorm_backward)(dy, x, gain, mean, rstd, 1, B, D, 1, dx, dgain, dbias, threads);
}

/* ---------------------------------------------------------------- RMS normalisation */

static void rms_rows(const real *x, const real *gain, double eps, i64 lo, i64 hi, i64 D, real *y, real *rrms) {
    const i64 bunch = bunch_of(D);
    for (i64 b = lo; b < hi; b += bunch) {
        const i64 end = ri_smaller(b + bunch, hi);
        double squares[BUNCH];
        for (i64 r = b; r < end; r++) squares[r - b] = ri_row_dot(x + r * D, x + r * D, D);
#pragma omp simd
        for (i64 r = b; r < end; r++) rrms[r] = (real)(1.0 / sqrt(squares[r - b] / (double)D + eps));
        for (i64 r = b; r < end; r++) {
            const real *row = x + r * D;
            real *out = y + r * D;
            const real scale = rrms[r];
            const i64 ahead = bunch * D;
            RI_STRIPS(D, out, ri_fetch(row, ahead + first, length), { out[i] = row[i] * scale * gain[i]; });
        }
    }
}

int RI(rmsnorm)(const real *x, const real *gain, double eps, i64 B, i64 D, real *y, real *rrms, int threads) {
    real *room = ri_workspace(RI_WS_OP, (size_t)D * sizeof(real));
    if (!room) return RI_NOMEM;
    const real *gains = spread(gain, R(1.0), D, 1, room);
    const i64 rows = ri_larger(1, RI_CHUNK / ri_larger(D, 1));
    int team = ri_team(threads, B * D);
    RI_FOR(team, k, ri_blocks(B, rows), rms_rows(x, gains, eps, k * rows, ri_smaller((k + 1) * rows, B), D, y, rrms));
    return RI_OK;
}

/* What the gradient of a row needs, and element i of it, as above. */
struct rms_gradient {
    const real *x, *dy;
    real *dx;
    real rrms, mean_dy_xhat;
};

static inline struct rms_gradient rms_gradient_of(const real *dy, const real *x, const real *gain, real rrms, i64 D,
                                                  real *dx) {
    double inner;
    RI_ROW_SUM(D, inner, RI_AT(gain) * RI_AT(dy) * RI_AT(x));
    return (struct rms_gradient){x, dy, dx, rrms, (real)(inner * (double)rrms / (double)D)};
}

#define RMS_GRADIENT(a)                                                 \
    do {                                                                \
        const real xhat = (a).x[i] * (a).rrms, d = (a).dy[i];           \
        dg += d * xhat;                                                 \
        (a).dx[i] = (a).rrms * (d * gain[i] - xhat * (a).mean_dy_xhat); \
    } while (0)

static void two_rms_backward(const struct rms_gradient *rows, const real *gain, i64 D, real *dgain) {
    const struct rms_gradient p = rows[0], q = rows[1];
#pragma omp simd
    for (i64 i = 0; i < D; i++) {
        real dg = dgain[i];
        RMS_GRADIENT(p);
        RMS_GRADIENT(q);
        dgain[i] = dg;
    }
}

static void rms_backward(const struct rms_gradient *row, const real *gain, i64 D, real *dgain) {
    const struct rms_gradient p = *row;
    RI_STRIPS(
        D, p.dx,
        {
            ri_fetch(p.x, D + first, length);
            ri_fetch(p.dy, D + first, length);
        },
        {
            real dg = dgain[i];
            RMS_GRADIENT(p);
            dgain[i] = dg;
        });
}

/* dx of rows [lo, hi), and what they add to dgain (overwritten) */
static void rms_rows_backward(const real *dy, const real *x, const real *gain, const real *rrms, i64 lo, i64 hi, i64 D,
                              real *dx, real *dgain) {
    const i64 together = D <= TWO_ROWS ? 2 : 1;
    for (i64 i = 0; i < D; i++) dgain[i] = R(0.0);
    for (i64 b = lo; b < hi;) {
        const i64 count = hi - b >= together ? together : 1;
        struct rms_gradient rows[2];
        for (i64 r = b; r < b + count; r++)
            rows[r - b] = rms_gradient_of(dy + r * D, x + r * D, gain, rrms[r], D, dx + r * D);
        (count == 2 ? two_rms_backward : rms_backward)(rows, gain, D, dgain);
        b += count;
    }
}

int RI(rmsnorm_backward)(const real *dy, const real *x, const real *gain, const real *rrms, i64 B, i64 D, real *dx,
                         real *dgain, int threads) {
    const i64 rows = block_rows(B, D), blocks = ri_blocks(B, rows);
    real *room = ri_workspace(RI_WS_OP, (size_t)((blocks + 1) * D) * sizeof(real));
    if (!room) return RI_NOMEM;
    real *partial = room + D;
    const real *gains = spread(gain, R(1.0), D, 1, room);
    int team = ri_team(threads, B * D * 2);
    RI_FOR(team, k, blocks,
           rms_rows_backward(dy, x, gains, rrms, k * rows, ri_smaller((k + 1) * rows, B), D, dx, partial + k * D));
    fold(partial, D, blocks, D, 1, dgain);
    return RI_OK;
}

/* ---------------------------------------------------------------- batch normalisation, segments (S >= SEGMENT) */

INLINE void batch_channel(const int relu, const real *x, const real *gain, const real *bias, double eps, i64 c, i64 B,
                          i64 C, i64 S, real *y, real *mean, real *rstd) {
    const double n = (double)B * (double)S;
    double sum = 0.0, sum2 = 0.0, part, part2;
    for (i64 b = 0; b < B; b++) sum += ri_row_sum(x + (b * C + c) * S, S);
    const real m = (real)(sum / n);
    sum = 0.0;
    for (i64 b = 0; b < B; b++) {
        moments(x + (b * C + c) * S, m, S, &part, &part2);
        sum += part;
        sum2 += part2;
    }
    statistics(m, sum, sum2, n, eps, &mean[c], &rstd[c]);
    const real scale = gain ? rstd[c] * gain[c] : rstd[c], shift = bias ? bias[c] : R(0.0);
    for (i64 b = 0; b < B; b++) scale_segment(relu, x + (b * C + c) * S, mean[c], scale, shift, S, y + (b * C + c) * S);
}

INLINE void batch_channel_sums(const int relu, const real *dy, const real *y, const real *x, real mean, i64 c, i64 B,
                               i64 C, i64 S, double *sum, double *inner) {
    double part, part_inner;
    *sum = *inner = 0.0;
    for (i64 b = 0; b < B; b++) {
        const i64 at = (b * C + c) * S;
        gradient_sums(relu, dy + at, y + at, x + at, mean, S, &part, &part_inner);
        *sum += part;
        *inner += part_inner;
    }
}

INLINE void batch_channel_backward(const int relu, const real *dy, const real *y, const real *x, const real *gain,
                                   const real *mean, const real *rstd, i64 c, i64 B, i64 C, i64 S, real *dx,
                                   real *dgain, real *dbias) {
    const double n = (double)B * (double)S;
    double sum, inner;
    batch_channel_sums(relu, dy, y, x, mean[c], c, B, C, S, &sum, &inner);
    inner *= (double)rstd[c];
    dgain[c] = (real)inner;
    dbias[c] = (real)sum;
    const real m = mean[c], r = rstd[c], scale = gain ? r * gain[c] : r;
    const real mean_dy = (real)(sum / n), slope = (real)(inner / n) * r;
    for (i64 b = 0; b < B; b++) {
        const i64 at = (b * C + c) * S;
#pragma omp simd
        for (i64 i = at; i < at + S; i++) dx[i] = scale * (passed(relu, dy[i], y[i]) - mean_dy - (x[i] - m) * slope);
    }
}

static void inference_channel_backward(const real *dy, const real *x, const real *gain, const real *mean, real rstd,
                                       i64 c, i64 B, i64 C, i64 S, real *dx, real *dgain, real *dbias) {
    double sum, inner;
    batch_channel_sums(0, dy, dy, x, mean[c], c, B, C, S, &sum, &inner);
    dgain[c] = (real)(inner * (double)rstd);
    dbias[c] = (real)sum;
    const real scale = gain ? rstd * gain[c] : rstd;
    for (i64 b = 0; b < B; b++) {
        const i64 at = (b * C + c) * S;
#pragma omp simd
        for (i64 i = at; i < at + S; i++) dx[i] = dy[i] * scale;
    }
}

/* ---------------------------------------------------------------- batch normalisation, columns (S < SEGMENT) */

/* In each column of rows [lo, hi): sum of x, or with m the moments about it. */
static void column_sums(const real *x, i64 lo, i64 hi, i64 D, real *sum) {
    for (i64 j = 0; j < D; j++) sum[j] = R(0.0);
    i64 b = lo;
    for (; b + 4 <= hi; b += 4) { /* four rows at a time: a quarter of the traffic of the sums */
        const real *r0 = x + b * D, *r1 = r0 + D, *r2 = r1 + D, *r3 = r2 + D;
#pragma omp simd
        for (i64 j = 0; j < D; j++) sum[j] += (r0[j] + r1[j]) + (r2[j] + r3[j]);
    }
    for (; b < hi; b++) {
        const real *row = x + b * D;
#pragma omp simd
        for (i64 j = 0; j < D; j++) sum[j] += row[j];
    }
}

static void column_moments(const real *x, const real *m, i64 lo, i64 hi, i64 D, real *sum, real *sum2) {
    for (i64 j = 0; j < D; j++) sum[j] = sum2[j] = R(0.0);
    i64 b = lo;
    for (; b + 4 <= hi; b += 4) {
        const real *r0 = x + b * D, *r1 = r0 + D, *r2 = r1 + D, *r3 = r2 + D;
#pragma omp simd
        for (i64 j = 0; j < D; j++) {
            real d0 = r0[j] - m[j], d1 = r1[j] - m[j], d2 = r2[j] - m[j], d3 = r3[j] - m[j];
            sum[j] += (d0 + d1) + (d2 + d3);
            sum2[j] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3);
        }
    }
    for (; b < hi; b++) {
        const real *row = x + b * D;
#pragma omp simd
        for (i64 j = 0; j < D; j++) {
            real d = row[j] - m[j];
            sum[j] += d;
            sum2[j] += d * d;
        }
    }
}

INLINE void column_gradient_sums(const int relu, const real *dy, const real *y, const real *x, const real *mean, i64 lo,
                                 i64 hi, i64 D, real *sum, real *inner) {
    for (i64 j = 0; j < D; j++) sum[j] = inner[j] = R(0.0);
    i64 b = lo;
    for (; b + 4 <= hi; b += 4) {
        const real *g0 = dy + b * D, *g1 = g0 + D, *g2 = g1 + D, *g3 = g2 + D;
        const real *y0 = y + b * D, *y1 = y0 + D, *y2 = y1 + D, *y3 = y2 + D;
        const real *r0 = x + b * D, *r1 = r0 + D, *r2 = r1 + D, *r3 = r2 + D;
#pragma omp simd
        for (i64 j = 0; j < D; j++) {
            const real m = mean[j], d0 = passed(relu, g0[j], y0[j]), d1 = passed(relu, g1[j], y1[j]);
            const real d2 = passed(relu, g2[j], y2[j]), d3 = passed(relu, g3[j], y3[j]);
            sum[j] += (d0 + d1) + (d2 + d3);
            inner[j] += (d0 * (r0[j] - m) + d1 * (r1[j] - m)) + (d2 * (r2[j] - m) + d3 * (r3[j] - m));
        }
    }
    for (; b < hi; b++) {
        const real *grad = dy + b * D, *result = y + b * D, *row = x + b * D;
#pragma omp simd
        for (i64 j = 0; j < D; j++) {
            const real d = passed(relu, grad[j], result[j]);
            sum[j] += d;
            inner[j] += d * (row[j] - mean[j]);
        }
    }
}

INLINE void scale_rows(const int relu, const real *x, const real *mean, const real *scale, const real *bias, i64 lo,
                       i64 hi, i64 D, real *y) {
    for (i64 b = lo; b < hi; b++) {
        const real *row = x + b * D;
        real *out = y + b * D;
#pragma omp simd
        for (i64 j = 0; j < D; j++) out[j] = ended(relu, (row[j] - mean[j]) * scale[j] + bias[j]);
    }
}

INLINE void batch_rows_backward(const int relu, const real *dy, const real *y, const real *x, const real *mean,
                                const real *scale, const real *mean_dy, const real *slope, i64 lo, i64 hi, i64 D,
                                real *dx) {
    for (i64 b = lo; b < hi; b++) {
        const real *grad = dy + b * D, *result = y + b * D, *row = x + b * D;
        real *out = dx + b * D;
#pragma omp simd
        for (i64 j = 0; j < D; j++) {
            const real d = passed(relu, grad[j], result[j]);
            out[j] = scale[j] * (d - mean_dy[j] - (row[j] - mean[j]) * slope[j]);
        }
    }
}

static void gain_rows(const real *dy, const real *scale, i64 lo, i64 hi, i64 D, real *dx) {
    for (i64 b = lo; b < hi; b++) {
#pragma omp simd
        for (i64 j = 0; j < D; j++) dx[b * D + j] = dy[b * D + j] * scale[j];
    }
}

/* Workspace of the column kernels: `vectors` of length D, then 2 partial sums of length D for each block of rows. */
struct columns {
    i64 D, rows, blocks;
    real *vector[4], *partial;
};

static int columns_of(i64 B, i64 D, struct columns *w) {
    w->D = D;
    w->rows = block_rows(B, D);
    w->blocks = ri_blocks(B, w->rows);
    real *room = ri_workspace(RI_WS_OP, (size_t)((4 + 2 * w->blocks) * D) * sizeof(real));
    if (!room) return RI_NOMEM;
    for (int k = 0; k < 4; k++) w->vector[k] = room + k * D;
    w->partial = room + 4 * D;
    return RI_OK;
}

#define BLOCK_LO (k * w.rows)
#define BLOCK_HI ri_smaller((k + 1) * w.rows, B)

INLINE int batch_columns(const int relu, const real *x, const real *gain, const real *bias, double eps, i64 B, i64 C,
                         i64 S, real *y, real *mean, real *rstd, int team) {
    struct columns w;
    int status = columns_of(B, C * S, &w);
    if (status) return status;
    const i64 D = w.D;
    const double n = (double)B * (double)S;
    real *partial = w.partial;
    RI_FOR(team, k, w.blocks, column_sums(x, BLOCK_LO, BLOCK_HI, D, partial + 2 * k * D));
    fold(partial, 2 * D, w.blocks, C, S, mean);
    for (i64 c = 0; c < C; c++) mean[c] = (real)((double)mean[c] / n);
    const real *m = spread(mean, R(0.0), C, S, w.vector[0]);
    RI_FOR(team, k, w.blocks,
           column_moments(x, m, BLOCK_LO, BLOCK_HI, D, partial + 2 * k * D, partial + (2 * k + 1) * D));
    real *sum = w.vector[1], *sum2 = w.vector[2]; /* their first C entries */
    fold(partial, 2 * D, w.blocks, C, S, sum);
    fold(partial + D, 2 * D, w.blocks, C, S, sum2);
    real *scale = w.vector[3];
    for (i64 c = 0; c < C; c++) {
        statistics(mean[c], sum[c], sum2[c], n, eps, &mean[c], &rstd[c]);
        for (i64 s = c * S; s < (c + 1) * S; s++) scale[s] = gain ? rstd[c] * gain[c] : rstd[c];
    }
    const real *means = spread(mean, R(0.0), C, S, w.vector[0]), *shift = spread(bias, R(0.0), C, S, w.vector[1]);
    RI_FOR(team, k, w.blocks, scale_rows(relu, x, means, scale, shift, BLOCK_LO, BLOCK_HI, D, y));
    return RI_OK;
}

INLINE int batch_columns_backward(const int relu, const real *dy, const real *y, const real *x, const real *gain,
                                  const real *mean, const real *rstd, i64 B, i64 C, i64 S, real *dx, real *dgain,
                                  real *dbias, int team) {
    struct columns w;
    int status = columns_of(B, C * S, &w);
    if (status) return status;
    const i64 D = w.D;
    const double n = (double)B * (double)S;
    real *partial = w.partial, *scale = w.vector[1], *mean_dy = w.vector[2], *slope = w.vector[3];
    const real *means = spread(mean, R(0.0), C, S, w.vector[0]);
    RI_FOR(team, k, w.blocks,
           column_gradient_sums(relu, dy, y, x, means, BLOCK_LO, BLOCK_HI, D, partial + 2 * k * D,
                                partial + (2 * k + 1) * D));
    fold(partial, 2 * D, w.blocks, C, S, dbias);
    fold(partial + D, 2 * D, w.blocks, C, S, dgain);
    for (i64 c = 0; c < C; c++) {
        dgain[c] *= rstd[c];
        for (i64 s = c * S; s < (c + 1) * S; s++) {
            scale[s] = gain ? rstd[c] * gain[c] : rstd[c];
            mean_dy[s] = (real)((double)dbias[c] / n);
            slope[s] = (real)((double)dgain[c] / n) * rstd[c];
        }
    }
    RI_FOR(team, k, w.blocks,
           batch_rows_backward(relu, dy, y, x, means, scale, mean_dy, slope, BLOCK_LO, BLOCK_HI, D, dx));
    return RI_OK;
}

/* ---------------------------------------------------------------- batch normalisation, the kernels */

INLINE int batch_forward(const int relu, const real *x, const real *gain, const real *bias, double eps, i64 B, i64 C,
                         i64 S, real *y, real *mean, real *rstd, int threads) {
    int team = ri_team(threads, B * C * S);
    if (S < SEGMENT) return batch_columns(relu, x, gain, bias, eps, B, C, S, y, mean, rstd, team);
    RI_FOR(team, c, C, batch_channel(relu, x, gain, bias, eps, c, B, C, S, y, mean, rstd));
    return RI_OK;
}

INLINE int batch_backward(const int relu, const real *dy, const real *y, const real *x, const real *gain,
                          const real *mean, const real *rstd, i64 B, i64 C, i64 S, real *dx, real *dgain, real *dbias,
                          int threads) {
    int team = ri_team(threads, B * C * S * 2);
    if (S < SEGMENT) return batch_columns_backward(relu, dy, y, x, gain, mean, rstd, B, C, S, dx, dgain, dbias, team);
    RI_FOR(team, c, C, batch_channel_backward(relu, dy, y, x, gain, mean, rstd, c, B, C, S, dx, dgain, dbias));
    return RI_OK;
}

int RI(batchnorm)(const real *x, const real *gain, const real *bias, double eps, i64 B, i64 C, i64 S, real *y,
                  real *mean, real *rstd, int threads) {
    return batch_forward(0, x, gain, bias, eps, B, C, S, y, mean, rstd, threads);
}

int RI(batchnorm_relu)(const real *x, const real *gain, const real *bias, double eps, i64 B, i64 C, i64 S, real *y,
                       real *mean, real *rstd, int threads) {
    return batch_forward(1, x, gain, bias, eps, B, C, S, y, mean, rstd, threads);
}

int RI(batchnorm_backward)(const real *dy, const real *x, const real *gain, const real *mean, const real *rstd, i64 B,
                           i64 C, i64 S, real *dx, real *dgain, real *dbias, int threads) {
    return batch_backward(0, dy, dy, x, gain, mean, rstd, B, C, S, dx, dgain, dbias, threads);
}

int RI(batchnorm_relu_backward)(const real *dy, const real *y, const real *x, const real *gain, const real *mean,
                                const real *rstd, i64 B, i64 C, i64 S, real *dx, real *dgain, real *dbias,
                                int threads) {
    return batch_backward(1, dy, y, x, gain, mean, rstd, B, C, S, dx, dgain, dbias, threads);
}

int RI(batchnorm_inference)(const real *x, const real *gain, const real *bias, const real *mean, const real *variance,
                            double eps, i64 B, i64 C, i64 S, real *y, int threads) {
    int team = ri_team(threads, B * C * S);
    struct columns w;
    int status = columns_of(B, S < SEGMENT ? C * S : C, &w);
    if (status) return status;
    real *scale = w.vector[3];
    const i64 repeat = S < SEGMENT ? S : 1;
    for (i64 c = 0; c < C; c++) {
        real r = (real)(1.0 / sqrt((double)variance[c] + eps));
        for (i64 s = c * repeat; s < (c + 1) * repeat; s++) scale[s] = gain ? r * gain[c] : r;
    }
    if (S < SEGMENT) {
        const real *means = spread(mean, R(0.0), C, S, w.vector[0]), *shift = spread(bias, R(0.0), C, S, w.vector[1]);
        RI_FOR(team, k, w.blocks, scale_rows(0, x, means, scale, shift, BLOCK_LO, BLOCK_HI, w.D, y));
        return RI_OK;
    }
    RI_FOR(team, k, B * C,
           scale_segment(0, x + k * S, mean[k % C], scale[k % C], bias ? bias[k % C] : R(0.0), S, y + k * S));
    return RI_OK;
}

int RI(batchnorm_inference_backward)(const real *dy, const real *x, const real *gain, const real *mean,
                                     const real *variance, double eps, i64 B, i64 C, i64 S, real *dx, real *dgain,
                                     real *dbias, int threads) {
    int team = ri_team(threads, B * C * S * 2);
    if (S >= SEGMENT) {
        RI_FOR(team, c, C,
               inference_channel_backward(dy, x, gain, mean, (real)(1.0 / sqrt((double)variance[c] + eps)), c, B, C, S,
                                          dx, dgain, dbias));
        return RI_OK;
    }
    struct columns w;
    int status = columns_of(B, C * S, &w);
    if (status) return status;
    const i64 D = w.D;
    real *partial = w.partial, *scale = w.vector[3];
    const real *means = spread(mean, R(0.0), C, S, w.vector[0]);
    RI_FOR(team, k, w.blocks,
           column_gradient_sums(0, dy, dy, x, means, BLOCK_LO, BLOCK_HI, D, partial + 2 * k * D,
                                partial + (2 * k + 1) * D));
    fold(partial, 2 * D, w.blocks, C, S, dbias);
    fold(partial + D, 2 * D, w.blocks, C, S, dgain);
    for (i64 c = 0; c < C; c++) {
        real r = (real)(1.0 / sqrt((double)variance[c] + eps));
        dgain[c] *= r;
        for (i64 s = c * S; s < (c + 1) * S; s++) scale[s] = gain ? r * gain[c] : r;
    }
    RI_FOR(team, k, w.blocks, gain_rows(dy, scale, BLOCK_LO, BLOCK_HI, D, dx));
    return RI_OK;
}
