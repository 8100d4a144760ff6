/* heads.c - between a projection (B, T, columns) and heads (B, H, T, E), with rotary positions. Mirror of
 * refimpl/ops/heads.py.
 *
 * Roofline: one pass, 1 array read and 1 written in runs of E numbers, the angles' cos and sin stay in cache: copy
 * bandwidth. Rows (b, t) are independent; a thread takes a stretch of them.
 */
#include "heads.h"

/* n heads of one row: y_h (at y + h step) = x_h (at x + h E), turned by the row's angles where c is given. `back`
 * goes the other way: x_h = y_h turned by the negative angles. */
static inline void to_heads(const real *x, i64 n, i64 E, const real *c, const real *s, i64 step, real *y) {
    const i64 half = E / 2;
    for (i64 h = 0; h < n; h++, x += E, y += step) {
        if (!c) {
#pragma omp simd
            for (i64 e = 0; e < E; e++) y[e] = x[e];
            continue;
        }
#pragma omp simd
        for (i64 e = 0; e < half; e++) {
            y[e] = x[e] * c[e] - x[half + e] * s[e];
            y[half + e] = x[half + e] * c[e] + x[e] * s[e];
        }
    }
}

static inline void from_heads(const real *y, i64 n, i64 E, const real *c, const real *s, i64 step, real *x) {
    const i64 half = E / 2;
    for (i64 h = 0; h < n; h++, x += E, y += step) {
        if (!c) {
#pragma omp simd
            for (i64 e = 0; e < E; e++) x[e] = y[e];
            continue;
        }
#pragma omp simd
        for (i64 e = 0; e < half; e++) {
            x[e] = y[e] * c[e] + y[half + e] * s[e];
            x[half + e] = y[half + e] * c[e] - y[e] * s[e];
        }
    }
}

/* BODY for every row r = (b, t), shared by the threads */
#define EACH_ROW(columns, BODY)                                                                             \
    do {                                                                                                    \
        const i64 rows = B * T;                                                                             \
        const int team = ri_team(threads, rows * (columns));                                                \
        if (team == 1) {                                                                                    \
            for (i64 r = 0; r < rows; r++) {                                                                \
                const i64 b = r / T, t = r % T;                                                             \
                BODY;                                                                                       \
            }                                                                                               \
        } else {                                                                                            \
            _Pragma("omp parallel for schedule(static) num_threads(team)") for (i64 r = 0; r < rows; r++) { \
                const i64 b = r / T, t = r % T;                                                             \
                BODY;                                                                                       \
            }                                                                                               \
        }                                                                                                   \
        return RI_OK;                                                                                       \
    } while (0)

int RI(split_heads)(const real *x, i64 heads, i64 kv_heads, const real *cos, const real *sin, i64 B, i64 T, i64 E,
                    real *q, real *k, real *v, int threads) {
    const i64 H = heads, G = kv_heads, half = E / 2, columns = (H + 2 * G) * E;
    if (B == 0 || T == 0 || E == 0) return RI_OK;
    EACH_ROW(columns, const real *row = x + r * columns; const real *c = cos ? cos + t * half : NULL;
             const real *s = cos ? sin + t * half : NULL; to_heads(row, H, E, c, s, T * E, q + (b * H * T + t) * E);
             to_heads(row + H * E, G, E, c, s, T * E, k + (b * G * T + t) * E);
             to_heads(row + (H + G) * E, G, E, NULL, NULL, T * E, v + (b * G * T + t) * E));
}

int RI(split_heads_backward)(const real *dq, const real *dk, const real *dv, const real *cos, const real *sin, i64 B,
                             i64 T, i64 H, i64 G, i64 E, real *dx, int threads) {
    const i64 half = E / 2, columns = (H + 2 * G) * E;
    if (B == 0 || T == 0 || E == 0) return RI_OK;
    EACH_ROW(columns, real *row = dx + r * columns; const real *c = cos ? cos + t * half : NULL;
             const real *s = cos ? sin + t * half : NULL; from_heads(dq + (b * H * T + t) * E, H, E, c, s, T * E, row);
             from_heads(dk + (b * G * T + t) * E, G, E, c, s, T * E, row + H * E);
             from_heads(dv + (b * G * T + t) * E, G, E, NULL, NULL, T * E, row + (H + G) * E));
}

int RI(merge_heads)(const real *y, i64 B, i64 H, i64 T, i64 E, real *x, int threads) {
    if (B == 0 || T == 0 || H == 0 || E == 0) return RI_OK;
    EACH_ROW(H * E, from_heads(y + (b * H * T + t) * E, H, E, NULL, NULL, T * E, x + r * H * E));
}

int RI(merge_heads_backward)(const real *dy, i64 heads, i64 B, i64 T, i64 E, real *dx, int threads) {
    const i64 H = heads;
    if (B == 0 || T == 0 || E == 0) return RI_OK;
    EACH_ROW(H * E, to_heads(dy + r * H * E, H, E, NULL, NULL, T * E, dx + (b * H * T + t) * E));
}
