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
 * An element of C is the sum over blocks of KC of sums over k in order, whichever thread or tile it falls to.
 */
#include "gemm.h"

#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif

/* The register tile: MR rows of NV vectors, as large as the register file allows (accumulators, NV vectors of B and
 * one broadcast of A). */
#if defined(__AVX512F__)
#define BYTES 64
#define MR 14
#elif defined(__AVX__)
#define BYTES 32
#define MR 6
#elif defined(__aarch64__)
#define BYTES 16
#define MR 12
#else
#define BYTES 16
#define MR 6
#endif
#define NV 2
#ifdef RI_IS_F32
#define LANES (BYTES / 4)
#else
#define LANES (BYTES / 8)
#endif
#define VL ((i64)LANES)
#define NR (NV * VL)

/* Cache blocks: a sliver of B (KC x NR) in L1, a block of A (MC x KC) in L2, a panel of B (KC x NC) in L3. */
#define KC 256
#define MC 168
#define NC 2048

typedef real vec __attribute__((vector_size(BYTES)));
/* the same at any address that suits an element */
typedef real loose __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));

#define INLINE static inline __attribute__((always_inline))

typedef struct {
    int ta, tb;
    i64 M, N, K;
    const real *a;
    i64 lda;
    const real *b;
    i64 ldb;
    const real *bias;
    int accumulate;
    real *c;
    i64 ldc;
} product;

INLINE vec load(const real *x) {
    return *(const loose *)x;
}

INLINE void store(real *x, vec v) {
    *(loose *)x = v;
}

INLINE i64 least(i64 a, i64 b) {
    return a < b ? a : b;
}

INLINE i64 up(i64 n, i64 grain) {
    return (n + grain - 1) / grain * grain;
}

/* ------------------------------------------------------------------------------------------------ packing */

#if defined(__clang__) || __GNUC__ >= 12
#define HAVE_TRANSPOSE 1
#if LANES == 16
#define LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif LANES == 8
#define LOW 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH 4, 12, 5, 13, 6, 14, 7, 15
#elif LANES == 4
#define LOW 0, 4, 1, 5
#define HIGH 2, 6, 3, 7
#else
#define LOW 0, 2
#define HIGH 1, 3
#endif

/* v (LANES x LANES) = v^T. Each round deals the first half of the rows and the second half like two hands of cards;
 * after log2(LANES) rounds row and column indices have changed places. */
INLINE void transpose(vec v[LANES]) {
#pragma GCC unroll 4
    for (int round = 1; round < LANES; round *= 2) {
        vec w[LANES];
#pragma GCC unroll 8
        for (int i = 0; i < LANES / 2; i++) {
            w[2 * i] = __builtin_shufflevector(v[i], v[i + LANES / 2], LOW);
            w[2 * i + 1] = __builtin_shufflevector(v[i], v[i + LANES / 2], HIGH);
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) v[i] = w[i];
    }
}
#endif

/* `w` rows of X, `sx` apart and consecutive along k, into one sliver out[k][width]; rows w .. width - 1 become zeros.
 * May write up to LANES - 1 elements past the sliver. */
static void pack_rows(const real *x, i64 sx, i64 w, i64 kc, i64 width, real *out) {
    i64 k0 = 0;
#ifdef HAVE_TRANSPOSE
    /* Groups of LANES rows, the last first: where it is narrower than a vector its stores run over into what the other
     * groups, or the next k, write later. */
    for (i64 g = (width - 1) / VL * VL; g >= 0; g -= VL) {
        i64 rows = w - g < VL ? w - g : VL;
        for (k0 = 0; k0 + VL <= kc; k0 += VL) {
            vec v[LANES];
            if (rows == VL) {
#pragma GCC unroll 16
                for (int i = 0; i < LANES; i++) v[i] = load(x + (g + i) * sx + k0);
            } else {
#pragma GCC unroll 16
                for (int i = 0; i < LANES; i++) v[i] = i < rows ? load(x + (g + i) * sx + k0) : (vec){0};
            }
            transpose(v);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) store(out + (k0 + i) * width + g, v[i]);
        }
    }
#endif
    for (i64 k = k0; k < kc; k++) {
        for (i64 i = 0; i < width; i++) out[k * width + i] = i < w ? x[i * sx + k] : 0;
    }
}

/* The same where the `w` rows are consecutive for each k and the steps of k lie `sx` apart. */
INLINE void pack_columns(const real *x, i64 sx, i64 w, i64 kc, i64 width, real *out) {
    if (w == width) {
        for (i64 k = 0; k < kc; k++) {
            i64 i = 0;
            for (; i + VL <= width; i += VL) store(out + k * width + i, load(x + k * sx + i));
            for (; i < width; i++) out[k * width + i] = x[k * sx + i];
        }
        return;
    }
    for (i64 k = 0; k < kc; k++) {
        for (i64 i = 0; i < width; i++) out[k * width + i] = i < w ? x[k * sx + i] : 0;
    }
}

/* `n` rows of op(X) and `kc` steps into slivers of `width` rows: out[sliver][k][width], padded with zeros. Element
 * (i, k) of op(X) lies at x[i * si + k * sk]; one of the strides is 1. */
static void pack(const real *x, i64 si, i64 sk, i64 n, i64 kc, i64 width, real *out) {
    for (i64 i = 0; i < n; i += width, out += width * kc) {
        if (si != 1)
            pack_rows(x + i * si, si, least(width, n - i), kc, width, out);
        else if (width == NR)
            pack_columns(x + i, sk, least(width, n - i), kc, NR, out);
        else
            pack_columns(x + i, sk, least(width, n - i), kc, width, out);
    }
}

/* ------------------------------------------------------------------------------------------------ micro-kernel */

/* C (m x n, at most R x V VL) = (add ? C : 0) + A sliver (kc x R)^T times B sliver (kc rows of V vectors, `sb` apart)
 * + bias. Inlined with constants R and V, so that the tile lies in registers. */
INLINE void multiply(const int R, const int V, i64 kc, const real *a, i64 m, const real *b, i64 sb, i64 n,
                     const real *bias, int add, real *c, i64 ldc) {
    vec t[MR][NV];
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
#pragma GCC unroll 16
        for (int v = 0; v < V; v++) t[i][v] = (vec){0};
    }
    for (i64 k = 0; k < kc; k++, a += R, b += sb) {
        vec row[NV];
#pragma GCC unroll 16
        for (int v = 0; v < V; v++) row[v] = load(b + v * VL);
#pragma GCC unroll 16
        for (int i = 0; i < R; i++) {
#pragma GCC unroll 16
            for (int v = 0; v < V; v++) t[i][v] += a[i] * row[v];
        }
    }
    if (m == R && n == V * VL && !bias && !add) {
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

typedef void kernel(i64 kc, const real *a, i64 m, const real *b, i64 sb, i64 n, const real *bias, int add, real *c,
                    i64 ldc);

#define KERNEL(R)                                                                                                     \
    static void kernel_##R##_1(i64 kc, const real *a, i64 m, const real *b, i64 sb, i64 n, const real *bias, int add, \
                               real *c, i64 ldc) {                                                                    \
        multiply(R, 1, kc, a, m, b, sb, n, bias, add, c, ldc);                                                        \
    }                                                                                                                 \
    static void kernel_##R##_2(i64 kc, const real *a, i64 m, const real *b, i64 sb, i64 n, const real *bias, int add, \
                               real *c, i64 ldc) {                                                                    \
        multiply(R, 2, kc, a, m, b, sb, n, bias, add, c, ldc);                                                        \
    }
#define ENTRY(R) {kernel_##R##_1, kernel_##R##_2}

KERNEL(1)
KERNEL(2) KERNEL(3) KERNEL(4) KERNEL(5) KERNEL(6)
#if MR > 6
    KERNEL(7) KERNEL(8) KERNEL(9) KERNEL(10) KERNEL(11) KERNEL(12)
#endif
#if MR > 12
        KERNEL(13) KERNEL(14)
#endif

    /* by rows - 1 and vectors - 1 */
    static kernel *const kernels[MR][NV] = {
        ENTRY(1),  ENTRY(2),  ENTRY(3), ENTRY(4),  ENTRY(5),  ENTRY(6),
#if MR > 6
        ENTRY(7),  ENTRY(8),  ENTRY(9), ENTRY(10), ENTRY(11), ENTRY(12),
#endif
#if MR > 12
        ENTRY(13), ENTRY(14),
#endif
};

/* The height of tile that wastes the fewest rows on M. */
static int height(i64 M) {
    int best = MR;
    i64 least_rows = INT64_MAX;
    for (int h = MR; h >= 1 && h >= MR - 3 - 16 * (M < MR); h--) {
        i64 rows = up(M, h);
        if (rows < least_rows) least_rows = rows, best = h;
    }
    return best;
}

/* One block of A (packed, mc x kc) times the columns [j0, j1) of a packed panel of B. */
static void block(int h, i64 mc, i64 kc, i64 j0, i64 j1, const real *a, const real *b, const real *bias, int add,
                  real *c, i64 ldc) {
    for (i64 j = j0; j < j1; j += NR) {
        i64 n = least(NR, j1 - j);
        kernel *run = kernels[h - 1][n > VL];
        for (i64 i = 0; i < mc; i += h) {
            run(kc, a + i * kc, least(h, mc - i), b + j * kc, NR, n, bias ? bias + j : NULL, add, c + i * ldc + j, ldc);
        }
    }
}

/* ------------------------------------------------------------------------------------------------ the five loops */

/* How a team shares C: `tm` parts of its rows times `tn` parts of its columns, the largest part as small as possible
 * (and rows split first: each part of the columns packs A again). */
static void grid(i64 M, i64 N, int team, int *tm, int *tn) {
    double best = 0;
    for (int n = 1; n <= team; n++) {
        if (team % n) continue;
        int m = team / n;
        double rows = (double)((up(M, MR) / MR + m - 1) / m * MR);
        double columns = (double)((up(least(N, NC), NR) / NR + n - 1) / n * NR);
        double cost = rows * (columns + 8);
        if (n == 1 || cost < best) best = cost, *tm = m, *tn = n;
    }
}

static void together(int team) {
    if (team > 1) {
#pragma omp barrier
    }
}

/* The part of thread `rank`; every thread of the team calls it. `panel` is shared, `mine` the thread's own block. */
static void work(const product *p, int rank, int team, real *panel, real *mine) {
    i64 sa_i = p->ta ? 1 : p->lda, sa_k = p->ta ? p->lda : 1;
    i64 sb_j = p->tb ? p->ldb : 1, sb_k = p->tb ? 1 : p->ldb;
    int tm = 1, tn = 1;
    grid(p->M, p->N, team, &tm, &tn);
    i64 i0, i1;
    ri_share(p->M, MR, rank / tn, tm, &i0, &i1);
    int h = height(i1 - i0);
    i64 rows = MC / h * h;
    for (i64 jc = 0; jc < p->N; jc += NC) {
        i64 nc = least(NC, p->N - jc), j0, j1, p0, p1;
        ri_share(nc, NR, rank % tn, tn, &j0, &j1);
        ri_share(nc, NR, rank, team, &p0, &p1);
        for (i64 pc = 0; pc < p->K; pc += KC) {
            i64 kc = least(KC, p->K - pc);
            int add = p->accumulate || pc > 0;
            const real *bias = p->bias && pc == 0 ? p->bias + jc : NULL;
            pack(p->b + (jc + p0) * sb_j + pc * sb_k, sb_j, sb_k, p1 - p0, kc, NR, panel + p0 * kc);
            together(team);
            for (i64 ic = i0; ic < i1 && j0 < j1; ic += rows) {
                i64 mc = least(rows, i1 - ic);
                pack(p->a + ic * sa_i + pc * sa_k, sa_i, sa_k, mc, kc, h, mine);
                block(h, mc, kc, j0, j1, mine, panel, bias, add, p->c + ic * p->ldc + jc, p->ldc);
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
    }
}

/* Nanoseconds of a product on one thread, about (never more than fits an i64). */
static i64 cost(i64 batch, i64 M, i64 N, i64 K) {
    double ns = (double)batch * (double)M * (double)N * (double)K / (double)(6 * VL);
    return ns < 1e15 ? (i64)ns : (i64)1e15;
}

static int run(const product *p, int threads) {
    if (p->M <= 0 || p->N <= 0) return RI_OK;
    if (p->K <= 0) {
        empty(p);
        return RI_OK;
    }
    int team = ri_team(threads, cost(1, p->M, p->N, p->K));
    i64 kc = least(KC, p->K);
    size_t block_bytes = sizeof(real) * (size_t)((least(MC, p->M) + MR) * kc + VL);
    real *panel = ri_workspace(RI_WS_GEMM_B, sizeof(real) * (size_t)(up(least(NC, p->N), NR) * kc));
    if (!panel) return RI_NOMEM;
    if (team == 1) {
        real *mine = ri_workspace(RI_WS_GEMM_A, block_bytes);
        if (!mine) return RI_NOMEM;
        work(p, 0, 1, panel, mine);
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
        if (!stop) work(p, omp_get_thread_num(), omp_get_num_threads(), panel, mine);
    }
#else
    real *mine = ri_workspace(RI_WS_GEMM_A, block_bytes);
    if (!mine) return RI_NOMEM;
    work(p, 0, 1, panel, mine);
#endif
    return failed ? RI_NOMEM : RI_OK;
}

/* ------------------------------------------------------------------------------------------------ entries */

int RI_INTERNAL(gemm_bias)(int ta, int tb, i64 M, i64 N, i64 K, const real *a, i64 lda, const real *b, i64 ldb,
                           const real *bias, int accumulate, real *c, i64 ldc, int threads) {
    product p = {ta, tb, M, N, K, a, lda, b, ldb, bias, accumulate, c, ldc};
    return run(&p, threads);
}

int RI_INTERNAL(gemm)(int ta, int tb, i64 M, i64 N, i64 K, const real *a, i64 lda, const real *b, i64 ldb,
                      int accumulate, real *c, i64 ldc, int threads) {
    product p = {ta, tb, M, N, K, a, lda, b, ldb, NULL, accumulate, c, ldc};
    return run(&p, threads);
}

int RI_INTERNAL(gemm_batch)(int ta, int tb, i64 batch, i64 M, i64 N, i64 K, const real *a, i64 lda, i64 a_step,
                            const real *b, i64 ldb, i64 b_step, int accumulate, real *c, i64 ldc, i64 c_step,
                            int threads) {
    if (batch <= 0 || M <= 0 || N <= 0 || K <= 0) {
        if (c_step == 0) batch = 1; /* an empty sum */
        for (i64 i = 0; i < batch; i++) {
            product p = {ta, tb, M, N, 0, NULL, lda, NULL, ldb, NULL, accumulate, c + i * c_step, ldc};
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
    int team = ri_team(threads, cost(batch, M, N, K));
    if (team > 1 && batch >= team && c_step != 0) {
        int failed = RI_OK;
#pragma omp parallel for schedule(static) num_threads(team)
        for (i64 i = 0; i < batch; i++) {
            product p = {ta, tb, M, N, K, a + i * a_step, lda, b + i * b_step, ldb, NULL, accumulate, c + i * c_step,
                         ldc};
            if (run(&p, 1) != RI_OK) {
#pragma omp atomic write
                failed = RI_NOMEM;
            }
        }
        return failed;
    }
    for (i64 i = 0; i < batch; i++) {
        int add = accumulate || (c_step == 0 && i > 0);
        product p = {ta, tb, M, N, K, a + i * a_step, lda, b + i * b_step, ldb, NULL, add, c + i * c_step, ldc};
        int status = run(&p, threads);
        if (status != RI_OK) return status;
    }
    return RI_OK;
}
