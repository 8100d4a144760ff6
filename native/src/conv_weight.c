/* conv_weight.c - correlate, the weight gradient, as a matrix product over the positions of all images.
 *
 *     for up to 12 taps x 2 vectors of channels of the map:  acc[k][o] += X[position][k] * dy[position][o]
 *     from copies with the channels last, where the map has channels enough to fill the lanes; else
 *     for 4 channels x 6 taps:  acc[o][k] += dy[o][spot] * X[offset[k] + spot],  the lanes are summed at the end
 *
 * Roofline: 10 loads per 16 multiply-adds in the first inner loop, 10 per 24 in the second: both are bound by the
 * multiply-adds once a block's copies, made once for a range of channels, are read often enough.
 *
 * The batch is split by its size alone and the parts are added in order, so results do not depend on the number of
 * threads.
 */
#include "conv_internal.h"

/* ------------------------------------------------------------------ correlate: the weight gradient */

#if VBYTES == 64
enum { MO = 4, NK = 6 };
#else
enum { MO = 3, NK = 4 };
#endif

enum { CHUNKS = 16, RANGE = 16 * MO }; /* parts of the batch; channels of the map that share a copy of the picture */

/* dweight[o][k] += sum over spots and lanes of D[o][spot] X[offset[k] + spot], for `rows` <= M rows of D and `taps` <=
 * N offsets. Inlined with constants M and N. */
static inline __attribute__((always_inline)) void correlate_tile(const int M, const int N, const real *X,
                                                                 const i64 *offset, i64 taps, i64 n, const spot *spots,
                                                                 const real *D, i64 rows, real *dweight, i64 K) {
    vec acc[MO * NK];
    const real *x[MO * NK];
    const real *d[MO];
#pragma GCC unroll 24
    for (int k = 0; k < N; k++) x[k] = X + offset[k < taps ? k : 0];
#pragma GCC unroll 8
    for (int o = 0; o < M; o++) d[o] = D + (o < rows ? o : 0) * n * VL;
#pragma GCC unroll 24
    for (int i = 0; i < M * N; i++) acc[i] = (vec){0};
    for (i64 s = 0; s < n; s++) {
        vec dy[MO];
#pragma GCC unroll 8
        for (int o = 0; o < M; o++) dy[o] = *(const vec *)(d[o] + s * VL);
#pragma GCC unroll 24
        for (int k = 0; k < N; k++) {
            vec xk = *(const loose *)(x[k] + spots[s].x);
#pragma GCC unroll 8
            for (int o = 0; o < M; o++) acc[o * N + k] += dy[o] * xk;
        }
    }
    real sums[MO * NK];
#pragma GCC unroll 24
    for (int i = 0; i < M * N; i++) sums[i] = lanes_sum(acc[i]);
    for (i64 o = 0; o < rows; o++)
        for (i64 k = 0; k < taps; k++) dweight[o * K + k] += sums[o * N + k];
}

static void correlate_tiles(const real *X, const i64 *offset, i64 K, i64 n, const spot *spots, const real *D, i64 rows,
                            real *dweight, i64 whole) {
    if (rows == 1) {
        i64 k = 0;
        for (; K - k >= 9; k += 9) correlate_tile(1, 9, X, offset + k, 9, n, spots, D, 1, dweight + k, whole);
        for (; K - k >= 5; k += 5) correlate_tile(1, 5, X, offset + k, 5, n, spots, D, 1, dweight + k, whole);
        for (; k < K; k += 3) correlate_tile(1, 3, X, offset + k, least(3, K - k), n, spots, D, 1, dweight + k, whole);
    } else {
        for (i64 k = 0; k < K; k += NK)
            correlate_tile(MO, NK, X, offset + k, least(NK, K - k), n, spots, D, rows, dweight + k, whole);
    }
}

typedef struct {
    const geometry *g;
    const blocking *blocks;
    const real *dy, *x;
    real *partial;        /* [chunk][o][k] */
    i64 chunks, channels; /* channels of the picture that are copied together */
} correlate_job;

/* The number of lanes that go to lane[0], lane[0] + 1, ... when the others go nowhere; else 0. */
static i64 head_of(const i64 *lane) {
    i64 n = 0;
    while (n < VL && lane[n] >= 0 && lane[n] == lane[0] + n) n++;
    for (i64 l = n; l < VL; l++)
        if (lane[l] >= 0) return 0;
    return n;
}

/* out = the first n of VL elements, and zeros */
static inline void copy_head(real *out, const real *src, i64 n) {
    typedef ri_int whole __attribute__((vector_size(VBYTES)));
    whole count;
    for (int l = 0; l < LANES; l++) count[l] = l;
    *(vec *)out = (vec)((whole) * (const loose *)src & (count < (whole){0} + (ri_int)n));
}

/* Items: chunks of the batch, in each the groups, in each the ranges of map channels. */
static int correlate_items(const correlate_job *job, i64 lo, i64 hi) {
    const geometry *g = job->g;
    const blocking *k = job->blocks;
    i64 bound = spots_bound(k->images, k->rows, k->cols, k->cols + g->w.q), most_o = least(RANGE, g->Og);
    i64 xs = parts(phases_size(g, job->channels, k->images, k->rows, k->cols) + 2 * VL, VL) * VL;
    real *X = ri_workspace(RI_WS_CONV, (size_t)(xs + most_o * bound * VL) * sizeof(real));
    i64 *offset =
        ri_workspace(RI_WS_OP, (size_t)(g->K + bound * (VL + 1)) * sizeof(i64) + (size_t)bound * sizeof(spot));
    if (!X || !offset) return RI_NOMEM;
    real *D = X + xs;
    i64 *lanes = offset + g->K, *heads = lanes + bound * VL;
    spot *spots = (spot *)(heads + bound);
    i64 map = g->h.m * g->w.m, n = 0, ranges = parts(g->Og, RANGE);
    const real *end_dy = job->dy + g->B * g->O * map;
    block last = {0, 0, 0, 0, 0, 0};
    for (i64 item = lo; item < hi; item++) {
        i64 chunk = item / ranges / g->G, group = item / ranges % g->G, o0 = item % ranges * RANGE;
        i64 os = least(RANGE, g->Og - o0), b_first, b_end;
        real *dweight = job->partial + (chunk * g->O + group * g->Og + o0) * g->K;
        for (i64 i = 0; i < os * g->K; i++) dweight[i] = R(0.0);
        ri_share(g->B, 1, (int)chunk, (int)job->chunks, &b_first, &b_end);
        for (i64 b0 = b_first; b0 < b_end; b0 += k->images)
            for (i64 part = 0; part < k->nr * k->nc; part++) {
                block b = make_block(g, k, part);
                b.b = b0;
                b.images = least(k->images, b_end - b0);
                if (b.images != last.images || b.rows != last.rows || b.cols != last.cols) {
                    i64 cols = b.cols + g->w.q;
                    phase_offsets(g, &b, offset);
                    n = make_spots(b.images, b.rows, b.cols, 0, cols, (b.rows + g->h.q) * cols, 0, g->w.m, 1,
                                   g->O * map, 0, spots, lanes);
                    for (i64 s = 0; s < n; s++) heads[s] = head_of(lanes + s * VL);
                    last = b;
                }
                const real *dy = job->dy + (b.b * g->O + group * g->Og + o0) * map + b.r * g->w.m + b.c;
                for (i64 o = 0; o < os; o++, dy += map)
                    for (i64 s = 0; s < n; s++) {
                        real *out = D + (o * n + s) * VL;
                        const i64 *lane = lanes + s * VL;
                        if (spots[s].y >= 0)
                            memcpy(out, dy + spots[s].y, VBYTES);
                        else if (heads[s] && dy + lane[0] + VL <= end_dy)
                            copy_head(out, dy + lane[0], heads[s]);
                        else
                            for (i64 l = 0; l < VL; l++) out[l] = lane[l] >= 0 ? dy[lane[l]] : R(0.0);
                    }
                for (i64 c = 0; c < g->Cg; c += job->channels) {
                    i64 end = least(c + job->channels, g->Cg), K = (end - c) * g->h.k * g->w.k;
                    fill_phases(g, job->x, group * g->Cg + c, group * g->Cg + end, &b, X);
                    for (i64 o = 0; o < os; o += MO)
                        correlate_tiles(X, offset, K, n, spots, D + o * n * VL, least(MO, os - o),
                                        dweight + o * g->K + c * g->h.k * g->w.k, g->K);
                }
            }
    }
    return RI_OK;
}

/* ------------------------------------------------------------------ correlate with a lane for each channel of the map
 */

/* From about half a vector of map channels on: copies with the channels last, [position][channel], so that
 *     acc[k][o] += X[position + offset[k]] * D[position][o]
 * with 2 vectors of channels o and up to STRIP taps k that lie side by side in the copy of the picture. There are no
 * lanes to sum, and strides need no phases. The copy of the picture is cut into panels of VL channels,
 * [panel][image][row][column][lane]; a picture of few channels is one panel of its own width, where the taps of a row
 * lie side by side, too. */
#if VBYTES == 64
#define STRIP 12
#else
#define STRIP 6
#endif

/* P[k][o] = (add ? P : 0) + sum over positions of X[position step][k] D[position][o]. */
#define OUTER(R, V)                                                                                                   \
    static void outer_##R##_##V(const real *X, i64 step, i64 x_row, i64 x_image, const real *D, i64 images, i64 rows, \
                                i64 cols, int add, real *P) {                                                         \
        vec acc[R][V];                                                                                                \
        _Pragma("GCC unroll 12") for (int r = 0; r < R; r++) _Pragma("GCC unroll 2") for (int v = 0; v < V; v++)      \
            acc[r][v] = (vec){0};                                                                                     \
        for (i64 image = 0; image < images; image++)                                                                  \
            for (i64 row = 0; row < rows; row++) {                                                                    \
                const real *x = X + image * x_image + row * x_row;                                                    \
                for (i64 col = 0; col < cols; col++, x += step, D += 2 * VL) {                                        \
                    vec d[V];                                                                                         \
                    _Pragma("GCC unroll 2") for (int v = 0; v < V; v++) d[v] = *(const vec *)(D + v * VL);            \
                    _Pragma("GCC unroll 12") for (int r = 0; r < R; r++)                                              \
                        _Pragma("GCC unroll 2") for (int v = 0; v < V; v++) acc[r][v] += x[r] * d[v];                 \
                }                                                                                                     \
            }                                                                                                         \
        _Pragma("GCC unroll 12") for (int r = 0; r < R; r++) _Pragma("GCC unroll 2") for (int v = 0; v < V; v++) {    \
            vec *p = (vec *)(P + (2 * r + v) * VL);                                                                   \
            *p = add ? *p + acc[r][v] : acc[r][v];                                                                    \
        }                                                                                                             \
    }
#define OUTERS(R) OUTER(R, 1) OUTER(R, 2)
/* clang-format off */
OUTERS(1) OUTERS(2) OUTERS(3) OUTERS(4) OUTERS(5) OUTERS(6)
#if STRIP > 6
OUTERS(7) OUTERS(8) OUTERS(9) OUTERS(10) OUTERS(11) OUTERS(12)
#endif
typedef void outer(const real *X, i64 step, i64 x_row, i64 x_image, const real *D, i64 images, i64 rows, i64 cols,
                   int add, real *P);
#define OUTER_ENTRY(R) {outer_##R##_1, outer_##R##_2}
static outer *const outers[STRIP][2] = {
    OUTER_ENTRY(1), OUTER_ENTRY(2), OUTER_ENTRY(3), OUTER_ENTRY(4), OUTER_ENTRY(5), OUTER_ENTRY(6),
#if STRIP > 6
    OUTER_ENTRY(7), OUTER_ENTRY(8), OUTER_ENTRY(9), OUTER_ENTRY(10), OUTER_ENTRY(11), OUTER_ENTRY(12),
#endif
};
/* clang-format on */

/* `count` taps from x on in the copy, the first of them row `k` of the result. */
typedef struct {
    i64 x, k, count;
} strip;

typedef struct {
    const geometry *g;
    const real *dy, *x;
    real *partial;               /* [chunk][group][2 VL map channels][k][lane], k in the order of the strips */
    i64 chunks, range;           /* parts of the batch; map channels of an item */
    i64 images, rows, cols;      /* of a block */
    i64 fold;                    /* KH: the taps of a column lie side by side, too, the copy has one row for each of the
                                    map; else 1 */
    i64 width, panels, together; /* channels of a panel, panels, and how many of them are copied together */
} outer_job;

static i64 copied_rows(const outer_job *job, i64 rows) {
    const axis *h = &job->g->h;
    return job->fold > 1 ? rows : (rows - 1) * h->s + (h->k - 1) * h->d + 1;
}
static i64 copied_cols(const outer_job *job, i64 cols) {
    const axis *w = &job->g->w;
    return (cols - 1) * w->s + (w->k - 1) * w->d + 1;
}

/* Strips of the panels [p0, p1) of a block with `slab` elements to a panel, rows of `cols` positions. where: for every
 * tap k = (c, i, j) of the weight its row of the result. Returns the number of strips. */
static i64 make_strips(const outer_job *job, i64 p0, i64 p1, i64 slab, i64 cols, strip *strips, i64 *where) {
    const geometry *g = job->g;
    const axis *h = &g->h, *w = &g->w;
    i64 count = 0, row = p0 * job->width * h->k * w->k;
    int whole_rows = job->width < VL && w->d == 1;
    for (i64 p = p0; p < p1; p++) {
        i64 channels = least(job->width, g->Cg * job->fold - p * job->width);
        for (i64 i = 0; i < h->k; i += job->fold)
            for (i64 j = 0; j < (whole_rows ? 1 : w->k); j++) {
                i64 run = whole_rows ? w->k * channels : channels, pieces = parts(run, STRIP);
                for (i64 piece = 0; piece < pieces; piece++) {
                    i64 first, end;
                    ri_share(run, 1, (int)piece, (int)pieces, &first, &end);
                    strips[count++] = (strip){(p - p0) * slab + (i * h->d * cols + j * w->d) * job->width + first,
                                              row + first, end - first};
                }
                for (i64 n = 0; n < run; n++) {
                    i64 c = p * job->width + n % channels;
                    where[(c % g->Cg * h->k + i + c / g->Cg) * w->k + j + n / channels] = row + n;
                }
                row += run;
            }
    }
    return count;
}

/* dst[col][lane] = a row of the picture's `channels` planes from column w0 on, 0 outside it (row < 0: everywhere). */
static void fill_row(const real *x, i64 picture, i64 channels, i64 W, i64 row, i64 w0, i64 cols, i64 width, real *dst) {
    i64 lo = row < 0 ? cols : least(most(-w0, 0), cols), hi = most(lo, least(cols, W - w0));
    x += row * W + w0;
    for (i64 n = 0; n < lo; n++)
        for (i64 c = 0; c < channels; c++) dst[n * width + c] = R(0.0);
    if (width == VL && hi > lo)
        to_lanes(x + lo, picture, channels, hi - lo, dst + lo * VL, VL);
    else
        for (i64 c = 0; c < channels; c++)
            for (i64 n = lo; n < hi; n++) dst[n * width + c] = x[c * picture + n];
    for (i64 n = hi; n < cols; n++)
        for (i64 c = 0; c < channels; c++) dst[n * width + c] = R(0.0);
}

/* The copy of panel p, [image][row][column][lane], for the block b of the map. `plane`: scratch for the vectors of a
 * picture. */
static void fill_panel(const outer_job *job, const block *b, i64 group, i64 p, vec *plane, real *X) {
    const geometry *g = job->g;
    const axis *h = &g->h, *w = &g->w;
    i64 width = job->width, channels = least(width, g->Cg - p * width), picture = h->n * w->n;
    i64 rows = copied_rows(job, b->rows), cols = copied_cols(job, b->cols);
    i64 h0 = h->s * b->r - h->p, w0 = w->s * b->c - w->p;
    for (i64 image = 0; image < b->images; image++, X += rows * cols * width) {
        const real *x = job->x + ((b->b + image) * g->C + group * g->Cg + p * width) * picture;
        if (job->fold > 1) {
            for (i64 row = 0; row < rows; row++)
                for (i64 i = 0; i < h->k; i++) {
                    i64 at = h0 + h->s * row + h->d * i;
                    fill_row(x, picture, g->Cg, w->n, at < h->n ? at : -1, w0, cols, width,
                             X + row * cols * width + i * g->Cg);
                }
        } else if (width == VL && w->n < 2 * VL && w->n % VL) { /* short rows: the planes as one row each */
            i64 first = most(h0, 0), end = most(first, least(h->n, h0 + rows));
            to_lanes(x + first * w->n, picture, channels, (end - first) * w->n, (real *)plane, VL);
            fill_vectors(plane, end - first, w->n, rows, cols, h0 - first, 1, w0, 1, (vec *)X);
        } else {
            for (i64 row = 0; row < rows; row++)
                fill_row(x, picture, channels, w->n, h0 + row < h->n ? h0 + row : -1, w0, cols, width,
                         X + row * cols * width);
        }
    }
}

/* Items: chunks of the batch, in each the groups, in each the ranges of map channels. */
static int outer_items(const outer_job *job, i64 lo, i64 hi) {
    const geometry *g = job->g;
    const axis *h = &g->h, *w = &g->w;
    i64 most_rows = copied_rows(job, job->rows), positions = job->images * job->rows * job->cols;
    i64 slivers = parts(least(job->range, g->Og), 2 * VL), taps = h->k * w->k;
    i64 xs = parts(job->together * job->images * most_rows * copied_cols(job, job->cols) * job->width, VL) * VL;
    i64 ds = slivers * positions * 2 * VL;
    i64 scratch = w->n < 2 * VL ? least(most_rows, h->n) * w->n * VL : 0;
    real *X = ri_workspace(RI_WS_CONV, (size_t)(xs + ds + scratch) * sizeof(real));
    i64 *where = ri_workspace(
        RI_WS_OP, (size_t)g->K * sizeof(i64) + (size_t)(job->together * taps * (job->width + 1)) * sizeof(strip));
    if (!X || !where) return RI_NOMEM;
    real *D = X + xs;
    vec *plane = (vec *)(D + ds);
    strip *strips = (strip *)(where + g->K);
    i64 map = h->m * w->m, ranges = parts(g->Og, job->range), all = parts(g->Og, 2 * VL);
    for (i64 item = lo; item < hi; item++) {
        i64 chunk = item / ranges / g->G, group = item / ranges % g->G, o0 = item % ranges * job->range;
        i64 os = least(job->range, g->Og - o0), b_first, b_end;
        real *P = job->partial + ((chunk * g->G + group) * all + o0 / (2 * VL)) * g->K * 2 * VL;
        int add = 0;
        ri_share(g->B, 1, (int)chunk, (int)job->chunks, &b_first, &b_end);
        block b;
        for (b.b = b_first; b.b < b_end; b.b += job->images)
            for (b.r = 0; b.r < h->m; b.r += job->rows)
                for (b.c = 0; b.c < w->m; b.c += job->cols, add = 1) {
                    b.images = least(job->images, b_end - b.b);
                    b.rows = least(job->rows, h->m - b.r);
                    b.cols = least(job->cols, w->m - b.c);
                    i64 n = b.rows * b.cols, x_cols = copied_cols(job, b.cols);
                    i64 x_image = copied_rows(job, b.rows) * x_cols * job->width, slab = b.images * x_image;
                    i64 lines = b.cols == w->m ? 1 : b.rows, length = n / lines;
                    for (i64 o = 0; o < os; o += VL)
                        for (i64 image = 0; image < b.images; image++)
                            for (i64 line = 0; line < lines; line++)
                                to_lanes(
                                    job->dy + ((b.b + image) * g->O + group * g->Og + o0 + o) * map +
                                        (b.r + line) * w->m + b.c,
                                    map, least(VL, os - o), length,
                                    D + ((o / (2 * VL) * b.images + image) * n + line * length) * 2 * VL + o % (2 * VL),
                                    2 * VL);
                    for (i64 p = 0; p < job->panels; p += job->together) {
                        i64 end = least(p + job->together, job->panels);
                        for (i64 q = p; q < end; q++) fill_panel(job, &b, group, q, plane, X + (q - p) * slab);
                        i64 count = make_strips(job, p, end, slab, x_cols, strips, where);
                        i64 x_row = (job->fold > 1 ? 1 : h->s) * x_cols * job->width;
                        for (i64 o = 0; o < os; o += 2 * VL) {
                            const real *d = D + o * b.images * n;
                            real *to = P + o * g->K;
                            int two = os - o > VL;
                            for (i64 s = 0; s < count; s++)
                                outers[strips[s].count - 1][two](X + strips[s].x, w->s * job->width, x_row, x_image, d,
                                                                 b.images, b.rows, b.cols, add,
                                                                 to + strips[s].k * 2 * VL);
                        }
                    }
                }
    }
    return RI_OK;
}

/* Whether that pays: lanes filled well, and more than a few taps side by side. */
static int lanes_of_channels(const geometry *g) {
    i64 run = g->Cg < VL && g->w.d == 1 ? g->Cg * g->h.k * g->w.k : g->Cg;
    return g->B > 0 && run >= 5 && 2 * g->Og > VL;
}

static int correlate_channels(const geometry *g, const real *dy, const real *x, real *dweight, int accumulate,
                              int threads) {
    const axis *h = &g->h, *w = &g->w;
    i64 size = parts(g->Og, 2 * VL) * 2 * VL * g->K * g->G, map = h->m * w->m;
    /* Some 256 positions: then two vectors of channels of dy at each stay in the first-level cache. */
    i64 few = g->K <= 4 * STRIP ? 1024 : 256; /* with few taps dy is not read often enough for that to matter */
    i64 cols = w->m > 512 ? 256 : w->m, rows = most(1, least(h->m, few / cols)), images = most(1, few / map);
    rows = parts(h->m, parts(h->m, rows));
    i64 chunks = most(1, least(least(g->B / images, CHUNKS / 2), ((i64)1 << 19) / size));
    images = least(images, parts(g->B, chunks));
    outer_job job = {.g = g, .dy = dy, .x = x, .chunks = chunks, .images = images, .rows = rows, .cols = cols};
    job.fold = w->d == 1 && g->Cg * h->k < VL && g->Cg * w->k < 8 ? h->k : 1;
    job.width = job.fold > 1 || g->Cg <= 4 || 2 * g->Cg < VL ? least(VL, g->Cg * job.fold) : VL;
    job.panels = parts(g->Cg * job.fold, job.width);
    int team = team_for(g, threads), status = RI_OK;
    for (job.range = 16 * VL; job.range > 2 * VL && chunks * g->G * parts(g->Og, job.range) < team;) job.range /= 2;
    i64 panel = images * copied_rows(&job, rows) * copied_cols(&job, cols) * job.width * (i64)sizeof(real);
    job.together = least(job.panels, most(1, BLOCK_BYTES / panel));
    i64 *where = ri_workspace(RI_WS_GEMM_A, (size_t)g->K * sizeof(i64) +
                                                (size_t)(job.panels * h->k * w->k * (job.width + 1)) * sizeof(strip));
    job.partial = ri_workspace(RI_WS_OP2, (size_t)(chunks * size) * sizeof(real));
    if (!where || !job.partial) return RI_NOMEM;
    i64 items = chunks * g->G * parts(g->Og, job.range);
    SHARE(outer_items, &job, items, team, status);
    if (status) return status;
    make_strips(&job, 0, job.panels, 0, 0, (strip *)(where + g->K), where);
    for (i64 chunk = 1; chunk < chunks; chunk++)
        for (i64 i = 0; i < size; i++) job.partial[i] += job.partial[chunk * size + i];
    i64 taps = h->k * w->k;
    for (i64 group = 0; group < g->G; group++)
        for (i64 o0 = 0; o0 < g->Og; o0 += 2 * VL) {
            const real *P = job.partial + (group * parts(g->Og, 2 * VL) * 2 * VL + o0) * g->K;
            for (i64 c = 0; c < g->Cg; c += VL) { /* a panel at a time: it stays in cache */
                i64 k0 = c * taps, k1 = least(c + VL, g->Cg) * taps;
                for (i64 o = 0; o < least(2 * VL, g->Og - o0); o++) {
                    real *to = dweight + (group * g->Og + o0 + o) * g->K;
                    if (accumulate)
                        for (i64 k = k0; k < k1; k++) to[k] += P[where[k] * 2 * VL + o];
                    else
                        for (i64 k = k0; k < k1; k++) to[k] = P[where[k] * 2 * VL + o];
                }
            }
        }
    return RI_OK;
}

int RI_INTERNAL(conv_direct_correlate)(const geometry *g, const real *dy, const real *x, real *dweight, int accumulate,
                                       int threads) {
    if (lanes_of_channels(g)) return correlate_channels(g, dy, x, dweight, accumulate, threads);
    int team = team_for(g, threads), status = RI_OK;
    i64 size = g->O * g->K, map = g->h.m * g->w.m;
    /* A block should hold some 96 spots, so that summing the lanes of 24 accumulators is a small part of a tile. That
     * many images make a chunk, and so many channels that their copy fits. */
    i64 images = 96 * VL / map + 1, rows = least(g->h.m, 96 * VL / g->w.m + 1);
    i64 chunks = most(1, least(least(g->B / images, CHUNKS), ((i64)1 << 22) / size));
    i64 unit = g->h.t * g->w.t * (i64)sizeof(real);
    i64 channels = BLOCK_BYTES / (unit * images * (rows + g->h.q) * (g->w.m + g->w.q));
    channels = channels >= g->Cg ? g->Cg : most(1, channels / 2 * 2);
    real *partial = ri_workspace(RI_WS_OP2, (size_t)(chunks * size) * sizeof(real));
    if (!partial) return RI_NOMEM;
    unit = most(unit * channels, BLOCK_BYTES / (128 * VL)); /* the copy of dy grows with the block, too */
    blocking blocks = choose_blocks(g, unit, g->h.m, g->h.q, g->w.m, g->w.q, 96, 1);
    correlate_job job = {g, &blocks, dy, x, partial, chunks, channels};
    i64 items = chunks * g->G * parts(g->Og, RANGE);
    SHARE(correlate_items, &job, items, team, status);
    if (status) return status;
    for (i64 i = 0; i < size; i++) {
        real sum = partial[i];
        for (i64 chunk = 1; chunk < chunks; chunk++) sum += partial[chunk * size + i];
        dweight[i] = accumulate ? dweight[i] + sum : sum;
    }
    return RI_OK;
}
