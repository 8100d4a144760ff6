/* conv_depthwise.c - depthwise convolutions (each channel of the map sees one channel of the picture) with stride 1.
 *
 * Each plane is copied, zero-padded, to a place in the first-level cache, some rows at a time where it is large; all
 * taps of a kernel stay in registers. Roofline: KH KW multiply-adds for an element that is read and written once, 9
 * loads and 9 multiply-adds for a vector of results with 3 x 3 taps: from the cache both units are as busy, and large
 * tensors are bound by memory. The weight gradient keeps KH KW sums for each channel over all its images and adds their
 * lanes at the end.
 *
 * A channel is one thread's, so no sum depends on the number of threads.
 */
#include "conv_internal.h"

#define INLINE static inline __attribute__((always_inline))

enum { PLANE_BYTES = 32 << 10 };

typedef struct {
    const real *in, *weight, *bias; /* forward: planes (B, C, H, W), kernels (C, KH, KW) */
    const real *dy;                 /* weight gradient, else NULL: planes (B, C, OH, OW) */
    real *out;                      /* planes (B, C, OH, OW), or kernels */
    i64 B, C, H, W, OH, OW, ph, pw, dh, dw;
    i64 rows; /* of the result that are made from one copy */
    int flip, accumulate;
} plane_job;

/* One row of the result from KH rows of the copy; `cols` results. */
INLINE void plane_row(const int KH, const int KW, const real *X, i64 row, i64 col, const vec *w, vec bias, i64 cols,
                      real *y) {
    for (i64 c0 = 0; c0 < cols; c0 += VL) {
        i64 c = cols >= VL ? least(c0, cols - VL) : 0;
        vec sum = bias, other = {0};
#pragma GCC unroll 5
        for (int i = 0; i < KH; i++) {
#pragma GCC unroll 5
            for (int j = 0; j < KW; j++) {
                vec x = *(const loose *)(X + i * row + j * col + c);
                if ((i * KW + j) % 2)
                    other += w[i * KW + j] * x;
                else
                    sum += w[i * KW + j] * x;
            }
        }
        sum += other;
        if (cols >= VL) {
            *(loose *)(y + c) = sum;
        } else {
            real lane[LANES];
            memcpy(lane, &sum, sizeof lane);
            for (i64 l = 0; l < cols; l++) y[l] = lane[l];
        }
    }
}

/* sums[k] += a row of the copy of dy, `vectors` long, times what tap k sees. */
INLINE void gradient_rows(const int KH, const int KW, const real *X, i64 row, i64 tap_row, i64 col, const real *D,
                          i64 rows, i64 vectors, vec *sums) {
    vec acc[25];
#pragma GCC unroll 25
    for (int k = 0; k < KH * KW; k++) acc[k] = sums[k];
    for (i64 r = 0; r < rows; r++, X += row)
        for (i64 v = 0; v < vectors; v++, D += VL) {
            vec d = *(const vec *)D;
#pragma GCC unroll 5
            for (int i = 0; i < KH; i++) {
#pragma GCC unroll 5
                for (int j = 0; j < KW; j++)
                    acc[i * KW + j] += d * *(const loose *)(X + i * tap_row + j * col + v * VL);
            }
        }
#pragma GCC unroll 25
    for (int k = 0; k < KH * KW; k++) sums[k] = acc[k];
}

INLINE int plane_items(const int KH, const int KW, const plane_job *job, i64 lo, i64 hi) {
    i64 vectors = parts(job->OW, VL), cols = vectors * VL + (KW - 1) * job->dw, span = (KH - 1) * job->dh;
    i64 copied = parts((job->rows + span) * cols, VL) * VL + VL;
    real *X = ri_workspace(RI_WS_CONV, (size_t)(copied + job->rows * vectors * VL) * sizeof(real));
    if (!X) return RI_NOMEM;
    real *D = X + copied;
    for (i64 c = lo; c < hi; c++) {
        vec w[25], sums[25], bias = {0};
        for (int k = 0; k < KH * KW; k++) {
            sums[k] = w[k] = (vec){0};
            if (!job->dy) w[k] += job->weight[c * KH * KW + (job->flip ? KH * KW - 1 - k : k)];
        }
        if (job->bias) bias += job->bias[c];
        for (i64 b = 0; b < job->B; b++) {
            const real *in = job->in + (b * job->C + c) * job->H * job->W;
            i64 at = (b * job->C + c) * job->OH * job->OW;
            for (i64 r0 = 0; r0 < job->OH; r0 += job->rows) {
                i64 rows = least(job->rows, job->OH - r0);
                fill(in, 0, job->H, job->W, 1, rows + span, cols, r0 - job->ph, 1, -job->pw, 1, X);
                if (job->dy) {
                    fill(job->dy + at, 0, job->OH, job->OW, 1, rows, vectors * VL, r0, 1, 0, 1, D);
                    gradient_rows(KH, KW, X, cols, job->dh * cols, job->dw, D, rows, vectors, sums);
                } else
                    for (i64 r = 0; r < rows; r++)
                        plane_row(KH, KW, X + r * cols, job->dh * cols, job->dw, w, bias, job->OW,
                                  job->out + at + (r0 + r) * job->OW);
            }
        }
        for (int k = 0; job->dy && k < KH * KW; k++) {
            real *to = job->out + c * KH * KW + k, sum = lanes_sum(sums[k]);
            *to = job->accumulate ? *to + sum : sum;
        }
    }
    return RI_OK;
}

#define KERNEL(KH, KW)                                                    \
    static int planes_##KH##_##KW(const plane_job *job, i64 lo, i64 hi) { \
        return plane_items(KH, KW, job, lo, hi);                          \
    }
KERNEL(3, 3)
KERNEL(5, 5)
KERNEL(1, 3)
KERNEL(1, 5)

int RI_INTERNAL(conv_depthwise_possible)(const geometry *g) {
    i64 kh = g->h.k, kw = g->w.k;
    return g->Cg == 1 && g->Og == 1 && g->h.s == 1 && g->w.s == 1 && (kh == kw || kh == 1) && (kw == 3 || kw == 5);
}

static int planes(const geometry *g, plane_job *job, int threads) {
    i64 kh = g->h.k, kw = g->w.k, bytes = (parts(job->OW, VL) * VL + (kw - 1) * job->dw) * (i64)sizeof(real);
    job->rows = least(job->OH, most(PLANE_BYTES / bytes - (kh - 1) * job->dh, (kh - 1) * job->dh + 1));
    int team = team_for(g, threads), status = RI_OK;
    if (kh == 1 && kw == 3)
        SHARE(planes_1_3, job, job->C, team, status);
    else if (kh == 1)
        SHARE(planes_1_5, job, job->C, team, status);
    else if (kh == 3)
        SHARE(planes_3_3, job, job->C, team, status);
    else
        SHARE(planes_5_5, job, job->C, team, status);
    return status;
}

int RI_INTERNAL(conv_depthwise_collect)(const geometry *g, const real *x, const real *weight, const real *bias, real *y,
                                        int threads) {
    plane_job job = {.in = x,
                     .weight = weight,
                     .bias = bias,
                     .out = y,
                     .B = g->B,
                     .C = g->C,
                     .H = g->h.n,
                     .W = g->w.n,
                     .OH = g->h.m,
                     .OW = g->w.m,
                     .ph = g->h.p,
                     .pw = g->w.p,
                     .dh = g->h.k == 1 ? 1 : g->h.d,
                     .dw = g->w.d};
    return planes(g, &job, threads);
}

int RI_INTERNAL(conv_depthwise_spread)(const geometry *g, const real *dy, const real *weight, const real *bias,
                                       real *dx, int threads) {
    plane_job job = {.in = dy,
                     .weight = weight,
                     .bias = bias,
                     .out = dx,
                     .B = g->B,
                     .C = g->C,
                     .H = g->h.m,
                     .W = g->w.m,
                     .OH = g->h.n,
                     .OW = g->w.n,
                     .ph = (g->h.k - 1) * g->h.d - g->h.p,
                     .pw = (g->w.k - 1) * g->w.d - g->w.p,
                     .dh = g->h.k == 1 ? 1 : g->h.d,
                     .dw = g->w.d,
                     .flip = 1};
    return planes(g, &job, threads);
}

int RI_INTERNAL(conv_depthwise_correlate)(const geometry *g, const real *dy, const real *x, real *dweight,
                                          int accumulate, int threads) {
    plane_job job = {.in = x,
                     .dy = dy,
                     .out = dweight,
                     .B = g->B,
                     .C = g->C,
                     .H = g->h.n,
                     .W = g->w.n,
                     .OH = g->h.m,
                     .OW = g->w.m,
                     .ph = g->h.p,
                     .pw = g->w.p,
                     .dh = g->h.k == 1 ? 1 : g->h.d,
                     .dw = g->w.d,
                     .accumulate = accumulate};
    return planes(g, &job, threads);
}
