/* rotary.c - rotary position embedding and its gradient. Mirror of refimpl/ops/rotary.py.
 *
 * Roofline: one pass, 1 array read and 1 written, the angles' cos and sin stay in cache: copy bandwidth.
 */
#include "rotary.h"

/* y1 = x1 cos - sign x2 sin, y2 = x2 cos + sign x1 sin for the rows [lo, hi) */
static void rotate(const real *x, const real *cos, const real *sin, real sign, i64 lo, i64 hi, i64 T, i64 D, real *y) {
    const i64 half = D / 2;
    for (i64 row = lo; row < hi; row++) {
        const real *x1 = x + row * D, *x2 = x1 + half, *c = cos + row % T * half, *s = sin + row % T * half;
        real *y1 = y + row * D, *y2 = y1 + half;
#pragma omp simd
        for (i64 d = 0; d < half; d++) {
            real a = x1[d], b = x2[d], turn = sign * s[d];
            y1[d] = a * c[d] - b * turn;
            y2[d] = b * c[d] + a * turn;
        }
    }
}

static int rotate_all(const real *x, const real *cos, const real *sin, real sign, i64 rows, i64 T, i64 D, real *y,
                      int threads) {
    if (rows == 0 || D == 0) return RI_OK;
    int team = ri_team(threads, rows * D);
    if (team == 1) {
        rotate(x, cos, sin, sign, 0, rows, T, D, y);
    } else {
#pragma omp parallel for schedule(static) num_threads(team)
        for (int rank = 0; rank < team; rank++) {
            i64 lo, hi;
            ri_share(rows, 1, rank, team, &lo, &hi);
            rotate(x, cos, sin, sign, lo, hi, T, D, y);
        }
    }
    return RI_OK;
}

int RI(rotary)(const real *x, const real *cos, const real *sin, i64 rows, i64 T, i64 D, real *y, int threads) {
    return rotate_all(x, cos, sin, (real)1, rows, T, D, y, threads);
}

int RI(rotary_backward)(const real *dy, const real *cos, const real *sin, i64 rows, i64 T, i64 D, real *dx,
                        int threads) {
    return rotate_all(dy, cos, sin, (real)-1, rows, T, D, dx, threads);
}
