/* loss.h - prototypes of loss.c. `loss` is one number; weight may be NULL. */
#ifndef REFIMPL_LOSS_H
#define REFIMPL_LOSS_H
#include "refimpl.h"

/* `ignoring` says whether ignore_index holds; RI_INDEX: a target outside [0, K); RI_BADARG: nothing counts. */
int RI(cross_entropy)(const real *logits, const i64 *target, double label_smoothing, int ignoring, i64 ignore_index,
                      const real *weight, i64 B, i64 K, real *loss, real *p, int threads);
int RI(cross_entropy_backward)(const real *p, const i64 *target, double label_smoothing, int ignoring, i64 ignore_index,
                               const real *weight, double dloss, i64 B, i64 K, real *dlogits, int threads);

/* N rows of V; RI_INDEX: a target outside [0, V); dlogits may be logits */
int RI(log_prob)(const real *logits, const i64 *target, i64 N, i64 V, real *lp, real *lse, int threads);
int RI(log_prob_backward)(const real *dlp, const real *logits, const i64 *target, const real *lse, i64 N, i64 V,
                          real *dlogits, int threads);

/* n elements */
int RI(binary_cross_entropy_with_logits)(const real *logits, const real *target, const real *weight, i64 n, real *loss,
                                         int threads);
int RI(binary_cross_entropy_with_logits_backward)(const real *logits, const real *target, const real *weight,
                                                  double dloss, i64 n, real *dlogits, int threads);
int RI(mse)(const real *prediction, const real *target, i64 n, real *loss, int threads);
int RI(mse_backward)(const real *prediction, const real *target, double dloss, i64 n, real *dprediction, int threads);
int RI(l1)(const real *prediction, const real *target, i64 n, real *loss, int threads);
int RI(l1_backward)(const real *prediction, const real *target, double dloss, i64 n, real *dprediction, int threads);

/* B rows, n elements in all */
int RI(kl_divergence)(const real *log_p, const real *log_q, i64 B, i64 n, real *loss, int threads);
int RI(kl_divergence_backward)(const real *log_p, const real *log_q, double dloss, i64 B, i64 n, real *dlog_p,
                               real *dlog_q, int threads);

/* B rows of D; s, norm_a, norm_b (B,) */
int RI(cosine_similarity)(const real *a, const real *b, double eps, i64 B, i64 D, real *s, real *norm_a, real *norm_b,
                          int threads);
int RI(cosine_similarity_backward)(const real *ds, const real *a, const real *b, const real *s, const real *norm_a,
                                   const real *norm_b, double eps, i64 B, i64 D, real *da, real *db, int threads);

/* M maps of H W elements. sD < 0: the second terms are absent; da, dc may be NULL. */
int RI(map_agreement)(const real *a, const real *c, double sC, double sD, double eps, i64 M, i64 H, i64 W, real *loss,
                      real *da, real *dc, int threads);

#endif
