/* embedding.h - prototypes of embedding.c. n: entries of index, or elements of x. */
#ifndef REFIMPL_EMBEDDING_H
#define REFIMPL_EMBEDDING_H
#include "refimpl.h"

int RI(embedding)(const i64 *index, const real *table, i64 n, i64 V, i64 D, real *y, int threads);
int RI(embedding_backward)(const real *dy, const i64 *index, i64 V, i64 n, i64 D, real *dtable, int threads);
int RI(dropout)(const real *x, const uint8_t *mask, double rate, i64 n, real *y, int threads);
int RI(dropout_backward)(const real *dy, const uint8_t *mask, double rate, i64 n, real *dx, int threads);

#endif
