/* loss.c - losses and their gradients. Mirror of refimpl/ops/loss.py.
 *
 * Roofline: every kernel reads its inputs once. mse, l1 and cosine similarity need 1-3 FMAs for 8 bytes and run at
 * memory bandwidth; the others add an exponential (and a logarithm) an element, 15-30 FMAs that vectorise.
 * Cross-entropy makes maximum, sum, logarithm, loss and probabilities while the row is in the first cache.
 *
 * A loss over many elements is the sum of at most RI_PARTIALS partial sums, cut by size and added in order: any number
 * of threads gives the same bits.
 */
#include "loss.h"
#include "rows.h"

/* *loss = (sum of the parts) / divisor, where PART is the sum over the elements [lo, hi) of n */
#define MEAN(n, least, cost, divisor, PART)                                       \
    do {                                                                          \
        double parts[RI_PARTIALS];                                                \
        const i64 per = ri_block_rows((n), (least)), count = ri_blocks((n), per); \
        int team = ri_team(threads, (n) * (cost));                                \
        RI_FOR(team, block, count, {                                              \
            const i64 lo = block * per, hi = ri_smaller(lo + per, (n));           \
            parts[block] = PART;                                                  \
        });                                                                       \
        double total = 0.0;                                                       \
        for (i64 block = 0; block < count; block++) total += parts[block];        \
        *loss = (real)(total / (double)(divisor));                                \
        return RI_OK;                                                             \
    } while (0)

/* EXPR for every element i */
#define ELEMENTS(n, cost, EXPR)                                                                                        \
    do {                                                                                                               \
        int team = ri_team(threads, (n) * (cost));                                                                     \
        if (team == 1) {                                                                                               \
            _Pragma("omp simd") for (i64 i = 0; i < (n); i++) {                                                        \
                EXPR;                                                                                                  \
            }                                                                                                          \
        } else {                                                                                                       \
            _Pragma("omp parallel for simd schedule(simd : static) num_threads(team)") for (i64 i = 0; i < (n); i++) { \
                EXPR;                                                                                                  \
            }                                                                                                          \
        }                                                                                                              \
        return RI_OK;                                                                                                  \
    } while (0)

/* sum over [lo, hi) of the scalar expression TERM in i */
#define SUM_OF(lo, hi, TERM)                                                            \
    do {                                                                                \
        double sum = 0.0;                                                               \
        for (i64 first = (lo); first < (hi); first += RI_CHUNK) {                       \
            const i64 end = ri_smaller(first + RI_CHUNK, (hi));                         \
            real part = R(0.0);                                                         \
            _Pragma("omp simd reduction(+ : part)") for (i64 i = first; i < end; i++) { \
                part += TERM;                                                           \
            }                                                                           \
            sum += part;                                                                \
        }                                                                               \
        return sum;                                                                     \
    } while (0)

/* ---------------------------------------------------------------- cross-entropy */

/* *total = the sum of the weights of the samples that count */
static int total_weight(const i64 *target, int ignoring, i64 ignore_index, const real *weight, i64 B, i64 K,
                        double *total) {
    double sum = 0.0;
    for (i64 b = 0; b < B; b++) {
        if (ignoring && target[b] == ignore_index) continue;
        if (target[b] < 0 || target[b] >= K) return RI_INDEX;
        sum += weight ? (double)weight[b] : 1.0;
    }
    *total = sum;
    return sum > 0.0 ? RI_OK : RI_BADARG;
}

/* The weighted sum of the losses of a few rows (at most ri_group(K)), and their probabilities. */
static double cross_entropy_group(const real *logits, const i64 *target, double label_smoothing, int ignoring,
                                  i64 ignore_index, const real *weight, i64 rows, i64 K, real *p) {
    real m[RI_FLAT], s[RI_FLAT], log_s[RI_FLAT];
    ri_exp_group(logits, rows, K, p, m, s); /* p = exp(z - m), s = sum p */
#pragma omp simd
    for (i64 b = 0; b < rows; b++) log_s[b] = ri_log(s[b]);
    const real hit = (real)(1.0 - label_smoothing), every = (real)(label_smoothing / (double)K);
    double loss = 0.0;
    for (i64 b = 0; b < rows; b++) {
        const real *z = logits + b * K;
        real *row = p + b * K, scale = R(1.0) / s[b];
#pragma omp simd
        for (i64 k = 0; k < K; k++) row[k] *= scale;
        if (ignoring && target[b] == ignore_index) continue;
        real log_p = (z[target[b]] - m[b]) - log_s[b];
        real ce = -hit * log_p;
        if (label_smoothing > 0.0) {
            const double sum = ri_row_sum_about(z, m[b], K);
            ce -= every * (real)(sum - (double)K * (double)log_s[b]);
        }
        loss += weight ? (double)weight[b] * (double)ce : (double)ce;
    }
    return loss;
}

static double cross_entropy_rows(const real *logits, const i64 *target, double label_smoothing, int ignoring,
                                 i64 ignore_index, const real *weight, i64 lo, i64 hi, i64 K, real *p) {
    double loss = 0.0;
    const i64 group = ri_group(K);
    for (i64 b = lo; b < hi; b += group)
        loss += cross_entropy_group(logits + b * K, target + b, label_smoothing, ignoring, ignore_index,
                                    weight ? weight + b : NULL, ri_smaller(group, hi - b), K, p + b * K);
    return loss;
}

int RI(cross_entropy)(const real *logits, const i64 *target, double label_smoothing, int ignoring, i64 ignore_index,
                      const real *weight, i64 B, i64 K, real *loss, real *p, int threads) {
    double total_w;
    int status = total_weight(target, ignoring, ignore_index, weight, B, K, &total_w);
    if (status) return status;
    threads = ri_team(threads, B * K * 2); /* MEAN counts rows: the team is chosen here and forced there */
    threads = threads > 1 ? -threads : 1;
    MEAN(B, ri_group(K), 1, total_w,
         cross_entropy_rows(logits, target, label_smoothing, ignoring, ignore_index, weight, lo, hi, K, p));
}

int RI(cross_entropy_backward)(const real *p, const i64 *target, double label_smoothing, int ignoring, i64 ignore_index,
                               const real *weight, double dloss, i64 B, i64 K, real *dlogits, int threads) {
    double total_w;
    int status = total_weight(target, ignoring, ignore_index, weight, B, K, &total_w);
    if (status) return status;
    const real hit = (real)(1.0 - label_smoothing), every = (real)(label_smoothing / (double)K);
    const i64 per = ri_larger(1, RI_CHUNK / K);
    int team = ri_team(threads, B * K);
    RI_FOR(team, block, ri_blocks(B, per), {
        for (i64 b = block * per; b < ri_smaller((block + 1) * per, B); b++) {
            const real *row = p + b * K;
            real *dz = dlogits + b * K;
            if (ignoring && target[b] == ignore_index) {
                for (i64 k = 0; k < K; k++) dz[k] = R(0.0);
                continue;
            }
            const real scale = (real)(dloss * (weight ? (double)weight[b] : 1.0) / total_w);
            _Pragma("omp simd") for (i64 k = 0; k < K; k++) dz[k] = scale * (row[k] - every);
            const i64 t = target[b];
            dz[t] = scale * ((row[t] - every) - hit);
        }
    });
    return RI_OK;
}

/* ---------------------------------------------------------------- log-probability of a token
 * Two passes over a row, which stays in L1 between them; one number a row is kept. */

static real logsumexp_row(const real *z, i64 V) {
    real m = -RI_INF, s = R(0.0);
#pragma omp simd reduction(max : m)
    for (i64 v = 0; v < V; v++) m = z[v] > m ? z[v] : m;
#pragma omp simd reduction(+ : s)
    for (i64 v = 0; v < V; v++) s += ri_exp(z[v] - m);
    return m + ri_log(s);
}

static int targets_in_range(const i64 *target, i64 N, i64 V) {
    int bad = 0;
    for (i64 t = 0; t < N; t++) bad |= target[t] < 0 || target[t] >= V;
    return !bad;
}

int RI(log_prob)(const real *logits, const i64 *target, i64 N, i64 V, real *lp, real *lse, int threads) {
    if (!targets_in_range(target, N, V)) return RI_INDEX;
    const int team = ri_team(threads, N * V * 2);
    const i64 per = ri_larger(1, RI_CHUNK / ri_larger(1, V));
    RI_FOR(team, block, ri_blocks(N, per), {
        for (i64 t = block * per; t < ri_smaller((block + 1) * per, N); t++) {
            lse[t] = logsumexp_row(logits + t * V, V);
            lp[t] = logits[t * V + target[t]] - lse[t];
        }
    });
    return RI_OK;
}

static void log_prob_backward_row(real dlp, const real *z, real lse, i64 target, i64 V, real *dz) {
    const real hit = dlp * (R(1.0) - ri_exp(z[target] - lse));
#pragma omp simd
    for (i64 v = 0; v < V; v++) dz[v] = -dlp * ri_exp(z[v] - lse);
    dz[target] = hit;
}

int RI(log_prob_backward)(const real *dlp, const real *logits, const i64 *target, const real *lse, i64 N, i64 V,
                          real *dlogits, int threads) {
    if (!targets_in_range(target, N, V)) return RI_INDEX;
    const int team = ri_team(threads, N * V * 2);
    const i64 per = ri_larger(1, RI_CHUNK / ri_larger(1, V));
    RI_FOR(team, block, ri_blocks(N, per), {
        for (i64 t = block * per; t < ri_smaller((block + 1) * per, N); t++)
            log_prob_backward_row(dlp[t], logits + t * V, lse[t], target[t], V, dlogits + t * V);
    });
    return RI_OK;
}

/* ---------------------------------------------------------------- element by element */

RI_ALWAYS real bce_term(real z, real t) {
    return (ri_max(z, R(0.0)) - z * t) + ri_log1p(ri_exp_neg(-ri_abs(z)));
}

static double bce_sum(const real *logits, const real *target, i64 lo, i64 hi) {
    SUM_OF(lo, hi, bce_term(logits[i], target[i]));
}

static double bce_weighted_sum(const real *logits, const real *target, const real *weight, i64 lo, i64 hi) {
    SUM_OF(lo, hi, weight[i] * bce_term(logits[i], target[i]));
}

int RI(binary_cross_entropy_with_logits)(const real *logits, const real *target, const real *weight, i64 n, real *loss,
                                         int threads) {
    if (weight) MEAN(n, RI_CHUNK, 4, n, bce_weighted_sum(logits, target, weight, lo, hi));
    MEAN(n, RI_CHUNK, 4, n, bce_sum(logits, target, lo, hi));
}

int RI(binary_cross_entropy_with_logits_backward)(const real *logits, const real *target, const real *weight,
                                                  double dloss, i64 n, real *dlogits, int threads) {
    const real scale = (real)(dloss / (double)n);
    if (weight) ELEMENTS(n, 2, dlogits[i] = scale * weight[i] * (ri_sigmoid(logits[i]) - target[i]));
    ELEMENTS(n, 2, dlogits[i] = scale * (ri_sigmoid(logits[i]) - target[i]));
}

static double squares(const real *prediction, const real *target, i64 n) {
    double s;
    RI_ROW_SUM(n, s, (RI_AT(prediction) - RI_AT(target)) * (RI_AT(prediction) - RI_AT(target)));
    return s;
}

int RI(mse)(const real *prediction, const real *target, i64 n, real *loss, int threads) {
    MEAN(n, RI_CHUNK, 1, n, squares(prediction + lo, target + lo, hi - lo));
}

int RI(mse_backward)(const real *prediction, const real *target, double dloss, i64 n, real *dprediction, int threads) {
    const real scale = (real)(2.0 * dloss / (double)n);
    ELEMENTS(n, 1, dprediction[i] = scale * (prediction[i] - target[i]));
}

RI_ALWAYS ri_vec vec_abs(ri_vec v) {
    const ri_lanemask sign = (ri_lanemask)(-(ri_vec){0});
    return (ri_vec)((ri_lanemask)v & ~sign);
}

static double distances(const real *prediction, const real *target, i64 n) {
    double s;
    RI_ROW_SUM(n, s, vec_abs(RI_AT(prediction) - RI_AT(target)));
    return s;
}

int RI(l1)(const real *prediction, const real *target, i64 n, real *loss, int threads) {
    MEAN(n, RI_CHUNK, 1, n, distances(prediction + lo, target + lo, hi - lo));
}

int RI(l1_backward)(const real *prediction, const real *target, double dloss, i64 n, real *dprediction, int threads) {
    const real scale = (real)(dloss / (double)n);
    ELEMENTS(n, 1, real d = prediction[i] - target[i]; real sign = d > R(0.0) ? R(1.0) : (d < R(0.0) ? R(-1.0) : d);
             dprediction[i] = scale * sign);
}

/* p (log p - log q), 0 where p = 0 */
RI_ALWAYS real kl_term(real log_p, real log_q) {
    real p = ri_exp(log_p), term = p * (log_p - log_q);
    return p == R(0.0) ? R(0.0) : term;
}

static double kl_sum(const real *log_p, const real *log_q, i64 lo, i64 hi) {
    SUM_OF(lo, hi, kl_term(log_p[i], log_q[i]));
}

int RI(kl_divergence)(const real *log_p, const real *log_q, i64 B, i64 n, real *loss, int threads) {
    MEAN(n, RI_CHUNK, 2, B, kl_sum(log_p, log_q, lo, hi));
}

int RI(kl_divergence_backward)(const real *log_p, const real *log_q, double dloss, i64 B, i64 n, real *dlog_p,
                               real *dlog_q, int threads) {
    const real scale = (real)(dloss / (double)B);
    ELEMENTS(n, 2, real p = ri_exp(log_p[i]); real g = scale * p; real d = g * ((log_p[i] - log_q[i]) + R(1.0));
             dlog_p[i] = p == R(0.0) ? R(0.0) : d; dlog_q[i] = -g);
}

/* ---------------------------------------------------------------- cosine similarity */

static void cosine_rows(const real *a, const real *b, real eps, i64 lo, i64 hi, i64 D, real *s, real *norm_a,
                        real *norm_b) {
    for (i64 r = lo; r < hi; r++) {
        const real *u = a + r * D, *v = b + r * D;
        norm_a[r] = (real)sqrt(ri_row_dot(u, u, D));
        norm_b[r] = (real)sqrt(ri_row_dot(v, v, D));
        s[r] = (real)ri_row_dot(u, v, D) / ri_max(norm_a[r], eps) / ri_max(norm_b[r], eps);
    }
}

int RI(cosine_similarity)(const real *a, const real *b, double eps, i64 B, i64 D, real *s, real *norm_a, real *norm_b,
                          int threads) {
    const i64 per = ri_larger(1, RI_CHUNK / ri_larger(D, 1));
    int team = ri_team(threads, B * D);
    RI_FOR(team, block, ri_blocks(B, per),
           cosine_rows(a, b, (real)eps, block * per, ri_smaller((block + 1) * per, B), D, s, norm_a, norm_b));
    return RI_OK;
}

static void cosine_rows_backward(const real *ds, const real *a, const real *b, const real *s, const real *norm_a,
                                 const real *norm_b, real eps, i64 lo, i64 hi, i64 D, real *da, real *db) {
    for (i64 r = lo; r < hi; r++) {
        const real *u = a + r * D, *v = b + r * D;
        real *du = da + r * D, *dv = db + r * D;
        const real big_a = ri_max(norm_a[r], eps), big_b = ri_max(norm_b[r], eps);
        const real cross = ds[r] / big_a / big_b;
        /* a norm below eps counts as the constant eps */
        const real own_a = norm_a[r] < eps ? R(0.0) : ds[r] * s[r] / big_a / big_a;
        const real own_b = norm_b[r] < eps ? R(0.0) : ds[r] * s[r] / big_b / big_b;
#pragma omp simd
        for (i64 i = 0; i < D; i++) {
            du[i] = cross * v[i] - own_a * u[i];
            dv[i] = cross * u[i] - own_b * v[i];
        }
    }
}

int RI(cosine_similarity_backward)(const real *ds, const real *a, const real *b, const real *s, const real *norm_a,
                                   const real *norm_b, double eps, i64 B, i64 D, real *da, real *db, int threads) {
    const i64 per = ri_larger(1, RI_CHUNK / ri_larger(D, 1));
    int team = ri_team(threads, B * D * 2);
    RI_FOR(team, block, ri_blocks(B, per),
           cosine_rows_backward(ds, a, b, s, norm_a, norm_b, (real)eps, block * per, ri_smaller((block + 1) * per, B),
                                D, da, db));
    return RI_OK;
}

/* ---------------------------------------------------------------- agreement of two sets of maps */

enum { STRETCH = 1024 }; /* elements of a map that are summed in `real` before the total goes on in double */

/* What the second visit of a pair of maps needs: their means (and what rounding left of them) and inverse lengths 1/(n
 * + e), 1/(m + e); the factors of a - c, of g / (n + e) and g / (m + e), of u and of v. */
struct pair_of_maps {
    real mean_a, mean_c, rest_a, rest_c, short_a, short_c, apart, push_a, push_c, along_a, along_c;
};

/* A NaN stays. */
static inline double above_zero(double x) {
    return x < 0.0 ? 0.0 : x;
}

/* The first visit: means, then, while the maps lie in the first cache, the sums of u, v, u^2, v^2 and u v about them.
 * (About 0 one go would do, but a map that is bright and flat would lose its digits. The sums of u and v are what the
 * rounding of a mean has left.) */
static struct pair_of_maps pair_of(const real *a, const real *c, i64 n, real apart, double towards, double eps) {
    double sum_a = 0.0, sum_c = 0.0, su = 0.0, sv = 0.0, uu = 0.0, vv = 0.0, uv = 0.0;
    for (i64 first = 0; first < n; first += STRETCH) {
        const i64 end = ri_smaller(first + STRETCH, n);
        real s = R(0.0), t = R(0.0);
#pragma omp simd reduction(+ : s, t)
        for (i64 i = first; i < end; i++) {
            s += a[i];
            t += c[i];
        }
        sum_a += (double)s;
        sum_c += (double)t;
    }
    const real mean_a = (real)(sum_a / (double)n), mean_c = (real)(sum_c / (double)n);
    for (i64 first = 0; first < n; first += STRETCH) {
        const i64 end = ri_smaller(first + STRETCH, n);
        real ones_u = R(0.0), ones_v = R(0.0), s = R(0.0), t = R(0.0), st = R(0.0);
#pragma omp simd reduction(+ : ones_u, ones_v, s, t, st)
        for (i64 i = first; i < end; i++) {
            const real u = a[i] - mean_a, v = c[i] - mean_c;
            ones_u += u;
            ones_v += v;
            s += u * u;
            t += v * v;
            st += u * v;
        }
        su += (double)ones_u;
        sv += (double)ones_v;
        uu += (double)s;
        vv += (double)t;
        uv += (double)st;
    }
    uu = above_zero(uu - su * su / (double)n);
    vv = above_zero(vv - sv * sv / (double)n);
    uv -= su * sv / (double)n;
    const double len_a = sqrt(uu), len_c = sqrt(vv), short_a = 1.0 / (len_a + eps), short_c = 1.0 / (len_c + eps);
    /* <u, g> / (n (n + e)^2) and <v, -g> / (m (m + e)^2); 0 where a map has no contrast: then u = 0 */
    const double ug = towards * (uu * short_a - uv * short_c), vg = towards * (vv * short_c - uv * short_a);
    return (struct pair_of_maps){
        mean_a,
        mean_c,
        (real)(su / (double)n),
        (real)(sv / (double)n),
        (real)short_a,
        (real)short_c,
        apart,
        (real)(towards * short_a),
        (real)(towards * short_c),
        (real)(len_a == 0.0 ? 0.0 : ug * short_a * short_a / len_a),
        (real)(len_c == 0.0 ? 0.0 : vg * short_c * short_c / len_c),
    };
}

/* The second visit: the sums of (a - c)^2 and (norm(a) - norm(c))^2, and the gradients. A constant NULL costs nothing:
 * the function is inlined. */
RI_ALWAYS void compare_maps(const real *a, const real *c, i64 n, struct pair_of_maps p, real *da, real *dc,
                            double *apart, double *unlike) {
    for (i64 first = 0; first < n; first += STRETCH) {
        const i64 end = ri_smaller(first + STRETCH, n);
        real s = R(0.0), t = R(0.0);
#pragma omp simd reduction(+ : s, t)
        for (i64 i = first; i < end; i++) {
            const real d = a[i] - c[i], u = (a[i] - p.mean_a) - p.rest_a, v = (c[i] - p.mean_c) - p.rest_c;
            const real g = u * p.short_a - v * p.short_c;
            s += d * d;
            t += g * g;
            if (da) da[i] = p.apart * d + p.push_a * g - p.along_a * u;
            if (dc) dc[i] = -p.apart * d - p.push_c * g - p.along_c * v;
        }
        *apart += (double)s;
        *unlike += (double)t;
    }
}

/* n elements without regard to maps, for the first term alone. */
RI_ALWAYS void compare(const real *a, const real *c, i64 n, real factor, real *da, real *dc, double *apart) {
    for (i64 first = 0; first < n; first += STRETCH) {
        const i64 end = ri_smaller(first + STRETCH, n);
        real s = R(0.0);
#pragma omp simd reduction(+ : s)
        for (i64 i = first; i < end; i++) {
            const real d = a[i] - c[i];
            s += d * d;
            if (da) da[i] = factor * d;
            if (dc) dc[i] = -factor * d;
        }
        *apart += (double)s;
    }
}

/* BODY with the gradients that are asked for as constants */
#define GRADIENTS(da, dc, at, CALL)             \
    do {                                        \
        real *const u = (da) ? (da) + (at) : 0; \
        real *const v = (dc) ? (dc) + (at) : 0; \
        if (u && v) {                           \
            CALL(u, v);                         \
        } else if (u) {                         \
            CALL(u, NULL);                      \
        } else if (v) {                         \
            CALL(NULL, v);                      \
        } else {                                \
            CALL(NULL, NULL);                   \
        }                                       \
    } while (0)

int RI(map_agreement)(const real *a, const real *c, double sC, double sD, double eps, i64 M, i64 H, i64 W, real *loss,
                      real *da, real *dc, int threads) {
    const i64 S = H * W;
    const double scale = (double)H / ((double)M * (double)S);
    const real factor = (real)(2.0 * scale * sC);
    const double towards = 2.0 * scale * sD;
    const i64 rows = ri_block_rows(M, ri_larger(1, RI_CHUNK / ri_larger(S, 1))), blocks = ri_blocks(M, rows);
    double apart[RI_PARTIALS] = {0},
           unlike[RI_PARTIALS] = {0}; /* of each block: any number of threads, the same bits */
    int team = ri_team(threads, M * S * 2);
    RI_FOR(team, block, blocks, {
        const i64 lo = block * rows, hi = ri_smaller(lo + rows, M);
        if (sD < 0.0) {
#define WHOLE(u, v) compare(a + lo * S, c + lo * S, (hi - lo) * S, factor, u, v, &apart[block])
            GRADIENTS(da, dc, lo * S, WHOLE);
        } else {
            for (i64 k = lo; k < hi; k++) {
                const struct pair_of_maps pair = pair_of(a + k * S, c + k * S, S, factor, towards, eps);
#define ONE(u, v) compare_maps(a + k * S, c + k * S, S, pair, u, v, &apart[block], &unlike[block])
                GRADIENTS(da, dc, k * S, ONE);
            }
        }
    });
    double first = 0.0, second = 0.0;
    for (i64 k = 0; k < blocks; k++) {
        first += apart[k];
        second += unlike[k];
    }
    *loss = (real)(scale * sC * first + (sD < 0.0 ? 0.0 : scale * sD * second));
    return RI_OK;
}
