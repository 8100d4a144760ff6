/* rows.h - sums, maxima and exponentials over contiguous rows, in an order that depends on the row's length alone.
 *
 * A sum keeps 64 bytes of lanes in registers, adds them up as a tree after every RI_CHUNK elements and goes on in
 * double: rounding errors grow with RI_CHUNK / lanes, not with the length. The last, incomplete vector is read so that
 * it ends where the row ends, and the lanes that were counted before are cleared; so there are no scalar remainders.
 */
#ifndef REFIMPL_ROWS_H
#define REFIMPL_ROWS_H
#include "vmath.h"

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

/* In the expressions below, the lanes of array a at the current place of the row. */
#define RI_AT(a) (full ? ri_load((a) + i) : ri_load_last((a), end))

/* total = the sum of P over a row of n */
#define RI_ROW_SUM(n, total, P)                                            \
    do {                                                                   \
        (total) = 0.0;                                                     \
        for (i64 first = 0; first < (n); first += RI_CHUNK) {              \
            const i64 end = ri_smaller(first + RI_CHUNK, (n));             \
            ri_vec even = {0}, odd = {0};                                  \
            i64 i = first;                                                 \
            for (const int full = 1; i + 2 * RI_LANES <= end;) {           \
                even += P;                                                 \
                i += RI_LANES;                                             \
                odd += P;                                                  \
                i += RI_LANES;                                             \
            }                                                              \
            for (const int full = 1; i + RI_LANES <= end; i += RI_LANES) { \
                even += P;                                                 \
            }                                                              \
            if (i < end) {                                                 \
                const int full = 0;                                        \
                odd += ri_keep_last(P, end - i);                           \
            }                                                              \
            (total) += ri_lane_sum(even + odd);                            \
        }                                                                  \
    } while (0)

/* Two sums in one pass over the row. */
#define RI_ROW_SUMS(n, p_total, P, q_total, Q)                             \
    do {                                                                   \
        (p_total) = (q_total) = 0.0;                                       \
        for (i64 first = 0; first < (n); first += RI_CHUNK) {              \
            const i64 end = ri_smaller(first + RI_CHUNK, (n));             \
            ri_vec p_lanes = {0}, q_lanes = {0};                           \
            i64 i = first;                                                 \
            for (const int full = 1; i + RI_LANES <= end; i += RI_LANES) { \
                p_lanes += P;                                              \
                q_lanes += Q;                                              \
            }                                                              \
            if (i < end) {                                                 \
                const int full = 0;                                        \
                p_lanes += ri_keep_last(P, end - i);                       \
                q_lanes += ri_keep_last(Q, end - i);                       \
            }                                                              \
            (p_total) += ri_lane_sum(p_lanes);                             \
            (q_total) += ri_lane_sum(q_lanes);                             \
        }                                                                  \
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

RI_ALWAYS ri_vec ri_vec_max(ri_vec a, ri_vec b) {
    ri_lanemask larger = b > a;
    return (ri_vec)((larger & (ri_lanemask)b) | (~larger & (ri_lanemask)a));
}

/* The largest element of a row; NaNs are passed over (x - max keeps them), -inf for an empty row. */
static inline real ri_row_max(const real *x, i64 n) {
    real m = -RI_INF;
    if (n < RI_LANES) {
        for (i64 i = 0; i < n; i++) m = x[i] > m ? x[i] : m;
        return m;
    }
    ri_vec even = ri_vec_max(m - (ri_vec){0}, ri_load_last(x, n)), odd = even;
    i64 i = 0;
    for (; i + 2 * RI_LANES <= n; i += 2 * RI_LANES) {
        even = ri_vec_max(even, ri_load(x + i));
        odd = ri_vec_max(odd, ri_load(x + i + RI_LANES));
    }
    if (i + RI_LANES <= n) even = ri_vec_max(even, ri_load(x + i));
    even = ri_vec_max(even, odd);
    for (int j = 0; j < RI_LANES; j++) m = even[j] > m ? even[j] : m;
    return m;
}

/* Rows whose exponentials are computed together: as many short ones as fill RI_FLAT, else one. */
RI_ALWAYS i64 ri_group(i64 K) {
    return K < RI_SHORT ? RI_FLAT / ri_larger(K, 1) : 1;
}

/* e = exp(z - m) and s = sum e for one row; z may be e. */
static inline double ri_row_exp(const real *z, real m, i64 n, real *e) {
    double s = 0.0;
    for (i64 first = 0; first < n; first += RI_CHUNK) {
        i64 end = ri_smaller(first + RI_CHUNK, n);
        real part = R(0.0);
#pragma omp simd reduction(+ : part)
        for (i64 i = first; i < end; i++) {
            e[i] = ri_exp(z[i] - m);
            part += e[i];
        }
        s += part;
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
    for (i64 i = 0; i < n; i++) e[i] = ri_exp(e[i]);
    for (i64 b = 0; b < rows; b++) {
        real sum = R(0.0);
        for (i64 k = b * K; k < (b + 1) * K; k++) sum += e[k];
        s[b] = sum;
    }
}

#endif
#endif
