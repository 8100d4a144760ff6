/* conv_winograd.c - convolutions by Winograd's minimal filtering (Lavin and Gray, "Fast algorithms for convolutional
 * neural networks", 2016), for kernels of 3 x 3, 5 x 5, 1 x 3 and 1 x 5 with stride 1; dilated ones by their phases.
 *
 * The map is cut into tiles. Windows of the picture and kernels are transformed (V, U), tiles are products at each of
 * the n x n points, M[xi] = U[xi] V[xi] summed over the channels, and a last transform gives the tile. 4 x 4 results of
 * 3 x 3 taps need 36 products instead of 144, 2 x 2 of 5 x 5 taps 36 instead of 100.
 *
 *     for each block of some 112 tiles              V of all channels is made once, lanes = channels of the picture
 *       for 2 vectors of channels of the map        M stays in L2, lanes = channels of the map
 *         for 64 channels of the picture            U is made where it is used and never stored in whole
 *           for each point xi                       14 tiles x 2 vectors:  M[t][o] += V[t][c] U[c][o]
 *
 * Roofline: 16 loads per 28 multiply-adds in the inner loop; transforms cost about 12 multiply-adds for each point and
 * channel of a tile, which 64 channels on the other side make a fifth of the whole. V is read from L2 or L3 once for 2
 * vectors of channels, 4 bytes a cycle. Images have channels first in memory, so that planes are turned round on the
 * way in and out, in registers. Where tiles are few, making U is the limit: the direct sum is chosen then.
 *
 * An element is one thread's, its channels are added in order, and the weight gradient's parts depend on the shape
 * alone: results do not depend on the number of threads.
 */
#include "conv_internal.h"

/* ------------------------------------------------------------------ the transforms of one axis
 *
 * m outputs of a kernel of r taps need the n = m + r - 1 products of two polynomials' values at n points: 0, 1, -1 and
 * infinity for n = 4; those, 2 and -2 for n = 6:
 *
 *     y = A^T [(G g) * (B^T d)],   A^T: m x n,  G: n x r,  B^T: n x n
 *
 * Column j of A^T holds the powers of point j (infinity: the last unit vector), row j of G the same powers over N_j =
 * product of (a_j - a_l), l != j, and row j of B^T the coefficients of the polynomial product of (x - a_l), l != j.
 * n = 1 stands for an axis without taps. */

#define INLINE static inline __attribute__((always_inline))

/* out = B^T d; d's elements lie s apart */
INLINE void window_in(const int n, const vec *d, i64 s, vec *out, const int t) {
    if (n == 1) {
        out[0] = d[0];
    } else if (n == 4) {
        vec d0 = d[0], d1 = d[s], d2 = d[2 * s], d3 = d[3 * s];
        out[0] = d0 - d2;
        out[t] = d2 + d1;
        out[2 * t] = d2 - d1;
        out[3 * t] = d3 - d1;
    } else {
        vec d0 = d[0], d1 = d[s], d2 = d[2 * s], d3 = d[3 * s], d4 = d[4 * s], d5 = d[5 * s];
        vec even = d4 - R(4.0) * d2, odd = d3 - R(4.0) * d1;
        out[0] = R(4.0) * d0 + (d4 - R(5.0) * d2);
        out[t] = even + odd;
        out[2 * t] = even - odd;
        even = d4 - d2, odd = d3 - d1;
        out[3 * t] = even + R(2.0) * odd;
        out[4 * t] = even - R(2.0) * odd;
        out[5 * t] = R(4.0) * d1 + (d5 - R(5.0) * d3);
    }
}

/* out = G g */
INLINE void kernel_in(const int n, const int r, const vec *g, const int s, vec *out, i64 t) {
    if (n == 1) {
        out[0] = g[0];
        return;
    }
    vec even = g[0] + g[2 * s], odd = g[s];
    if (r == 5) even += g[4 * s], odd += g[3 * s];
    out[(n - 1) * t] = g[(r - 1) * s];
    if (n == 4) {
        out[0] = g[0];
        out[t] = R(0.5) * (even + odd);
        out[2 * t] = R(0.5) * (even - odd);
        return;
    }
    const real sixth = R(1.0) / R(6.0), small = R(1.0) / R(24.0);
    out[0] = R(0.25) * g[0];
    out[t] = -sixth * (even + odd);
    out[2 * t] = -sixth * (even - odd);
    even = g[0] + R(4.0) * g[2 * s], odd = R(2.0) * g[s];
    if (r == 5) even += R(16.0) * g[4 * s], odd += R(8.0) * g[3 * s];
    out[3 * t] = small * (even + odd);
    out[4 * t] = small * (even - odd);
}

/* out = A^T y */
INLINE void window_out(const int n, const int m, const vec *y, i64 s, vec *out, const int t) {
    if (n == 1) {
        out[0] = y[0];
        return;
    }
    vec sum = y[s] + y[2 * s], difference = y[s] - y[2 * s];
    if (n == 4) {
        out[0] = y[0] + sum;
        out[t] = difference + y[3 * s];
        return;
    }
    vec sum2 = y[3 * s] + y[4 * s], difference2 = y[3 * s] - y[4 * s];
    out[0] = y[0] + sum + sum2;
    out[t] = difference + R(2.0) * difference2;
    if (m == 4) {
        out[2 * t] = sum + R(4.0) * sum2;
        out[3 * t] = difference + R(8.0) * difference2;
    }
    out[(m - 1) * t] += y[5 * s];
}

/* out = A y, the transpose of window_out */
INLINE void window_back(const int n, const int m, const vec *y, i64 s, vec *out, i64 t) {
    out[0] = y[0];
    if (n == 1) return;
    vec even = y[0], odd = y[s];
    if (m == 4) even += y[2 * s], odd += y[3 * s];
    out[t] = even + odd;
    out[2 * t] = even - odd;
    out[(n - 1) * t] = y[(m - 1) * s];
    if (n == 4) return;
    even = y[0], odd = R(2.0) * y[s];
    if (m == 4) even += R(4.0) * y[2 * s], odd += R(8.0) * y[3 * s];
    out[3 * t] = even + odd;
    out[4 * t] = even - odd;
}

/* out = G^T u, the transpose of kernel_in */
INLINE void kernel_back(const int n, const int r, const vec *u, i64 s, vec *out, i64 t) {
    if (n == 1) {
        out[0] = u[0];
        return;
    }
    vec sum = u[s] + u[2 * s], difference = u[s] - u[2 * s];
    if (n == 4) {
        out[0] = u[0] + R(0.5) * sum;
        out[t] = R(0.5) * difference;
        out[2 * t] = R(0.5) * sum + u[3 * s];
        return;
    }
    const real sixth = R(1.0) / R(6.0), small = R(1.0) / R(24.0);
    vec sum2 = small * (u[3 * s] + u[4 * s]), difference2 = small * (u[3 * s] - u[4 * s]);
    sum *= -sixth, difference *= -sixth;
    out[0] = R(0.25) * u[0] + (sum + sum2);
    out[t] = difference + R(2.0) * difference2;
    out[2 * t] = sum + R(4.0) * sum2;
    if (r == 5) {
        out[3 * t] = difference + R(8.0) * difference2;
        out[4 * t] = sum + R(16.0) * sum2;
    }
    out[(r - 1) * t] += u[5 * s];
}

/* A kind of tile: n x n products for m x m outputs of r x r taps. */
typedef struct {
    i64 nh, mh, rh, nw, mw, rw;
    /* V[xi] = B^T d B for the window d, rows `row` and columns `col` apart; V[xi] lie `step` vectors apart */
    void (*input)(const vec *d, i64 row, i64 col, vec *V, i64 step);
    /* U[xi] = G g G^T for the kernel g, taps in rows (the last first where `flip` is set) */
    void (*weight)(const vec *g, int flip, vec *U, i64 step);
    /* y = A^T M A + bias, rows `row` and columns `col` apart, the first rows and columns of them */
    void (*output)(const vec *M, i64 step, vec bias, i64 rows, i64 cols, vec *y, i64 row, i64 col);
    /* for the weight gradient: D[xi] = A y A^T and g = G^T U G */
    void (*scatter)(const vec *y, i64 row, i64 col, vec *D, i64 step);
    void (*gather)(const vec *U, i64 step, vec *g);
} kind;

#define KIND(NAME, NH, MH, RH, NW, MW, RW)                                                                            \
    static void input_##NAME(const vec *d, i64 row, i64 col, vec *V, i64 step) {                                      \
        vec t[NH * NW], v[NH];                                                                                        \
        _Pragma("GCC unroll 6") for (int i = 0; i < NH; i++) window_in(NW, d + i * row, col, t + i * NW, 1);          \
        _Pragma("GCC unroll 6") for (int j = 0; j < NW; j++) {                                                        \
            window_in(NH, t + j, NW, v, 1);                                                                           \
            _Pragma("GCC unroll 6") for (int i = 0; i < NH; i++) V[(i * NW + j) * step] = v[i];                       \
        }                                                                                                             \
    }                                                                                                                 \
    static void weight_##NAME(const vec *g, int flip, vec *U, i64 step) {                                             \
        vec t[NH * RW], f[RH * RW];                                                                                   \
        for (int k = 0; k < RH * RW; k++) f[k] = g[flip ? RH * RW - 1 - k : k];                                       \
        _Pragma("GCC unroll 6") for (int j = 0; j < RW; j++) kernel_in(NH, RH, f + j, RW, t + j, RW);                 \
        _Pragma("GCC unroll 6") for (int i = 0; i < NH; i++)                                                          \
            kernel_in(NW, RW, t + i * RW, 1, U + i * NW * step, step);                                                \
    }                                                                                                                 \
    static void output_##NAME(const vec *M, i64 step, vec bias, i64 rows, i64 cols, vec *y, i64 row, i64 col) {       \
        vec t[MH * NW], out[MH * MW];                                                                                 \
        _Pragma("GCC unroll 6") for (int j = 0; j < NW; j++) window_out(NH, MH, M + j * step, NW * step, t + j, NW);  \
        _Pragma("GCC unroll 6") for (int i = 0; i < MH; i++) window_out(NW, MW, t + i * NW, 1, out + i * MW, 1);      \
        if (rows == MH && cols == MW) {                                                                               \
            _Pragma("GCC unroll 4") for (int i = 0; i < MH; i++) _Pragma("GCC unroll 4") for (int j = 0; j < MW; j++) \
                y[i * row + j * col] = out[i * MW + j] + bias;                                                        \
        } else {                                                                                                      \
            for (i64 i = 0; i < rows; i++)                                                                            \
                for (i64 j = 0; j < cols; j++) y[i * row + j * col] = out[i * MW + j] + bias;                         \
        }                                                                                                             \
    }                                                                                                                 \
    static void scatter_##NAME(const vec *y, i64 row, i64 col, vec *D, i64 step) {                                    \
        vec t[MH * NW], v[NH];                                                                                        \
        _Pragma("GCC unroll 6") for (int i = 0; i < MH; i++) window_back(NW, MW, y + i * row, col, t + i * NW, 1);    \
        _Pragma("GCC unroll 6") for (int j = 0; j < NW; j++) {                                                        \
            window_back(NH, MH, t + j, NW, v, 1);                                                                     \
            _Pragma("GCC unroll 6") for (int i = 0; i < NH; i++) D[(i * NW + j) * step] = v[i];                       \
        }                                                                                                             \
    }                                                                                                                 \
    static void gather_##NAME(const vec *U, i64 step, vec *g) {                                                       \
        vec t[RH * NW];                                                                                               \
        _Pragma("GCC unroll 6") for (int j = 0; j < NW; j++) kernel_back(NH, RH, U + j * step, NW * step, t + j, NW); \
        _Pragma("GCC unroll 6") for (int i = 0; i < RH; i++) kernel_back(NW, RW, t + i * NW, 1, g + i * RW, 1);       \
    }

KIND(4x4_3x3, 6, 4, 3, 6, 4, 3)
KIND(2x2_3x3, 4, 2, 3, 4, 2, 3)
KIND(2x2_5x5, 6, 2, 5, 6, 2, 5)
KIND(4_3, 1, 1, 1, 6, 4, 3)
KIND(2_5, 1, 1, 1, 6, 2, 5)
#define ENTRY(NAME, ...) {__VA_ARGS__, input_##NAME, weight_##NAME, output_##NAME, scatter_##NAME, gather_##NAME}
static const kind kinds[] = {ENTRY(4x4_3x3, 6, 4, 3, 6, 4, 3), ENTRY(2x2_3x3, 4, 2, 3, 4, 2, 3),
                             ENTRY(2x2_5x5, 6, 2, 5, 6, 2, 5), ENTRY(4_3, 1, 1, 1, 6, 4, 3),
                             ENTRY(2_5, 1, 1, 1, 6, 2, 5)};
enum { MOST_POINTS = 36 };

/* ------------------------------------------------------------------ the products */

/* M[t][o] = (add ? M : 0) + sum over k of V[k / VL][t][k % VL] U[k][o] for R tiles t and V vectors of channels o. */
#define TILES(R, V)                                                                                                \
    static void tiles_##R##_##V(const real *X, i64 panel, i64 K, const real *U, int add, real *M) {                \
        vec acc[R][V];                                                                                             \
        _Pragma("GCC unroll 14") for (int r = 0; r < R; r++) _Pragma("GCC unroll 2") for (int v = 0; v < V; v++)   \
            acc[r][v] = add ? *(const vec *)(M + (2 * r + v) * VL) : (vec){0};                                     \
        for (i64 k0 = 0; k0 < K; k0 += VL, X += panel) {                                                           \
            i64 lanes = least(VL, K - k0);                                                                         \
            for (i64 l = 0; l < lanes; l++, U += 2 * VL) {                                                         \
                vec u[V];                                                                                          \
                _Pragma("GCC unroll 2") for (int v = 0; v < V; v++) u[v] = *(const vec *)(U + v * VL);             \
                _Pragma("GCC unroll 14") for (int r = 0; r < R; r++)                                               \
                    _Pragma("GCC unroll 2") for (int v = 0; v < V; v++) acc[r][v] += X[r * VL + l] * u[v];         \
            }                                                                                                      \
        }                                                                                                          \
        _Pragma("GCC unroll 14") for (int r = 0; r < R; r++) _Pragma("GCC unroll 2") for (int v = 0; v < V; v++) * \
            (vec *)(M + (2 * r + v) * VL) = acc[r][v];                                                             \
    }
#define BOTH(R) TILES(R, 1) TILES(R, 2)
#if VBYTES == 64
#define MOST_TILES 14
#else
#define MOST_TILES 6
#endif
/* clang-format off */
BOTH(1) BOTH(2) BOTH(3) BOTH(4) BOTH(5) BOTH(6)
#if MOST_TILES > 6
BOTH(7) BOTH(8) BOTH(9) BOTH(10) BOTH(11) BOTH(12) BOTH(13) BOTH(14)
#endif
typedef void tiles(const real *X, i64 panel, i64 K, const real *U, int add, real *M);
#define TILES_ENTRY(R) {tiles_##R##_1, tiles_##R##_2}
static tiles *const products[MOST_TILES][2] = {
    TILES_ENTRY(1), TILES_ENTRY(2), TILES_ENTRY(3), TILES_ENTRY(4), TILES_ENTRY(5), TILES_ENTRY(6),
#if MOST_TILES > 6
    TILES_ENTRY(7), TILES_ENTRY(8), TILES_ENTRY(9), TILES_ENTRY(10), TILES_ENTRY(11), TILES_ENTRY(12),
    TILES_ENTRY(13), TILES_ENTRY(14),
#endif
};
/* clang-format on */

/* ------------------------------------------------------------------ blocks of tiles */

enum { DEPTH = 64 }; /* input channels whose transformed weights are held at a time */

/* Collect and spread are the same sum here: spread takes the kernel's taps in reverse order. */
typedef struct {
    const kind *k;
    const real *in, *weight, *bias;
    real *out;
    i64 B, N, M, H, W, OH, OW; /* images, channels and planes of input and output */
    i64 ph, pw, dh, dw;        /* position (r, c) sees the input at (r - ph + dh i, c - pw + dw j) */
    i64 w_in, w_out;           /* between channels in the weight */
    int flip;
    i64 per_h, per_w;  /* tiles of a phase of the dilation */
    i64 rows, cols;    /* tiles of an image */
    i64 lines, width;  /* of a block: rows of tiles (of all images, one after the other), tiles of a row */
    i64 nl, nc, parts; /* blocks, parts of the output channels */
} winograd_job;

static const kind *kind_of(const geometry *g, int algorithm) {
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (kinds[i].rh == g->h.k && kinds[i].rw == g->w.k && (algorithm == CONV_WINOGRAD_SMALL) == (kinds[i].nw == 4))
            return kinds + i;
    return NULL;
}

/* The job of y = collect(x) + bias. */
static winograd_job collect_job(const geometry *g, const real *x, const real *weight, const real *bias, real *y,
                                int algorithm) {
    return (winograd_job){.k = kind_of(g, algorithm),
                          .in = x,
                          .weight = weight,
                          .bias = bias,
                          .out = y,
                          .B = g->B,
                          .N = g->C,
                          .M = g->O,
                          .H = g->h.n,
                          .W = g->w.n,
                          .OH = g->h.m,
                          .OW = g->w.m,
                          .ph = g->h.p,
                          .pw = g->w.p,
                          .dh = g->h.k == 1 ? 1 : g->h.d,
                          .dw = g->w.d,
                          .w_in = g->h.k * g->w.k,
                          .w_out = g->K};
}

/* Count tiles and cut them into blocks of about `tiles`. */
static void choose_tiles(winograd_job *job, i64 tiles) {
    const kind *k = job->k;
    job->per_h = parts(parts(job->OH, job->dh), k->mh), job->per_w = parts(parts(job->OW, job->dw), k->mw);
    job->rows = least(job->dh, job->OH) * job->per_h, job->cols = least(job->dw, job->OW) * job->per_w;
    if (job->dw > 1) tiles = most(tiles, job->cols); /* the phases of a row are written together */
    job->width = parts(job->cols, parts(job->cols, tiles));
    job->lines = job->width < job->cols ? 1 : most(1, least(tiles / job->width, job->B * job->rows));
    job->nc = parts(job->cols, job->width);
    job->nl = parts(job->B * job->rows, job->lines);
}

/* Rows of tiles [r0, r1) and columns [c0, c1) of image b. */
typedef struct {
    i64 b, r0, r1, c0, c1;
} segment;

static i64 first_row(const winograd_job *job, i64 r) {
    return r / job->per_h + r % job->per_h * job->k->mh * job->dh;
}
static i64 first_col(const winograd_job *job, i64 c) {
    return c / job->per_w + c % job->per_w * job->k->mw * job->dw;
}

/* How many of the m positions first, first + d, ... lie below n. */
static i64 inside(i64 first, i64 d, i64 m, i64 n) {
    return first < n ? least(m, parts(n - first, d)) : 0;
}

/* Windows of nh x nw elements, one for each tile of a segment, are read from channels [c, c + VL) of a tensor of images
 * and transformed. (0, 0) of the job's output lies at (ph, pw) of it; transformed windows go to V, V + tile, ... */
typedef struct {
    const real *in;
    i64 channels, H, W, ph, pw, nh, nw;
    void (*transform)(const vec *d, i64 row, i64 col, vec *V, i64 step);
} source;

static void transform_windows(const winograd_job *job, const source *from, const segment *s, i64 c, vec *plane, vec *V,
                              i64 tile, i64 step) {
    i64 h0 = job->OH, h1 = 0, w0 = job->OW, w1 = 0; /* what the segment sees */
    for (i64 r = s->r0; r < s->r1; r++)
        h0 = least(h0, first_row(job, r)), h1 = most(h1, first_row(job, r) + (from->nh - 1) * job->dh + 1);
    for (i64 q = s->c0; q < s->c1; q++)
        w0 = least(w0, first_col(job, q)), w1 = most(w1, first_col(job, q) + (from->nw - 1) * job->dw + 1);
    h0 = most(h0 - from->ph, 0), h1 = least(h1 - from->ph, from->H);
    w0 = most(w0 - from->pw, 0), w1 = least(w1 - from->pw, from->W);
    if (s->r1 - s->r0 > 1) w0 = 0, w1 = from->W;
    i64 cols = w1 - w0, area = from->H * from->W, channels = least(VL, from->channels - c);
    const real *in = from->in + (s->b * from->channels + c) * area + h0 * from->W + w0;
    if (cols == from->W && h1 > h0)
        to_lanes(in, area, channels, (h1 - h0) * cols, (real *)plane, VL);
    else if (cols > 0)
        for (i64 h = h0; h < h1; h++)
            to_lanes(in + (h - h0) * from->W, area, channels, cols, (real *)(plane + (h - h0) * cols), VL);
    for (i64 r = s->r0; r < s->r1; r++)
        for (i64 q = s->c0; q < s->c1; q++, V += tile) {
            i64 h = first_row(job, r) - from->ph, w = first_col(job, q) - from->pw;
            i64 h_end = h + (from->nh - 1) * job->dh, w_end = w + (from->nw - 1) * job->dw;
            if (h >= h0 && h_end < h1 && w >= w0 && w_end < w1) {
                from->transform(plane + (h - h0) * cols + w - w0, job->dh * cols, job->dw, V, step);
                continue;
            }
            vec d[MOST_POINTS];
            for (i64 i = 0; i < from->nh; i++)
                for (i64 j = 0; j < from->nw; j++) {
                    i64 y = h + i * job->dh, x = w + j * job->dw;
                    d[i * from->nw + j] =
                        y >= h0 && y < h1 && x >= w0 && x < w1 ? plane[(y - h0) * cols + x - w0] : (vec){0};
                }
            from->transform(d, from->nw, 1, V, step);
        }
}

static source input_of(const winograd_job *job) {
    return (source){job->in, job->N, job->H, job->W, job->ph, job->pw, job->k->nh, job->k->nw, job->k->input};
}

/* Output channels [o, o + VL) of a segment. */
static void transform_output(const winograd_job *job, const segment *s, i64 o, vec *plane, const vec *M, i64 step) {
    const kind *k = job->k;
    i64 channels = least(VL, job->M - o), area = job->OH * job->OW;
    vec bias = {0};
    if (job->bias) {
        real b[LANES] = {0};
        memcpy(b, job->bias + o, (size_t)channels * sizeof(real));
        memcpy(&bias, b, sizeof bias);
    }
    i64 h0 = job->OH, h1 = 0, w0 = 0, w1 = job->OW;
    for (i64 r = s->r0; r < s->r1; r++)
        h0 = least(h0, first_row(job, r)), h1 = most(h1, first_row(job, r) + (k->mh - 1) * job->dh + 1);
    h1 = least(h1, job->OH);
    int whole = s->c1 - s->c0 == job->cols;
    if (!whole) { /* one row of tiles */
        w0 = job->OW, w1 = 0;
        for (i64 q = s->c0; q < s->c1; q++)
            w0 = least(w0, first_col(job, q)), w1 = most(w1, first_col(job, q) + (k->mw - 1) * job->dw + 1);
        w1 = least(w1, job->OW);
    }
    i64 cols = w1 - w0;
    for (i64 r = s->r0; r < s->r1; r++)
        for (i64 q = s->c0; q < s->c1; q++, M += 2) {
            i64 h = first_row(job, r), w = first_col(job, q);
            i64 rows_in = inside(h, job->dh, k->mh, job->OH), cols_in = inside(w, job->dw, k->mw, job->OW);
            if (rows_in > 0 && cols_in > 0)
                k->output(M, step, bias, rows_in, cols_in, plane + (h - h0) * cols + w - w0, job->dh * cols, job->dw);
        }
    if (h1 <= h0 || cols <= 0) return;
    real *out = job->out + (s->b * job->M + o) * area + h0 * job->OW + w0;
    if (whole && job->dh == 1)
        from_lanes(plane, channels, (h1 - h0) * cols, out, area);
    else
        for (i64 r = s->r0; r < s->r1; r++) {
            i64 h = first_row(job, r), rows = inside(h, job->dh, k->mh, job->OH);
            for (i64 i = 0; i < rows; i++, h += job->dh)
                from_lanes(plane + (h - h0) * cols, channels, cols, out + (h - h0) * job->OW, area);
        }
}

/* dst[tap][lane] = src[lane][tap] for lanes `ss` apart; `room`: elements that may be read from src on. */
static void taps_to_lanes(const real *src, i64 ss, i64 rows, i64 taps, i64 room, real *dst) {
#ifdef HAVE_TRANSPOSE
    if (rows == VL && taps < VL && (VL - 1) * ss + VL <= room) {
        vec v[LANES];
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) v[i] = *(const loose *)(src + i * ss);
        transpose(v);
        for (i64 k = 0; k < taps; k++) *(vec *)(dst + k * VL) = v[k];
        return;
    }
#endif
    to_lanes(src, ss, rows, taps, dst, VL);
}

/* U of input channels [c, c + depth) and output channels [o, o + VL). */
static void transform_weight(const winograd_job *job, i64 c, i64 depth, i64 o, vec *g, vec *U, i64 step) {
    const kind *k = job->k;
    i64 taps = k->rh * k->rw, rows = least(VL, job->M - o), at = c * job->w_in + o * job->w_out;
    if (job->w_in == taps) /* a channel's kernels lie side by side */
        to_lanes(job->weight + at, job->w_out, rows, depth * taps, (real *)g, VL);
    else
        for (i64 n = 0; n < depth; n++, at += job->w_in)
            taps_to_lanes(job->weight + at, job->w_out, rows, taps, job->N * job->M * taps - at,
                          (real *)(g + n * taps));
    for (i64 n = 0; n < depth; n++) k->weight(g + n * taps, job->flip, U + n * 2, step);
}

static size_t plane_bytes(const winograd_job *job) {
    i64 rows =
        job->dh == 1 ? (job->lines - 1) * job->k->mh + job->k->nh : most(job->H, job->OH); /* that a block sees */
    return (size_t)most(least(rows, job->H) * job->W, least(rows, job->OH) * job->OW) * sizeof(vec);
}

static int winograd_items(const winograd_job *job, i64 lo, i64 hi) {
    const kind *k = job->k;
    i64 points = k->nh * k->nw, tiles = job->lines * job->width, panels = parts(job->N, VL);
    i64 depth = least(DEPTH, job->N), taps = k->rh * k->rw;
    /* Not multiples of 4 KiB apart, so that the points' streams do not meet in one set of the cache. */
    i64 v_step = panels * tiles + 1, m_step = 2 * tiles + 1, u_step = 2 * depth + 1;
    vec *V = ri_workspace(RI_WS_CONV, (size_t)(v_step * points) * sizeof(vec));
    vec *M = ri_workspace(RI_WS_OP, (size_t)((m_step + u_step) * points + depth * taps) * sizeof(vec));
    vec *plane = ri_workspace(RI_WS_GEMM_A, plane_bytes(job));
    if (!V || !M || !plane) return RI_NOMEM;
    vec *U = M + m_step * points, *g = U + u_step * points;
    source from = input_of(job);
    i64 o_part = parts(parts(job->M, 2 * VL), job->parts) * 2 * VL, last = -1;
    for (i64 item = lo; item < hi; item++) {
        i64 part = item % job->parts, index = item / job->parts;
        i64 l0 = index / job->nc * job->lines, l1 = least(l0 + job->lines, job->B * job->rows);
        i64 c0 = index % job->nc * job->width, c1 = least(c0 + job->width, job->cols), n = (l1 - l0) * (c1 - c0);
        segment s = {0, 0, 0, c0, c1};
        for (i64 l = l0; l < l1 && index != last; l += s.r1 - s.r0) {
            s.b = l / job->rows, s.r0 = l % job->rows, s.r1 = least(job->rows, s.r0 + l1 - l);
            for (i64 p = 0; p < panels; p++)
                transform_windows(job, &from, &s, p * VL, plane, V + p * n + (l - l0) * (c1 - c0), 1, v_step);
        }
        last = index;
        for (i64 o = part * o_part; o < least((part + 1) * o_part, job->M); o += 2 * VL) {
            int two = job->M - o > VL;
            for (i64 c = 0; c < job->N; c += depth) {
                i64 cs = least(depth, job->N - c);
                for (int v = 0; v <= two; v++) transform_weight(job, c, cs, o + v * VL, g, U + v, u_step);
                for (i64 xi = 0; xi < points; xi++) {
                    i64 pieces = parts(n, MOST_TILES);
                    for (i64 piece = 0; piece < pieces; piece++) {
                        i64 t0, t1;
                        ri_share(n, 1, (int)piece, (int)pieces, &t0, &t1);
                        products[t1 - t0 - 1][two]((const real *)(V + xi * v_step + c / VL * n + t0), n * VL, cs,
                                                   (const real *)(U + xi * u_step), c > 0,
                                                   (real *)(M + xi * m_step + 2 * t0));
                    }
                }
            }
            for (i64 l = l0; l < l1; l += s.r1 - s.r0) {
                s.b = l / job->rows, s.r0 = l % job->rows, s.r1 = least(job->rows, s.r0 + l1 - l);
                for (int v = 0; v <= two; v++)
                    transform_output(job, &s, o + v * VL, plane, M + (l - l0) * (c1 - c0) * 2 + v, m_step);
            }
        }
    }
    return RI_OK;
}

static int winograd(winograd_job *job, i64 tiles, int team) {
    i64 points = job->k->nh * job->k->nw, lines;
    if (!tiles) tiles = most(28, least(112, ((i64)8 << 20) / (points * parts(job->N, VL) * VBYTES)));
    choose_tiles(job, tiles);
    lines = job->B * job->rows;
    if (job->nl * job->nc % team) {
        i64 more = parts(job->nl * job->nc, team) * team, each = parts(lines, parts(more, job->nc));
        if (each * job->width >= 24) job->lines = each;
    }
    job->lines = parts(lines, parts(lines, job->lines));
    job->nl = parts(lines, job->lines);
    i64 items = job->nl * job->nc;
    job->parts = items % team == 0 || items > 4 * team ? 1 : least(team, parts(job->M, 2 * VL));
    items *= job->parts;
    int status = RI_OK;
    SHARE(winograd_items, job, items, team, status);
    return status;
}

/* ------------------------------------------------------------------ the weight gradient
 *
 * The transpose of the same: U[xi] = sum over tiles of V[xi] D[xi]^T with D = A dy A^T, and dweight = G^T U G. */

#if VBYTES == 64
enum { ROWS = LANES < 8 ? LANES : 8 };
#else
enum { ROWS = LANES < 4 ? LANES : 4 };
#endif

/* P[c][o] = (add ? P : 0) + sum over n tiles of V[t][c] D[t][o] for ROWS channels c. */
static void outer_tile(const real *V, const real *D, i64 n, int add, real *P) {
    vec acc[ROWS][2];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
        acc[r][0] = add ? *(const vec *)(P + 2 * r * VL) : (vec){0};
        acc[r][1] = add ? *(const vec *)(P + (2 * r + 1) * VL) : (vec){0};
    }
    for (i64 t = 0; t < n; t++, V += VL, D += 2 * VL) {
        vec d0 = *(const vec *)D, d1 = *(const vec *)(D + VL);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            acc[r][0] += V[r] * d0;
            acc[r][1] += V[r] * d1;
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
        *(vec *)(P + 2 * r * VL) = acc[r][0];
        *(vec *)(P + (2 * r + 1) * VL) = acc[r][1];
    }
}

typedef struct {
    winograd_job job; /* its input is x, its output dy's extent */
    const real *dy;
    real *dweight, *partial; /* partial: [chunk][o][c][tap], where there are several chunks */
    int accumulate;
    i64 chunks, c_part, o_part;
} gradient_job;

static int gradient_items(const gradient_job *all, i64 lo, i64 hi) {
    const winograd_job *job = &all->job;
    const kind *k = job->k;
    i64 points = k->nh * k->nw, taps = k->rh * k->rw, tiles = job->lines * job->width;
    i64 panels = parts(least(all->c_part, job->N), VL), slivers = parts(least(all->o_part, job->M), 2 * VL);
    i64 v_step = panels * tiles + 1, d_step = 2 * slivers * tiles + 1, p_step = 2 * slivers * panels * VL + 1;
    vec *V = ri_workspace(RI_WS_CONV, (size_t)((v_step + d_step) * points) * sizeof(vec));
    vec *P = ri_workspace(RI_WS_OP, (size_t)(p_step * points + panels * VL * taps) * sizeof(vec));
    vec *plane = ri_workspace(RI_WS_GEMM_A, plane_bytes(job));
    if (!V || !P || !plane) return RI_NOMEM;
    vec *D = V + v_step * points, *g = P + p_step * points;
    source x = input_of(job), dy = {all->dy, job->M, job->OH, job->OW, 0, 0, k->mh, k->mw, k->scatter};
    i64 c_parts = parts(job->N, all->c_part), o_parts = parts(job->M, all->o_part), blocks = job->nl * job->nc;
    for (i64 item = lo; item < hi; item++) {
        i64 chunk = item / c_parts / o_parts, c0 = item / o_parts % c_parts * all->c_part;
        i64 o0 = item % o_parts * all->o_part, cs = least(all->c_part, job->N - c0),
            os = least(all->o_part, job->M - o0);
        i64 first, end;
        ri_share(blocks, 1, (int)chunk, (int)all->chunks, &first, &end);
        for (i64 index = first; index < end; index++) {
            i64 l0 = index / job->nc * job->lines, l1 = least(l0 + job->lines, job->B * job->rows);
            i64 q0 = index % job->nc * job->width, q1 = least(q0 + job->width, job->cols), n = (l1 - l0) * (q1 - q0);
            segment s = {0, 0, 0, q0, q1};
            for (i64 l = l0; l < l1; l += s.r1 - s.r0) {
                i64 at = (l - l0) * (q1 - q0);
                s.b = l / job->rows, s.r0 = l % job->rows, s.r1 = least(job->rows, s.r0 + l1 - l);
                for (i64 c = 0; c < cs; c += VL)
                    transform_windows(job, &x, &s, c0 + c, plane, V + c / VL * n + at, 1, v_step);
                for (i64 o = 0; o < os; o += VL)
                    transform_windows(job, &dy, &s, o0 + o, plane, D + o / (2 * VL) * 2 * n + 2 * at + o / VL % 2, 2,
                                      d_step);
            }
            for (i64 xi = 0; xi < points; xi++)
                for (i64 o = 0; o < os; o += 2 * VL)
                    for (i64 c = 0; c < cs; c += ROWS)
                        outer_tile((const real *)(V + xi * v_step + c / VL * n) + c % VL,
                                   (const real *)(D + xi * d_step + o / VL * n), n, index > first,
                                   (real *)(P + xi * p_step + o / VL * panels * VL + 2 * c));
        }
        real *to = all->chunks > 1 ? all->partial + chunk * job->M * job->N * taps : all->dweight;
        int add = all->accumulate && all->chunks == 1;
        for (i64 o = 0; o < os; o += VL) {
            i64 rows = least(VL, os - o);
            real *out = to + ((o0 + o) * job->N + c0) * taps;
            for (i64 c = 0; c < cs; c++)
                k->gather(P + o / (2 * VL) * 2 * panels * VL + 2 * c + o / VL % 2, p_step, g + c * taps);
            if (add) {
                vec *old = V;
                to_lanes(out, job->N * taps, rows, cs * taps, (real *)old, VL);
                for (i64 i = 0; i < cs * taps; i++) g[i] += old[i];
            }
            from_lanes(g, rows, cs * taps, out, job->N * taps);
        }
    }
    return RI_OK;
}

int RI_INTERNAL(conv_winograd_correlate)(const geometry *g, const real *dy, const real *x, real *dweight,
                                         int accumulate, int algorithm, i64 tiles, int threads) {
    gradient_job all = {.job = collect_job(g, x, NULL, NULL, NULL, algorithm),
                        .dy = dy,
                        .dweight = dweight,
                        .accumulate = accumulate,
                        .c_part = 128,
                        .o_part = 256};
    winograd_job *job = &all.job;
    i64 size = g->O * g->K;
    choose_tiles(job, tiles ? tiles : 96);
    i64 lines = job->B * job->rows, items = parts(g->C, all.c_part) * parts(g->O, all.o_part);
    /* Some chunks of the tiles, a power of two, so that several threads have as much to do; blocks that fill them. */
    i64 total = lines * job->cols;
    i64 most_chunks = least(parts(8, items), most(total / 192, least(2, total / 28)));
    for (all.chunks = 1; all.chunks * 2 <= most_chunks;) all.chunks *= 2;
    if (job->nc == 1) {
        i64 blocks = parts(parts(lines, job->lines), all.chunks) * all.chunks;
        job->lines = parts(lines, blocks);
        job->nl = parts(lines, job->lines);
    }
    all.chunks = least(all.chunks, job->nl * job->nc);
    if (all.chunks > 1) {
        all.partial = ri_workspace(RI_WS_OP2, (size_t)(all.chunks * size) * sizeof(real));
        if (!all.partial) return RI_NOMEM;
    }
    items *= all.chunks;
    int team = team_for(g, threads), status = RI_OK;
    SHARE(gradient_items, &all, items, team, status);
    if (status || all.chunks == 1) return status;
#pragma omp parallel for schedule(static) num_threads(team) if (team > 1)
    for (i64 i = 0; i < size; i++) {
        real sum = all.partial[i];
        for (i64 chunk = 1; chunk < all.chunks; chunk++) sum += all.partial[chunk * size + i];
        dweight[i] = accumulate ? dweight[i] + sum : sum;
    }
    return RI_OK;
}

double RI_INTERNAL(conv_winograd_cost)(const geometry *g, int algorithm, i64 rows, i64 cols) {
    const kind *k = kind_of(g, algorithm);
    if (!k || g->h.s > 1 || g->w.s > 1 || g->G > 1 || (g->w.d > 1 && (g->w.m > 512 || g->w.n > 512))) return -1;
    double dh = (double)least(g->h.k == 1 ? 1 : g->h.d, rows), dw = (double)least(g->w.d, cols);
    double tiles = (double)g->B * dh * dw * (double)parts(parts(rows, g->h.k == 1 ? 1 : g->h.d), k->mh) *
                   (double)parts(parts(cols, g->w.d), k->mw);
    /* Channels in whole vectors; transforming a tile of the input, the result and the weights, in multiply-adds. */
    double n = (double)(parts(g->C, VL) * VL), m = (double)(parts(g->O, VL) * VL), points = (double)(k->nh * k->nw);
    double products = tiles * points * n * m / (double)(g->C * g->O);
    return 1.1 * products + tiles * points * 12.0 * (1.0 / (double)g->C + 1.0 / (double)g->O) + 6.0 * points;
}

int RI_INTERNAL(conv_winograd_collect)(const geometry *g, const real *x, const real *weight, const real *bias, real *y,
                                       int algorithm, i64 tiles, int threads) {
    if (g->B == 0) return RI_OK;
    winograd_job job = collect_job(g, x, weight, bias, y, algorithm);
    return winograd(&job, tiles, team_for(g, threads));
}

int RI_INTERNAL(conv_winograd_spread)(const geometry *g, const real *dy, const real *weight, const real *bias, real *dx,
                                      int algorithm, i64 tiles, int threads) {
    if (g->B == 0) return RI_OK;
    winograd_job job = {.k = kind_of(g, algorithm),
                        .in = dy,
                        .weight = weight,
                        .bias = bias,
                        .out = dx,
                        .B = g->B,
                        .N = g->O,
                        .M = g->C,
                        .H = g->h.m,
                        .W = g->w.m,
                        .OH = g->h.n,
                        .OW = g->w.n,
                        .ph = (g->h.k - 1) * g->h.d - g->h.p,
                        .pw = (g->w.k - 1) * g->w.d - g->w.p,
                        .dh = g->h.k == 1 ? 1 : g->h.d,
                        .dw = g->w.d,
                        .w_in = g->K,
                        .w_out = g->h.k * g->w.k,
                        .flip = 1};
    return winograd(&job, tiles, team_for(g, threads));
}
