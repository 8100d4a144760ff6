/* conv.c - convolutions, transposed convolutions and their gradients. Mirror of refimpl/ops/conv.py.
 *
 * The three sums over the taps (collect, spread, correlate) are matrix products in which one factor is never formed.
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
 *     correlate  for up to 12 taps x 2 vectors of channels of the map:  acc[k][o] += X[position][k] * dy[position][o]
 *                from copies with the channels last, where the map has channels enough to fill the lanes; else, for 4
 *                channels x 6 taps (depthwise: 1 x 9), acc[o][k] += dy[o][spot] * X[offset[k] + spot], and the lanes
 *                are summed at the end
 *
 * Where rows are too short to fill vectors (maps of 14 x 14, 8 x 8, 4 x 4) collect and spread take one position of VL
 * images as a spot instead, so that no lane is idle.
 *
 * Roofline: 2 C/groups KH KW flops for each element of the map against about one read of picture and map; from 16 or so
 * channels on the FMA units are the limit (11 loads per 24 FMAs in the inner loop of collect and spread, 10 per 16 in
 * that of correlate). Blocks are chosen so that the copy stays in the second-level cache, and weights are read once for
 * each block: with maps of 4 x 4 and 512 channels, reading and packing them is the next limit. Depthwise convolution (1
 * channel, 8 spots) is bound by loads from the first-level cache, its weight gradient by making the padded copy.
 *
 * Every element is summed in one fixed order by one thread, and the batch is split by its size for the weight gradient,
 * so results do not depend on the number of threads.
 */
#include "conv.h"
#include "vmath.h"

#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#else
static inline int omp_get_thread_num(void) {
    return 0;
}
static inline int omp_get_num_threads(void) {
    return 1;
}
#endif

#if defined(__AVX512F__)
#define VBYTES 64
#elif defined(__AVX__)
#define VBYTES 32
#else
#define VBYTES 16
#endif
#ifdef RI_IS_F32
#define LANES (VBYTES / 4)
#else
#define LANES (VBYTES / 8)
#endif
#define VL ((i64)LANES)

typedef real vec __attribute__((vector_size(VBYTES)));
typedef real loose __attribute__((vector_size(VBYTES), aligned(sizeof(real)), may_alias)); /* at any address */

#include "transpose.h"

enum { BLOCK_BYTES = 384 << 10, IMAGE_BYTES = 640 << 10 }; /* of a padded copy; with a lane for each image */

/* ------------------------------------------------------------------ geometry */

/* One axis: n of the picture, m of the map, k taps, stride s, padding p, dilation d. Tap i lies in phase (i d) mod s of
 * the padded picture, q_i = (i d) / s positions on; the phases that occur are those of the first t taps ("slots"). */
typedef struct {
    i64 n, m, k, s, p, d;
    i64 q; /* the largest q_i */
    i64 t;
} axis;

typedef struct {
    i64 B, C, O, G;
    i64 Cg, Og, K; /* channels of a group; taps (c, i, j) of a group */
    axis h, w;
} geometry;

static axis make_axis(i64 n, i64 m, i64 k, i64 s, i64 p, i64 d) {
    if (m == 1) s = 1; /* never used, and may be huge */
    i64 a = s, b = d;
    while (b) {
        i64 r = a % b;
        a = b;
        b = r;
    }
    i64 period = s / a;
    return (axis){n, m, k, s, p, d, (k - 1) * d / s, k < period ? k : period};
}

static geometry make_geometry(i64 B, i64 C, i64 H, i64 W, i64 O, i64 KH, i64 KW, i64 OH, i64 OW, i64 SH, i64 SW, i64 PH,
                              i64 PW, i64 DH, i64 DW, i64 groups) {
    return (geometry){B,
                      C,
                      O,
                      groups,
                      C / groups,
                      O / groups,
                      C / groups * KH * KW,
                      make_axis(H, OH, KH, SH, PH, DH),
                      make_axis(W, OW, KW, SW, PW, DW)};
}

static i64 least(i64 a, i64 b) {
    return a < b ? a : b;
}
static i64 most(i64 a, i64 b) {
    return a > b ? a : b;
}
static i64 parts(i64 n, i64 size) {
    return (n + size - 1) / size;
}
/* floor(a / b) for any a, b > 0 */
static i64 floor_div(i64 a, i64 b) {
    return a >= 0 ? a / b : -((b - 1 - a) / b);
}

static int team_for(const geometry *g, int threads) {
    double ns = (double)g->B * (double)g->O * (double)g->h.m * (double)g->w.m * (double)g->K / (4.0 * (double)VL);
    return ri_team(threads, ns < 1e15 ? (i64)ns : (i64)1e15);
}

/* Extent of the blocks: images x rows x columns of positions. */
typedef struct {
    i64 images, rows, cols;     /* of a full block */
    i64 nb, nr, nc;             /* blocks along each */
    i64 total_rows, total_cols; /* all positions */
} blocking;

/* `unit` bytes of copy for each position; the copy extends qh rows and qw columns further. `vectors`: worth of work in
 * a block of small images. team > 1: rather more and smaller blocks than idle threads. */
static blocking choose_blocks(const geometry *g, i64 unit, i64 rows, i64 qh, i64 cols, i64 qw, i64 vectors, i64 team) {
    i64 room = most(BLOCK_BYTES / unit, 1);
    blocking b = {1, rows, cols, 0, 0, 0, rows, cols};
    if (room / (1 + qh) < cols + qw) b.cols = least(cols, most(4 * VL, (room / (1 + qh) - qw) / VL * VL));
    b.rows = least(rows, most(room / (b.cols + qw) - qh, qh + 1));
    if (b.rows == rows && b.cols == cols) {
        i64 fit = room / ((rows + qh) * (cols + qw));
        b.images = most(1, least(least(g->B, fit), vectors * VL / (rows * cols) + 1));
    }
    if (team > 1) {
        b.images = most(1, least(b.images, g->B * g->G / team));
        if (g->B * g->G < team && g->B > 0) b.rows = least(b.rows, parts(rows, parts(team, g->B * g->G)));
    }
    b.nb = parts(g->B, b.images);
    b.nr = parts(rows, b.rows);
    b.nc = parts(cols, b.cols);
    return b;
}

/* One block: first image, row and column, and extents. */
typedef struct {
    i64 b, r, c, images, rows, cols;
} block;

static block make_block(const geometry *g, const blocking *k, i64 index) {
    i64 c = index % k->nc * k->cols, r = index / k->nc % k->nr * k->rows, b = index / k->nc / k->nr * k->images;
    return (block){
        b, r, c, least(k->images, g->B - b), least(k->rows, k->total_rows - r), least(k->cols, k->total_cols - c)};
}

/* ------------------------------------------------------------------ transposes */

/* dst[c][r] = src[r][c] for `rows` <= VL rows, 0 for the lanes r from there to VL; dst's rows lie `ds` apart. ds may be
 * less than VL (and rows too, then): what a vector writes too much, the next overwrites, up to VL elements past the
 * end. */
static void to_lanes(const real *src, i64 ss, i64 rows, i64 cols, real *dst, i64 ds) {
    i64 c = 0;
#ifdef HAVE_TRANSPOSE
    for (; cols >= VL && c < cols; c += VL) {
        i64 at = least(c, cols - VL);
        vec v[LANES];
        if (rows == VL) {
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) v[i] = *(const loose *)(src + i * ss + at);
        } else {
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) {
                v[i] = (vec){0};
                if (i < rows) v[i] = *(const loose *)(src + i * ss + at);
            }
        }
        transpose(v);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) *(loose *)(dst + (at + i) * ds) = v[i];
    }
#endif
    for (; c < cols; c++)
        for (i64 r = 0; r < least(VL, ds); r++) dst[c * ds + r] = r < rows ? src[r * ss + c] : R(0.0);
}

/* dst[r][c] = src[c][r] for `rows` <= VL rows of dst; src's rows are vectors. */
static void from_lanes(const vec *src, i64 rows, i64 cols, real *dst, i64 ds) {
    i64 c = 0;
#ifdef HAVE_TRANSPOSE
    for (; cols >= VL && c < cols; c += VL) {
        i64 at = least(c, cols - VL);
        vec v[LANES];
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) v[i] = src[at + i];
        transpose(v);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            if (i < rows) *(loose *)(dst + i * ds + at) = v[i];
    }
#endif
    for (; c < cols; c++) {
        real lane[LANES];
        memcpy(lane, src + c, sizeof lane);
        for (i64 r = 0; r < rows; r++) dst[r * ds + c] = lane[r];
    }
}

/* ------------------------------------------------------------------ padded copies */

/* memcpy of few elements */
static inline void copy(real *dst, const real *src, i64 n) {
    i64 i = 0;
    for (; i + VL <= n; i += VL) *(loose *)(dst + i) = *(const loose *)(src + i);
    if (i == n) return;
    if (n >= VL)
        *(loose *)(dst + n - VL) = *(const loose *)(src + n - VL);
    else
        for (; i < n; i++) dst[i] = src[i];
}

/* dst[image][r][c] = src[image][h0 + sh r][w0 + sw c], 0 outside the H x W plane. */
static void fill(const real *src, i64 src_image, i64 H, i64 W, i64 images, i64 rows, i64 cols, i64 h0, i64 sh, i64 w0,
                 i64 sw, real *dst) {
    i64 lo = w0 < 0 ? least(cols, parts(-w0, sw)) : 0;
    i64 hi = most(lo, w0 < W ? least(cols, parts(W - w0, sw)) : 0);
    for (i64 image = 0; image < images; image++, src += src_image)
        for (i64 r = 0; r < rows; r++, dst += cols) {
            i64 h = h0 + sh * r;
            if (h < 0 || h >= H || lo == hi) {
                memset(dst, 0, (size_t)cols * sizeof(real));
                continue;
            }
            const real *row = src + h * W + w0;
            for (i64 c = 0; c < lo; c++) dst[c] = R(0.0);
            if (sw == 1)
                copy(dst + lo, row + lo, hi - lo);
            else if (sw == 2)
                for (i64 c = lo; c < hi; c++) dst[c] = row[2 * c];
            else
                for (i64 c = lo; c < hi; c++) dst[c] = row[sw * c];
            for (i64 c = hi; c < cols; c++) dst[c] = R(0.0);
        }
}

/* The stride phases of a block of the picture, [c][slot h][slot w][image][rows + q][cols + q], for channels [c0, c1).
 */
static void fill_phases(const geometry *g, const real *x, i64 c0, i64 c1, const block *k, real *X) {
    const axis *h = &g->h, *w = &g->w;
    i64 plane = h->n * w->n, rows = k->rows + h->q, cols = k->cols + w->q;
    for (i64 c = c0; c < c1; c++)
        for (i64 i = 0; i < h->t; i++)
            for (i64 j = 0; j < w->t; j++, X += k->images * rows * cols)
                fill(x + (k->b * g->C + c) * plane, g->C * plane, h->n, w->n, k->images, rows, cols,
                     i * h->d % h->s + h->s * k->r - h->p, h->s, j * w->d % w->s + w->s * k->c - w->p, w->s, X);
    memset(X, 0, 2 * VBYTES); /* read, and not used, by the last vectors */
}

static i64 phases_size(const geometry *g, i64 channels, i64 images, i64 rows, i64 cols) {
    return channels * g->h.t * g->w.t * images * (rows + g->h.q) * (cols + g->w.q);
}

/* Where tap (c, i, j) starts in that copy. */
static void phase_offsets(const geometry *g, const block *k, i64 *offset) {
    const axis *h = &g->h, *w = &g->w;
    i64 cols = k->cols + w->q, slot = k->images * (k->rows + h->q) * cols;
    for (i64 c = 0; c < g->Cg; c++)
        for (i64 i = 0; i < h->k; i++)
            for (i64 j = 0; j < w->k; j++)
                *offset++ = ((c * h->t + i % h->t) * w->t + j % w->t) * slot + i * h->d / h->s * cols + j * w->d / w->s;
}

/* ------------------------------------------------------------------ spots */

/* A vector of positions: x is where its lanes start in the copy; its lanes go to y, y + 1, ... when y >= 0, else lane l
 * to lane[l], or nowhere when that is negative. */
typedef struct {
    i64 x, y;
} spot;

static i64 spots_bound(i64 images, i64 rows, i64 cols, i64 x_row) {
    return images * (rows * (most(cols, x_row) / VL + 1) + 1);
}

/* Cover images x rows x cols positions. Position (image, r, c) is x0 + image x_image + r x_row + c in the copy and
 * y0 + image y_image + r y_row + c y_col in the result. overlap: a position may be covered twice. Returns the number of
 * spots. */
static i64 make_spots(i64 images, i64 rows, i64 cols, i64 x0, i64 x_row, i64 x_image, i64 y0, i64 y_row, i64 y_col,
                      i64 y_image, int overlap, spot *spots, i64 *lanes) {
    if (rows <= 0 || cols <= 0) return 0;
    i64 count = 0;
    /* Short rows, or rows without a gap, count as one row in which columns from `cols` to `period` are dropped. */
    int flat = cols < VL || (x_row == cols && y_row == cols && y_col == 1);
    i64 length = flat ? (rows - 1) * x_row + cols : cols, lines = flat ? 1 : rows, period = flat ? x_row : cols;
    for (i64 image = 0; image < images; image++)
        for (i64 line = 0; line < lines; line++)
            for (i64 start = 0; start < length; start += VL) {
                i64 first = overlap && start + VL > length && length >= VL ? length - VL : start;
                i64 *lane = lanes + count * VL;
                i64 r = line + first / period, c = first % period;
                int straight = 1;
                for (i64 l = 0; l < VL; l++) {
                    int inside = first + l < length && c < cols;
                    lane[l] = inside ? y0 + image * y_image + r * y_row + c * y_col : -1;
                    straight &= inside && lane[l] == lane[0] + l;
                    if (++c == period) c = 0, r++;
                }
                spots[count++] = (spot){x0 + image * x_image + line * x_row + first, straight ? lane[0] : -1};
            }
    return count;
}

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

/* FUNCTION(&job, lo, hi) over the thread's share of the items; one status. */
#define SHARE(FUNCTION, job, items, team, status)                                          \
    do {                                                                                   \
        if ((team) == 1 || (items) <= 1)                                                   \
            status = FUNCTION(job, 0, items);                                              \
        else {                                                                             \
            _Pragma("omp parallel num_threads(team) reduction(max : status)") {            \
                i64 lo, hi;                                                                \
                ri_share(items, 1, omp_get_thread_num(), omp_get_num_threads(), &lo, &hi); \
                if (lo < hi) status = FUNCTION(job, lo, hi);                               \
            }                                                                              \
        }                                                                                  \
    } while (0)

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

/* dst[r][c] = src[h0 + sh r][w0 + sw c], 0 outside the H x W plane: `fill` for vectors. */
static void fill_vectors(const vec *src, i64 H, i64 W, i64 rows, i64 cols, i64 h0, i64 sh, i64 w0, i64 sw, vec *dst) {
    for (i64 r = 0; r < rows; r++)
        for (i64 c = 0; c < cols; c++) {
            i64 h = h0 + sh * r, w = w0 + sw * c;
            *dst++ = h >= 0 && h < H && w >= 0 && w < W ? src[h * W + w] : (vec){0};
        }
}

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

static int collect(const geometry *g, const real *x, const real *weight, const real *bias, real *y, int threads) {
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

static int spread(const geometry *g, const real *dy, const real *weight, const real *bias, real *dx, int threads) {
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

/* ------------------------------------------------------------------ correlate: the weight gradient */

#if VBYTES == 64
enum { MO = 4, NK = 6 };
#else
enum { MO = 3, NK = 4 };
#endif

enum { CHUNKS = 16, RANGE = 16 * MO }; /* parts of the batch; channels of the map that share a copy of the picture */

/* the lanes of v, added by halves */
static inline __attribute__((always_inline)) real lanes_sum(vec v) {
    real lane[LANES];
    memcpy(lane, &v, sizeof lane);
#pragma GCC unroll 4
    for (int half = LANES / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    }
    return lane[0];
}

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

/* Items: chunks of the batch, in each the groups, in each the ranges of map channels. */
static int correlate_items(const correlate_job *job, i64 lo, i64 hi) {
    const geometry *g = job->g;
    const blocking *k = job->blocks;
    i64 bound = spots_bound(k->images, k->rows, k->cols, k->cols + g->w.q), most_o = least(RANGE, g->Og);
    i64 xs = parts(phases_size(g, job->channels, k->images, k->rows, k->cols) + 2 * VL, VL) * VL;
    real *X = ri_workspace(RI_WS_CONV, (size_t)(xs + most_o * bound * VL) * sizeof(real));
    i64 *offset = ri_workspace(RI_WS_OP, (size_t)(g->K + bound * VL) * sizeof(i64) + (size_t)bound * sizeof(spot));
    if (!X || !offset) return RI_NOMEM;
    real *D = X + xs;
    i64 *lanes = offset + g->K;
    spot *spots = (spot *)(lanes + bound * VL);
    i64 map = g->h.m * g->w.m, n = 0, ranges = parts(g->Og, RANGE);
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
                    last = b;
                }
                const real *dy = job->dy + (b.b * g->O + group * g->Og + o0) * map + b.r * g->w.m + b.c;
                for (i64 o = 0; o < os; o++, dy += map)
                    for (i64 s = 0; s < n; s++) {
                        real *out = D + (o * n + s) * VL;
                        const i64 *lane = lanes + s * VL;
                        if (spots[s].y >= 0)
                            memcpy(out, dy + spots[s].y, VBYTES);
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

static int correlate(const geometry *g, const real *dy, const real *x, real *dweight, int accumulate, int threads) {
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
