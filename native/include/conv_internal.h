/* conv_internal.h - what the files of the family share: vectors, geometry, blocks, padded copies, spots. */
#ifndef REFIMPL_CONV_INTERNAL_H
#define REFIMPL_CONV_INTERNAL_H
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

static inline axis make_axis(i64 n, i64 m, i64 k, i64 s, i64 p, i64 d) {
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

static inline geometry make_geometry(i64 B, i64 C, i64 H, i64 W, i64 O, i64 KH, i64 KW, i64 OH, i64 OW, i64 SH, i64 SW,
                                     i64 PH, i64 PW, i64 DH, i64 DW, i64 groups) {
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

static inline i64 least(i64 a, i64 b) {
    return a < b ? a : b;
}
static inline i64 most(i64 a, i64 b) {
    return a > b ? a : b;
}
static inline i64 parts(i64 n, i64 size) {
    return (n + size - 1) / size;
}
/* floor(a / b) for any a, b > 0 */
static inline i64 floor_div(i64 a, i64 b) {
    return a >= 0 ? a / b : -((b - 1 - a) / b);
}

static inline int team_for(const geometry *g, int threads) {
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
static inline blocking choose_blocks(const geometry *g, i64 unit, i64 rows, i64 qh, i64 cols, i64 qw, i64 vectors,
                                     i64 team) {
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

static inline block make_block(const geometry *g, const blocking *k, i64 index) {
    i64 c = index % k->nc * k->cols, r = index / k->nc % k->nr * k->rows, b = index / k->nc / k->nr * k->images;
    return (block){
        b, r, c, least(k->images, g->B - b), least(k->rows, k->total_rows - r), least(k->cols, k->total_cols - c)};
}

/* ------------------------------------------------------------------ transposes */

/* dst[c][r] = src[r][c] for `rows` <= VL rows, 0 for the lanes r from there to VL; dst's rows lie `ds` apart. ds may be
 * less than VL (and rows too, then): what a vector writes too much, the next overwrites, up to VL elements past the
 * end. */
static inline void to_lanes(const real *src, i64 ss, i64 rows, i64 cols, real *dst, i64 ds) {
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
static inline void from_lanes(const vec *src, i64 rows, i64 cols, real *dst, i64 ds) {
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
static inline void fill(const real *src, i64 src_image, i64 H, i64 W, i64 images, i64 rows, i64 cols, i64 h0, i64 sh,
                        i64 w0, i64 sw, real *dst) {
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
static inline void fill_phases(const geometry *g, const real *x, i64 c0, i64 c1, const block *k, real *X) {
    const axis *h = &g->h, *w = &g->w;
    i64 plane = h->n * w->n, rows = k->rows + h->q, cols = k->cols + w->q;
    for (i64 c = c0; c < c1; c++)
        for (i64 i = 0; i < h->t; i++)
            for (i64 j = 0; j < w->t; j++, X += k->images * rows * cols)
                fill(x + (k->b * g->C + c) * plane, g->C * plane, h->n, w->n, k->images, rows, cols,
                     i * h->d % h->s + h->s * k->r - h->p, h->s, j * w->d % w->s + w->s * k->c - w->p, w->s, X);
    memset(X, 0, 2 * VBYTES); /* read, and not used, by the last vectors */
}

static inline i64 phases_size(const geometry *g, i64 channels, i64 images, i64 rows, i64 cols) {
    return channels * g->h.t * g->w.t * images * (rows + g->h.q) * (cols + g->w.q);
}

/* Where tap (c, i, j) starts in that copy. */
static inline void phase_offsets(const geometry *g, const block *k, i64 *offset) {
    const axis *h = &g->h, *w = &g->w;
    i64 cols = k->cols + w->q, slot = k->images * (k->rows + h->q) * cols;
    for (i64 c = 0; c < g->Cg; c++)
        for (i64 i = 0; i < h->k; i++)
            for (i64 j = 0; j < w->k; j++)
                *offset++ = ((c * h->t + i % h->t) * w->t + j % w->t) * slot + i * h->d / h->s * cols + j * w->d / w->s;
}

/* dst[r][c] = src[h0 + sh r][w0 + sw c], 0 outside the H x W plane: `fill` for vectors. */
static inline void fill_vectors(const vec *src, i64 H, i64 W, i64 rows, i64 cols, i64 h0, i64 sh, i64 w0, i64 sw,
                                vec *dst) {
    for (i64 r = 0; r < rows; r++)
        for (i64 c = 0; c < cols; c++) {
            i64 h = h0 + sh * r, w = w0 + sw * c;
            *dst++ = h >= 0 && h < H && w >= 0 && w < W ? src[h * W + w] : (vec){0};
        }
}

/* ------------------------------------------------------------------ spots */

/* A vector of positions: x is where its lanes start in the copy; its lanes go to y, y + 1, ... when y >= 0, else lane l
 * to lane[l], or nowhere when that is negative. */
typedef struct {
    i64 x, y;
} spot;

static inline i64 spots_bound(i64 images, i64 rows, i64 cols, i64 x_row) {
    return images * (rows * (most(cols, x_row) / VL + 1) + 1);
}

/* Cover images x rows x cols positions. Position (image, r, c) is x0 + image x_image + r x_row + c in the copy and
 * y0 + image y_image + r y_row + c y_col in the result. overlap: a position may be covered twice. Returns the number of
 * spots. */
static inline i64 make_spots(i64 images, i64 rows, i64 cols, i64 x0, i64 x_row, i64 x_image, i64 y0, i64 y_row,
                             i64 y_col, i64 y_image, int overlap, spot *spots, i64 *lanes) {
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

/* ------------------------------------------------------------------ the three sums, by algorithm */

enum { CONV_AUTOMATIC, CONV_DIRECT, CONV_WINOGRAD, CONV_WINOGRAD_SMALL, CONV_PRODUCT, CONV_DEPTHWISE };

/* y = bias + collect(x), dx = bias + spread(dy), dweight (+)= correlate(dy, x), see refimpl/ops/conv.py. bias may be
 * NULL. They return RI_OK or RI_NOMEM. */
int RI_INTERNAL(conv_direct_collect)(const geometry *g, const real *x, const real *weight, const real *bias, real *y,
                                     int threads);
int RI_INTERNAL(conv_direct_spread)(const geometry *g, const real *dy, const real *weight, const real *bias, real *dx,
                                    int threads);
int RI_INTERNAL(conv_direct_correlate)(const geometry *g, const real *dy, const real *x, real *dweight, int accumulate,
                                       int threads);

/* The same for one channel of the picture for each of the map, where conv_depthwise_possible. */
int RI_INTERNAL(conv_depthwise_possible)(const geometry *g);
int RI_INTERNAL(conv_depthwise_collect)(const geometry *g, const real *x, const real *weight, const real *bias, real *y,
                                        int threads);
int RI_INTERNAL(conv_depthwise_spread)(const geometry *g, const real *dy, const real *weight, const real *bias,
                                       real *dx, int threads);
int RI_INTERNAL(conv_depthwise_correlate)(const geometry *g, const real *dy, const real *x, real *dweight,
                                          int accumulate, int threads);

/* What Winograd's algorithm costs in multiply-adds for each pair of channels when the sum has a result for rows x cols
 * positions; negative where it does not apply: it may not be called then. */
double RI_INTERNAL(conv_winograd_cost)(const geometry *g, int algorithm, i64 rows, i64 cols);
int RI_INTERNAL(conv_winograd_collect)(const geometry *g, const real *x, const real *weight, const real *bias, real *y,
                                       int algorithm, i64 tiles, int threads);
int RI_INTERNAL(conv_winograd_spread)(const geometry *g, const real *dy, const real *weight, const real *bias, real *dx,
                                      int algorithm, i64 tiles, int threads);
int RI_INTERNAL(conv_winograd_correlate)(const geometry *g, const real *dy, const real *x, real *dweight,
                                         int accumulate, int algorithm, i64 tiles, int threads);

#endif
