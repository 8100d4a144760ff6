/* conv.c - convolutions, transposed convolutions and their gradients. Mirror of refimpl/ops/conv.py.
 *
 * The three sums over the taps (collect, spread, correlate) each have several algorithms. This file chooses among them,
 * by geometry and channels alone, so that the same call has the same bits on any number of threads:
 *
 *     direct       conv_direct.c, conv_weight.c   everything: an implicit matrix product over shifted copies
 *     Winograd     conv_winograd.c                kernels of 3 and 5, stride 1, where fewer multiplications pay
 *     product      here                           kernels of 1 x 1 that see each element once
 *     depthwise    conv_depthwise.c               a channel of the picture for each of the map, stride 1
 *
 * Roofline: 2 C/groups KH KW flops for each element of the map against about one read of picture and map; from 16 or so
 * channels on the multiply-add units are the limit, and what is left is to need fewer of them (Winograd: a fourth with
 * tiles of 6 x 6 for 3 x 3 taps), to keep vectors full and not to copy twice. Winograd's sums have larger constants in
 * their error bound (tests/strategies/conv.py), so float64 uses them only when asked.
 */
#include "conv_internal.h"
#include "gemm.h"
#include "parameter.h"

/* dbias[c] (+)= sum of channel c. */
static void channel_sums(const real *dy, i64 B, i64 C, i64 plane, real *dbias, int accumulate, int threads) {
    int team = ri_team(threads, B * C * plane / VL);
#pragma omp parallel for schedule(static) num_threads(team) if (team > 1)
    for (i64 c = 0; c < C; c++) {
        real total = R(0.0);
        for (i64 b = 0; b < B; b++) {
            const real *p = dy + (b * C + c) * plane;
            real sum = R(0.0);
#pragma omp simd reduction(+ : sum)
            for (i64 i = 0; i < plane; i++) sum += p[i];
            total += sum;
        }
        dbias[c] = accumulate ? dbias[c] + total : total;
    }
}

/* ------------------------------------------------------------------ which algorithm */

/* The algorithm of each sum: 0 as `choose` says; 1 direct; 2 Winograd, tiles of 6 x 6; 3 Winograd, tiles of 4 x 4;
 * 4 product of matrices; 5 depthwise. Direct where another one does not apply. */
RI_PARAMETER(conv_collect, 0, 0, 1, 2, 3, 4, 5);
RI_PARAMETER(conv_spread, 0, 0, 1, 2, 3, 4, 5);
RI_PARAMETER(conv_correlate, 0, 0, 1, 2, 3, 4, 5);
/* Tiles of a block of Winograd's algorithm; 0: as conv_winograd.c says. */
RI_PARAMETER(conv_tiles, 0, 0, 16, 28, 42, 56, 84, 112, 168);

/* A kernel of 1 x 1 that moves over each element once is a product of matrices for each image and group. */
static int is_product(const geometry *g) {
    const axis *h = &g->h, *w = &g->w;
    return h->k == 1 && w->k == 1 && h->p == 0 && w->p == 0 && h->m == h->n && w->m == w->n;
}

static int product_collect(const geometry *g, const real *x, const real *weight, const real *bias, real *y,
                           int threads) {
    i64 plane = g->h.n * g->w.n;
    if (bias) {
        int team = ri_team(threads, g->B * g->O * plane / VL);
#pragma omp parallel for schedule(static) num_threads(team) if (team > 1)
        for (i64 n = 0; n < g->B * g->O; n++)
            for (i64 i = 0; i < plane; i++) y[n * plane + i] = bias[n % g->O];
    }
    for (i64 group = 0; group < g->G; group++) {
        int status = RI(gemm_batch)(0, 0, g->B, g->Og, plane, g->Cg, weight + group * g->Og * g->Cg, g->Cg, 0,
                                    x + group * g->Cg * plane, plane, g->C * plane, bias != NULL,
                                    y + group * g->Og * plane, plane, g->O * plane, threads);
        if (status) return status;
    }
    return RI_OK;
}

static int product_spread(const geometry *g, const real *dy, const real *weight, const real *bias, real *dx,
                          int threads) {
    i64 plane = g->h.n * g->w.n;
    if (bias) {
        int team = ri_team(threads, g->B * g->C * plane / VL);
#pragma omp parallel for schedule(static) num_threads(team) if (team > 1)
        for (i64 n = 0; n < g->B * g->C; n++)
            for (i64 i = 0; i < plane; i++) dx[n * plane + i] = bias[n % g->C];
    }
    for (i64 group = 0; group < g->G; group++) {
        int status = RI(gemm_batch)(1, 0, g->B, g->Cg, plane, g->Og, weight + group * g->Og * g->Cg, g->Cg, 0,
                                    dy + group * g->Og * plane, plane, g->O * plane, bias != NULL,
                                    dx + group * g->Cg * plane, plane, g->C * plane, threads);
        if (status) return status;
    }
    return RI_OK;
}

static int product_correlate(const geometry *g, const real *dy, const real *x, real *dweight, int accumulate,
                             int threads) {
    i64 plane = g->h.n * g->w.n;
    for (i64 group = 0; group < g->G; group++) {
        int status = RI(gemm_batch)(0, 1, g->B, g->Og, g->Cg, plane, dy + group * g->Og * plane, plane, g->O * plane,
                                    x + group * g->Cg * plane, plane, g->C * plane, accumulate,
                                    dweight + group * g->Og * g->Cg, g->Cg, 0, threads);
        if (status) return status;
    }
    return RI_OK;
}

/* The algorithm asked for, where it applies; for 0 the one of least cost. The cost counts multiply-adds for each image
 * and pair of channels of picture and map. */
static int choose(const geometry *g, i64 asked, i64 rows, i64 cols) {
    if (g->B == 0 || asked == CONV_DIRECT) return CONV_DIRECT;
    if (asked == CONV_AUTOMATIC && is_product(g) && g->Cg >= 16 && g->Og >= 16) return CONV_PRODUCT;
    if (asked == CONV_DEPTHWISE || (asked == CONV_AUTOMATIC && g->G >= 8))
        if (RI(conv_depthwise_possible)(g)) return CONV_DEPTHWISE;
    if (asked == CONV_DEPTHWISE) return CONV_DIRECT;
    if (asked == CONV_PRODUCT) return is_product(g) ? CONV_PRODUCT : CONV_DIRECT;
#ifndef RI_IS_F32
    if (asked == CONV_AUTOMATIC) return CONV_DIRECT;
#endif
    if (asked != CONV_AUTOMATIC)
        return RI(conv_winograd_cost)(g, (int)asked, rows, cols) < 0 ? CONV_DIRECT : (int)asked;
    int best = CONV_DIRECT;
    /* The direct sums fill their vectors with positions, or with images. */
    i64 by_rows = cols < VL ? parts((rows - 1) * (cols + g->w.q) + cols, VL) : rows * parts(cols, VL);
    double positions = (double)g->B * (double)by_rows, images = (double)parts(g->B, VL) * (double)(rows * cols);
    double least_cost = (positions < images ? positions : images) * (double)(VL * g->h.k * g->w.k);
    for (int algorithm = CONV_WINOGRAD; algorithm <= CONV_WINOGRAD_SMALL; algorithm++) {
        double cost = RI(conv_winograd_cost)(g, algorithm, rows, cols);
        if (cost >= 0 && cost < least_cost) least_cost = cost, best = algorithm;
    }
    return best;
}

static int collect(const geometry *g, const real *x, const real *weight, const real *bias, real *y, int threads) {
    int algorithm = choose(g, RI_VALUE(conv_collect), g->h.m, g->w.m);
    if (algorithm == CONV_DIRECT) return RI(conv_direct_collect)(g, x, weight, bias, y, threads);
    if (algorithm == CONV_DEPTHWISE) return RI(conv_depthwise_collect)(g, x, weight, bias, y, threads);
    if (algorithm == CONV_PRODUCT) return product_collect(g, x, weight, bias, y, threads);
    return RI(conv_winograd_collect)(g, x, weight, bias, y, algorithm, RI_VALUE(conv_tiles), threads);
}

static int spread(const geometry *g, const real *dy, const real *weight, const real *bias, real *dx, int threads) {
    int algorithm = choose(g, RI_VALUE(conv_spread), g->h.n, g->w.n);
    if (algorithm == CONV_DIRECT) return RI(conv_direct_spread)(g, dy, weight, bias, dx, threads);
    if (algorithm == CONV_DEPTHWISE) return RI(conv_depthwise_spread)(g, dy, weight, bias, dx, threads);
    if (algorithm == CONV_PRODUCT) return product_spread(g, dy, weight, bias, dx, threads);
    return RI(conv_winograd_spread)(g, dy, weight, bias, dx, algorithm, RI_VALUE(conv_tiles), threads);
}

static int correlate(const geometry *g, const real *dy, const real *x, real *dweight, int accumulate, int threads) {
    int algorithm = choose(g, RI_VALUE(conv_correlate), g->h.m, g->w.m);
    if (algorithm == CONV_DIRECT) return RI(conv_direct_correlate)(g, dy, x, dweight, accumulate, threads);
    if (algorithm == CONV_DEPTHWISE) return RI(conv_depthwise_correlate)(g, dy, x, dweight, accumulate, threads);
    if (algorithm == CONV_PRODUCT) return product_correlate(g, dy, x, dweight, accumulate, threads);
    return RI(conv_winograd_correlate)(g, dy, x, dweight, accumulate, algorithm, RI_VALUE(conv_tiles), threads);
}

/* ------------------------------------------------------------------ kernels */

int RI(conv2d)(const real *x, const real *weight, const real *bias, i64 B, i64 C, i64 H, i64 W, i64 O, i64 KH, i64 KW,
               i64 OH, i64 OW, i64 SH, i64 SW, i64 PH, i64 PW, i64 DH, i64 DW, i64 groups, real *y, int threads) {
    geometry g = make_geometry(B, C, H, W, O, KH, KW, OH, OW, SH, SW, PH, PW, DH, DW, groups);
    return collect(&g, x, weight, bias, y, threads);
}

int RI(conv2d_backward)(const real *dy, const real *x, const real *weight, i64 B, i64 C, i64 H, i64 W, i64 O, i64 KH,
                        i64 KW, i64 OH, i64 OW, i64 SH, i64 SW, i64 PH, i64 PW, i64 DH, i64 DW, i64 groups, real *dx,
                        real *dweight, real *dbias, int accumulate, int threads) {
    geometry g = make_geometry(B, C, H, W, O, KH, KW, OH, OW, SH, SW, PH, PW, DH, DW, groups);
    int status = dx ? spread(&g, dy, weight, NULL, dx, threads) : RI_OK;
    if (status) return status;
    status = correlate(&g, dy, x, dweight, accumulate, threads);
    if (status) return status;
    if (dbias) channel_sums(dy, B, O, OH * OW, dbias, accumulate, threads);
    return RI_OK;
}

int RI(conv_transpose2d)(const real *x, const real *weight, const real *bias, i64 B, i64 C, i64 H, i64 W, i64 O, i64 KH,
                         i64 KW, i64 OH, i64 OW, i64 SH, i64 SW, i64 PH, i64 PW, i64 DH, i64 DW, i64 groups, real *y,
                         int threads) {
    geometry g = make_geometry(B, C, H, W, O, KH, KW, OH, OW, SH, SW, PH, PW, DH, DW, groups);
    return spread(&g, x, weight, bias, y, threads);
}

int RI(conv_transpose2d_backward)(const real *dy, const real *x, const real *weight, i64 B, i64 C, i64 H, i64 W, i64 O,
                                  i64 KH, i64 KW, i64 OH, i64 OW, i64 SH, i64 SW, i64 PH, i64 PW, i64 DH, i64 DW,
                                  i64 groups, real *dx, real *dweight, real *dbias, int accumulate, int threads) {
    geometry g = make_geometry(B, C, H, W, O, KH, KW, OH, OW, SH, SW, PH, PW, DH, DW, groups);
    int status = dx ? collect(&g, dy, weight, NULL, dx, threads) : RI_OK;
    if (status) return status;
    status = correlate(&g, x, dy, dweight, accumulate, threads);
    if (status) return status;
    if (dbias) channel_sums(dy, B, C, H * W, dbias, accumulate, threads);
    return RI_OK;
}
