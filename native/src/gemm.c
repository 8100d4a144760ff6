/* gemm.c - C = op(A) op(B): five loops round one micro-kernel, as in BLIS (Van Zee and van de Geijn, 2015).
 *
 *     for jc in N by NC                    B panel (KC x NC) packed once for the team, stays in L3
 *       for pc in K by KC
 *         for ic in M by MC                A block (MC x KC) packed by each thread, stays in its L2
 *           for jr in NC by NR             B sliver (KC x NR) stays in L1
 *             for ir in MC by MR           micro-kernel: MR x NR tile of C in registers, KC rank-1 updates
 *
 * Roofline: 2 M N K operations on M K + K N + M N elements; packed, each loaded vector of B meets MR rows of A and the
 * kernel is bound by its MR * NV multiply-adds a step. Packing costs one pass over A and B.
 *
 * A product with a few rows, columns or steps only is bound by memory and takes another way, unpacked (gemm_thin.c).
 *
 * Bias and activation are applied while a tile of C is in registers or L1 and spare a pass over C each.
 *
 * An element of C is the sum over blocks of KC of sums over k in order, whichever thread or tile it falls to.
 */
#include "gemm_internal.h"
#include "parameter.h"

#ifdef _OPENMP
#include <omp.h>
#endif

/* Cache blocks: a block of A (MC x KC) and a sliver of B (KC x NR) in L2, a panel of B (KC x NC) in L3. A sliver that
 * outgrows L1 costs less than the passes over C that a smaller KC would add: the kernel loads NV vectors of B for MR NV
 * multiply-adds. */
RI_PARAMETER(gemm_mc, sizeof(real) == 4 ? 168 : 84, 42, 84, 168, 252, 336, 504);
RI_PARAMETER(gemm_kc, 384, 128, 192, 256, 384, 512, 768);
RI_PARAMETER(gemm_nc, 2048, 512, 1024, 2048, 4096);
/* Up to so many rows of C, B is read where it lies: with few tiles to a sliver packing costs more than it saves. */
RI_PARAMETER(gemm_direct, 64, 0, 32, 64, 128, 256);

/* The parameters of one call */
typedef struct {
    i64 mc, kc, nc, direct;
} blocks;

/* ------------------------------------------------------------------------------------------------ packing */

/* `w` rows of X, `sx` apart and consecutive along k, into one sliver out[k][width]; rows w .. width - 1 become zeros.
 * May write up to LANES - 1 elements past the sliver. */
static void pack_rows(const real *x, i64 sx, i64 w, i64 kc, i64 width, real *out) {
#ifdef HAVE_TRANSPOSE
    /* Groups of LANES rows, the last first: where it is narrower than a vector its stores run over into what the other
     * groups, or the next k, write later. */
    i64 k0 = kc / VL * VL;
    for (i64 g = (width - 1) / VL * VL; g >= 0; g -= VL) {
        i64 rows = w - g < VL ? w - g : VL;
        for (i64 k = 0; k < k0; k += VL) {
            vec v[LANES];
            if (rows == VL) {
#pragma GCC unroll 16
                for (int i = 0; i < LANES; i++) v[i] = load(x + (g + i) * sx + k);
            } else {
#pragma GCC unroll 16
                for (int i = 0; i < LANES; i++) v[i] = i < rows ? load(x + (g + i) * sx + k) : (vec){0};
            }
            transpose(v);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) store(out + (k + i) * width + g, v[i]);
        }
    }
    if (k0 == kc) return;
    /* The last steps of k: whole vectors again, but for the rows where one would end behind the last element. */
    i64 safe = w - (k0 + VL - kc + sx - 1) / sx;
    for (i64 g = (width - 1) / VL * VL; g >= 0; g -= VL) {
        vec v[LANES];
        for (i64 i = 0; i < VL; i++) {
            real part[LANES] = {0};
            const real *row = x + (g + i) * sx;
            if (g + i < safe) {
                v[i] = load(row + k0);
                continue;
            }
            for (i64 k = k0; k < kc && g + i < w; k++) part[k - k0] = row[k];
            v[i] = load(part);
        }
        transpose(v);
        for (i64 k = k0; k < kc; k++) store(out + k * width + g, v[k - k0]);
    }
#else
    for (i64 k = 0; k < kc; k++) {
        for (i64 i = 0; i < width; i++) out[k * width + i] = i < w ? x[i * sx + k] : 0;
    }
#endif
}

/* The same where the `w` rows are consecutive for each k and the steps of k lie `sx` apart. Whole vectors are copied as
 * long as that reads no further than the last element; what lies past `w` is never looked at. */
INLINE void pack_columns(const real *x, i64 sx, i64 w, i64 kc, i64 width, real *out) {
    i64 whole = up(w, VL), safe = kc - (whole - w + sx - 1) / sx;
    for (i64 k = 0; k < safe; k++) {
        for (i64 i = 0; i < whole; i += VL) store(out + k * width + i, load(x + k * sx + i));
        for (i64 i = whole; i < width; i++) out[k * width + i] = 0;
    }
    for (i64 k = safe > 0 ? safe : 0; k < kc; k++) {
        for (i64 i = 0; i < width; i++) out[k * width + i] = i < w ? x[k * sx + i] : 0;
    }
}

/* `n` rows of op(X) and `kc` steps into slivers of `width` rows: out[sliver][k][width], padded. Element
 * (i, k) of op(X) lies at x[i * si + k * sk]; one of the strides is 1. */
static void pack(const real *x, i64 si, i64 sk, i64 n, i64 kc, i64 width, real *out) {
    for (i64 i = 0; i < n; i += width, out += width * kc) {
        i64 w = least(width, n - i);
        if (si != 1)
            pack_rows(x + i * si, si, w, kc, width, out);
        else if (w == NR && width == NR)
            pack_columns(x + i, sk, NR, kc, NR, out);
        else
            pack_columns(x + i, sk, w, kc, width, out);
    }
}

/* ------------------------------------------------------------------------------------------------ micro-kernel */

/* C (m x n, at most R x V VL) = (add ? C : 0) + A sliver (kc x R)^T times B sliver (kc rows of V vectors, `sb` apart)
 * + bias. Inlined with constants R and V, so that the tile lies in registers, and PACKED: else A is read where it lies,
 * R = m rows `sa` apart. */
INLINE void multiply(const int R, const int V, const int PACKED, i64 kc, const real *a, i64 sa, i64 m, const real *b,
                     i64 sb, i64 n, const real *bias, int add, real *c, i64 ldc) {
    vec t[MR][NV];
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
#pragma GCC unroll 16
        for (int v = 0; v < V; v++) t[i][v] = (vec){0};
    }
    if (R > 1 && add) {
        for (i64 i = 0; i < m; i++) { /* the old C travels while the sum is formed */
            __builtin_prefetch(c + i * ldc, 1);
            __builtin_prefetch(c + i * ldc + n - 1, 1);
        }
    }
    /* few registers reach R rows */
    const real *a3 = R > 3 ? a + 3 * sa : a, *a6 = R > 6 ? a + 6 * sa : a, *a9 = R > 9 ? a + 9 * sa : a;
    const real *a12 = R > 12 ? a + 12 * sa : a;
    for (i64 k = 0; k < kc; k++, b += sb) {
        vec row[NV];
#pragma GCC unroll 16
        for (int v = 0; v < V; v++) row[v] = load(b + v * VL);
#pragma GCC unroll 16
        for (int i = 0; i < R; i++) {
            const real *from = i < 3 ? a : i < 6 ? a3 : i < 9 ? a6 : i < 12 ? a9 : a12;
            real x = PACKED ? a[i] : from[i % 3 * sa];
#pragma GCC unroll 16
            for (int v = 0; v < V; v++) t[i][v] += x * row[v];
        }
        if (PACKED)
            a += R;
        else
            a++, a3++, a6++, a9++, a12++;
    }
    if (m == R && n == V * VL) { /* a whole tile goes out of its registers */
        if (bias) {
#pragma GCC unroll 16
            for (int v = 0; v < V; v++) {
                vec x = load(bias + v * VL);
#pragma GCC unroll 16
                for (int i = 0; i < R; i++) t[i][v] += x;
            }
        }
        if (add) {
#pragma GCC unroll 16
            for (int i = 0; i < R; i++) {
#pragma GCC unroll 16
                for (int v = 0; v < V; v++) t[i][v] += load(c + i * ldc + v * VL);
            }
        }
#pragma GCC unroll 16
        for (int i = 0; i < R; i++) {
#pragma GCC unroll 16
            for (int v = 0; v < V; v++) store(c + i * ldc + v * VL, t[i][v]);
        }
        return;
    }
    real tile[MR * NV * LANES] __attribute__((aligned(BYTES)));
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
#pragma GCC unroll 16
        for (int v = 0; v < V; v++) *(vec *)(tile + (i * V + v) * LANES) = t[i][v];
    }
    for (i64 i = 0; i < m; i++, c += ldc) {
        const real *row = tile + i * V * LANES;
        i64 j = 0;
        for (; j + VL <= n; j += VL) {
            vec x = load(row + j);
            if (bias) x += load(bias + j);
            store(c + j, add ? load(c + j) + x : x);
        }
        for (; j < n; j++) {
            real x = bias ? row[j] + bias[j] : row[j];
            c[j] = add ? c[j] + x : x;
        }
    }
}

typedef void kernel(i64 kc, const real *a, i64 sa, i64 m, const real *b, i64 sb, i64 n, const real *bias, int add,
                    real *c, i64 ldc);

#define KERNEL(R, V, PACKED)                                                                                    \
    static void kernel_##R##_##V##_##PACKED(i64 kc, const real *a, i64 sa, i64 m, const real *b, i64 sb, i64 n, \
                                            const real *bias, int add, real *c, i64 ldc) {                      \
        multiply(R, V, PACKED, kc, a, sa, m, b, sb, n, bias, add, c, ldc);                                      \
    }
#define KERNELS(R) KERNEL(R, 1, 0) KERNEL(R, 2, 0) KERNEL(R, 1, 1) KERNEL(R, 2, 1)
#define ENTRY(R)                                \
    {                                           \
        {kernel_##R##_1_0, kernel_##R##_2_0}, { \
            kernel_##R##_1_1, kernel_##R##_2_1  \
        }                                       \
    }

/* clang-format off */
KERNELS(1) KERNELS(2) KERNELS(3) KERNELS(4) KERNELS(5) KERNELS(6)
#if MR > 6
KERNELS(7) KERNELS(8) KERNELS(9) KERNELS(10) KERNELS(11) KERNELS(12)
#endif
#if MR > 12
KERNELS(13) KERNELS(14)
#endif

/* by rows - 1, packed and vectors - 1 */
static kernel *const kernels[MR][2][NV] = {
    ENTRY(1), ENTRY(2), ENTRY(3), ENTRY(4), ENTRY(5), ENTRY(6),
#if MR > 6
    ENTRY(7), ENTRY(8), ENTRY(9), ENTRY(10), ENTRY(11), ENTRY(12),
#endif
#if MR > 12
    ENTRY(13), ENTRY(14),
#endif
};
/* clang-format on */

/* The height of tile for M rows: few wasted rows, few tiles. */
static int height(i64 M) {
    if (M <= MR) return M > 0 ? (int)M : 1;
    int best = MR;
    i64 least_cost = INT64_MAX;
    for (int h = MR; h > MR / 2; h--) {
        i64 cost = (M + h - 1) / h * (2 * h + 1);
        if (cost < least_cost) least_cost = cost, best = h;
    }
    return best;
}

/* ------------------------------------------------------------------------------------------------ tiles and blocks */

/* m rows of n <= NR numbers from one place to another. */
INLINE void move(i64 m, i64 n, const real *from, i64 from_ld, real *to, i64 to_ld) {
    for (i64 i = 0; i < m; i++, from += from_ld, to += to_ld) {
        if (n == NR) {
#pragma GCC unroll 2
            for (int v = 0; v < NV; v++) store(to + v * VL, load(from + v * VL));
        } else {
            for (i64 j = 0; j < n; j++) to[j] = from[j];
        }
    }
}

/* One tile: `run` writes its sum beside C, where its rows lie close together however far apart those of C are, and it
 * goes to C, and to `before`, from there. */
static void activated(kernel *run, i64 kc, const real *a, i64 sa, i64 m, const real *b, i64 sb, i64 n, const real *bias,
                      int add, real *c, i64 ldc, int activation, real *before) {
    real tile[MR * NV * LANES] __attribute__((aligned(BYTES)));
    if (n < NR) memset(tile, 0, sizeof tile);
    if (add) move(m, n, c, ldc, tile, NR);
    run(kc, a, sa, m, b, sb, n, bias, add, tile, NR);
    if (before) move(m, n, tile, NR, before, ldc);
    RI_INTERNAL(gemm_activate)(activation, m * NR, tile);
    move(m, n, tile, NR, c, ldc);
}

/* One block of A times the columns [j0, j1) of a panel of B. A is packed (mc x kc) where `lda` is 0, else read where it
 * lies. B is packed, but for the slivers before column `direct`, which are read where they lie, in rows `ldb` apart. */
static void block(int h, i64 mc, i64 kc, i64 j0, i64 j1, const real *a, i64 lda, const real *panel, const real *b,
                  i64 ldb, i64 direct, const real *bias, int add, real *c, i64 ldc, int activation, real *before) {
    for (i64 j = j0; j < j1; j += NR) {
        i64 n = least(NR, j1 - j);
        kernel *run = kernels[h - 1][!lda][n > VL];
        const real *sliver = j < direct ? b + j : panel + j * kc;
        i64 step = j < direct ? ldb : NR;
        for (i64 i = 0; i < mc; i += h) {
            i64 m = least(h, mc - i);
            if (lda && m < h) run = kernels[m - 1][0][n > VL];
            const real *rows = a + i * (lda ? lda : kc), *offset = bias ? bias + j : NULL;
            i64 at = i * ldc + j;
            if (activation)
                activated(run, kc, rows, lda, m, sliver, step, n, offset, add, c + at, ldc, activation,
                          before ? before + at : NULL);
            else
                run(kc, rows, lda, m, sliver, step, n, offset, add, c + at, ldc);
        }
    }
}

/* ------------------------------------------------------------------------------------------------ the five loops */

/* How a team shares C: `tm` parts of its rows times `tn` parts of its columns, the largest part as small as possible
 * (and rows split first: each part of the columns packs A again). */
static void grid(i64 M, i64 N, i64 nc, int team, int *tm, int *tn) {
    double best = 0;
    for (int n = 1; n <= team; n++) {
        if (team % n) continue;
        int m = team / n;
        double rows = (double)((up(M, MR) / MR + m - 1) / m * MR);
        double columns = (double)((up(least(N, nc), NR) / NR + n - 1) / n * NR);
        double cost = rows * (columns + 8);
        if (n == 1 || cost < best) best = cost, *tm = m, *tn = n;
    }
}

/* Whether B is read where it lies: with few tiles to a sliver, or not many and all of B in L2. */
static int read_direct(const product *p, const blocks *s) {
    if (p->tb) return 0;
    return p->M <= s->direct || (p->M <= 4 * s->direct && p->ldb <= 524288 / (i64)sizeof(real) / p->K);
}

/* Whether A is read where it lies: with few slivers of B, packing A costs more than it saves. Rows a multiple of 4096
 * bytes apart share one set of L1, and bear fewer slivers. */
static int read_rows(const product *p) {
    return !p->ta && p->N <= (p->lda * (i64)sizeof(real) % 4096 == 0 ? 4 : 16) * NR;
}

static void together(int team) {
    if (team > 1) {
#pragma omp barrier
    }
}

/* The part of thread `rank`; every thread of the team calls it. `panel` is shared, `mine` the thread's own block. */
static void work(const product *p, const blocks *s, int rank, int team, real *panel, real *mine) {
    i64 sa_i = p->ta ? 1 : p->lda, sa_k = p->ta ? p->lda : 1;
    i64 sb_j = p->tb ? p->ldb : 1, sb_k = p->tb ? 1 : p->ldb;
    /* Alone, the thread takes all: a small product cannot bear the divisions of a share. */
    int tm = 1, tn = 1, alone = team == 1;
    i64 i0 = 0, i1 = p->M;
    if (!alone) {
        grid(p->M, p->N, s->nc, team, &tm, &tn);
        ri_share(p->M, MR, rank / tn, tm, &i0, &i1);
    }
    int h = height(i1 - i0), rows_direct = read_rows(p);
    i64 rows = i1 - i0 <= s->mc ? p->M : s->mc / h * h, depth = p->K;
    if (p->K > s->kc) {
        i64 steps = (p->K + s->kc - 1) / s->kc;
        depth = (p->K + steps - 1) / steps; /* equal parts of K */
    }
    for (i64 jc = 0; jc < p->N; jc += s->nc) {
        i64 nc = least(s->nc, p->N - jc), j0 = 0, j1 = nc, p0 = 0, p1 = nc;
        if (!alone) {
            ri_share(nc, NR, rank % tn, tn, &j0, &j1);
            ri_share(nc, NR, rank, team, &p0, &p1);
        }
        i64 direct = read_direct(p, s) ? nc / NR * NR : 0;
        if (p0 < direct) p0 = least(direct, p1);
        for (i64 pc = 0; pc < p->K; pc += depth) {
            i64 kc = least(depth, p->K - pc);
            int add = p->accumulate || pc > 0;
            const real *bias = p->bias && pc == 0 ? p->bias + jc : NULL;
            const real *b = p->b + jc * sb_j + pc * sb_k;
            pack(b + p0 * sb_j, sb_j, sb_k, p1 - p0, kc, NR, panel + p0 * kc);
            together(team);
            for (i64 ic = i0; ic < i1 && j0 < j1; ic += rows) {
                i64 mc = least(rows, i1 - ic);
                const real *a = p->a + ic * sa_i + pc * sa_k;
                if (!rows_direct) pack(a, sa_i, sa_k, mc, kc, h, mine);
                i64 at = ic * p->ldc + jc;
                block(h, mc, kc, j0, j1, rows_direct ? a : mine, rows_direct ? p->lda : 0, panel, b, p->ldb, direct,
                      bias, add, p->c + at, p->ldc, pc + kc == p->K ? p->activation : RI_IDENTITY,
                      p->before ? p->before + at : NULL);
            }
            together(team);
        }
    }
}

/* K = 0: an empty sum */
static void empty(const product *p) {
    for (i64 i = 0; i < p->M; i++) {
        for (i64 j = 0; j < p->N; j++) {
            real t = p->bias ? p->bias[j] : 0;
            p->c[i * p->ldc + j] = p->accumulate ? p->c[i * p->ldc + j] + t : t;
        }
        RI_INTERNAL(gemm_finish)(p->activation, p->N, p->c + i * p->ldc, p->before ? p->before + i * p->ldc : NULL);
    }
}

/* A whole product by the five loops; `extra` elements are left free at the start of the panel's workspace. */
static int loops(const product *p, const blocks *s, i64 extra, int threads) {
    int team = ri_team(threads, product_cost(1, p->M, p->N, p->K));
    i64 kc = least(s->kc, p->K);
    size_t block_bytes = sizeof(real) * (size_t)((least(s->mc, p->M) + MR) * kc + VL);
    real *panel = ri_workspace(RI_WS_GEMM_B, sizeof(real) * (size_t)(extra + up(least(s->nc, p->N), NR) * kc));
    if (!panel) return RI_NOMEM;
    panel += extra;
    if (team == 1) {
        real *mine = ri_workspace(RI_WS_GEMM_A, block_bytes);
        if (!mine) return RI_NOMEM;
        work(p, s, 0, 1, panel, mine);
        return RI_OK;
    }
    int failed = 0;
#ifdef _OPENMP
#pragma omp parallel num_threads(team)
    {
        real *mine = ri_workspace(RI_WS_GEMM_A, block_bytes);
        if (!mine) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
        int stop;
#pragma omp atomic read
        stop = failed;
        if (!stop) work(p, s, omp_get_thread_num(), omp_get_num_threads(), panel, mine);
    }
#else
    real *mine = ri_workspace(RI_WS_GEMM_A, block_bytes);
    if (!mine) return RI_NOMEM;
    work(p, s, 0, 1, panel, mine);
#endif
    return failed ? RI_NOMEM : RI_OK;
}

/* C by way of C^T = op(B)^T op(A)^T, which is computed beside the panel and turned round on its way to C. */
#define TALL 8192

/* Two shapes gain: a tall C of at most a vector's width, which would waste lanes; and few rows times a B that lies
 * transposed, which as the left operand is read where it lies (packing it costs N K steps, turning C costs M N). */
static int better_turned(const product *p) {
    i64 M = p->M, N = p->N;
    if (N <= VL) return M >= 2 * VL && M <= TALL;
    return p->tb && N >= 2 * NR && N <= TALL && M <= 4 * NR && p->K >= 2 * M && up(M, VL) - M <= VL / 4;
}

static int turned(const product *p, const blocks *s, int threads) {
    enum { ROWS = 64 };
    i64 M = p->M, N = p->N, extra = up(M * N, 16);
    i64 bytes = (i64)sizeof(real) * (extra + up(least(s->nc, M), NR) * least(s->kc, p->K));
    real *turned = ri_workspace(RI_WS_GEMM_B, (size_t)bytes); /* the same block that `loops` will ask for */
    if (!turned) return RI_NOMEM;
    product q = {!p->tb, !p->ta, N, M, p->K, p->b, p->ldb, p->a, p->lda, NULL, 0, turned, M, RI_IDENTITY, NULL};
    int status = loops(&q, s, extra, threads);
    if (status != RI_OK) return status;
    real part[ROWS * NV * LANES + LANES];
    for (i64 i0 = 0; i0 < M; i0 += ROWS) {
        i64 m = least(ROWS, M - i0);
        for (i64 j0 = 0; j0 < N; j0 += NR) {
            i64 n = least(NR, N - j0);
            pack_rows(turned + j0 * M + i0, M, n, m, n, part);
            real *c = p->c + i0 * p->ldc + j0;
            const real *bias = p->bias ? p->bias + j0 : NULL;
            if (p->ldc == n && !bias && !p->accumulate) {
                memcpy(c, part, sizeof(real) * (size_t)(m * n));
            } else {
                for (i64 i = 0; i < m; i++) {
                    for (i64 j = 0; j < n; j++) {
                        real x = bias ? part[i * n + j] + bias[j] : part[i * n + j];
                        c[i * p->ldc + j] = p->accumulate ? c[i * p->ldc + j] + x : x;
                    }
                }
            }
            for (i64 i = 0; p->activation && i < m; i++) {
                i64 at = (i0 + i) * p->ldc + j0;
                RI_INTERNAL(gemm_finish)(p->activation, n, p->c + at, p->before ? p->before + at : NULL);
            }
        }
    }
    return RI_OK;
}

/* ------------------------------------------------------------------------------------------------ which way */

/* Whether a thin product consists of dot products too short to be worth adding up the lanes of each. */
static int many_short_dots(const product *p) {
    i64 R = least(p->M, p->N);
    if (p->K >= (R == 1 ? VL : 2 * R * VL)) return 0;
    return p->M <= THIN ? p->tb && p->N >= NR : !p->ta && p->M >= NR && p->M <= TALL;
}

static int few_steps(const product *p) {
    return p->K <= FEW && (!p->tb || (p->K == 1 && p->ldb == 1));
}

static int run(const product *p, int threads) {
    if (p->M <= 0 || p->N <= 0) return RI_OK;
    if (p->K <= 0) {
        empty(p);
        return RI_OK;
    }
    const blocks s = {RI_VALUE(gemm_mc), RI_VALUE(gemm_kc), RI_VALUE(gemm_nc), RI_VALUE(gemm_direct)};
    if (least(p->M, p->N) <= THIN) {
        if (!many_short_dots(p)) return RI_INTERNAL(gemm_thin)(p, threads);
        return p->M <= THIN ? loops(p, &s, 0, threads) : turned(p, &s, threads);
    }
    if (few_steps(p)) return RI_INTERNAL(gemm_outer)(p, threads);
    if (better_turned(p)) return turned(p, &s, threads);
    return loops(p, &s, 0, threads);
}

/* ------------------------------------------------------------------------------------------------ entries */

int RI_INTERNAL(gemm_bias)(int ta, int tb, i64 M, i64 N, i64 K, const real *a, i64 lda, const real *b, i64 ldb,
                           const real *bias, int accumulate, real *c, i64 ldc, int threads) {
    product p = {ta, tb, M, N, K, a, lda, b, ldb, bias, accumulate, c, ldc, RI_IDENTITY, NULL};
    return run(&p, threads);
}

int RI_INTERNAL(gemm_activated)(int ta, int tb, i64 M, i64 N, i64 K, const real *a, i64 lda, const real *b, i64 ldb,
                                RI_INTERNAL(epilogue) end, real *c, i64 ldc, int threads) {
    product p = {ta, tb, M, N, K, a, lda, b, ldb, end.bias, 0, c, ldc, end.activation, end.before};
    return run(&p, threads);
}

int RI_INTERNAL(gemm)(int ta, int tb, i64 M, i64 N, i64 K, const real *a, i64 lda, const real *b, i64 ldb,
                      int accumulate, real *c, i64 ldc, int threads) {
    product p = {ta, tb, M, N, K, a, lda, b, ldb, NULL, accumulate, c, ldc, RI_IDENTITY, NULL};
    return run(&p, threads);
}

int RI_INTERNAL(gemm_batch)(int ta, int tb, i64 batch, i64 M, i64 N, i64 K, const real *a, i64 lda, i64 a_step,
                            const real *b, i64 ldb, i64 b_step, int accumulate, real *c, i64 ldc, i64 c_step,
                            int threads) {
    if (batch <= 0 || M <= 0 || N <= 0 || K <= 0) {
        if (c_step == 0) batch = 1; /* an empty sum */
        for (i64 i = 0; i < batch; i++) {
            product p = {.M = M, .N = N, .accumulate = accumulate, .c = c + i * c_step, .ldc = ldc};
            int status = run(&p, 1);
            if (status != RI_OK) return status;
        }
        return RI_OK;
    }
    /* Matrices that follow each other are one tall matrix: with a shared b, rows of A and C; for a sum over the batch,
     * steps of K. */
    int rows_follow = !ta && b_step == 0 && a_step == M * lda && c_step == M * ldc;
    int steps_follow = c_step == 0 && ta && !tb && a_step == K * lda && b_step == K * ldb;
    if (rows_follow) M *= batch;
    if (steps_follow) K *= batch;
    if (rows_follow || steps_follow) batch = 1;

    /* One matrix a thread where that keeps the team busy, else the team goes through the matrices together. */
    int team = ri_team(threads, product_cost(batch, M, N, K));
    if (team > 1 && batch >= team && c_step != 0) {
        int failed = RI_OK;
#pragma omp parallel for schedule(static) num_threads(team)
        for (i64 i = 0; i < batch; i++) {
            product p = {.ta = ta,
                         .tb = tb,
                         .M = M,
                         .N = N,
                         .K = K,
                         .a = a + i * a_step,
                         .lda = lda,
                         .b = b + i * b_step,
                         .ldb = ldb,
                         .accumulate = accumulate,
                         .c = c + i * c_step,
                         .ldc = ldc};
            if (run(&p, 1) != RI_OK) {
#pragma omp atomic write
                failed = RI_NOMEM;
            }
        }
        return failed;
    }
    for (i64 i = 0; i < batch; i++) {
        int add = accumulate || (c_step == 0 && i > 0);
        product p = {.ta = ta,
                     .tb = tb,
                     .M = M,
                     .N = N,
                     .K = K,
                     .a = a + i * a_step,
                     .lda = lda,
                     .b = b + i * b_step,
                     .ldb = ldb,
                     .accumulate = add,
                     .c = c + i * c_step,
                     .ldc = ldc};
        int status = run(&p, threads);
        if (status != RI_OK) return status;
    }
    return RI_OK;
}
