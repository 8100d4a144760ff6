/* rows.h - sums, maxima and exponentials over contiguous rows, in an order that depends on the row's length alone.
 *
 * A sum keeps 64 bytes of lanes in registers, adds them up as a tree after every RI_CHUNK elements and goes on in
 * double: rounding errors grow with RI_CHUNK / lanes, not with the length. The last, incomplete vector is read so that
 * it ends where the row ends, and the lanes that were counted before are cleared; so there are no scalar remainders.
 */
#ifndef REFIMPL_ROWS_H
#define REFIMPL_ROWS_H
#include "vmath.h"

#if defined(__AVX__)
#include <immintrin.h>
#endif

#ifdef RI_REAL

typedef real ri_vec __attribute__((vector_size(64)));
typedef ri_int ri_lanemask __attribute__((vector_size(64)));
typedef real ri_half __attribute__((vector_size(32)));
typedef real ri_quarter __attribute__((vector_size(16)));

enum {
    RI_LANES = 64 / sizeof(real),
    RI_CHUNK = 4096,  /* elements summed in `real` before the total goes on in double */
    RI_FLAT = 1024,   /* elements of a group of short rows that are handled as one long row */
    RI_SHORT = 48,    /* rows below this length are grouped */
    RI_PARTIALS = 64, /* most partial sums of a reduction over rows */
};

#define RI_ALWAYS static inline __attribute__((always_inline))

RI_ALWAYS i64 ri_smaller(i64 a, i64 b) {
    return a < b ? a : b;
}
RI_ALWAYS i64 ri_larger(i64 a, i64 b) {
    return a > b ? a : b;
}

/* Ask for the cache lines of a[from .. from + n) ahead of their use, wherever that may be. */
RI_ALWAYS void ri_fetch(const real *a, i64 from, i64 n) {
    const uintptr_t start = (uintptr_t)a + (uintptr_t)from * sizeof(real);
    for (i64 i = 0; i < n; i += RI_LANES) __builtin_prefetch((const void *)(start + (uintptr_t)i * sizeof(real)), 0, 3);
}

/* Elements of a row before its first whole cache line. NumPy's large arrays start 16 bytes after a line, all of them: a
 * loop that starts with this part has every further vector of every array in one line. */
RI_ALWAYS i64 ri_head(const real *a, i64 n) {
    return ri_smaller(n, (i64)(-(uintptr_t)a % 64 / sizeof(real)));
}

/* STATEMENT for every element 0 <= i < n; in long rows by strips that start with a line of `out`, before each strip
 * AHEAD with its `first` and `length`. */
#define RI_STRIPS(n, out, AHEAD, ...)                                                                     \
    do {                                                                                                  \
        enum { STRIP = 512 / sizeof(real) };                                                              \
        if ((n) <= 2 * STRIP) {                                                                           \
            _Pragma("omp simd") for (i64 i = 0; i < (n); i++) __VA_ARGS__ break;                          \
        }                                                                                                 \
        const i64 head = ri_head((out), (n));                                                             \
        for (i64 first = 0, length = head ? head : STRIP; first < (n); first += length, length = STRIP) { \
            const i64 last = ri_smaller(first + length, (n));                                             \
            AHEAD;                                                                                        \
            _Pragma("omp simd") for (i64 i = first; i < last; i++) __VA_ARGS__                            \
        }                                                                                                 \
    } while (0)

/* STATEMENT for every index 0 <= name < count; the threads of a team share the indices. */
#define RI_FOR(team, name, count, ...)                                                                        \
    do {                                                                                                      \
        if ((team) == 1) {                                                                                    \
            for (i64 name = 0; name < (count); name++) {                                                      \
                __VA_ARGS__;                                                                                  \
            }                                                                                                 \
        } else {                                                                                              \
            _Pragma("omp parallel for schedule(static) num_threads(team)") for (i64 name = 0; name < (count); \
                                                                                name++) {                     \
                __VA_ARGS__;                                                                                  \
            }                                                                                                 \
        }                                                                                                     \
    } while (0)

/* How n rows are cut into at most RI_PARTIALS blocks of at least `least` rows: by size, never by threads. */
RI_ALWAYS i64 ri_block_rows(i64 n, i64 least) {
    return ri_larger((n + RI_PARTIALS - 1) / RI_PARTIALS, ri_larger(least, 1));
}
RI_ALWAYS i64 ri_blocks(i64 n, i64 rows) {
    return (n + rows - 1) / rows;
}

RI_ALWAYS ri_vec ri_load(const real *a) {
    ri_vec v;
    __builtin_memcpy(&v, a, sizeof v);
    return v;
}

/* The vector that ends at a[end); where fewer elements exist, zeros come first. */
RI_ALWAYS ri_vec ri_load_last(const real *a, i64 end) {
    if (end >= RI_LANES) return ri_load(a + end - RI_LANES);
    real lanes[RI_LANES] = {0};
    for (i64 j = 0; j < end; j++) lanes[RI_LANES - end + j] = a[j];
    return ri_load(lanes);
}

/* v with all but its last n lanes cleared */
RI_ALWAYS ri_vec ri_keep_last(ri_vec v, i64 n) {
#if defined(RI_IS_F32)
    const ri_lanemask lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#else
    const ri_lanemask lane = {0, 1, 2, 3, 4, 5, 6, 7};
#endif
    ri_lanemask kept = lane >= (ri_int)(RI_LANES - n);
    return (ri_vec)((ri_lanemask)v & kept);
}

RI_ALWAYS real ri_lane_sum(ri_vec v) {
    ri_half h[2];
    __builtin_memcpy(h, &v, sizeof h);
    ri_half half = h[0] + h[1];
    ri_quarter q[2];
    __builtin_memcpy(q, &half, sizeof q);
    ri_quarter s = q[0] + q[1];
#if defined(RI_IS_F32)
    return (s[0] + s[2]) + (s[1] + s[3]);
#else
    return s[0] + s[1];
#endif
}

RI_ALWAYS ri_vec ri_ways_sum(const ri_vec *lanes) {
#if defined(__AVX512F__)
    return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
#else
    return lanes[0] + lanes[1];
#endif
}

/* In the expressions below, the lanes of array a at the current place of the row. */
#define RI_AT(a) (full ? ri_load((a) + i) : ri_load_last((a), end))

/* Independent sums side by side, as many as hide the latency of an addition and fit the registers. */
#if defined(__AVX512F__)
enum { RI_WAYS = 4 };
#else
enum { RI_WAYS = 2 };
#endif

/* total = the sum of P over a row of n */
#define RI_ROW_SUM(n, total, P)                                             \
    do {                                                                    \
        (total) = 0.0;                                                      \
        for (i64 first = 0; first < (n); first += RI_CHUNK) {               \
            const i64 end = ri_smaller(first + RI_CHUNK, (n));              \
            ri_vec lanes[RI_WAYS] = {{0}};                                  \
            i64 i = first;                                                  \
            for (const int full = 1; i + RI_WAYS * RI_LANES <= end;) {      \
                _Pragma("GCC unroll 4") for (int w = 0; w < RI_WAYS; w++) { \
                    lanes[w] += P;                                          \
                    i += RI_LANES;                                          \
                }                                                           \
            }                                                               \
            for (const int full = 1; i + RI_LANES <= end; i += RI_LANES) {  \
                lanes[0] += P;                                              \
            }                                                               \
            if (i < end) {                                                  \
                const int full = 0;                                         \
                lanes[1] += ri_keep_last(P, end - i);                       \
            }                                                               \
            (total) += ri_lane_sum(ri_ways_sum(lanes));                     \
        }                                                                   \
    } while (0)

/* Two sums in one pass over the row. */
#define RI_ROW_SUMS(n, p_total, P, q_total, Q)                              \
    do {                                                                    \
        (p_total) = (q_total) = 0.0;                                        \
        for (i64 first = 0; first < (n); first += RI_CHUNK) {               \
            const i64 end = ri_smaller(first + RI_CHUNK, (n));              \
            ri_vec p_lanes[RI_WAYS] = {{0}}, q_lanes[RI_WAYS] = {{0}};      \
            i64 i = first;                                                  \
            for (const int full = 1; i + RI_WAYS * RI_LANES <= end;) {      \
                _Pragma("GCC unroll 4") for (int w = 0; w < RI_WAYS; w++) { \
                    p_lanes[w] += P;                                        \
                    q_lanes[w] += Q;                                        \
                    i += RI_LANES;                                          \
                }                                                           \
            }                                                               \
            for (const int full = 1; i + RI_LANES <= end; i += RI_LANES) {  \
                p_lanes[0] += P;                                            \
                q_lanes[0] += Q;                                            \
            }                                                               \
            if (i < end) {                                                  \
                const int full = 0;                                         \
                p_lanes[1] += ri_keep_last(P, end - i);                     \
                q_lanes[1] += ri_keep_last(Q, end - i);                     \
            }                                                               \
            (p_total) += ri_lane_sum(ri_ways_sum(p_lanes));                 \
            (q_total) += ri_lane_sum(ri_ways_sum(q_lanes));                 \
        }                                                                   \
    } while (0)

/* The sum of x - m over a row. */
static inline double ri_row_sum_about(const real *x, real m, i64 n) {
    double s;
    if (n < RI_LANES) { /* a plain loop beats an incomplete vector */
        real sum = R(0.0);
        for (i64 i = 0; i < n; i++) sum += x[i] - m;
        return sum;
    }
    RI_ROW_SUM(n, s, RI_AT(x) - m);
    return s;
}

static inline double ri_row_sum(const real *x, i64 n) {
    return ri_row_sum_about(x, R(0.0), n);
}

static inline double ri_row_dot(const real *a, const real *b, i64 n) {
    double s;
    if (n < RI_LANES) {
        real sum = R(0.0);
        for (i64 i = 0; i < n; i++) sum += a[i] * b[i];
        return sum;
    }
    RI_ROW_SUM(n, s, RI_AT(a) * RI_AT(b));
    return s;
}

/* Lane by lane b > a ? b : a (a NaN in a stays): one instruction where it has a name, else by masks. */
#if defined(RI_IS_F32)
#define RI_PS(name) _mm##name##_ps
#define RI_PART(bits) __m##bits
#else
#define RI_PS(name) _mm##name##_pd
#define RI_PART(bits) __m##bits##d
#endif

RI_ALWAYS ri_vec ri_vec_max(ri_vec a, ri_vec b) {
#if defined(__AVX512F__)
    return (ri_vec)RI_PS(512_max)((RI_PART(512))b, (RI_PART(512))a);
#elif defined(__AVX__)
    RI_PART(256) x[2], y[2];
    __builtin_memcpy(x, &a, sizeof x);
    __builtin_memcpy(y, &b, sizeof y);
    for (int k = 0; k < 2; k++) x[k] = RI_PS(256_max)(y[k], x[k]);
    __builtin_memcpy(&a, x, sizeof a);
    return a;
#else
    ri_lanemask larger = b > a;
    return (ri_vec)((larger & (ri_lanemask)b) | (~larger & (ri_lanemask)a));
#endif
}

/* The largest lane; NaNs are passed over. */
RI_ALWAYS real ri_lane_max(ri_vec v) {
    real a[RI_LANES];
    __builtin_memcpy(a, &v, sizeof a);
#pragma GCC unroll 4
    for (int half = RI_LANES / 2; half > 0; half /= 2) {
#pragma omp simd
        for (int j = 0; j < half; j++) a[j] = a[j + half] > a[j] ? a[j + half] : a[j];
    }
    return a[0];
}

/* The largest element of a row; NaNs are passed over (x - max keeps them), -inf for an empty row. */
static inline real ri_row_max(const real *x, i64 n) {
    real m = -RI_INF;
    if (n < RI_LANES) {
        for (i64 i = 0; i < n; i++) m = x[i] > m ? x[i] : m;
        return m;
    }
    ri_vec lanes[4];
    lanes[0] = ri_vec_max(m - (ri_vec){0}, ri_load_last(x, n));
    lanes[1] = lanes[2] = lanes[3] = lanes[0];
    i64 i = 0;
    for (; i + 4 * RI_LANES <= n; i += 4 * RI_LANES) {
#pragma GCC unroll 4
        for (int w = 0; w < 4; w++) lanes[w] = ri_vec_max(lanes[w], ri_load(x + i + w * RI_LANES));
    }
    for (; i + RI_LANES <= n; i += RI_LANES) lanes[0] = ri_vec_max(lanes[0], ri_load(x + i));
    return ri_lane_max(ri_vec_max(ri_vec_max(lanes[0], lanes[1]), ri_vec_max(lanes[2], lanes[3])));
}

typedef ri_uint ri_lanebits __attribute__((vector_size(64)));

/* ri_exp_neg of every lane */
RI_ALWAYS ri_vec ri_vec_exp_neg(ri_vec x) {
#if defined(__AVX512F__)
    const ri_vec zero = {0};
    const real magic = RI_MAGIC + (real)(RI_APART + RI_BIAS);
    x = ri_vec_max(x, zero + RI_EXP_LO) /* a NaN in x stays */;
    ri_vec t = x * R(1.44269504088896340736) + magic, k = t - magic;
    ri_vec scale = (ri_vec)((ri_lanebits)t << RI_MANT);
    ri_vec r = (x - k * RI_LN2_HI) - k * RI_LN2_LO;
#if defined(RI_IS_F32)
    ri_vec p = 0.001381453999f * r + 0.008368745246f;
    p = p * r + 0.0416683908f;
    p = p * r + 0.166665204f;
    p = p * r + 0.4999999343f;
#else
    ri_vec p = 1.0 / 6227020800.0 * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
#endif
    ri_vec e = (r * p + R(1.0)) * r + R(1.0);
    return e * scale * ri_float((ri_uint)(RI_BIAS - RI_APART) << RI_MANT);
#else
    real a[RI_LANES];
    __builtin_memcpy(a, &x, sizeof a);
#pragma omp simd
    for (int j = 0; j < RI_LANES; j++) a[j] = ri_exp_neg(a[j]);
    __builtin_memcpy(&x, a, sizeof a);
    return x;
#endif
}

RI_ALWAYS void ri_store(real *a, ri_vec v) {
    __builtin_memcpy(a, &v, sizeof v);
}

/* Rows whose exponentials are computed together: as many short ones as fill RI_FLAT, of longer ones a few, so
 * that their logarithms are computed together and the rows stay in the first cache. */
RI_ALWAYS i64 ri_group(i64 K) {
    return K < RI_SHORT ? RI_FLAT / ri_larger(K, 1) : (K <= RI_FLAT / 2 ? 8 : 1);
}

/* The sum of exp(z - m) over one row; the exponentials go to e (which may be z) unless that is NULL. A constant NULL
 * costs nothing: the function is inlined. */
RI_ALWAYS double ri_row_exp(const real *z, real m, i64 n, real *e) {
    double s = 0.0;
    for (i64 first = 0; first < n; first += RI_CHUNK) {
        const i64 end = ri_smaller(first + RI_CHUNK, n);
        ri_vec even = {0}, odd = {0};
        i64 i = first;
        for (; i + 2 * RI_LANES <= end; i += 2 * RI_LANES) {
            ri_vec a = ri_vec_exp_neg(ri_load(z + i) - m), b = ri_vec_exp_neg(ri_load(z + i + RI_LANES) - m);
            even += a;
            odd += b;
            if (e) {
                ri_store(e + i, a);
                ri_store(e + i + RI_LANES, b);
            }
        }
        for (; i < end; i += RI_LANES) {
            const i64 left = ri_smaller(RI_LANES, end - i);
            real lanes[RI_LANES];
            ri_vec a;
            if (left == RI_LANES) {
                a = ri_load(z + i);
            } else { /* what lies beyond the end counts as exp(-inf) */
                for (int j = 0; j < RI_LANES; j++) lanes[j] = j < left ? z[i + j] : -RI_INF;
                a = ri_load(lanes);
            }
            a = ri_vec_exp_neg(a - m);
            if (left == RI_LANES) {
                even += a;
                if (e) ri_store(e + i, a);
            } else {
                ri_store(lanes, a);
                for (int j = 0; j < RI_LANES; j++) lanes[j] = j < left ? lanes[j] : R(0.0); /* m may be -inf */
                odd += ri_load(lanes);
                if (e)
                    for (i64 j = 0; j < left; j++) e[i + j] = lanes[j];
            }
        }
        s += ri_lane_sum(even + odd);
    }
    return s;
}

/* The heart of the softmax family, for a group of rows (at most ri_group(K)): the row's maximum m, e = exp(z - m) and
 * s = sum e. z may be e. */
static inline void ri_exp_group(const real *z, i64 rows, i64 K, real *e, real *m, real *s) {
    if (K >= RI_SHORT) {
        for (i64 b = 0; b < rows; b++) {
            m[b] = ri_row_max(z + b * K, K);
            s[b] = (real)ri_row_exp(z + b * K, m[b], K, e + b * K);
        }
        return;
    }
    for (i64 b = 0; b < rows; b++) {
        m[b] = ri_row_max(z + b * K, K);
        for (i64 k = b * K; k < (b + 1) * K; k++) e[k] = z[k] - m[b];
    }
    i64 n = rows * K;
#pragma omp simd
    for (i64 i = 0; i < n; i++) e[i] = ri_exp_neg(e[i]);
    for (i64 b = 0; b < rows; b++) {
        real sum = R(0.0);
        for (i64 k = b * K; k < (b + 1) * K; k++) sum += e[k];
        s[b] = sum;
    }
}

#endif
#endif
