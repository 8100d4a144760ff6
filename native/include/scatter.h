/* scatter.h - adding rows into rows that an index names: what embeddings and segments share. */
#ifndef REFIMPL_SCATTER_H
#define REFIMPL_SCATTER_H
#include "refimpl.h"

#include <string.h>

#ifdef RI_REAL

/* Do all n entries lie in [0, limit)? */
static inline int ri_in_range(const i64 *a, i64 n, i64 limit) {
    int outside = 0;
#pragma omp simd reduction(| : outside)
    for (i64 i = 0; i < n; i++) outside |= (uint64_t)a[i] >= (uint64_t)limit;
    return !outside;
}

/* One thread's part of a scatter: columns [c0, c1) of rows [r0, r1). Each number belongs to one thread, which meets
 * its terms in their order, so the bits do not depend on the team. Wide rows are shared by columns, narrow ones by
 * rows (each thread then passes over the whole index). */
struct ri_part {
    i64 c0, c1, r0, r1;
};

static inline struct ri_part ri_scatter_part(i64 rows, i64 D, int rank, int team) {
    struct ri_part part = {0, D, 0, rows};
    if (D >= 16 * team)
        ri_share(D, 16, rank, team, &part.c0, &part.c1);
    else
        ri_share(rows, 1, rank, team, &part.r0, &part.r1);
    return part;
}

/* y[row[i]] += x[i] for i = 0, 1, ..., y (rows x D) starting from 0 */
static inline void ri_scatter_add(const real *x, const i64 *row, i64 n, i64 D, real *y, struct ri_part part) {
    const i64 width = part.c1 - part.c0;
    if (width <= 0) return;
    for (i64 r = part.r0; r < part.r1; r++) memset(y + r * D + part.c0, 0, sizeof(real) * (size_t)width);
    for (i64 i = 0; i < n; i++) {
        if (row[i] < part.r0 || row[i] >= part.r1) continue;
        const real *from = x + i * D;
        real *to = y + row[i] * D;
#pragma omp simd
        for (i64 d = part.c0; d < part.c1; d++) to[d] += from[d];
    }
}

#endif
#endif
