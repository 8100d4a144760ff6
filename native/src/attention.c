/* attention.c - softmax(scale q k^T + mask) v and its gradients. Mirror of refimpl/ops/attention.py.
 *
 * Roofline: 2 T S (D + E) flops a head forward and 5 products of that kind backward, on T (D + E) + S (D + E) numbers:
 * bound by the FMA units, provided that the T x S scores never leave the cache. So they are made a tile at a time.
 *
 * Forward (online softmax): the lanes of a vector are queries. For a tile of queries, packed as q^T (D x W) once, the
 * scores of a tile of keys are S^T = k q^T; maximum and sum over the keys are then sums of whole vectors, and
 * y^T += v^T P^T follows with v as it lies in memory. Each tile may raise the maximum m; what was summed before is
 * scaled by exp(m_old - m_new). Milakov and Gimelshein, 2018; Dao et al., "FlashAttention", 2022.
 *
 * Backward: the lanes are keys. For a tile of keys (k^T, v^T, k packed once) and a block of queries, P = exp(s - lse)
 * is made again, dP = dy v^T, dS = P (dP - delta), and then dv^T += dy^T P, dk^T += q^T dS, dq += dS k. With enough
 * (batch, key head) pairs for the team, one thread does all five products of a pair; else tiles of keys (dk, dv) and
 * blocks of queries (dq) are tasks of their own, at the price of making P and dS twice. Either way each number is
 * summed by one thread, tile after tile in the same order: the bits do not depend on the number of threads.
 *
 * The H / G query heads that share a key head lie next to each other, so they are one problem with R = T H / G rows.
 */
#include "attention.h"
#include "parameter.h"
#include "vmath.h"

#include <stdlib.h>
#include <string.h>

/* One vector register, and the micro-kernel's block of MR x NV of them */
#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define NV 4
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#define NV 2
#elif defined(__aarch64__)
#define VECTOR_BYTES 16
#define NV 4
#else
#define VECTOR_BYTES 16
#define NV 2
#endif
#define MR 6
#ifdef RI_IS_F32
#define LANES (VECTOR_BYTES / 4)
#else
#define LANES (VECTOR_BYTES / 8)
#endif
typedef real vec __attribute__((vector_size(VECTOR_BYTES), may_alias));
/* the same at any address that suits an element */
typedef real loose __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));

#include "transpose.h"

enum {
    MOST = 256, /* the most that a side of a tile may have */
};

/* A tile of scores: forward its lanes are queries, backward keys. The scores and what meets them stay in L1 and L2. */
RI_PARAMETER(attention_queries, 256 / sizeof(real), 16, 32, 64, 128, 256);
RI_PARAMETER(attention_keys, 64, 16, 32, 64, 128, 256);
RI_PARAMETER(attention_backward_keys, 256 / sizeof(real), 16, 32, 64, 128, 256);
RI_PARAMETER(attention_backward_queries, 64, 16, 32, 64, 128, 256);

static inline i64 round_up(i64 n) {
    return (n + LANES - 1) / LANES * LANES;
}

static inline i64 smaller(i64 a, i64 b) {
    return a < b ? a : b;
}

/* ------------------------------------------------------------------------------------------------ products */

/* c (mr x nv vectors) = or += a b, with a[r, k] at a[r rs + k cs] and b, c in aligned rows of vectors */
static inline __attribute__((always_inline)) void micro(const int mr, const int nv, i64 K, const real *a, i64 rs,
                                                        i64 cs, const real *b, i64 ldb, real *c, i64 ldc,
                                                        int accumulate) {
    vec sum[MR][NV];
#pragma GCC unroll 8
    for (int r = 0; r < mr; r++)
#pragma GCC unroll 8
        for (int i = 0; i < nv; i++) sum[r][i] = accumulate ? *(vec *)(c + r * ldc + i * LANES) : (vec){0};
    for (i64 k = 0; k < K; k++) {
        vec row[NV];
#pragma GCC unroll 8
        for (int i = 0; i < nv; i++) row[i] = *(const vec *)(b + k * ldb + i * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < mr; r++) {
            real factor = a[r * rs + k * cs];
#pragma GCC unroll 8
            for (int i = 0; i < nv; i++) sum[r][i] += factor * row[i];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < mr; r++)
#pragma GCC unroll 8
        for (int i = 0; i < nv; i++) *(vec *)(c + r * ldc + i * LANES) = sum[r][i];
}

#define ROWS(mr, nv)                                             \
    case mr:                                                     \
        micro(mr, nv, K, a, rs, cs, b, ldb, c, ldc, accumulate); \
        break

#define PANEL(nv)                                                                                                   \
    static void panel##nv(i64 rows, i64 K, const real *a, i64 rs, i64 cs, const real *b, i64 ldb, real *c, i64 ldc, \
                          int accumulate) {                                                                         \
        for (; rows > 0; rows -= MR, a += MR * rs, c += MR * ldc) {                                                 \
            switch (rows) {                                                                                         \
                ROWS(1, nv);                                                                                        \
                ROWS(2, nv);                                                                                        \
                ROWS(3, nv);                                                                                        \
                ROWS(4, nv);                                                                                        \
                ROWS(5, nv);                                                                                        \
                default:                                                                                            \
                    micro(MR, nv, K, a, rs, cs, b, ldb, c, ldc, accumulate);                                        \
            }                                                                                                       \
        }                                                                                                           \
    }

PANEL(1)
PANEL(2)
#if NV > 2
PANEL(3)
PANEL(4)
#endif

/* c (rows x width) = or += a b, width a multiple of LANES */
static void product(i64 rows, i64 K, i64 width, const real *a, i64 rs, i64 cs, const real *b, i64 ldb, real *c, i64 ldc,
                    int accumulate) {
    for (i64 left = width / LANES; left > 0; left -= NV, b += NV * LANES, c += NV * LANES) {
        switch (left) {
            case 1:
                panel1(rows, K, a, rs, cs, b, ldb, c, ldc, accumulate);
                break;
#if NV > 2
            case 2:
                panel2(rows, K, a, rs, cs, b, ldb, c, ldc, accumulate);
                break;
            case 3:
                panel3(rows, K, a, rs, cs, b, ldb, c, ldc, accumulate);
                break;
            default:
                panel4(rows, K, a, rs, cs, b, ldb, c, ldc, accumulate);
#else
            default:
                panel2(rows, K, a, rs, cs, b, ldb, c, ldc, accumulate);
#endif
        }
    }
}

/* t (columns x width) = factor a^T, a being (n x columns); lanes from n to width become 0 */
static void pack_transposed(const real *a, i64 n, i64 columns, real factor, i64 width, real *t) {
    for (i64 c = 0; c < columns; c++) {
        for (i64 i = 0; i < n; i++) t[c * width + i] = factor * a[i * columns + c];
        for (i64 i = n; i < width; i++) t[c * width + i] = R(0.0);
    }
}

/* a (n x columns) = or += factor t^T */
static void unpack_transposed(const real *t, i64 n, i64 columns, real factor, i64 width, int adding, real *a) {
    for (i64 i = 0; i < n; i++)
        for (i64 c = 0; c < columns; c++) {
            const real old = adding ? a[i * columns + c] : R(0.0);
            a[i * columns + c] = old + factor * t[c * width + i];
        }
}

/* ------------------------------------------------------------------------------------------------ what a row sees */

struct problem {
    const real *q, *k, *v, *mask;
    i64 mask_b, mask_h, mask_t, mask_s; /* the mask's steps, 0 along an axis of extent 1 */
    const uint8_t *padding;
    int causal;
    real scale;
    i64 B, H, G, T, S, D, E;
    i64 rows;         /* query rows of one key head: T H / G */
    i64 keys;         /* keys that lie in memory for a head, S of them in use */
    i64 lanes, other; /* the sides of a tile of scores */
};

static struct problem describe(const real *q, const real *k, const real *v, const real *mask, i64 mask_B, i64 mask_H,
                               i64 mask_T, i64 mask_S, const uint8_t *padding, int causal, double scale, i64 B, i64 H,
                               i64 G, i64 T, i64 S, i64 D, i64 E, i64 keys, i64 lanes, i64 other) {
    struct problem p = {.q = q, .k = k, .v = v, .mask = mask, .padding = padding, .causal = causal};
    p.mask_b = mask_B > 1 ? mask_H * mask_T * mask_S : 0;
    p.mask_h = mask_H > 1 ? mask_T * mask_S : 0;
    p.mask_t = mask_T > 1 ? mask_S : 0;
    p.mask_s = mask_S > 1 ? 1 : 0;
    p.scale = (real)scale;
    p.B = B, p.H = H, p.G = G, p.T = T, p.S = S, p.D = D, p.E = E;
    p.rows = H / G * T, p.keys = keys;
    p.lanes = lanes, p.other = other;
    return p;
}

/* Threads for `products` products of (T x S) times the width of a head */
static int team_for(const struct problem *p, int products, int threads) {
    double work = (double)p->B * p->H * p->T * p->S * (p->D + p->E) * products / 64;
    return ri_team(threads, work < 1e15 ? (i64)work : (i64)1e15);
}

/* The last key that row r of a group sees, as far as causality goes */
static inline i64 last_key(const struct problem *p, i64 r) {
    return p->causal ? r % p->T + (p->S - p->T) : p->S - 1;
}

/* The last key that any of the rows [r0, r1) sees */
static inline i64 last_key_of(const struct problem *p, i64 r0, i64 r1) {
    int one_head = r0 / p->T == (r1 - 1) / p->T;
    return one_head ? last_key(p, r1 - 1) : p->S - 1;
}

/* The mask's entry for row r of group bg and key j = 0 */
static inline const real *mask_row(const struct problem *p, i64 bg, i64 r) {
    i64 h = bg % p->G * (p->H / p->G) + r / p->T;
    return p->mask + bg / p->G * p->mask_b + h * p->mask_h + r % p->T * p->mask_t;
}

/* ------------------------------------------------------------------------------------------------ forward */

static size_t forward_bytes(const struct problem *p) {
    return sizeof(real) * p->lanes * (size_t)(p->D + p->E + p->other);
}

/* s[j, i] += mask[i, j] for bk keys from j0 and n rows from r0 */
static void add_mask(const struct problem *p, i64 bg, i64 r0, i64 n, i64 j0, i64 bk, i64 width, real *s) {
    for (i64 i = 0; i < n; i++) {
        const real *row = mask_row(p, bg, r0 + i) + j0 * p->mask_s;
        for (i64 j = 0; j < bk; j++) s[j * width + i] += row[j * p->mask_s];
    }
}

/* y and lse of the rows [r0, r0 + n) of group bg */
static void forward_tile(const struct problem *p, i64 bg, i64 r0, i64 n, real *scratch, real *y, real *lse) {
    const i64 S = p->S, D = p->D, E = p->E, width = round_up(n);
    const uint8_t *padding = p->padding ? p->padding + bg / p->G * S : NULL;
    real *qT = scratch, *yT = qT + D * p->lanes, *s = yT + E * p->lanes;
    real max[MOST], sum[MOST], fix[MOST];
    ri_int last[MOST];

    pack_transposed(p->q + (bg * p->rows + r0) * D, n, D, p->scale, width, qT);
    for (i64 i = 0; i < E * width; i++) yT[i] = R(0.0);
    for (i64 i = 0; i < width; i++) max[i] = -RI_INF, sum[i] = R(0.0);
    i64 end = smaller(S, last_key_of(p, r0, r0 + n) + 1), first_end = S;
    for (i64 i = 0; i < n; i++) first_end = smaller(first_end, last_key(p, r0 + i) + 1);

    for (i64 j0 = 0; j0 < end; j0 += p->other) {
        i64 bk = smaller(p->other, end - j0);
        if (padding && memchr(padding + j0, 0, (size_t)bk) == NULL) continue; /* all of them hidden */
        product(bk, D, width, p->k + (bg * p->keys + j0) * D, D, 1, qT, width, s, width, 0);
        if (p->mask) add_mask(p, bg, r0, n, j0, bk, width, s);
        if (padding) {
            for (i64 j = 0; j < bk; j++)
                if (padding[j0 + j])
                    for (i64 i = 0; i < width; i++) s[j * width + i] = -RI_INF;
        }
        if (j0 + bk > first_end) { /* the causal diagonal */
            for (i64 i = 0; i < width; i++) {
                i64 l = i < n ? last_key(p, r0 + i) - j0 : p->other;
                last[i] = (ri_int)(l < -1 ? -1 : smaller(l, p->other));
            }
            for (i64 j = 0; j < bk; j++) {
#pragma omp simd
                for (i64 i = 0; i < width; i++) s[j * width + i] = (ri_int)j > last[i] ? -RI_INF : s[j * width + i];
            }
        }

        /* m = max(m, s), fix = exp(m_old - m) for what was summed so far; m = -inf stands for 0 in exponents */
        for (i64 i = 0; i < width; i++) fix[i] = max[i];
        for (i64 j = 0; j < bk; j++) {
#pragma omp simd
            for (i64 i = 0; i < width; i++) max[i] = ri_max(max[i], s[j * width + i]);
        }
        int changed = 0;
        real shift[MOST];
#pragma omp simd reduction(| : changed)
        for (i64 i = 0; i < width; i++) {
            shift[i] = max[i] == -RI_INF ? R(0.0) : max[i];
            changed |= fix[i] != max[i];
            fix[i] = ri_exp(fix[i] - shift[i]);
            sum[i] *= fix[i];
        }
        /* P = exp(s - m), sum over keys */
        for (i64 j = 0; j < bk; j++) {
#pragma omp simd
            for (i64 i = 0; i < width; i++) {
                real e = ri_exp(s[j * width + i] - shift[i]);
                s[j * width + i] = e;
                sum[i] += e;
            }
        }
        if (changed) {
            for (i64 e = 0; e < E; e++) {
#pragma omp simd
                for (i64 i = 0; i < width; i++) yT[e * width + i] *= fix[i];
            }
        }
        product(E, bk, width, p->v + (bg * p->keys + j0) * E, 1, E, s, width, yT, width, 1);
    }

    /* y = y / sum, lse = m + log(sum); a row that sees no key has sum 0: y = 0, lse = -inf */
    for (i64 i = 0; i < n; i++) {
        lse[bg * p->rows + r0 + i] = sum[i] == R(0.0) ? -RI_INF : max[i] + ri_log(sum[i]);
        sum[i] = sum[i] == R(0.0) ? R(1.0) : sum[i];
    }
    real *out = y + (bg * p->rows + r0) * E;
    for (i64 i = 0; i < n; i++)
        for (i64 e = 0; e < E; e++) out[i * E + e] = yT[e * width + i] / sum[i];
}

/* s[j] = the sum of the lanes of t[j], for LANES vectors */
static inline __attribute__((always_inline)) void totals(vec t[LANES], real *s) {
#ifdef HAVE_TRANSPOSE
    /* Each round adds the halves of two vectors at a time, which lie side by side like dealt cards: lane j of what
     * remains is the sum of t[j]. */
#pragma GCC unroll 4
    for (int n = LANES / 2; n > 0; n /= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < n; i++)
            t[i] = __builtin_shufflevector(t[i], t[i + n], LOW) + __builtin_shufflevector(t[i], t[i + n], HIGH);
    }
    *(loose *)s = t[0];
#else
    for (int j = 0; j < LANES; j++) {
        real sum = R(0.0);
        for (int i = 0; i < LANES; i++) sum += t[j][i];
        s[j] = sum;
    }
#endif
}

/* s[j] = q k_j for LANES keys */
static void dots(const real *q, const real *k, i64 D, real *s) {
    vec t[LANES];
#pragma GCC unroll 16
    for (int j = 0; j < LANES; j++) t[j] = (vec){0};
    i64 d = 0;
    for (; d + LANES <= D; d += LANES) {
        vec x = *(const loose *)(q + d);
#pragma GCC unroll 16
        for (int j = 0; j < LANES; j++) t[j] += x * *(const loose *)(k + j * D + d);
    }
    totals(t, s);
    for (; d < D; d++) {
#pragma GCC unroll 16
        for (int j = 0; j < LANES; j++) s[j] += q[d] * k[j * D + d];
    }
}

/* y += sum_j s[j] v_j over n values, E wide */
static void add_values(const real *s, const real *v, i64 n, i64 E, real *y) {
    i64 e = 0;
    for (; e + NV * LANES <= E; e += NV * LANES) {
        vec t[NV];
#pragma GCC unroll 4
        for (int i = 0; i < NV; i++) t[i] = *(loose *)(y + e + i * LANES);
        for (i64 j = 0; j < n; j++) {
#pragma GCC unroll 4
            for (int i = 0; i < NV; i++) {
                t[i] += s[j] * *(const loose *)(v + j * E + e + i * LANES);
            }
        }
#pragma GCC unroll 4
        for (int i = 0; i < NV; i++) *(loose *)(y + e + i * LANES) = t[i];
    }
    for (i64 j = 0; j < n && e < E; j++) {
#pragma omp simd
        for (i64 i = e; i < E; i++) y[i] += s[j] * v[j * E + i];
    }
}

/* The same for at most FEW rows, a query that is decoded token by token say: they would leave most lanes of the tile
 * idle, so here the lanes run along the width of k and v, which go through the cache once for all rows. */
enum { FEW = LANES >= 16 ? 6 : LANES >= 8 ? 3 : 1 };

static void forward_few(const struct problem *p, i64 bg, i64 r0, i64 n, real *y, real *lse) {
    const i64 S = p->S, D = p->D, E = p->E;
    const uint8_t *padding = p->padding ? p->padding + bg / p->G * S : NULL;
    real s[MOST], max[FEW], sum[FEW];
    real *out = y + (bg * p->rows + r0) * E;
    for (i64 i = 0; i < n * E; i++) out[i] = R(0.0);
    for (i64 i = 0; i < n; i++) max[i] = -RI_INF, sum[i] = R(0.0);
    const i64 all = smaller(S, last_key_of(p, r0, r0 + n) + 1);
    for (i64 j0 = 0; j0 < all; j0 += p->other) {
        if (padding && memchr(padding + j0, 0, (size_t)smaller(p->other, all - j0)) == NULL) continue;
        for (i64 i = 0; i < n; i++) {
            const i64 bk = smaller(p->other, smaller(S, last_key(p, r0 + i) + 1) - j0);
            const real *q = p->q + (bg * p->rows + r0 + i) * D, *k = p->k + (bg * p->keys + j0) * D;
            const real *mask = p->mask ? mask_row(p, bg, r0 + i) + j0 * p->mask_s : NULL;
            if (bk <= 0) continue;
            i64 j = 0;
            for (; j + LANES <= bk; j += LANES) dots(q, k + j * D, D, s + j);
            for (; j < bk; j++) {
                real dot = R(0.0);
#pragma omp simd reduction(+ : dot)
                for (i64 d = 0; d < D; d++) dot += q[d] * k[j * D + d];
                s[j] = dot;
            }
            for (j = 0; j < bk; j++) s[j] *= p->scale;
            for (j = 0; mask && j < bk; j++) s[j] += mask[j * p->mask_s];
            for (j = 0; padding && j < bk; j++) s[j] = padding[j0 + j] ? -RI_INF : s[j];
            real top = max[i];
#pragma omp simd reduction(max : top)
            for (j = 0; j < bk; j++) top = top < s[j] ? s[j] : top;
            const real shift = top == -RI_INF ? R(0.0) : top, fix = ri_exp(max[i] - shift);
            real part = R(0.0);
#pragma omp simd reduction(+ : part)
            for (j = 0; j < bk; j++) {
                s[j] = ri_exp(s[j] - shift);
                part += s[j];
            }
            max[i] = top;
            sum[i] = sum[i] * fix + part;
            if (fix != R(1.0)) {
#pragma omp simd
                for (i64 e = 0; e < E; e++) out[i * E + e] *= fix;
            }
            add_values(s, p->v + (bg * p->keys + j0) * E, bk, E, out + i * E);
        }
    }
    for (i64 i = 0; i < n; i++) {
        lse[bg * p->rows + r0 + i] = sum[i] == R(0.0) ? -RI_INF : max[i] + ri_log(sum[i]);
        if (sum[i] != R(0.0))
            for (i64 e = 0; e < E; e++) out[i * E + e] /= sum[i];
    }
}

static void forward_rows(const struct problem *p, i64 bg, i64 r0, real *scratch, real *y, real *lse) {
    const i64 n = smaller(p->lanes, p->rows - r0);
    if (n <= FEW)
        forward_few(p, bg, r0, n, y, lse);
    else
        forward_tile(p, bg, r0, n, scratch, y, lse);
}

int RI(attention)(const real *q, const real *k, const real *v, const real *mask, i64 mask_B, i64 mask_H, i64 mask_T,
                  i64 mask_S, const uint8_t *padding, int causal, double scale, i64 B, i64 H, i64 G, i64 T, i64 S,
                  i64 D, i64 E, i64 rows, real *y, real *lse, int threads) {
    if (B == 0 || H == 0 || T == 0) return RI_OK;
    if (G < 1 || H % G) return RI_BADARG;
    const struct problem p = describe(q, k, v, mask, mask_B, mask_H, mask_T, mask_S, padding, causal, scale, B, H, G, T,
                                      S, D, E, rows, RI_VALUE(attention_queries), RI_VALUE(attention_keys));
    const i64 tiles = (p.rows + p.lanes - 1) / p.lanes, tasks = B * G * tiles;
    int team = (int)smaller(team_for(&p, 2, threads), tasks);
    if (team == 1) {
        real *scratch = ri_workspace(RI_WS_OP, forward_bytes(&p));
        if (!scratch) return RI_NOMEM;
        for (i64 task = 0; task < tasks; task++) {
            forward_rows(&p, task / tiles, task % tiles * p.lanes, scratch, y, lse);
        }
        return RI_OK;
    }
    int status = RI_OK;
#pragma omp parallel num_threads(team)
    {
        real *scratch = ri_workspace(RI_WS_OP, forward_bytes(&p));
        if (!scratch) {
#pragma omp atomic write
            status = RI_NOMEM;
        }
#pragma omp for schedule(dynamic)
        for (i64 task = 0; task < tasks; task++) {
            if (scratch) forward_rows(&p, task / tiles, task % tiles * p.lanes, scratch, y, lse);
        }
    }
    return status;
}

/* ------------------------------------------------------------------------------------------------ backward */

struct gradients {
    const real *dy, *lse, *delta;
    real *dq, *dk, *dv;
    i64 keys; /* keys that lie in memory for a head of dk and dv */
    int adding;
};

/* A tile of keys: scale k^T (D x W), v^T (E x W), scale k (W x D rounded up), and which of its lanes are hidden */
struct keys {
    i64 j0, n, width;
    real *kT, *vT, *k;
    ri_int *hidden;
};

static size_t keys_reals(const struct problem *p) {
    return p->lanes * (size_t)(p->D + p->E + round_up(p->D) + 1);
}

static struct keys keys_at(const struct problem *p, i64 tile, real *memory) {
    struct keys t = {.j0 = tile * p->lanes, .n = smaller(p->lanes, p->S - tile * p->lanes), .kT = memory};
    t.width = round_up(t.n);
    t.vT = t.kT + p->D * p->lanes;
    t.k = t.vT + p->E * p->lanes;
    t.hidden = (ri_int *)(t.k + round_up(p->D) * p->lanes);
    return t;
}

static void pack_keys(const struct problem *p, i64 bg, const struct keys *t) {
    const i64 D = p->D, E = p->E, padded = round_up(D);
    const real *k = p->k + (bg * p->keys + t->j0) * D;
    const uint8_t *padding = p->padding ? p->padding + bg / p->G * p->S + t->j0 : NULL;
    pack_transposed(k, t->n, D, p->scale, t->width, t->kT);
    pack_transposed(p->v + (bg * p->keys + t->j0) * E, t->n, E, R(1.0), t->width, t->vT);
    for (i64 j = 0; j < t->n; j++) {
        for (i64 d = 0; d < D; d++) t->k[j * padded + d] = p->scale * k[j * D + d];
        for (i64 d = D; d < padded; d++) t->k[j * padded + d] = R(0.0);
    }
    for (i64 j = 0; j < t->width; j++) t->hidden[j] = j >= t->n || (padding && padding[j]);
}

/* What one thread needs besides: P and dS (M x W each), dk^T, dv^T, a block of dq */
struct bench {
    real *s, *ds, *dkT, *dvT, *dq;
};

static size_t bench_reals(const struct problem *p) {
    return p->lanes * (size_t)(2 * p->other + p->D + p->E) + p->other * (size_t)round_up(p->D);
}

static struct bench bench_at(const struct problem *p, real *memory) {
    struct bench b = {.s = memory};
    b.ds = b.s + p->other * p->lanes;
    b.dkT = b.ds + p->other * p->lanes;
    b.dvT = b.dkT + p->D * p->lanes;
    b.dq = b.dvT + p->E * p->lanes;
    return b;
}

/* P = exp(s - lse) and dS = P (dP - delta) for the rows [r0, r0 + n) of group bg and a tile of keys; 0 where no row
 * sees a key, and then nothing is computed */
static int backward_tile(const struct problem *p, const struct gradients *g, i64 bg, i64 r0, i64 n,
                         const struct keys *t, const struct bench *b) {
    if (last_key_of(p, r0, r0 + n) < t->j0) return 0;
    const i64 D = p->D, E = p->E, width = t->width, row = bg * p->rows + r0;
    product(n, D, width, p->q + row * D, D, 1, t->kT, width, b->s, width, 0);
    for (i64 i = 0; i < n; i++) {
        real *s = b->s + i * width, lse = g->lse[row + i];
        real shift = lse == -RI_INF ? R(0.0) : lse;
        i64 l = last_key(p, r0 + i) - t->j0;
        ri_int last = (ri_int)(l < -1 ? -1 : smaller(l, p->lanes));
        if (p->mask) {
            const real *m = mask_row(p, bg, r0 + i) + t->j0 * p->mask_s;
            for (i64 j = 0; j < t->n; j++) s[j] += m[j * p->mask_s];
        }
#pragma omp simd
        for (i64 j = 0; j < width; j++) {
            real x = (t->hidden[j] | ((ri_int)j > last)) ? -RI_INF : s[j];
            s[j] = ri_exp(x - shift);
        }
    }
    product(n, E, width, g->dy + row * E, E, 1, t->vT, width, b->ds, width, 0);
    for (i64 i = 0; i < n; i++) {
        real *s = b->s + i * width, *ds = b->ds + i * width, delta = g->delta[row + i];
#pragma omp simd
        for (i64 j = 0; j < width; j++) ds[j] = s[j] * (ds[j] - delta);
    }
    return 1;
}

/* dk and dv of one tile of keys; with `all`, dq += its share of that too */
static void backward_keys(const struct problem *p, const struct gradients *g, i64 bg, const struct keys *t,
                          const struct bench *b, int all) {
    const i64 D = p->D, E = p->E, width = t->width, padded = round_up(D);
    for (i64 i = 0; i < D * width; i++) b->dkT[i] = R(0.0);
    for (i64 i = 0; i < E * width; i++) b->dvT[i] = R(0.0);
    for (i64 r0 = 0; r0 < p->rows; r0 += p->other) {
        i64 n = smaller(p->other, p->rows - r0), row = bg * p->rows + r0;
        if (!backward_tile(p, g, bg, r0, n, t, b)) continue;
        product(E, n, width, g->dy + row * E, 1, E, b->s, width, b->dvT, width, 1);
        product(D, n, width, p->q + row * D, 1, D, b->ds, width, b->dkT, width, 1);
        if (!all) continue;
        product(n, t->n, padded, b->ds, width, 1, t->k, padded, b->dq, padded, 0);
        for (i64 i = 0; i < n; i++) {
            real *dq = g->dq + (row + i) * D, *part = b->dq + i * padded;
#pragma omp simd
            for (i64 d = 0; d < D; d++) dq[d] += part[d];
        }
    }
    unpack_transposed(b->dkT, t->n, D, p->scale, width, g->adding, g->dk + (bg * g->keys + t->j0) * D);
    unpack_transposed(b->dvT, t->n, E, R(1.0), width, g->adding, g->dv + (bg * g->keys + t->j0) * E);
}

/* dq of one block of rows from all tiles of keys, which lie packed one after the other */
static void backward_queries(const struct problem *p, const struct gradients *g, i64 bg, i64 r0, real *packed,
                             const struct bench *b) {
    const i64 D = p->D, padded = round_up(D), n = smaller(p->other, p->rows - r0), row = bg * p->rows + r0;
    for (i64 i = 0; i < n * D; i++) g->dq[row * D + i] = R(0.0);
    for (i64 tile = 0; tile * p->lanes < p->S; tile++) {
        struct keys t = keys_at(p, tile, packed + tile * keys_reals(p));
        if (!backward_tile(p, g, bg, r0, n, &t, b)) continue;
        product(n, t.n, padded, b->ds, t.width, 1, t.k, padded, b->dq, padded, 0);
        for (i64 i = 0; i < n; i++) {
            real *dq = g->dq + (row + i) * D, *part = b->dq + i * padded;
#pragma omp simd
            for (i64 d = 0; d < D; d++) dq[d] += part[d];
        }
    }
}

/* All gradients of one (batch, key head) pair by one thread, which brings its scratch memory */
static void backward_group(const struct problem *p, const struct gradients *g, i64 bg, real *scratch) {
    struct bench b = bench_at(p, scratch + keys_reals(p));
    for (i64 i = 0; i < p->rows * p->D; i++) g->dq[bg * p->rows * p->D + i] = R(0.0);
    for (i64 tile = 0; tile * p->lanes < p->S; tile++) {
        struct keys t = keys_at(p, tile, scratch);
        pack_keys(p, bg, &t);
        backward_keys(p, g, bg, &t, &b, 1);
    }
}

/* delta = sum_e dy y: the part of dP that the softmax of a row takes back */
static void row_deltas(const real *dy, const real *y, i64 lo, i64 hi, i64 E, real *delta) {
    for (i64 r = lo; r < hi; r++) {
        real total = R(0.0);
#pragma omp simd reduction(+ : total)
        for (i64 e = 0; e < E; e++) total += dy[r * E + e] * y[r * E + e];
        delta[r] = total;
    }
}

int RI(attention_backward)(const real *dy, const real *q, const real *k, const real *v, const real *y, const real *lse,
                           const real *mask, i64 mask_B, i64 mask_H, i64 mask_T, i64 mask_S, const uint8_t *padding,
                           int causal, double scale, i64 B, i64 H, i64 G, i64 T, i64 S, i64 D, i64 E, i64 rows,
                           i64 drows, int adding, real *dq, real *dk, real *dv, int threads) {
    if (B == 0 || G == 0) return RI_OK;
    if (G < 1 || H % G) return RI_BADARG;
    const struct problem p =
        describe(q, k, v, mask, mask_B, mask_H, mask_T, mask_S, padding, causal, scale, B, H, G, T, S, D, E, rows,
                 RI_VALUE(attention_backward_keys), RI_VALUE(attention_backward_queries));
    const i64 pairs = B * G, tiles = (S + p.lanes - 1) / p.lanes, blocks = (p.rows + p.other - 1) / p.other,
              all_rows = B * H * T;
    const size_t scratch_bytes = sizeof(real) * (keys_reals(&p) + bench_reals(&p));
    int team = team_for(&p, 5, threads);
    i64 rounds = (pairs + team - 1) / team;
    int split = rounds * team * 5 > pairs * 7; /* 5 products by few, or 7 by the whole team */

    real *delta = malloc(sizeof(real) * (size_t)(all_rows ? all_rows : 1));
    real *packed =
        split ? aligned_alloc(64, (sizeof(real) * keys_reals(&p) * (size_t)(pairs * tiles) + 64) / 64 * 64) : NULL;
    if (!delta || (split && !packed)) {
        free(delta);
        free(packed);
        return RI_NOMEM;
    }
    const struct gradients g = {
        .dy = dy, .lse = lse, .delta = delta, .dq = dq, .dk = dk, .dv = dv, .keys = drows, .adding = adding};
    int status = RI_OK;

    if (team == 1) {
        real *scratch = ri_workspace(RI_WS_OP, scratch_bytes);
        status = scratch ? RI_OK : RI_NOMEM;
        row_deltas(dy, y, 0, all_rows, E, delta);
        for (i64 bg = 0; scratch && bg < pairs; bg++) backward_group(&p, &g, bg, scratch);
    } else {
#pragma omp parallel num_threads(team)
        {
            real *scratch = ri_workspace(RI_WS_OP, scratch_bytes);
            if (!scratch) {
#pragma omp atomic write
                status = RI_NOMEM;
            }
#pragma omp for schedule(static)
            for (i64 block = 0; block < all_rows; block += p.other)
                row_deltas(dy, y, block, smaller(block + p.other, all_rows), E, delta);
            if (!split) {
#pragma omp for schedule(dynamic)
                for (i64 bg = 0; bg < pairs; bg++)
                    if (scratch) backward_group(&p, &g, bg, scratch);
            } else {
#pragma omp for schedule(static)
                for (i64 task = 0; task < pairs * tiles; task++) {
                    struct keys t = keys_at(&p, task % tiles, packed + task * keys_reals(&p));
                    pack_keys(&p, task / tiles, &t);
                }
#pragma omp for schedule(dynamic)
                for (i64 task = 0; task < pairs * (tiles + blocks); task++) {
                    if (!scratch) continue;
                    struct bench b = bench_at(&p, scratch);
                    if (task < pairs * tiles) {
                        struct keys t = keys_at(&p, task % tiles, packed + task * keys_reals(&p));
                        backward_keys(&p, &g, task / tiles, &t, &b, 0);
                    } else {
                        i64 bg = (task - pairs * tiles) / blocks, block = (task - pairs * tiles) % blocks;
                        backward_queries(&p, &g, bg, block * p.other, packed + bg * tiles * keys_reals(&p), &b);
                    }
                }
            }
        }
    }
    free(delta);
    free(packed);
    return status;
}
