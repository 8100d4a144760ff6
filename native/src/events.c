/* events.c - the linear layer for inputs that are mostly zeros. Mirror of refimpl/ops/events.py.
 *
 * Roofline: with a fraction p of active inputs the sums need p B D_in D_out multiply-adds, each of which reads one
 * vector of weights from cache (forward), or reads and writes one of dweight (backward); a dense product does two
 * multiply-adds for one such access, because its tiles share what they read. So skipping wins below p of about 1/3
 * (forward) and 1/8 (backward), and above that the dense product takes over. Looking for the active inputs is one pass
 * over x.
 *
 * A row of y is held in registers, BLOCK columns at a time, while its active inputs are added in their order; rows are
 * independent. dweight is cut by its rows, so that every thread adds the samples in their order: the number of threads
 * changes no bit. Where D_out is no whole number of vectors, the dense product runs.
 */
#include "events.h"
#include "gemm.h"
#include "rows.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#define VECTOR_BYTES 64
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
typedef real vec __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));
enum { LANES = VECTOR_BYTES / sizeof(real) };

#define INLINE static inline __attribute__((always_inline))

/* The positions of the entries of row[lo .. hi) that are not 0 (a NaN is not 0); `at` has room for hi - lo + 16. */
static i64 find_active(const real *row, i64 lo, i64 hi, int32_t *at) {
    i64 n = 0, i = lo;
#if defined(__AVX512F__)
    const __m512i count = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    for (; i + 16 <= hi; i += 16) {
        __mmask16 active;
        if (sizeof(real) == 4) {
            active = _mm512_cmp_ps_mask(_mm512_loadu_ps((const void *)(row + i)), _mm512_setzero_ps(), _CMP_NEQ_UQ);
        } else {
            const double *d = (const double *)(const void *)(row + i);
            active = (__mmask16)(_mm512_cmp_pd_mask(_mm512_loadu_pd(d), _mm512_setzero_pd(), _CMP_NEQ_UQ) |
                                 _mm512_cmp_pd_mask(_mm512_loadu_pd(d + 8), _mm512_setzero_pd(), _CMP_NEQ_UQ) << 8);
        }
        /* compressed in a register and stored whole: what lies behind the found ones is overwritten next */
        __m512i found = _mm512_maskz_compress_epi32(active, _mm512_add_epi32(_mm512_set1_epi32((int)i), count));
        _mm512_storeu_si512(at + n, found);
        n += __builtin_popcount(active);
    }
#endif
    for (; i < hi; i++) {
        at[n] = (int32_t)i;
        n += row[i] != (real)0;
    }
    return n;
}

static i64 count_active(const real *x, i64 n) {
    i64 count = 0;
#pragma omp simd reduction(+ : count)
    for (i64 i = 0; i < n; i++) count += x[i] != (real)0;
    return count;
}

/* y[0 .. WIDTH vectors) = start + sum of row[at[e]] w[at[e]], w with rows of `stride` elements */
#define GATHER(WIDTH)                                                                                             \
    INLINE void gather_##WIDTH(const real *row, const int32_t *at, i64 n, const real *w, i64 stride, real *y) {   \
        vec s[WIDTH];                                                                                             \
        _Pragma("GCC unroll 8") for (int j = 0; j < WIDTH; j++) s[j] = *(const vec *)(y + j * LANES);             \
        for (i64 e = 0; e < n; e++) {                                                                             \
            const real a = row[at[e]], *from = w + at[e] * stride;                                                \
            _Pragma("GCC unroll 8") for (int j = 0; j < WIDTH; j++) s[j] += a * *(const vec *)(from + j * LANES); \
        }                                                                                                         \
        _Pragma("GCC unroll 8") for (int j = 0; j < WIDTH; j++) * (vec *)(y + j * LANES) = s[j];                  \
    }
GATHER(8)
GATHER(4)
GATHER(2)
GATHER(1)

/* dw[at[e]] += row[at[e]] dy */
#define SCATTER(WIDTH)                                                                                             \
    INLINE void scatter_##WIDTH(const real *row, const int32_t *at, i64 n, const real *dy, i64 stride, real *dw) { \
        vec d[WIDTH];                                                                                              \
        _Pragma("GCC unroll 8") for (int j = 0; j < WIDTH; j++) d[j] = *(const vec *)(dy + j * LANES);             \
        for (i64 e = 0; e < n; e++) {                                                                              \
            const real a = row[at[e]];                                                                             \
            real *to = dw + at[e] * stride;                                                                        \
            _Pragma("GCC unroll 8") for (int j = 0; j < WIDTH; j++) * (vec *)(to + j * LANES) += a * d[j];         \
        }                                                                                                          \
    }
SCATTER(8)
SCATTER(4)
SCATTER(2)
SCATTER(1)

/* Columns 0 .. D of a row (D a whole number of vectors) in blocks of 8, 4, 2, 1 vectors; c is the first of a block. */
#define BLOCKS(kernel, D, ...)                         \
    do {                                               \
        i64 c = 0;                                     \
        for (; c + 8 * LANES <= (D); c += 8 * LANES) { \
            kernel##_8(__VA_ARGS__);                   \
        }                                              \
        if (c + 4 * LANES <= (D)) {                    \
            kernel##_4(__VA_ARGS__);                   \
            c += 4 * LANES;                            \
        }                                              \
        if (c + 2 * LANES <= (D)) {                    \
            kernel##_2(__VA_ARGS__);                   \
            c += 2 * LANES;                            \
        }                                              \
        if (c < (D)) {                                 \
            kernel##_1(__VA_ARGS__);                   \
        }                                              \
    } while (0)

/* Whether skipping wins: at most one input in `least` is active, and rows of weights are whole vectors. */
static int sparse_enough(const real *x, i64 B, i64 D_in, i64 D_out, i64 least) {
    return D_in < INT32_MAX - 16 && D_out % LANES == 0 && count_active(x, B * D_in) * least <= B * D_in;
}

static void forward_rows(const real *x, const real *w, const real *bias, i64 lo, i64 hi, i64 D_in, i64 D_out,
                         int32_t *at, real *y) {
    for (i64 b = lo; b < hi; b++) {
        const real *row = x + b * D_in;
        real *out = y + b * D_out;
        i64 n = find_active(row, 0, D_in, at);
        for (i64 c = 0; c < D_out; c++) out[c] = bias ? bias[c] : (real)0;
        BLOCKS(gather, D_out, row, at, n, w + c, D_out, out + c);
    }
}

/* Room for the active inputs of a row, of the calling thread. */
static int32_t *list_room(i64 D_in) {
    return ri_workspace(RI_WS_OP, ((size_t)D_in + 16) * sizeof(int32_t));
}

int RI(event_linear)(const real *x, const real *weight, const real *bias, i64 B, i64 D_in, i64 D_out, real *y,
                     int threads) {
    if (!sparse_enough(x, B, D_in, D_out, 3))
        return RI_INTERNAL(gemm_bias)(0, 0, B, D_out, D_in, x, D_in, weight, D_out, bias, 0, y, D_out, threads);
    int team = ri_team(threads, B * D_in * (1 + D_out / (8 * LANES))), failed = 0;
    RI_FOR(team, part, team, {
        int32_t *at = list_room(D_in);
        if (at)
            forward_rows(x, weight, bias, B * part / team, B * (part + 1) / team, D_in, D_out, at, y);
        else
            _Pragma("omp atomic write") failed = 1;
    });
    return failed ? RI_NOMEM : RI_OK;
}

/* Rows lo .. hi of dweight, samples in their order. */
static void weight_rows(const real *dy, const real *x, i64 lo, i64 hi, i64 B, i64 D_in, i64 D_out, int32_t *at,
                        real *dweight) {
    for (i64 b = 0; b < B; b++) {
        const real *row = x + b * D_in, *d = dy + b * D_out;
        i64 n = find_active(row, lo, hi, at);
        BLOCKS(scatter, D_out, row, at, n, d + c, D_out, dweight + c);
    }
}

int RI(event_linear_backward)(const real *dy, const real *x, const real *weight, i64 B, i64 D_in, i64 D_out,
                              int accumulate, real *dx, real *dweight, real *dbias, int threads) {
    if (dx) {
        int status = RI_INTERNAL(gemm)(0, 1, B, D_in, D_out, dy, D_out, weight, D_out, 0, dx, D_in, threads);
        if (status) return status;
    }
    if (dbias) {
        if (!accumulate)
            for (i64 c = 0; c < D_out; c++) dbias[c] = (real)0;
        for (i64 b = 0; b < B; b++) {
            const real *row = dy + b * D_out;
#pragma omp simd
            for (i64 c = 0; c < D_out; c++) dbias[c] += row[c];
        }
    }
    if (!sparse_enough(x, B, D_in, D_out, 8))
        return RI_INTERNAL(gemm)(1, 0, D_in, D_out, B, x, D_in, dy, D_out, accumulate, dweight, D_out, threads);
    if (!accumulate)
        for (i64 i = 0; i < D_in * D_out; i++) dweight[i] = (real)0;
    int team = ri_team(threads, B * D_in * (1 + D_out / (8 * LANES))), failed = 0;
    RI_FOR(team, part, team, {
        int32_t *at = list_room(D_in);
        if (at)
            weight_rows(dy, x, D_in * part / team, D_in * (part + 1) / team, B, D_in, D_out, at, dweight);
        else
            _Pragma("omp atomic write") failed = 1;
    });
    return failed ? RI_NOMEM : RI_OK;
}
