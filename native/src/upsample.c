/* upsample.c - nearest and bilinear enlargement by whole factors, and gradients. Mirror of refimpl/ops/upsample.py.
 *
 * Roofline: the large plane is written (backward: read) once and the small one stays in the cache, so the bandwidth of
 * the large plane is the limit. Vertical steps are vectorised along a row; along a row, entry G w + r of the large
 * plane meets the same two neighbours and shares for every w inside, so that loop runs over w. Work is shared by
 * planes: results do not depend on the number of threads.
 */
#include "upsample.h"
#include "vmath.h"

static int team_for(i64 P, i64 H, i64 W, i64 F, i64 G, int threads) {
    return ri_team(threads, P * H * F * W * G / 2);
}

/* ------------------------------------------------------------------ nearest */

static void nearest_plane(const real *x, i64 H, i64 W, i64 F, i64 G, real *y) {
    for (i64 h = 0; h < H; h++, x += W) {
        const real *first = y;
        if (G == 2) {
#pragma omp simd
            for (i64 j = 0; j < 2 * W; j++) y[j] = x[j >> 1];
        } else {
            for (i64 w = 0; w < W; w++)
                for (i64 r = 0; r < G; r++) y[w * G + r] = x[w];
        }
        y += G * W;
        for (i64 r = 1; r < F; r++, y += G * W)
            for (i64 j = 0; j < G * W; j++) y[j] = first[j];
    }
}

int RI(upsample_nearest2d)(const real *x, i64 P, i64 H, i64 W, i64 F, i64 G, real *y, int threads) {
    int team = team_for(P, H, W, F, G, threads);
    i64 small = H * W, large = small * F * G;
    if (team == 1) {
        for (i64 plane = 0; plane < P; plane++) nearest_plane(x + plane * small, H, W, F, G, y + plane * large);
        return RI_OK;
    }
#pragma omp parallel for schedule(static) num_threads(team)
    for (i64 plane = 0; plane < P; plane++) nearest_plane(x + plane * small, H, W, F, G, y + plane * large);
    return RI_OK;
}

static void nearest_plane_backward(const real *dy, i64 H, i64 W, i64 F, i64 G, real *dx) {
    for (i64 h = 0; h < H; h++, dx += W) {
        for (i64 w = 0; w < W; w++) dx[w] = R(0.0);
        for (i64 i = 0; i < F; i++, dy += G * W) {
            if (G == 2) {
#pragma omp simd
                for (i64 w = 0; w < W; w++) dx[w] += dy[2 * w] + dy[2 * w + 1];
            } else {
                for (i64 w = 0; w < W; w++) {
                    real sum = R(0.0);
                    for (i64 r = 0; r < G; r++) sum += dy[w * G + r];
                    dx[w] += sum;
                }
            }
        }
    }
}

int RI(upsample_nearest2d_backward)(const real *dy, i64 P, i64 H, i64 W, i64 F, i64 G, real *dx, int threads) {
    int team = team_for(P, H, W, F, G, threads);
    i64 small = H * W, large = small * F * G;
    if (team == 1) {
        for (i64 plane = 0; plane < P; plane++)
            nearest_plane_backward(dy + plane * large, H, W, F, G, dx + plane * small);
        return RI_OK;
    }
#pragma omp parallel for schedule(static) num_threads(team)
    for (i64 plane = 0; plane < P; plane++) nearest_plane_backward(dy + plane * large, H, W, F, G, dx + plane * small);
    return RI_OK;
}

/* ------------------------------------------------------------------ bilinear */

/* Entry i = factor q + r of an axis enlarged from n: it is u x[a] + v x[b]. */
typedef struct {
    i64 a, b;
    real u, v;
} between;

static between between_entries(i64 n, i64 factor, i64 i) {
    i64 unit = 2 * factor, s = 2 * i + 1 - factor; /* the place of i in the small axis, in units of 1 / unit */
    s = s < 0 ? 0 : s;
    i64 a = s / unit, b = a + 1 < n ? a + 1 : n - 1, rest = s % unit;
    return (between){a, b, (real)((double)(unit - rest) / (double)unit), (real)((double)rest / (double)unit)};
}

/* A row of W to one of G W, and its transpose. Inside, entries w and w + 1 are the neighbours of the G entries from
 * G w + G - G / 2 on; their shares are those of the first such group. */
static void enlarge_row(const real *x, i64 W, i64 G, real *y) {
    i64 edge = G - (G + 1) / 2; /* entries before the centre of x[0] */
    for (i64 j = 0; j < edge; j++) y[j] = x[0];
    for (i64 j = edge + (W - 1) * G; j < W * G; j++) y[j] = x[W - 1];
    for (i64 r = 0; W > 1 && r < G; r++) {
        between t = between_entries(W, G, edge + r);
        real *out = y + edge + r, u = t.u, v = t.v;
        if (G == 2) {
#pragma omp simd
            for (i64 w = 0; w < W - 1; w++) out[2 * w] = u * x[w] + v * x[w + 1];
        } else {
            for (i64 w = 0; w < W - 1; w++) out[G * w] = u * x[w] + v * x[w + 1];
        }
    }
}

/* dx += enlarge_row transposed applied to dy. */
static void reduce_row(const real *dy, i64 W, i64 G, real *dx) {
    i64 edge = G - (G + 1) / 2;
    for (i64 w = 0; w < W; w++) dx[w] = R(0.0);
    for (i64 j = 0; j < edge; j++) dx[0] += dy[j];
    for (i64 j = edge + (W - 1) * G; j < W * G; j++) dx[W - 1] += dy[j];
    for (i64 r = 0; W > 1 && r < G; r++) {
        between t = between_entries(W, G, edge + r);
        const real *in = dy + edge + r;
        real u = t.u, v = t.v;
#pragma omp simd
        for (i64 w = 0; w < W - 1; w++) dx[w] += u * in[G * w];
#pragma omp simd
        for (i64 w = 0; w < W - 1; w++) dx[w + 1] += v * in[G * w];
    }
}

/* `row`: a row of W. */
static void bilinear_plane(const real *x, i64 H, i64 W, i64 F, i64 G, real *y, real *row) {
    for (i64 i = 0; i < F * H; i++) {
        between t = between_entries(H, F, i);
        const real *a = x + t.a * W, *b = x + t.b * W;
#pragma omp simd
        for (i64 w = 0; w < W; w++) row[w] = t.u * a[w] + t.v * b[w];
        enlarge_row(row, W, G, y + i * G * W);
    }
}

static void bilinear_plane_backward(const real *dy, i64 H, i64 W, i64 F, i64 G, real *dx, real *row) {
    for (i64 i = 0; i < H * W; i++) dx[i] = R(0.0);
    for (i64 i = 0; i < F * H; i++) {
        between t = between_entries(H, F, i);
        real *a = dx + t.a * W, *b = dx + t.b * W;
        reduce_row(dy + i * G * W, W, G, row);
        for (i64 w = 0; w < W; w++) a[w] += t.u * row[w];
        for (i64 w = 0; w < W; w++) b[w] += t.v * row[w];
    }
}

typedef void plane_function(const real *from, i64 H, i64 W, i64 F, i64 G, real *to, real *row);

/* One plane at a time over the threads, each with its own row. */
static int planes(plane_function *run, const real *from, i64 from_size, i64 P, i64 H, i64 W, i64 F, i64 G, real *to,
                  i64 to_size, int threads) {
    int team = team_for(P, H, W, F, G, threads), status = RI_OK;
    if (team == 1) {
        real *row = ri_workspace(RI_WS_OP, (size_t)W * sizeof(real));
        if (!row) return RI_NOMEM;
        for (i64 plane = 0; plane < P; plane++) run(from + plane * from_size, H, W, F, G, to + plane * to_size, row);
        return RI_OK;
    }
#pragma omp parallel num_threads(team) reduction(max : status)
    {
        real *row = ri_workspace(RI_WS_OP, (size_t)W * sizeof(real));
        if (!row) status = RI_NOMEM;
#pragma omp for schedule(static)
        for (i64 plane = 0; plane < P; plane++)
            if (row) run(from + plane * from_size, H, W, F, G, to + plane * to_size, row);
    }
    return status;
}

int RI(upsample_bilinear2d)(const real *x, i64 P, i64 H, i64 W, i64 F, i64 G, real *y, int threads) {
    return planes(bilinear_plane, x, H * W, P, H, W, F, G, y, H * W * F * G, threads);
}

int RI(upsample_bilinear2d_backward)(const real *dy, i64 P, i64 H, i64 W, i64 F, i64 G, real *dx, int threads) {
    return planes(bilinear_plane_backward, dy, H * W * F * G, P, H, W, F, G, dx, H * W, threads);
}
