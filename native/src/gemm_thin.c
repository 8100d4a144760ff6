/* gemm_thin.c - products that read or write one large matrix once: a few rows or columns of C, or a few steps of K.
 *
 * Roofline: with R rows (or columns) of C, or K steps, each element of the large matrix meets R (or K) multiply-adds,
 * so memory is the limit and packing would double the traffic. Nothing is packed; threads share the large matrix.
 */
#include "gemm_internal.h"

/* ------------------------------------------------------------------------------------------------ few rows or columns
 */

/* out[r * out_r + j * out_j] = (add ? out : 0) + sum_k x[r][k] Y(j, k)
 * + bias, for the columns j in [j0, j1). x is R x K, contiguous; bias[r * bias_r + j * bias_j] or NULL. */
#define CHUNK 512
#define BEYOND_CACHE 4194304 /* bytes of Y that no L2 holds */

typedef struct {
    i64 R, n, K;
    const real *x, *y;
    i64 y_j, y_k;
    const real *bias;
    i64 bias_r, bias_j;
    int add;
    real *out;
    i64 out_r, out_j;
    int activation;
    real *before;
} thin;

INLINE void put(const thin *p, i64 r, i64 j, real sum) {
    real *to = p->out + r * p->out_r + j * p->out_j;
    if (p->bias) sum += p->bias[r * p->bias_r + j * p->bias_j];
    *to = p->add ? *to + sum : sum;
}

/* sum (R rows of THIN CHUNK / R) += G steps of K, read as G streams along j; `ahead`: each asks for what it needs soon.
 * Inlined with constants R and G. */
INLINE void add_steps(const int R, const int G, int ahead, const real *x, i64 K, const real *y, i64 y_k, i64 n,
                      real *sum) {
    i64 j = 0;
    for (; j + VL <= n; j += VL) {
        vec t[THIN];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) t[r] = load(sum + r * (THIN * CHUNK / R) + j);
#pragma GCC unroll 8
        for (int g = 0; g < G; g++) {
            vec v = load(y + g * y_k + j);
            if (ahead) __builtin_prefetch(y + g * y_k + j + 16 * VL);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) t[r] += x[r * K + g] * v;
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) store(sum + r * (THIN * CHUNK / R) + j, t[r]);
    }
    for (; j < n; j++) {
        for (int r = 0; r < R; r++) {
            real t = sum[r * (THIN * CHUNK / R) + j];
            for (int g = 0; g < G; g++) t += x[r * K + g] * y[g * y_k + j];
            sum[r * (THIN * CHUNK / R) + j] = t;
        }
    }
}

/* Y consecutive along j */
INLINE void thin_rows(const int R, const thin *p, i64 j0, i64 j1) {
    const i64 chunk = THIN * CHUNK / R;
    real sum[THIN * CHUNK];
    for (i64 j = j0; j < j1; j += chunk) {
        i64 n = least(chunk, j1 - j), k = 0;
        for (i64 r = 0; r < R; r++) memset(sum + r * chunk, 0, sizeof(real) * (size_t)n);
        if (R == 1 && p->n * (i64)sizeof(real) > BEYOND_CACHE / p->K) {
            for (; k + 8 <= p->K; k += 8) add_steps(R, 8, 1, p->x + k, p->K, p->y + k * p->y_k + j, p->y_k, n, sum);
        }
        for (; k + 8 <= p->K; k += 8) add_steps(R, 8, 0, p->x + k, p->K, p->y + k * p->y_k + j, p->y_k, n, sum);
        for (; k < p->K; k++) add_steps(R, 1, 0, p->x + k, p->K, p->y + k * p->y_k + j, p->y_k, n, sum);
        for (i64 r = 0; r < R; r++) {
            for (i64 q = 0; q < n; q++) put(p, r, j + q, sum[r * chunk + q]);
        }
    }
}

/* the lanes of v, added by halves */
INLINE real total(vec v) {
    real lane[LANES];
    memcpy(lane, &v, sizeof lane);
#pragma GCC unroll 4
    for (int half = LANES / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    }
    return lane[0];
}

/* Y consecutive along k: R x J dot products at a time. Each starts with the last K mod LANES steps (a vector whose
 * other lanes are masked out), or is scalar where K has no whole vector. */
INLINE void dots(const int R, const int J, const thin *p, i64 j) {
    const real *y = p->y + j * p->y_j;
    vec t[THIN][8];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
        for (int q = 0; q < J; q++) t[r][q] = (vec){0};
    }
    i64 k = 0, few = p->K < VL ? p->K : 0;
    if (p->K > VL && p->K % VL) {
        typedef uint8_t bits __attribute__((vector_size(BYTES)));
        static const uint8_t mask[2 * BYTES] = {[BYTES... 2 * BYTES - 1] = 255};
        bits keep;
        memcpy(&keep, mask + p->K % VL * (i64)sizeof(real), sizeof keep);
        vec x[THIN];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) x[r] = (vec)((bits)load(p->x + r * p->K + p->K - VL) & keep);
#pragma GCC unroll 8
        for (int q = 0; q < J; q++) {
            vec v = (vec)((bits)load(y + q * p->y_j + p->K - VL) & keep);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) t[r][q] = x[r] * v;
        }
    }
    for (; k + VL <= p->K; k += VL) {
        vec x[THIN];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) x[r] = load(p->x + r * p->K + k);
#pragma GCC unroll 8
        for (int q = 0; q < J; q++) {
            vec v = load(y + q * p->y_j + k);
            if (R == 1) __builtin_prefetch(y + q * p->y_j + k + 16 * VL);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) t[r][q] += x[r] * v;
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
        for (int q = 0; q < J; q++) {
            real sum = total(t[r][q]);
            for (i64 i = 0; i < few; i++) sum += p->x[r * p->K + i] * y[q * p->y_j + i];
            put(p, r, j + q, sum);
        }
    }
}

INLINE void thin_dots(const int R, const int J, const thin *p, i64 j0, i64 j1) {
    i64 j = j0;
    for (; j + J <= j1; j += J) dots(R, J, p, j);
    for (; j < j1; j++) dots(R, 1, p, j);
}

static void thin_part(const thin *p, i64 j0, i64 j1) {
    if (p->y_k == 1) {
        if (p->R == 1)
            thin_dots(1, 8, p, j0, j1);
        else if (p->R == 2)
            thin_dots(2, 4, p, j0, j1);
        else if (p->R == 3)
            thin_dots(3, BYTES == 64 ? 4 : 2, p, j0, j1);
        else
            thin_dots(4, BYTES == 64 ? 4 : 2, p, j0, j1);
    } else {
        if (p->R == 1)
            thin_rows(1, p, j0, j1);
        else if (p->R == 2)
            thin_rows(2, p, j0, j1);
        else if (p->R == 3)
            thin_rows(3, p, j0, j1);
        else
            thin_rows(4, p, j0, j1);
    }
    if (!p->activation) return;
    /* rows of C that go on from j0 to j1, or, where C is written transposed, whole short ones */
    i64 rows = p->out_j == 1 ? p->R : j1 - j0, n = p->out_j == 1 ? j1 - j0 : p->R;
    for (i64 i = 0; i < rows; i++) {
        i64 at = p->out_j == 1 ? i * p->out_r + j0 : (j0 + i) * p->out_j;
        RI_INTERNAL(gemm_finish)(p->activation, n, p->out + at, p->before ? p->before + at : NULL);
    }
}

int RI_INTERNAL(gemm_thin)(const product *p, int threads) {
    thin t = {.K = p->K, .bias = p->bias, .add = p->accumulate, .activation = p->activation, .before = p->before};
    const real *x;
    i64 x_r, x_k;
    if (p->M <= THIN) { /* x is op(A), Y is op(B)^T */
        t.R = p->M, t.n = p->N, t.y = p->b, t.y_j = p->tb ? p->ldb : 1, t.y_k = p->tb ? 1 : p->ldb;
        t.bias_r = 0, t.bias_j = 1, t.out = p->c, t.out_r = p->ldc, t.out_j = 1;
        x = p->a, x_r = p->ta ? 1 : p->lda, x_k = p->ta ? p->lda : 1;
    } else { /* x is op(B)^T, Y is op(A), C is written transposed */
        t.R = p->N, t.n = p->M, t.y = p->a, t.y_j = p->ta ? 1 : p->lda, t.y_k = p->ta ? p->lda : 1;
        t.bias_r = 1, t.bias_j = 0, t.out = p->c, t.out_r = 1, t.out_j = p->ldc;
        x = p->b, x_r = p->tb ? p->ldb : 1, x_k = p->tb ? 1 : p->ldb;
    }
    t.x = x;
    if (x_k != 1 || (t.R > 1 && x_r != t.K)) {
        real *copy = ri_workspace(RI_WS_GEMM_A, sizeof(real) * (size_t)(t.R * t.K));
        if (!copy) return RI_NOMEM;
        for (i64 r = 0; r < t.R; r++) {
            for (i64 k = 0; k < t.K; k++) copy[r * t.K + k] = x[r * x_r + k * x_k];
        }
        t.x = copy;
    }
    int team = ri_team(threads, product_cost(4, t.R, t.n, t.K)); /* bound by memory: dearer than its multiplications */
    if (team == 1) {
        thin_part(&t, 0, t.n);
        return RI_OK;
    }
#pragma omp parallel for schedule(static) num_threads(team)
    for (int part = 0; part < team; part++) {
        i64 j0, j1;
        ri_share(t.n, VL, part, team, &j0, &j1);
        thin_part(&t, j0, j1);
    }
    return RI_OK;
}

/* ------------------------------------------------------------------------------------------------ few steps */

/* Such as the weight gradient of one sample: C is written once, 4 bytes for 2 K operations. A row for K (constant)
 * steps: their sum, to which bias and the old C are added. */
INLINE void few_row(const int K, const real *x, const real *const *b, const real *bias, int add, i64 n, real *c) {
#pragma omp simd
    for (i64 j = 0; j < n; j++) {
        real sum = x[0] * b[0][j];
#pragma GCC unroll 4
        for (int k = 1; k < K; k++) sum += x[k] * b[k][j];
        if (bias) sum += bias[j];
        c[j] = add ? c[j] + sum : sum;
    }
}

static void few_rows(const product *p, i64 lo, i64 hi) {
    const real *b[FEW];
    real x[FEW];
    for (i64 k = 0; k < p->K; k++) b[k] = p->b + (p->tb ? 0 : k * p->ldb);
    for (i64 i = lo; i < hi; i++) {
        real *c = p->c + i * p->ldc;
        for (i64 k = 0; k < p->K; k++) x[k] = p->ta ? p->a[k * p->lda + i] : p->a[i * p->lda + k];
#define FEW_ROW(K)                                         \
    case K:                                                \
        few_row(K, x, b, p->bias, p->accumulate, p->N, c); \
        break
        switch (p->K) {
            FEW_ROW(1);
            FEW_ROW(2);
            FEW_ROW(3);
            FEW_ROW(4);
        }
        if (p->activation) RI_INTERNAL(gemm_finish)(p->activation, p->N, c, p->before ? p->before + i * p->ldc : NULL);
    }
}

int RI_INTERNAL(gemm_outer)(const product *p, int threads) {
    int team = ri_team(threads, p->M * p->N / 8);
    if (team == 1) {
        few_rows(p, 0, p->M);
        return RI_OK;
    }
#pragma omp parallel for schedule(static) num_threads(team)
    for (int rank = 0; rank < team; rank++) {
        i64 lo, hi;
        ri_share(p->M, 8, rank, team, &lo, &hi);
        few_rows(p, lo, hi);
    }
    return RI_OK;
}
