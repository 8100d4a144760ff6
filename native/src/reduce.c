/* reduce.c - sums, means and maxima along one axis, and the sum over everything. Mirror of refimpl/ops/reduce.py.
 *
 * Roofline: one pass over x, bound by memory. Columns are reduced WIDTH at a time, side by side in registers or L1, so
 * that x is read in the order it lies in; along the last axis LANES sums or maxima run side by side.
 *
 * Sums: at most 128 numbers are added one after another in the precision of x, everything above that in double. A long
 * axis is cut into chunks of fixed length, whatever the threads, so the bits do not depend on them.
 */
#include "reduce.h"
#include "rows.h"

enum {
    LANES = 32,          /* maxima side by side along the last axis */
    WIDTH = 512,         /* columns at a time along another axis: whole pieces of rows, in the order they lie in */
    MAX_WIDTH = 128,     /* and for maxima */
    NARROW = 64,         /* columns that short rows are joined to */
    RUN = 128,           /* numbers added one after another in `real` */
    CHUNK = LANES * RUN, /* entries of the axis for one partial sum */
};

#define NOINLINE static __attribute__((noinline))

static i64 least(i64 a, i64 b) {
    return a < b ? a : b;
}

/* ------------------------------------------------------------------------------------------------ sums */

/* sum of n consecutive numbers, n at most CHUNK */
NOINLINE double sum_run(const real *x, i64 n) {
    return ri_row_sum(x, n);
}

/* y = sums of rows of n, n at most CHUNK */
NOINLINE void sum_rows_of(const real *x, i64 lo, i64 hi, i64 n, double divisor, real *y) {
    for (i64 r = lo; r < hi; r++) y[r] = (real)(ri_row_sum(x + r * n, n) / divisor);
}

/* sum (width, at most WIDTH) = sums of the columns of n rows, `stride` apart */
static inline __attribute__((always_inline)) void add_rows_of(const real *x, i64 n, i64 stride, i64 width,
                                                              double *sum) {
    for (i64 q = 0; q < width; q++) sum[q] = 0;
    for (i64 r0 = 0; r0 < n; r0 += RUN) {
        i64 r1 = least(n, r0 + RUN), r = r0;
        real s[WIDTH];
        for (i64 q = 0; q < width; q++) s[q] = 0;
        for (; r + 4 <= r1; r += 4) { /* four rows at a time: a quarter of the traffic of the sums */
            const real *a = x + r * stride, *b = a + stride, *c = b + stride, *d = c + stride;
#pragma omp simd
            for (i64 q = 0; q < width; q++) s[q] += (a[q] + b[q]) + (c[q] + d[q]);
        }
        for (; r < r1; r++) {
            const real *a = x + r * stride;
#pragma omp simd
            for (i64 q = 0; q < width; q++) s[q] += a[q];
        }
#pragma omp simd
        for (i64 q = 0; q < width; q++) sum[q] += (double)s[q];
    }
}

static void add_rows(const real *x, i64 n, i64 stride, i64 width, double *sum) {
    if (width == NARROW) /* a constant width stays in registers */
        add_rows_of(x, n, stride, NARROW, sum);
    else
        add_rows_of(x, n, stride, width, sum);
}

/* The same; where rows are short and consecutive, several of them are taken as one long row. */
NOINLINE void sum_columns(const real *x, i64 n, i64 stride, i64 width, double *sum) {
    i64 together = stride == width && width < NARROW ? NARROW / width : 1;
    if (together == 1) {
        add_rows(x, n, stride, width, sum);
        return;
    }
    double wide[NARROW], rest[NARROW];
    i64 whole = n / together * together;
    add_rows(x, n / together, together * width, together * width, wide);
    add_rows(x + whole * width, n - whole, width, width, rest);
    for (i64 q = 0; q < width; q++) {
        sum[q] = rest[q];
        for (i64 r = 0; r < together; r++) sum[q] += wide[r * width + q];
    }
}

/* Task `k` of outer x chunks x tiles: its partial sums, where they go (an index into (outer, chunks, inner)), how many.
 */
static i64 partial(const real *x, i64 n, i64 inner, i64 k, i64 *at, double *sum) {
    i64 chunks = (n + CHUNK - 1) / CHUNK, tiles = (inner + WIDTH - 1) / WIDTH;
    i64 tile = k % tiles, row = k / tiles, chunk = row % chunks, o = row / chunks;
    i64 lo = chunk * CHUNK, count = least(CHUNK, n - lo), j = tile * WIDTH, width = least(WIDTH, inner - j);
    const real *from = x + (o * n + lo) * inner + j;
    *at = row * inner + j;
    if (inner == 1)
        sum[0] = sum_run(from, count);
    else
        sum_columns(from, count, inner, width, sum);
    return width;
}

/* the partial sums of task k, times `scale`, as results */
static void one_task(const real *x, i64 n, i64 inner, i64 k, double divisor, real *y) {
    double sum[WIDTH];
    i64 at, width = partial(x, n, inner, k, &at, sum);
    for (i64 q = 0; q < width; q++) y[at + q] = (real)(sum[q] / divisor);
}

static int reduce(const real *x, i64 outer, i64 n, i64 inner, double divisor, real *y, int threads) {
    if (outer == 0 || inner == 0) return RI_OK;
    if (n == 0) {
        for (i64 i = 0; i < outer * inner; i++) y[i] = 0;
        return RI_OK;
    }
    i64 chunks = (n + CHUNK - 1) / CHUNK, tasks = outer * chunks * ((inner + WIDTH - 1) / WIDTH);
    int team = ri_team(threads, outer * n * inner / 4);
    if (chunks == 1 && inner == 1) {
        const i64 rows = (CHUNK + n - 1) / n;
        RI_FOR(team, k, ri_blocks(outer, rows), sum_rows_of(x, k * rows, least((k + 1) * rows, outer), n, divisor, y));
        return RI_OK;
    }
    if (chunks == 1) {
        if (team == 1) {
            for (i64 k = 0; k < tasks; k++) one_task(x, n, inner, k, divisor, y);
            return RI_OK;
        }
#pragma omp parallel for schedule(static) num_threads(team)
        for (i64 k = 0; k < tasks; k++) one_task(x, n, inner, k, divisor, y);
        return RI_OK;
    }
    double *part = ri_workspace(RI_WS_OP, sizeof(double) * (size_t)(outer * chunks * inner + WIDTH));
    if (!part) return RI_NOMEM;
    if (team == 1) {
        for (i64 k = 0; k < tasks; k++) {
            double sum[WIDTH];
            i64 at, width = partial(x, n, inner, k, &at, sum);
            for (i64 q = 0; q < width; q++) part[at + q] = sum[q];
        }
    } else {
#pragma omp parallel for schedule(static) num_threads(team)
        for (i64 k = 0; k < tasks; k++) {
            double sum[WIDTH];
            i64 at, width = partial(x, n, inner, k, &at, sum);
            for (i64 q = 0; q < width; q++) part[at + q] = sum[q];
        }
    }
    for (i64 o = 0; o < outer; o++) {
        for (i64 j = 0; j < inner; j++) {
            double sum = 0;
            for (i64 c = 0; c < chunks; c++) sum += part[(o * chunks + c) * inner + j];
            y[o * inner + j] = (real)(sum / divisor);
        }
    }
    return RI_OK;
}

int RI(reduce_sum)(const real *x, i64 outer, i64 n, i64 inner, real *y, int threads) {
    return reduce(x, outer, n, inner, 1, y, threads);
}

int RI(reduce_mean)(const real *x, i64 outer, i64 n, i64 inner, real *y, int threads) {
    return reduce(x, outer, n, inner, (double)n, y, threads);
}

int RI(sum_rows)(const real *x, i64 N, i64 D, real *y, int threads) {
    return reduce(x, 1, N, D, 1, y, threads);
}

/* n consecutive numbers in double: LANES sums side by side, then these in pairs */
NOINLINE double total_run(const real *x, i64 n) {
    double s[LANES] = {0};
    i64 whole = n / LANES * LANES;
    for (i64 i = 0; i < whole; i += LANES) {
#pragma omp simd
        for (i64 q = 0; q < LANES; q++) s[q] += (double)x[i + q];
    }
    for (i64 i = whole; i < n; i++) s[i - whole] += (double)x[i];
    for (i64 half = LANES / 2; half > 0; half /= 2) {
        for (i64 q = 0; q < half; q++) s[q] += s[q + half];
    }
    return s[0];
}

int RI(total)(const real *x, i64 n, double *result, int threads) {
    enum { BLOCK = 16384 };
    i64 blocks = (n + BLOCK - 1) / BLOCK;
    int team = ri_team(threads, n / 4);
    double sum = 0;
    if (team == 1) {
        for (i64 k = 0; k < blocks; k++) sum += total_run(x + k * BLOCK, least(BLOCK, n - k * BLOCK));
    } else {
        double *part = ri_workspace(RI_WS_OP, sizeof(double) * (size_t)blocks);
        if (!part) return RI_NOMEM;
#pragma omp parallel for schedule(static) num_threads(team)
        for (i64 k = 0; k < blocks; k++) part[k] = total_run(x + k * BLOCK, least(BLOCK, n - k * BLOCK));
        for (i64 k = 0; k < blocks; k++) sum += part[k];
    }
    *result = sum;
    return RI_OK;
}

/* dx (outer, n, inner)[o, k] = factor dy[o], for the rows (o, k) from lo to hi */
static void repeat(const real *dy, i64 n, i64 inner, real factor, real *dx, i64 lo, i64 hi) {
    const real *from = n > 0 ? dy + lo / n * inner : dy;
    i64 whole = n > 0 ? (lo / n + 1) * n : 0; /* where the rows of the next o begin */
    for (i64 row = lo; row < hi; from += inner, whole += n) {
        i64 end = whole < hi ? whole : hi;
        if (inner == 1) {
            real d = factor * from[0];
#pragma omp simd
            for (i64 k = row; k < end; k++) dx[k] = d;
        } else {
            for (i64 k = row; k < end; k++) {
#pragma omp simd
                for (i64 j = 0; j < inner; j++) dx[k * inner + j] = factor * from[j];
            }
        }
        row = end;
    }
}

static int repeat_all(const real *dy, i64 outer, i64 n, i64 inner, real factor, real *dx, int threads) {
    int team = ri_team(threads, outer * n * inner / 4);
    if (team == 1) {
        repeat(dy, n, inner, factor, dx, 0, outer * n);
        return RI_OK;
    }
#pragma omp parallel for schedule(static) num_threads(team)
    for (int part = 0; part < team; part++) {
        i64 lo, hi;
        ri_share(outer * n, 1, part, team, &lo, &hi);
        repeat(dy, n, inner, factor, dx, lo, hi);
    }
    return RI_OK;
}

int RI(reduce_sum_backward)(const real *dy, i64 outer, i64 n, i64 inner, real *dx, int threads) {
    return repeat_all(dy, outer, n, inner, R(1.0), dx, threads);
}

int RI(reduce_mean_backward)(const real *dy, i64 outer, i64 n, i64 inner, real *dx, int threads) {
    return repeat_all(dy, outer, n, inner, R(1.0) / (real)n, dx, threads);
}

/* ------------------------------------------------------------------------------------------------ maxima */

/* The largest of n consecutive numbers (NaN skipped unless it is the first); *nan: whether there is one. */
static real largest(const real *x, i64 n, int *nan) {
    real most[LANES];
    ri_uint bad[LANES] = {0};
    i64 whole = n / LANES * LANES;
    for (i64 q = 0; q < LANES; q++) most[q] = x[0];
    for (i64 i = 0; i < whole; i += LANES) {
#pragma omp simd
        for (i64 q = 0; q < LANES; q++) {
            real v = x[i + q];
            most[q] = v > most[q] ? v : most[q];
            bad[q] |= (ri_uint)(v != v);
        }
    }
    for (i64 i = whole; i < n; i++) {
        most[0] = x[i] > most[0] ? x[i] : most[0];
        bad[0] |= (ri_uint)(x[i] != x[i]);
    }
    for (i64 half = LANES / 2; half > 0; half /= 2) {
        for (i64 q = 0; q < half; q++) {
            most[q] = most[q + half] > most[q] ? most[q + half] : most[q];
            bad[q] |= bad[q + half];
        }
    }
    *nan = bad[0] != 0;
    return most[0];
}

/* Where the first number equal to `value` stands, or the first NaN; there is one among the n. */
static i64 first(const real *x, i64 n, real value, int nan) {
    i64 i = 0;
    if (nan) {
        while (i < n - 1 && x[i] == x[i]) i++;
        return i;
    }
    for (; i + LANES < n; i += LANES) {
        ri_uint found = 0;
#pragma omp simd reduction(| : found)
        for (i64 q = 0; q < LANES; q++) found |= (ri_uint)(x[i + q] == value);
        if (found) break;
    }
    while (i < n - 1 && x[i] != value) i++;
    return i;
}

/* The first maximum of n consecutive numbers; a NaN is larger than all. Only a chunk with a new maximum is searched. */
static void max_run(const real *x, i64 n, real *y, i64 *index) {
    real best = x[0];
    i64 at = 0;
    for (i64 lo = 0; lo < n && best == best; lo += CHUNK) {
        int nan;
        real most = largest(x + lo, least(CHUNK, n - lo), &nan);
        if (nan || most > best) {
            at = lo + first(x + lo, least(CHUNK, n - lo), most, nan);
            best = x[at];
        }
    }
    *y = best;
    *index = at;
}

static void max_columns(const real *x, i64 n, i64 stride, i64 width, real *y, i64 *index) {
    real best[MAX_WIDTH];
    i64 at[MAX_WIDTH];
    for (i64 q = 0; q < width; q++) best[q] = x[q], at[q] = 0;
    for (i64 k = 1; k < n; k++) {
#pragma omp simd
        for (i64 q = 0; q < width; q++) {
            real v = x[k * stride + q];
            int larger = !(v <= best[q]) && best[q] == best[q];
            best[q] = larger ? v : best[q];
            at[q] = larger ? k : at[q];
        }
    }
    for (i64 q = 0; q < width; q++) y[q] = best[q], index[q] = at[q];
}

static void max_task(const real *x, i64 n, i64 inner, i64 k, real *y, i64 *index) {
    if (inner == 1) {
        max_run(x + k * n, n, y + k, index + k);
        return;
    }
    i64 tiles = (inner + MAX_WIDTH - 1) / MAX_WIDTH, o = k / tiles, j = k % tiles * MAX_WIDTH;
    max_columns(x + o * n * inner + j, n, inner, least(MAX_WIDTH, inner - j), y + o * inner + j, index + o * inner + j);
}

int RI(reduce_max)(const real *x, i64 outer, i64 n, i64 inner, real *y, i64 *index, int threads) {
    if (n <= 0) return RI_BADARG;
    i64 tasks = outer * ((inner + MAX_WIDTH - 1) / MAX_WIDTH);
    int team = ri_team(threads, outer * n * inner / 2);
    if (team == 1) {
        for (i64 k = 0; k < tasks; k++) max_task(x, n, inner, k, y, index);
        return RI_OK;
    }
#pragma omp parallel for schedule(static) num_threads(team)
    for (i64 k = 0; k < tasks; k++) max_task(x, n, inner, k, y, index);
    return RI_OK;
}

static void place(const real *dy, const i64 *index, i64 n, i64 inner, real *dx) {
    for (i64 i = 0; i < n * inner; i++) dx[i] = 0;
    for (i64 j = 0; j < inner; j++) dx[index[j] * inner + j] = dy[j];
}

int RI(reduce_max_backward)(const real *dy, const i64 *index, i64 outer, i64 n, i64 inner, real *dx, int threads) {
    int team = ri_team(threads, outer * n * inner / 4);
    if (team == 1) {
        for (i64 o = 0; o < outer; o++) place(dy + o * inner, index + o * inner, n, inner, dx + o * n * inner);
        return RI_OK;
    }
#pragma omp parallel for schedule(static) num_threads(team)
    for (i64 o = 0; o < outer; o++) place(dy + o * inner, index + o * inner, n, inner, dx + o * n * inner);
    return RI_OK;
}
