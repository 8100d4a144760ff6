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
#define VL ((i64)(BYTES / sizeof(real)))
#define NR (NV * VL)

/* Cache blocks: a sliver of B (KC x NR) in L1, a block of A (MC x KC) in L2, a panel of B (KC x NC) in L3. */
#define KC 256
#define MC (MR * (168 / MR))
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

/* `n` rows or columns of X and its `kc` steps along K into slivers of `width`: out[sliver][k][width], padded with
 * zeros. Element (i, k) of X lies at x[i * si + k * sk]; one of the strides is 1. */
static void pack(const real *x, i64 si, i64 sk, i64 n, i64 kc, i64 width, real *out) {
    for (i64 i0 = 0; i0 < n; i0 += width, out += width * kc) {
        const real *from = x + i0 * si;
        i64 w = least(width, n - i0);
        if (w < width) memset(out, 0, sizeof(real) * (size_t)(width * kc));
        if (si == 1) {
            for (i64 k = 0; k < kc; k++) {
                for (i64 i = 0; i < w; i++) out[k * width + i] = from[k * sk + i];
            }
        } else {
            for (i64 i = 0; i < w; i++) {
                for (i64 k = 0; k < kc; k++) out[k * width + i] = from[i * si + k * sk];
            }
        }
    }
}

/* ------------------------------------------------------------------------------------------------ micro-kernel */

/* tile (MR x NR) = sliver of A (kc x MR) ^T times sliver of B (kc x NR, rows `sb` apart) */
INLINE void multiply(i64 kc, const real *a, const real *b, i64 sb, vec tile[MR][NV]) {
    vec t[MR][NV];
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
#pragma GCC unroll 16
        for (int v = 0; v < NV; v++) t[i][v] = (vec){0};
    }
    for (i64 k = 0; k < kc; k++, a += MR, b += sb) {
        vec row[NV];
#pragma GCC unroll 16
        for (int v = 0; v < NV; v++) row[v] = load(b + v * VL);
#pragma GCC unroll 16
        for (int i = 0; i < MR; i++) {
#pragma GCC unroll 16
            for (int v = 0; v < NV; v++) t[i][v] += a[i] * row[v];
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
#pragma GCC unroll 16
        for (int v = 0; v < NV; v++) tile[i][v] = t[i][v];
    }
}

/* C (m x n at most MR x NR) = (add ? C : 0) + tile + bias */
INLINE void deliver(vec tile[MR][NV], i64 m, i64 n, const real *bias, int add, real *c, i64 ldc) {
    if (n == NR) {
#pragma GCC unroll 16
        for (int v = 0; v < NV; v++) {
            for (i64 i = 0; i < m; i++) {
                real *to = c + i * ldc + v * VL;
                vec t = tile[i][v];
                if (bias) t += load(bias + v * VL);
                if (add) t += load(to);
                store(to, t);
            }
        }
        return;
    }
    for (i64 i = 0; i < m; i++) {
        real row[NV * BYTES / sizeof(real)];
        memcpy(row, tile[i], sizeof row);
        for (i64 j = 0; j < n; j++) {
            real t = bias ? row[j] + bias[j] : row[j];
            c[i * ldc + j] = add ? c[i * ldc + j] + t : t;
        }
    }
}

/* One block of A (packed, mc x kc) times the columns [j0, j1) of a packed panel of B. */
static void block(i64 mc, i64 kc, i64 j0, i64 j1, const real *a, const real *b, const real *bias, int add, real *c,
                  i64 ldc) {
    for (i64 j = j0; j < j1; j += NR) {
        const real *sliver = b + j * kc;
        for (i64 i = 0; i < mc; i += MR) {
            vec tile[MR][NV];
            multiply(kc, a + i * kc, sliver, NR, tile);
            deliver(tile, least(MR, mc - i), least(NR, j1 - j), bias ? bias + j : NULL, add, c + i * ldc + j, ldc);
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
            for (i64 ic = i0; ic < i1 && j0 < j1; ic += MC) {
                i64 mc = least(MC, i1 - ic);
                pack(p->a + ic * sa_i + pc * sa_k, sa_i, sa_k, mc, kc, MR, mine);
                block(mc, kc, j0, j1, mine, panel, bias, add, p->c + ic * p->ldc + jc, p->ldc);
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
    double ns = (double)batch * (double)M * (double)N * (double)K / (double)(2 * VL);
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
    size_t block_bytes = sizeof(real) * (size_t)(up(least(MC, p->M), MR) * kc);
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
