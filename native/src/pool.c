/* pool.c - maxima and means over windows, and their gradients. Mirror of refimpl/ops/pool.py.
 *
 * Roofline: a pass over the plane with one comparison or addition for each tap and window; max pooling is bound by
 * writing its int64 positions (2 x 2 windows read 4 numbers and write one and a position), the others by reading and
 * writing the planes once. Work is vectorised along a row of windows and shared by planes, so results do not depend on
 * the number of threads.
 */
#include "pool.h"
#include "rows.h"

#include <math.h>

/* One plane at a time, over the threads; `cost` nanoseconds a plane (a double: the product may be huge). BODY sees the
 * plane's number as `plane`. */
#define PLANES(cost, BODY)                                                                                         \
    do {                                                                                                           \
        double ns = (double)P * (cost);                                                                            \
        int team = ri_team(threads, ns < 1e15 ? (i64)ns : (i64)1e15);                                              \
        if (team == 1) {                                                                                           \
            for (i64 plane = 0; plane < P; plane++) BODY;                                                          \
        } else {                                                                                                   \
            _Pragma("omp parallel for schedule(static) num_threads(team)") for (i64 plane = 0; plane < P; plane++) \
                BODY;                                                                                              \
        }                                                                                                          \
    } while (0)

enum { RUN = 64 }; /* windows of a row that are worked on together */

/* Windows n of [n0, n1) whose tap j lies inside a row of W: stride n + j - padding in [0, W). */
static inline void inside(i64 n0, i64 n1, i64 stride, i64 j, i64 padding, i64 W, i64 *lo, i64 *hi) {
    i64 first = padding > j ? (padding - j + stride - 1) / stride : 0;
    i64 last = W - 1 + padding - j; /* of stride n */
    i64 end = last < 0 ? 0 : last / stride + 1;
    *lo = first > n0 ? (first < n1 ? first : n1) : n0;
    *hi = end < n1 ? end : n1;
}

/* The ranges of the taps of a row of OW windows: found once for a plane, where the taps are few. */
enum { RANGES = 16 };
struct ranges {
    i64 lo[RANGES], hi[RANGES], OW, stride, padding, W;
};

static inline void ranges_of(i64 OW, i64 stride, i64 taps, i64 padding, i64 W, struct ranges *r) {
    r->OW = OW, r->stride = stride, r->padding = padding, r->W = W;
    for (i64 j = 0; j < taps && j < RANGES; j++) inside(0, OW, stride, j, padding, W, &r->lo[j], &r->hi[j]);
}

static inline void range_of(const struct ranges *r, i64 j, i64 *lo, i64 *hi) {
    if (j < RANGES)
        *lo = r->lo[j], *hi = r->hi[j];
    else
        inside(0, r->OW, r->stride, j, r->padding, r->W, lo, hi);
}

/* b takes the place of a: larger, or the first NaN */
static inline int beats(real b, real a) {
    return b > a || (b != b && a == a);
}

static void max_plane(const real *x, i64 H, i64 W, i64 OH, i64 OW, i64 KH, i64 KW, i64 SH, i64 SW, i64 PH, i64 PW,
                      real *y, i64 *index) {
    for (i64 m = 0; m < OH; m++) {
        i64 h0 = SH * m - PH, i0 = h0 < 0 ? -h0 : 0, i1 = H - h0 < KH ? H - h0 : KH;
        for (i64 n0 = 0; n0 < OW; n0 += RUN) {
            i64 n1 = n0 + RUN < OW ? n0 + RUN : OW;
            real best[RUN];
            i64 at[RUN];
            for (i64 n = n0; n < n1; n++) { /* the first tap inside the plane */
                i64 w = SW * n - PW;
                at[n - n0] = (h0 + i0) * W + (w < 0 ? 0 : w);
                best[n - n0] = x[at[n - n0]];
            }
            for (i64 i = i0; i < i1; i++)
                for (i64 j = 0; j < KW; j++) {
                    i64 lo, hi, base = (h0 + i) * W + j - PW;
                    inside(n0, n1, SW, j, PW, W, &lo, &hi);
#pragma omp simd
                    for (i64 n = lo; n < hi; n++) {
                        i64 here = base + SW * n;
                        real value = x[here], old = best[n - n0];
                        int wins = beats(value, old);
                        best[n - n0] = wins ? value : old;
                        at[n - n0] = wins ? here : at[n - n0];
                    }
                }
            for (i64 n = n0; n < n1; n++) {
                y[m * OW + n] = best[n - n0];
                index[m * OW + n] = at[n - n0];
            }
        }
    }
}

/* The same for strides SW of 1 and 2 along a row and at most TAPS taps, inlined with a constant SW. Rows are first
 * copied into their stride phases with -inf, which never wins, around them; so every tap of a run is one pass over
 * whole vectors. Positions are counted from the window's first row on in integers as wide as `real`, so that maxima and
 * positions fill vectors of one length. */
#ifdef RI_IS_F32
typedef int32_t place;
#else
typedef i64 place;
#endif

enum { TAPS = 8, WHOLE = 16 };

static inline __attribute__((always_inline)) void max_plane_lanes(const int SW, const real *x, i64 H, i64 W, i64 OH,
                                                                  i64 OW, i64 KH, i64 KW, i64 SH, i64 PH, i64 PW,
                                                                  real *y, i64 *index) {
    for (i64 m = 0; m < OH; m++) {
        i64 h0 = SH * m - PH, i0 = h0 < 0 ? -h0 : 0, i1 = H - h0 < KH ? H - h0 : KH;
        i64 top = (h0 + i0) * W;
        for (i64 n0 = 0; n0 < OW; n0 += RUN) {
            i64 n1 = n0 + RUN < OW ? n0 + RUN : OW, count = n1 - n0, w0 = SW * n0 - PW;
            int whole = (int)((count + WHOLE - 1) / WHOLE * WHOLE);
            real best[RUN], phase[2][RUN + TAPS];
            place at[RUN];
            for (int n = 0; n < whole; n++) { /* the first tap inside the plane */
                place w = (place)(w0 + SW * n), end = (place)(W - 1);
                at[n] = w < 0 ? 0 : w < end ? w : end;
                best[n] = x[top + at[n]];
            }
            for (i64 i = 0; i < i1 - i0; i++) {
                const real *row = x + top + i * W + w0;
                for (int s = 0; s < SW; s++) { /* phase[s][n] = row[SW n + s] where that lies inside */
                    i64 length = whole + TAPS, lo = w0 + s < 0 ? (-w0 - s + SW - 1) / SW : 0;
                    i64 hi = W - w0 - s <= 0 ? 0 : (W - w0 - s + SW - 1) / SW;
                    if (hi > length) hi = length;
                    if (lo > hi) lo = hi;
                    for (i64 n = 0; n < lo; n++) phase[s][n] = -(real)INFINITY;
#pragma omp simd
                    for (i64 n = lo; n < hi; n++) phase[s][n] = row[SW * n + s];
                    for (i64 n = hi; n < length; n++) phase[s][n] = -(real)INFINITY;
                }
                for (int j = 0; j < KW; j++) {
                    const real *values = phase[j % SW] + j / SW;
                    place first = (place)(i * W + w0 + j);
#pragma omp simd
                    for (int n = 0; n < whole; n++) {
                        real value = values[n], old = best[n];
                        int wins = (value > old) | ((value != value) & (old == old));
                        best[n] = wins ? value : old;
                        at[n] = wins ? first + (place)(SW * n) : at[n];
                    }
                }
            }
            for (i64 n = 0; n < count; n++) {
                y[m * OW + n0 + n] = best[n];
                index[m * OW + n0 + n] = top + at[n];
            }
        }
    }
}

static void max_plane_1(const real *x, i64 H, i64 W, i64 OH, i64 OW, i64 KH, i64 KW, i64 SH, i64 PH, i64 PW, real *y,
                        i64 *index) {
    max_plane_lanes(1, x, H, W, OH, OW, KH, KW, SH, PH, PW, y, index);
}
static void max_plane_2(const real *x, i64 H, i64 W, i64 OH, i64 OW, i64 KH, i64 KW, i64 SH, i64 PH, i64 PW, real *y,
                        i64 *index) {
    max_plane_lanes(2, x, H, W, OH, OW, KH, KW, SH, PH, PW, y, index);
}

/* The common case: windows of 2 x 2 that touch each other. */
static void max_plane_2x2(const real *x, i64 W, i64 OH, i64 OW, real *y, i64 *index) {
    for (i64 m = 0; m < OH; m++) {
        const real *a = x + 2 * m * W, *b = a + W;
        i64 base = 2 * m * W;
#pragma omp simd
        for (i64 n = 0; n < OW; n++) {
            real p = a[2 * n], q = a[2 * n + 1], r = b[2 * n], s = b[2 * n + 1];
            int right = beats(q, p), low_right = beats(s, r);
            real top = right ? q : p, bottom = low_right ? s : r;
            int down = beats(bottom, top);
            y[m * OW + n] = down ? bottom : top;
            index[m * OW + n] = base + 2 * n + (down ? W + low_right : right);
        }
    }
}

int RI(max_pool2d)(const real *x, i64 P, i64 H, i64 W, i64 OH, i64 OW, i64 KH, i64 KW, i64 SH, i64 SW, i64 PH, i64 PW,
                   real *y, i64 *index, int threads) {
    int plain = KH == 2 && KW == 2 && SH == 2 && SW == 2 && PH == 0 && PW == 0;
    i64 windows = OH * OW;
    if (plain)
        PLANES((double)windows,
               max_plane_2x2(x + plane * H * W, W, OH, OW, y + plane * windows, index + plane * windows));
    else if (SW <= 2 && KW <= TAPS && W <= (1 << 15) && KH <= (1 << 15)) { /* places fit 32 bits */
        if (SW == 1)
            PLANES(0.25 * (double)windows * (double)KH * (double)KW + 1,
                   max_plane_1(x + plane * H * W, H, W, OH, OW, KH, KW, SH, PH, PW, y + plane * windows,
                               index + plane * windows));
        else
            PLANES(0.25 * (double)windows * (double)KH * (double)KW + 1,
                   max_plane_2(x + plane * H * W, H, W, OH, OW, KH, KW, SH, PH, PW, y + plane * windows,
                               index + plane * windows));
    } else
        PLANES((double)windows * (double)KH * (double)KW + 1,
               max_plane(x + plane * H * W, H, W, OH, OW, KH, KW, SH, SW, PH, PW, y + plane * windows,
                         index + plane * windows));
    return RI_OK;
}

static int max_plane_backward(const real *dy, const i64 *index, i64 M, i64 N, real *restrict dx) {
    int outside = 0;
#pragma omp simd reduction(| : outside)
    for (i64 i = 0; i < M; i++) outside |= (uint64_t)index[i] >= (uint64_t)N;
    for (i64 i = 0; i < N; i++) dx[i] = R(0.0);
    if (outside) return 1;
    for (i64 i = 0; i < M; i++) dx[index[i]] += dy[i];
    return 0;
}

int RI(max_pool2d_backward)(const real *dy, const i64 *index, i64 P, i64 M, i64 N, real *dx, int threads) {
    int team = ri_team(threads, P * (M + N / 8)), outside = 0;
    if (team == 1) {
        for (i64 plane = 0; plane < P; plane++)
            outside |= max_plane_backward(dy + plane * M, index + plane * M, M, N, dx + plane * N);
    } else {
#pragma omp parallel for schedule(static) num_threads(team) reduction(| : outside)
        for (i64 plane = 0; plane < P; plane++)
            outside |= max_plane_backward(dy + plane * M, index + plane * M, M, N, dx + plane * N);
    }
    return outside ? RI_INDEX : RI_OK;
}

static void avg_plane(const real *x, i64 H, i64 W, i64 OH, i64 OW, i64 KH, i64 KW, i64 SH, i64 SW, i64 PH, i64 PW,
                      real *y) {
    real taps = (real)KH * (real)KW;
    struct ranges ranges;
    ranges_of(OW, SW, KW, PW, W, &ranges);
    for (i64 m = 0; m < OH; m++, y += OW) {
        i64 h0 = SH * m - PH, i0 = h0 < 0 ? -h0 : 0, i1 = H - h0 < KH ? H - h0 : KH;
        for (i64 n = 0; n < OW; n++) y[n] = R(0.0);
        for (i64 i = i0; i < i1; i++)
            for (i64 j = 0; j < KW; j++) {
                i64 lo, hi, base = (h0 + i) * W + j - PW;
                range_of(&ranges, j, &lo, &hi);
                if (SW == 2) {
#pragma omp simd
                    for (i64 n = lo; n < hi; n++) y[n] += x[base + 2 * n];
                } else {
#pragma omp simd
                    for (i64 n = lo; n < hi; n++) y[n] += x[base + SW * n];
                }
            }
#pragma omp simd
        for (i64 n = 0; n < OW; n++) y[n] /= taps;
    }
}

/* The common case: windows of 2 x 2 that touch each other. The taps are added in the same order. */
static void avg_plane_2x2(const real *x, i64 W, i64 OH, i64 OW, real *y) {
    for (i64 m = 0; m < OH; m++) {
        const real *a = x + 2 * m * W, *b = a + W;
#pragma omp simd
        for (i64 n = 0; n < OW; n++) y[m * OW + n] = (((a[2 * n] + a[2 * n + 1]) + b[2 * n]) + b[2 * n + 1]) * R(0.25);
    }
}

static void avg_plane_2x2_backward(const real *dy, i64 H, i64 W, i64 OH, i64 OW, real *dx) {
    for (i64 m = 0; m < OH; m++) {
        real *a = dx + 2 * m * W, *b = a + W;
#pragma omp simd
        for (i64 n = 0; n < OW; n++) {
            const real v = dy[m * OW + n] * R(0.25);
            a[2 * n] = a[2 * n + 1] = b[2 * n] = b[2 * n + 1] = v;
        }
        for (i64 w = 2 * OW; w < W; w++) a[w] = b[w] = R(0.0); /* what no window covers */
    }
    for (i64 i = 2 * OH * W; i < H * W; i++) dx[i] = R(0.0);
}

int RI(avg_pool2d)(const real *x, i64 P, i64 H, i64 W, i64 OH, i64 OW, i64 KH, i64 KW, i64 SH, i64 SW, i64 PH, i64 PW,
                   real *y, int threads) {
    if (KH == 2 && KW == 2 && SH == 2 && SW == 2 && PH == 0 && PW == 0) {
        PLANES((double)(OH * OW) / 2, avg_plane_2x2(x + plane * H * W, W, OH, OW, y + plane * OH * OW));
        return RI_OK;
    }
    PLANES(0.25 * (double)(OH * OW) * (double)KH * (double)KW + 1,
           avg_plane(x + plane * H * W, H, W, OH, OW, KH, KW, SH, SW, PH, PW, y + plane * OH * OW));
    return RI_OK;
}

static void avg_plane_backward(const real *dy, i64 H, i64 W, i64 OH, i64 OW, i64 KH, i64 KW, i64 SH, i64 SW, i64 PH,
                               i64 PW, real *dx) {
    real taps = (real)KH * (real)KW;
    struct ranges ranges;
    ranges_of(OW, SW, KW, PW, W, &ranges);
    for (i64 i = 0; i < H * W; i++) dx[i] = R(0.0);
    for (i64 m = 0; m < OH; m++, dy += OW) {
        i64 h0 = SH * m - PH, i0 = h0 < 0 ? -h0 : 0, i1 = H - h0 < KH ? H - h0 : KH;
        for (i64 i = i0; i < i1; i++)
            for (i64 j = 0; j < KW; j++) {
                i64 lo, hi, base = (h0 + i) * W + j - PW;
                range_of(&ranges, j, &lo, &hi);
#pragma omp simd
                for (i64 n = lo; n < hi; n++) dx[base + SW * n] += dy[n] / taps;
            }
    }
}

int RI(avg_pool2d_backward)(const real *dy, i64 P, i64 H, i64 W, i64 OH, i64 OW, i64 KH, i64 KW, i64 SH, i64 SW, i64 PH,
                            i64 PW, real *dx, int threads) {
    if (KH == 2 && KW == 2 && SH == 2 && SW == 2 && PH == 0 && PW == 0) {
        PLANES((double)(H * W) / 4 + 1, avg_plane_2x2_backward(dy + plane * OH * OW, H, W, OH, OW, dx + plane * H * W));
        return RI_OK;
    }
    PLANES(0.25 * (double)(OH * OW) * (double)KH * (double)KW + (double)(H * W) / 8 + 1,
           avg_plane_backward(dy + plane * OH * OW, H, W, OH, OW, KH, KW, SH, SW, PH, PW, dx + plane * H * W));
    return RI_OK;
}

static void means(const real *x, i64 lo, i64 hi, i64 N, real *y) {
    for (i64 p = lo; p < hi; p++) y[p] = (real)(ri_row_sum(x + p * N, N) / (double)N);
}

int RI(global_avg_pool2d)(const real *x, i64 P, i64 H, i64 W, real *y, int threads) {
    i64 N = H * W;
    const i64 rows = ri_larger(1, 4096 / ri_larger(N, 1)); /* planes handled by one call */
    const double ns = (double)P * ((double)N / 8 + 1);
    const int team = ri_team(threads, ns < 1e15 ? (i64)ns : (i64)1e15);
    RI_FOR(team, k, ri_blocks(P, rows), means(x, k * rows, ri_smaller((k + 1) * rows, P), N, y));
    return RI_OK;
}

static void spread_mean(real dy, i64 N, real *dx) {
    real share = dy / (real)N;
    for (i64 i = 0; i < N; i++) dx[i] = share;
}

int RI(global_avg_pool2d_backward)(const real *dy, i64 P, i64 H, i64 W, real *dx, int threads) {
    i64 N = H * W;
    PLANES((double)N / 8 + 1, spread_mean(dy[plane], N, dx + plane * N));
    return RI_OK;
}
