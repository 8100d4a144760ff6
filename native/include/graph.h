/* graph.h - prototypes of graph.c. A graph by indptr (N + 1) and indices (E): row i holds the sources of the edges to
 * node i. h, y, dy, dh (N, K, D); source, target and their gradients (K, D); alpha (E, K). A corrupt structure gives
 * RI_INDEX. */
#ifndef REFIMPL_GRAPH_H
#define REFIMPL_GRAPH_H
#include "refimpl.h"

int RI(graph_attention)(const i64 *indptr, const i64 *indices, const real *h, const real *source, const real *target,
                        double slope, i64 N, i64 E, i64 K, i64 D, real *y, real *alpha, int threads);
int RI(graph_attention_backward)(const real *dy, const real *alpha, const i64 *indptr, const i64 *indices,
                                 const real *h, const real *source, const real *target, double slope, i64 N, i64 E,
                                 i64 K, i64 D, real *dh, real *dsource, real *dtarget, int threads);

#endif
