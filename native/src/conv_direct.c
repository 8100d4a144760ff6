/* conv_direct.c - collect and spread as matrix products in which one factor is never formed.
 *
 * A block of the picture is copied once, zero-padded and split into its stride phases; what tap (c, i, j) sees at all
 * positions of the map is then that copy, shifted: X[offset[k] + position]. So the micro-kernel of a matrix product
 * runs straight over the copy with one pointer offset per k = (c, i, j), and no im2col matrix exists, neither in memory
 * nor in cache. Positions are handled a vector at a time ("spots"): along a row where rows are long enough, the last
 * vector overlapping its neighbour; across rows of the copy where they are not, then the lanes between the rows are
 * dropped.
 *
 *     collect    for 8 channels of the map x 3 spots:  acc[o][spot] += weight[k][o] * X[offset[k] + spot]
 *     spread     the same with the roles of picture and map exchanged, once for each stride phase of the picture: every
 *                phase meets its own subset of the taps, so that no product with an inserted zero is computed
 *
 * Where rows are too short to fill vectors (maps of 14 x 14, 8 x 8, 4 x 4) both take one position of VL images as a
 * spot instead, so that no lane is idle.
 *
 * Roofline: 11 loads per 24 multiply-adds in the inner loop, which leaves those the limit. Blocks are chosen so that
 * the copy stays in the second-level cache, and weights are read once for each block: with maps of 4 x 4 and 512
 * channels, reading and packing them is the next limit.
 *
 * Every element is summed in one fixed order by one thread, so results do not depend on the number of threads.
 */
#include "conv_internal.h"

/* ------------------------------------------------------------------ collect: the micro-kernels */

static __attribute__((noinline)) void scatter(const vec *v, const i64 *lane, real *y) {
    real out[LANES];
    memcpy(out, v, sizeof out);
    for (i64 l = 0; l < VL; l++)
        if (lane[l] >= 0) y[lane[l]] = out[l];
}

/* y[m][spot] = bias[m] + sum over k of weight[k][m] X[offset[k] + spot] for MR channels and NV spots; channels of y lie
 * `plane` apart. add: to what y holds, instead of bias (straight spots only). */
#define TILE(MR, NV)                                                                                                   \
    static void tile_##MR##_##NV(const real *X, const i64 *offset, i64 K, const real *weight, const real *bias,        \
                                 const spot *at, const i64 *lanes, int add, real *y, i64 plane) {                      \
        vec acc[MR][NV];                                                                                               \
        const real *p[NV];                                                                                             \
        if (add) {                                                                                                     \
            _Pragma("GCC unroll 8") for (int m = 0; m < MR; m++) _Pragma("GCC unroll 8") for (int v = 0; v < NV; v++)  \
                acc[m][v] = *(const loose *)(y + m * plane + at[v].y);                                                 \
        } else {                                                                                                       \
            _Pragma("GCC unroll 8") for (int m = 0; m < MR; m++) _Pragma("GCC unroll 8") for (int v = 0; v < NV; v++)  \
                acc[m][v] = (vec){0} + (bias ? bias[m] : R(0.0));                                                      \
        }                                                                                                              \
        _Pragma("GCC unroll 8") for (int v = 0; v < NV; v++) p[v] = X + at[v].x;                                       \
        for (i64 k = 0; k < K; k++) {                                                                                  \
            vec x[NV];                                                                                                 \
            _Pragma("GCC unroll 8") for (int v = 0; v < NV; v++) x[v] = *(const loose *)(p[v] + offset[k]);            \
            _Pragma("GCC unroll 8") for (int m = 0; m < MR; m++) {                                                     \
                real w = weight[k * MR + m];                                                                           \
                _Pragma("GCC unroll 8") for (int v = 0; v < NV; v++) acc[m][v] += w * x[v];                            \
            }                                                                                                          \
        }                                                                                                              \
        _Pragma("GCC unroll 8") for (int v = 0; v < NV; v++) {                                                         \
            if (at[v].y >= 0) {                                                                                        \
                _Pragma("GCC unroll 8") for (int m = 0; m < MR; m++) * (loose *)(y + m * plane + at[v].y) = acc[m][v]; \
            } else {                                                                                                   \
                _Pragma("GCC unroll 8") for (int m = 0; m < MR; m++)                                                   \
                    scatter(&acc[m][v], lanes + v * VL, y + m * plane);                                                \
            }                                                                                                          \
        }                                                                                                              \
    }

#if VBYTES == 64 /* 32 registers */
#define MR_MOST 8
TILE(8, 3)
TILE(8, 1)
TILE(4, 6)
#else
#define MR_MOST 4
TILE(4, 3)
#endif
TILE(4, 1)
TILE(2, 6)
TILE(2, 1)
TILE(1, 8)
TILE(1, 1)

#define RUN(MR, NV)                                                                                                \
    do {                                                                                                           \
        i64 s = 0;                                                                                                 \
        for (; s + NV <= n; s += NV)                                                                               \
            tile_##MR##_##NV(X, offset, K, weight, bias, spots + s, lanes ? lanes + s * VL : NULL, add, y, plane); \
        for (; s < n; s++)                                                                                         \
            tile_##MR##_1(X, offset, K, weight, bias, spots + s, lanes ? lanes + s * VL : NULL, add, y, plane);    \
    } while (0)

/* Rows of the matrix that the next tile takes when m are left. */
static i64 tile_rows(i64 m) {
    return m >= MR_MOST ? MR_MOST : m >= 4 ? 4 : m >= 2 ? 2 : 1;
}

/* All M channels, all n spots; weight is packed as tile_rows says, [tile][k][row]. */
static void product(i64 M, i64 K, const real *X, const i64 *offset, const real *weight, const real *bias, i64 n,
                    const spot *spots, const i64 *lanes, int add, real *y, i64 plane) {
    while (M > 0) {
        i64 rows = tile_rows(M);
#if VBYTES == 64
        if (rows == 8)
            RUN(8, 3);
        else if (rows == 4)
            RUN(4, 6);
#else
        if (rows == 4) RUN(4, 3);
#endif
        else if (rows == 2)
            RUN(2, 6);
        else
            RUN(1, 8);
        M -= rows;
        weight += rows * K;
        y += rows * plane;
        if (bias) bias += rows;
    }
}

/* Row h of the picture is row m of phase a: h + p = s m + a. Tap i of that phase meets it at row m - q_i of the map. */
static i64 first_m(const axis *x, i64 a) {
    return -floor_div(a - x->p, x->s); /* ceil((p - a) / s) */
}
static i64 end_m(const axis *x, i64 a) {
    return floor_div(x->n - 1 + x->p - a, x->s) + 1;
}
static i64 taps_of(const axis *x, i64 slot) {
    return parts(x->k - slot, x->t);
}

/* out[k][row] = w[row][k], rows of w `K` apart. May write up to VL elements past the end. */
static void pack_rows(const real *w, i64 K, i64 rows, i64 n, real *out) {
    if (rows <= VL)
        to_lanes(w, K, rows, n, out, rows);
    else
        for (i64 k = 0; k < n; k++)
            for (i64 r = 0; r < rows; r++) out[k * rows + r] = w[r * K + k];
}

/* out[tile][k][row] of the M x K matrix w. May write up to VL elements past the end. */
static void pack_map(i64 M, i64 K, const real *w, real *out) {
    for (i64 m = 0, rows; m < M; m += rows, out += rows * K) {
        rows = tile_rows(M - m);
        pack_rows(w + m * K, K, rows, K, out);
    }
}

/* out[c][k] = w[k][c row] for the taps k: i = i0, i0 + hi.t, ..., j = j0, ... */
static inline __attribute__((always_inline)) void pack_taps(i64 rows, const axis *h, i64 i0, const axis *w, i64 j0,
                                                            const real *weight, real *out) {
    i64 taps = h->k * w->k;
    for (i64 i = i0; i < h->k; i += h->t)
        for (i64 j = j0; j < w->k; j += w->t)
            for (i64 r = 0; r < rows; r++) *out++ = weight[r * taps + i * w->k + j];
}

/* The same with vectors, for MR_MOST rows of at most VL taps; reads VL elements from each row on. */
static inline void pack_tile(const axis *h, i64 i0, const axis *w, i64 j0, const real *weight, real *out) {
#ifdef HAVE_TRANSPOSE
    i64 taps = h->k * w->k;
    vec v[LANES];
#pragma GCC unroll 16
    for (int r = 0; r < LANES; r++) {
        v[r] = (vec){0};
        if (r < MR_MOST) v[r] = *(const loose *)(weight + r * taps);
    }
    transpose(v);
    real tap[LANES * LANES];
    memcpy(tap, v, sizeof tap);
    for (i64 i = i0; i < h->k; i += h->t)
        for (i64 j = j0; j < w->k; j += w->t, out += MR_MOST)
            memcpy(out, tap + (i * w->k + j) * VL, MR_MOST * sizeof(real));
#else
    pack_taps(MR_MOST, h, i0, w, j0, weight, out);
#endif
}

/* The same for one of a group's channels o and `rows` channels from c on. */
static void pack_channel(const geometry *g, i64 i0, i64 j0, const real *weight, i64 o, i64 c, i64 rows, real *out) {
    i64 taps = g->h.k * g->w.k, at = o * g->K + c * taps;
    if (rows == MR_MOST && MR_MOST <= VL && taps <= VL && at + (rows - 1) * taps + VL <= g->Og * g->K)
        pack_tile(&g->h, i0, &g->w, j0, weight + at, out);
    else if (rows == MR_MOST)
        pack_taps(MR_MOST, &g->h, i0, &g->w, j0, weight + at, out);
    else
        pack_taps(rows, &g->h, i0, &g->w, j0, weight + at, out);
}

/* out[tile][k][row] of the matrix whose entry (c, (o, i, j)) is weight[o][c][i][j], taps of the slot (i0, j0). Returns
 * the end of what it wrote. */
static real *pack_picture(const geometry *g, i64 i0, i64 j0, const real *weight, real *out) {
    i64 some = taps_of(&g->h, i0) * taps_of(&g->w, j0), K = g->Og * some;
    for (i64 c0 = 0, c1; c0 < g->Cg; c0 = c1) { /* read some lines of weight, write a few tiles */
        c1 = least(c0 + 8 * MR_MOST, g->Cg);
        for (i64 o = 0; o < g->Og; o++)
            for (i64 c = c0, rows; c < c1; c += rows) {
                rows = tile_rows(g->Cg - c);
                pack_channel(g, i0, j0, weight, o, c, rows, out + c * K + o * some * rows);
            }
    }
    return out + g->Cg * K;
}

/* ------------------------------------------------------------------ small maps: a lane for each image */

/* Where rows are shorter than a vector, lanes between the rows would be lost. There a vector takes one position of VL
 * images: the copy is [channel][slot][row][column][image], every load is aligned and no lane is idle. The result is
 * made as [channel][position][image] and turned round at the end; the sum over the channels is cut where the copy
 * outgrows its share of the cache, each part adding to that result.
 *
 * This serves collect (one program: the map, all taps) and spread (a program for each stride phase of the picture). */
typedef struct {
    const geometry *g;
    int forward; /* collect, else spread */
    const real *in, *bias, *weight;
    real *out;
    i64 N, M;            /* channels of a group: input, output */
    i64 H, W, OH, OW;    /* planes of input and output */
    i64 rows, cols;      /* of the copy */
    i64 m0, n0;          /* spread: first position */
    i64 channels, parts; /* input channels copied together; parts of the output channels (whole tiles) */
} image_job;

static int image_items(const image_job *job, i64 lo, i64 hi) {
    const geometry *g = job->g;
    const axis *h = &g->h, *w = &g->w;
    i64 slots = h->t * w->t, copies = job->forward ? slots : 1, taps = h->k * w->k;
    i64 in_plane = job->H * job->W, out_plane = job->OH * job->OW, slab = job->rows * job->cols;
    i64 m_part = parts(parts(job->M, job->parts), MR_MOST) * MR_MOST;
    int whole = job->channels == job->N; /* then a tile of the result is ready at once */
    i64 vectors = job->channels * copies * slab + in_plane + least(whole ? MR_MOST : m_part, job->M) * out_plane;
    vec *X = ri_workspace(RI_WS_CONV, (size_t)vectors * sizeof(vec));
    real *packed = ri_workspace(RI_WS_GEMM_B, (size_t)(job->channels * taps * MR_MOST + VL) * sizeof(real));
    i64 bound = job->forward ? out_plane : (job->rows - h->q) * (job->cols - w->q);
    i64 programs = job->forward ? 1 : slots;
    i64 *offsets = ri_workspace(
        RI_WS_OP, (size_t)(job->channels * taps + programs) * sizeof(i64) + (size_t)(programs * bound) * sizeof(spot));
    if (!X || !packed || !offsets) return RI_NOMEM;
    vec *plane = X + job->channels * copies * slab, *Y = plane + in_plane;
    i64 *counts = offsets + job->channels * taps;
    spot *spots = (spot *)(counts + programs);

    i64 *offset = offsets;
    if (job->forward) {
        block whole = {0, 0, 0, 1, h->m, w->m};
        geometry some = *g;
        some.Cg = job->channels;
        phase_offsets(&some, &whole, offset);
        for (i64 k = 0; k < job->channels * taps; k++) offset[k] *= VL;
        for (i64 r = 0; r < h->m; r++)
            for (i64 c = 0; c < w->m; c++) spots[r * w->m + c] = (spot){(r * job->cols + c) * VL, (r * w->m + c) * VL};
        counts[0] = out_plane;
    } else {
        for (i64 slot = 0; slot < slots; slot++) {
            i64 i0 = slot / w->t, j0 = slot % w->t, ah = i0 * h->d % h->s, aw = j0 * w->d % w->s, n = 0;
            for (i64 o = 0; o < job->channels; o++)
                for (i64 i = i0; i < h->k; i += h->t)
                    for (i64 j = j0; j < w->k; j += w->t)
                        *offset++ = (o * slab + (h->q - i * h->d / h->s) * job->cols + w->q - j * w->d / w->s) * VL;
            for (i64 m = most(job->m0, first_m(h, ah)); m < end_m(h, ah); m++)
                for (i64 c = most(job->n0, first_m(w, aw)); c < end_m(w, aw); c++)
                    spots[slot * bound + n++] = (spot){((m - job->m0) * job->cols + c - job->n0) * VL,
                                                       ((h->s * m + ah - h->p) * w->n + w->s * c + aw - w->p) * VL};
            counts[slot] = n;
        }
    }
    int holes = !job->forward && (h->t < h->s || w->t < w->s); /* phases that no tap meets */

    for (i64 item = lo; item < hi; item++) {
        i64 part = item % job->parts, group = item / job->parts % g->G, b = item / job->parts / g->G * VL;
        i64 images = least(VL, g->B - b), m0 = part * m_part, ms = least(m_part, job->M - m0);
        if (ms <= 0) continue;
        const real *bias = job->bias ? job->bias + group * job->M + m0 : NULL;
        const real *in = job->in + (b * g->G + group) * job->N * in_plane;
        for (i64 c0 = 0; c0 < job->N; c0 += job->channels) {
            i64 cs = least(job->channels, job->N - c0);
            vec *X_end = X;
            for (i64 c = c0; c < c0 + cs; c++) {
                to_lanes(in + c * in_plane, g->G * job->N * in_plane, images, in_plane, (real *)plane, VL);
                if (job->forward)
                    for (i64 i = 0; i < h->t; i++)
                        for (i64 j = 0; j < w->t; j++, X_end += slab)
                            fill_vectors(plane, job->H, job->W, job->rows, job->cols, i * h->d % h->s - h->p, h->s,
                                         j * w->d % w->s - w->p, w->s, X_end);
                else {
                    fill_vectors(plane, job->H, job->W, job->rows, job->cols, job->m0 - h->q, 1, job->n0 - w->q, 1,
                                 X_end);
                    X_end += slab;
                }
            }
            int last = c0 + cs == job->N;
            for (i64 m = 0, tile; m < ms; m += tile) {
                tile = tile_rows(ms - m);
                vec *result = Y + (whole ? 0 : m * out_plane);
                const real *constant = bias ? bias + m : NULL;
                if (holes && c0 == 0)
                    for (i64 i = 0; i < tile * out_plane; i++)
                        result[i] = (vec){0} + (constant ? constant[i / out_plane] : R(0.0));
                offset = offsets;
                const real *weight = job->weight + group * job->M * job->N * taps;
                for (i64 q = 0; q < programs; q++) {
                    i64 steps = job->forward ? taps : taps_of(h, q / w->t) * taps_of(w, q % w->t);
                    if (job->forward)
                        pack_rows(weight + (m0 + m) * g->K + c0 * taps, g->K, tile, cs * taps, packed);
                    else
                        for (i64 c = 0; c < cs; c++)
                            pack_channel(g, q / w->t, q % w->t, weight, c0 + c, m0 + m, tile,
                                         packed + c * steps * tile);
                    product(tile, cs * steps, (real *)X, offset, packed, constant, counts[q], spots + q * bound, NULL,
                            c0 > 0, (real *)result, out_plane * VL);
                    offset += job->channels * steps;
                }
                real *out = job->out + ((b * g->G + group) * job->M + m0 + m) * out_plane;
                for (i64 i = 0; last && i < tile; i++)
                    from_lanes(result + i * out_plane, images, out_plane, out + i * out_plane,
                               g->G * job->M * out_plane);
            }
        }
    }
    return RI_OK;
}

/* Whether the images' lanes are filled so much better than those of rows x cols positions (copied in rows of `cols` +
 * q) that it pays, and the block is small enough. */
static int lanes_of_images(const geometry *g, i64 rows, i64 cols, i64 q, i64 in_channels, i64 in, i64 out_channels,
                           i64 out) {
    i64 spots = cols < VL ? parts((rows - 1) * (cols + q) + cols, VL) : rows * parts(cols, VL);
    double here = (double)(rows * cols) / (double)(spots * VL);
    double there = (double)g->B / (double)(parts(g->B, VL) * VL);
    return in_channels >= 8 && out_channels >= 8 && out <= 1024 && in <= 4096 && out_channels * out <= 65536 &&
           there > 1.1 * here;
}

static int by_images(image_job *job, int team) {
    const geometry *g = job->g;
    i64 unit = job->rows * job->cols * VBYTES * (job->forward ? g->h.t * g->w.t : 1);
    job->channels = parts(job->N, parts(job->N, most(4, IMAGE_BYTES / unit)));
    i64 items = parts(g->B, VL) * g->G;
    job->parts = items >= team ? 1 : least(parts(team, items), parts(job->M, MR_MOST));
    items *= job->parts;
    int status = RI_OK;
    SHARE(image_items, job, items, team, status);
    return status;
}

/* ------------------------------------------------------------------ collect: picture -> map */

typedef struct {
    const geometry *g;
    const blocking *blocks;
    const real *x, *bias, *packed;
    real *y;
} collect_job;

/* Items [lo, hi): blocks, and in each block the groups. */
static int collect_items(const collect_job *job, i64 lo, i64 hi) {
    const geometry *g = job->g;
    const blocking *k = job->blocks;
    i64 bound = spots_bound(k->images, k->rows, k->cols, k->cols + g->w.q);
    real *X = ri_workspace(RI_WS_CONV,
                           (size_t)phases_size(g, g->Cg, k->images, k->rows, k->cols) * sizeof(real) + 2 * VBYTES);
    i64 *offset = ri_workspace(RI_WS_OP, (size_t)(g->K + bound * VL) * sizeof(i64) + (size_t)bound * sizeof(spot));
    if (!X || !offset) return RI_NOMEM;
    i64 *lanes = offset + g->K;
    spot *spots = (spot *)(lanes + bound * VL);
    i64 plane = g->h.m * g->w.m, n = 0;
    block last = {0, 0, 0, 0, 0, 0};
    for (i64 item = lo; item < hi; item++) {
        i64 group = item % g->G;
        block b = make_block(g, k, item / g->G);
        if (b.images != last.images || b.rows != last.rows || b.cols != last.cols) {
            i64 cols = b.cols + g->w.q;
            phase_offsets(g, &b, offset);
            n = make_spots(b.images, b.rows, b.cols, 0, cols, (b.rows + g->h.q) * cols, 0, g->w.m, 1, g->O * plane, 1,
                           spots, lanes);
            last = b;
        }
        fill_phases(g, job->x, group * g->Cg, (group + 1) * g->Cg, &b, X);
        product(g->Og, g->K, X, offset, job->packed + group * g->Og * g->K,
                job->bias ? job->bias + group * g->Og : NULL, n, spots, lanes, 0,
                job->y + (b.b * g->O + group * g->Og) * plane + b.r * g->w.m + b.c, plane);
    }
    return RI_OK;
}

int RI_INTERNAL(conv_direct_collect)(const geometry *g, const real *x, const real *weight, const real *bias, real *y,
                                     int threads) {
    if (g->B == 0) return RI_OK;
    int team = team_for(g, threads), status = RI_OK;
    if (lanes_of_images(g, g->h.m, g->w.m, g->w.q, g->Cg, g->h.n * g->w.n, g->Og, g->h.m * g->w.m)) {
        image_job job = {.g = g,
                         .forward = 1,
                         .in = x,
                         .bias = bias,
                         .weight = weight,
                         .out = y,
                         .N = g->Cg,
                         .M = g->Og,
                         .H = g->h.n,
                         .W = g->w.n,
                         .OH = g->h.m,
                         .OW = g->w.m,
                         .rows = g->h.m + g->h.q,
                         .cols = g->w.m + g->w.q};
        return by_images(&job, team);
    }
    real *packed = ri_workspace(RI_WS_OP2, (size_t)(g->O * g->K + VL) * sizeof(real));
    if (!packed) return RI_NOMEM;
    for (i64 group = 0; group < g->G; group++)
        pack_map(g->Og, g->K, weight + group * g->Og * g->K, packed + group * g->Og * g->K);
    i64 unit = g->Cg * g->h.t * g->w.t * (i64)sizeof(real);
    blocking blocks = choose_blocks(g, unit, g->h.m, g->h.q, g->w.m, g->w.q, 48, team);
    collect_job job = {g, &blocks, x, bias, packed, y};
    i64 items = blocks.nb * blocks.nr * blocks.nc * g->G;
    SHARE(collect_items, &job, items, team, status);
    return status;
}

/* ------------------------------------------------------------------ spread: map -> picture */

typedef struct {
    const geometry *g;
    const blocking *blocks;
    const real *dy, *bias, *packed;
    real *dx;
    i64 m0, n0; /* first row and column of positions */
} spread_job;

static int spread_items(const spread_job *job, i64 lo, i64 hi) {
    const geometry *g = job->g;
    const axis *h = &g->h, *w = &g->w;
    const blocking *k = job->blocks;
    i64 slots = h->t * w->t, taps = g->Og * h->k * w->k;
    i64 bound = spots_bound(k->images, k->rows, k->cols, k->cols + w->q);
    i64 size = g->Og * k->images * (k->rows + h->q) * (k->cols + w->q);
    real *X = ri_workspace(RI_WS_CONV, (size_t)size * sizeof(real) + 2 * VBYTES);
    i64 *offsets = ri_workspace(
        RI_WS_OP, (size_t)(taps + slots + slots * bound * VL) * sizeof(i64) + (size_t)(slots * bound) * sizeof(spot));
    if (!X || !offsets) return RI_NOMEM;
    i64 *counts = offsets + taps, *lanes = counts + slots;
    spot *spots = (spot *)(lanes + slots * bound * VL);
    i64 picture = h->n * w->n, map = h->m * w->m;
    block last = {-1, -1, -1, 0, 0, 0};
    for (i64 item = lo; item < hi; item++) {
        i64 group = item % g->G;
        block b = make_block(g, k, item / g->G);
        i64 m0 = job->m0 + b.r, n0 = job->n0 + b.c; /* the block's first position */
        i64 rows = b.rows + h->q, cols = b.cols + w->q, image = rows * cols;
        if (b.r != last.r || b.c != last.c || b.images != last.images) {
            i64 *offset = offsets;
            for (i64 i0 = 0; i0 < h->t; i0++)
                for (i64 j0 = 0; j0 < w->t; j0++) {
                    i64 slot = i0 * w->t + j0, ah = i0 * h->d % h->s, aw = j0 * w->d % w->s;
                    for (i64 o = 0; o < g->Og; o++)
                        for (i64 i = i0; i < h->k; i += h->t)
                            for (i64 j = j0; j < w->k; j += w->t)
                                *offset++ =
                                    o * b.images * image + (h->q - i * h->d / h->s) * cols + w->q - j * w->d / w->s;
                    i64 m1 = most(m0, first_m(h, ah)), m2 = least(m0 + b.rows, end_m(h, ah));
                    i64 n1 = most(n0, first_m(w, aw)), n2 = least(n0 + b.cols, end_m(w, aw));
                    counts[slot] = make_spots(b.images, m2 - m1, n2 - n1, (m1 - m0) * cols + n1 - n0, cols, image,
                                              (h->s * m1 + ah - h->p) * w->n + w->s * n1 + aw - w->p, h->s * w->n, w->s,
                                              g->C * picture, 1, spots + slot * bound, lanes + slot * bound * VL);
                }
            last = b;
        }
        for (i64 o = 0; o < g->Og; o++)
            fill(job->dy + (b.b * g->O + group * g->Og + o) * map, g->O * map, h->m, w->m, b.images, rows, cols,
                 m0 - h->q, 1, n0 - w->q, 1, X + o * b.images * image);
        memset(X + g->Og * b.images * image, 0, 2 * VBYTES);
        const real *packed = job->packed + group * g->Cg * taps;
        const i64 *offset = offsets;
        for (i64 slot = 0; slot < slots; slot++) {
            i64 K = g->Og * taps_of(h, slot / w->t) * taps_of(w, slot % w->t);
            product(g->Cg, K, X, offset, packed, job->bias ? job->bias + group * g->Cg : NULL, counts[slot],
                    spots + slot * bound, lanes + slot * bound * VL, 0,
                    job->dx + (b.b * g->C + group * g->Cg) * picture, picture);
            offset += K;
            packed += g->Cg * K;
        }
    }
    return RI_OK;
}

int RI_INTERNAL(conv_direct_spread)(const geometry *g, const real *dy, const real *weight, const real *bias, real *dx,
                                    int threads) {
    if (g->B == 0) return RI_OK;
    const axis *h = &g->h, *w = &g->w;
    int team = team_for(g, threads), status = RI_OK;
    i64 m0 = h->p / h->s, n0 = w->p / w->s;
    i64 rows = (h->n - 1 + h->p) / h->s + 1 - m0, cols = (w->n - 1 + w->p) / w->s + 1 - n0;
    if (lanes_of_images(g, rows, cols, w->q, g->Og, h->m * w->m, g->Cg, h->n * w->n)) {
        image_job job = {.g = g,
                         .in = dy,
                         .bias = bias,
                         .weight = weight,
                         .out = dx,
                         .N = g->Og,
                         .M = g->Cg,
                         .H = h->m,
                         .W = w->m,
                         .OH = h->n,
                         .OW = w->n,
                         .rows = rows + h->q,
                         .cols = cols + w->q,
                         .m0 = m0,
                         .n0 = n0};
        return by_images(&job, team);
    }
    if (h->t < h->s || w->t < w->s) { /* phases that no tap meets */
        i64 picture = h->n * w->n;
        for (i64 b = 0; b < g->B; b++)
            for (i64 c = 0; c < g->C; c++) {
                real value = bias ? bias[c] : R(0.0), *plane = dx + (b * g->C + c) * picture;
                for (i64 i = 0; i < picture; i++) plane[i] = value;
            }
    }
    real *packed = ri_workspace(RI_WS_OP2, (size_t)(g->O * g->K) * sizeof(real));
    if (!packed) return RI_NOMEM;
    real *end = packed;
    for (i64 group = 0; group < g->G; group++)
        for (i64 i = 0; i < h->t; i++)
            for (i64 j = 0; j < w->t; j++) end = pack_picture(g, i, j, weight + group * g->Og * g->K, end);
    blocking blocks = choose_blocks(g, g->Og * (i64)sizeof(real), rows, h->q, cols, w->q, 48, team);
    spread_job job = {g, &blocks, dy, bias, packed, dx, m0, n0};
    i64 items = blocks.nb * blocks.nr * blocks.nc * g->G;
    SHARE(spread_items, &job, items, team, status);
    return status;
}
