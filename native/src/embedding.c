/* embedding.c - rows of a table by index, and dropout with a given mask. Mirror of refimpl/ops/embedding.py.
 *
 * Roofline: copy bandwidth. The gradient of the table is written once (V D zeros) and then read and written where an
 * index points; it is summed in the order of the index (scatter.h).
 */
#include "embedding.h"
#include "scatter.h"

static void copy_rows(const i64 *index, const real *table, i64 lo, i64 hi, i64 D, real *y) {
    for (i64 i = lo; i < hi; i++) memcpy(y + i * D, table + index[i] * D, sizeof(real) * (size_t)D);
}

int RI(embedding)(const i64 *index, const real *table, i64 n, i64 V, i64 D, real *y, int threads) {
    if (!ri_in_range(index, n, V)) return RI_INDEX;
    if (n == 0 || D == 0) return RI_OK;
    int team = ri_team(threads, n * D / 2);
    if (team == 1) {
        copy_rows(index, table, 0, n, D, y);
    } else {
#pragma omp parallel for schedule(static) num_threads(team)
        for (int rank = 0; rank < team; rank++) {
            i64 lo, hi;
            ri_share(n, 1, rank, team, &lo, &hi);
            copy_rows(index, table, lo, hi, D, y);
        }
    }
    return RI_OK;
}

int RI(embedding_backward)(const real *dy, const i64 *index, i64 V, i64 n, i64 D, real *dtable, int threads) {
    if (!ri_in_range(index, n, V)) return RI_INDEX;
    int team = ri_team(threads, (n + V) * D);
    if (team == 1) {
        ri_scatter_add(dy, index, n, D, dtable, ri_scatter_part(V, D, 0, 1));
    } else {
#pragma omp parallel for schedule(static) num_threads(team)
        for (int rank = 0; rank < team; rank++)
            ri_scatter_add(dy, index, n, D, dtable, ri_scatter_part(V, D, rank, team));
    }
    return RI_OK;
}

int RI(dropout)(const real *x, const uint8_t *mask, double rate, i64 n, real *y, int threads) {
    const real scale = (real)(1.0 / (1.0 - rate));
    int team = ri_team(threads, n);
    if (team == 1) {
#pragma omp simd
        for (i64 i = 0; i < n; i++) {
            real v = x[i] * scale;
            y[i] = mask[i] ? v : (real)0;
        }
    } else {
#pragma omp parallel for simd schedule(simd : static) num_threads(team)
        for (i64 i = 0; i < n; i++) {
            real v = x[i] * scale;
            y[i] = mask[i] ? v : (real)0;
        }
    }
    return RI_OK;
}

int RI(dropout_backward)(const real *dy, const uint8_t *mask, double rate, i64 n, real *dx, int threads) {
    return RI(dropout)(dy, mask, rate, n, dx, threads);
}
