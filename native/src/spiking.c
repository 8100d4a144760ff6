/* spiking.c - leaky integrate-and-fire neurons and leaky integrators over time. Mirror of refimpl/ops/spiking.py.
 *
 * Roofline: some 6 flops an element against 3 arrays of traffic (forward: x in, s and u out; backward: ds and u in, dx
 * out), so memory sets the pace. One pass: a thread takes a block of neurons (8 KB of state, which stays in L1) through
 * all steps, and each array is touched once, in runs of whole pages where the row of a step is that long. Neurons are
 * independent: the number of threads changes no bit. The sigmoid and atan surrogates add an exp or a division.
 */
#include "spiking.h"
#include "norm.h"
#include "rows.h"
#include "parameter.h"
#include "vmath.h"

#include <math.h>

enum { SUBTRACT, ZERO };
enum { RECTANGLE, TRIANGLE, SIGMOID, ATAN };
/* Neurons that a thread takes through all steps at a time. */
RI_PARAMETER(spiking_block, 8192 / sizeof(real), 256, 512, 1024, 2048, 4096, 8192);

#define INLINE static inline __attribute__((always_inline))

/* BODY for every block of neurons: the first element `at` of its sequence and `state` of its state, `n` neurons; shared
 * by the threads when there is enough to do. An element takes about 1/4 ns in cache, `cost` quarters. */
#define EACH_BLOCK(cost, BODY)                                                                                      \
    do {                                                                                                            \
        i64 block = RI_VALUE(spiking_block), blocks = (N + block - 1) / block, units = B * blocks;                  \
        int team = units ? ri_team(threads, B * (T + 1) * N / 4 * (cost)) : 1;                                      \
        if (team == 1) {                                                                                            \
            for (i64 unit = 0; unit < units; unit++) ONE_BLOCK(BODY)                                                \
        } else {                                                                                                    \
            _Pragma("omp parallel for schedule(static) num_threads(team)") for (i64 unit = 0; unit < units; unit++) \
                ONE_BLOCK(BODY)                                                                                     \
        }                                                                                                           \
    } while (0)
#define ONE_BLOCK(BODY)                                       \
    {                                                         \
        i64 b = unit / blocks, first = unit % blocks * block; \
        i64 n = N - first < block ? N - first : block;        \
        i64 at = b * T * N + first, state = b * N + first;    \
        BODY                                                  \
    }

static void copy(const real *from, i64 n, real *to) {
#pragma omp simd
    for (i64 i = 0; i < n; i++) to[i] = from[i];
}

static void fill_zero(i64 n, real *to) {
#pragma omp simd
    for (i64 i = 0; i < n; i++) to[i] = R(0.0);
}

/* a b rounded, where the compiler would fuse it with a sum: u decides about a spike, so every compiler and instruction
 * set must compute the same one. `zero` is 0, but the compiler does not know. */
INLINE real product(real a, real b, ri_uint zero) {
    return ri_float(ri_bits(a * b) ^ zero);
}

static ri_uint opaque_zero(void) {
    volatile ri_uint zero = 0;
    return zero;
}

/* ---------------------------------------------------------------- leaky integrate and fire */

/* One step of n neurons; v may be v_next. */
INLINE void lif_span(int reset, const real *x, const real *v, real leak, real threshold, real gain, ri_uint zero, i64 n,
                     real *spike, real *v_next, real *u) {
#pragma omp simd
    for (i64 i = 0; i < n; i++) {
        real potential = product(leak, v[i], zero) + product(gain, x[i], zero);
        int fires = potential >= threshold;
        u[i] = potential;
        spike[i] = fires ? R(1.0) : R(0.0);
        v_next[i] = fires ? (reset == SUBTRACT ? potential - threshold : R(0.0)) : potential;
    }
}

int RI(lif_sequence)(const real *x, const real *v0, double leak, double threshold, int reset, double gain, i64 B, i64 T,
                     i64 N, real *spikes, real *v_last, real *u, int threads) {
    real l = (real)leak, h = (real)threshold, g = (real)gain;
    ri_uint zero = opaque_zero();
    EACH_BLOCK(1, {
        real *v = v_last + state;
        if (T == 0) copy(v0 + state, n, v);
        for (i64 t = 0; t < T; t++, at += N) {
            const real *before = t ? v : v0 + state;
            if (reset == SUBTRACT)
                lif_span(SUBTRACT, x + at, before, l, h, g, zero, n, spikes + at, v, u + at);
            else
                lif_span(ZERO, x + at, before, l, h, g, zero, n, spikes + at, v, u + at);
        }
    });
    return RI_OK;
}

typedef struct {
    real leak, threshold, gain;
    real alpha; /* 1 / width; atan: half of it */
    real shape; /* rectangle: width / 2; atan: pi / (2 width) */
} neuron;

static neuron neuron_of(double leak, double threshold, double gain, int surrogate, double width) {
    const int is_atan = surrogate == ATAN;
    return (neuron){
        .leak = (real)leak,
        .threshold = (real)threshold,
        .gain = (real)gain,
        .alpha = (real)(is_atan ? 0.5 / width : 1 / width),
        .shape = (real)(is_atan ? 3.14159265358979323846 / (2 * width) : width / 2),
    };
}

INLINE real surrogate_slope(int kind, real z, real alpha, real shape) {
    if (kind == RECTANGLE) return ri_abs(z) <= shape ? alpha : R(0.0);
    if (kind == TRIANGLE) return alpha * ri_max(R(1.0) - alpha * ri_abs(z), R(0.0));
    if (kind == SIGMOID) {
        real e = ri_exp(-(alpha * ri_abs(z)));
        return alpha * e / ((R(1.0) + e) * (R(1.0) + e));
    }
    real q = shape * z;
    return alpha / (R(1.0) + q * q);
}

/* One step back of n neurons: du = ds slope + dv dv/du (the second term where `linked`), dx = gain du, dv = leak du. */
INLINE void lif_span_backward(int kind, int reset, int detach_reset, int linked, const neuron *p, const real *dspike,
                              const real *u, i64 n, real *dx, real *dv) {
    real leak = p->leak, threshold = p->threshold, gain = p->gain, alpha = p->alpha, shape = p->shape;
#pragma omp simd
    for (i64 i = 0; i < n; i++) {
        real slope = surrogate_slope(kind, u[i] - threshold, alpha, shape);
        real du = dspike[i] * slope;
        if (linked) {
            real stays = reset == ZERO && u[i] >= threshold ? R(0.0) : R(1.0);
            real through = reset == ZERO ? u[i] : threshold;
            du += dv[i] * (detach_reset ? stays : stays - through * slope);
        }
        dx[i] = gain * du;
        dv[i] = leak * du;
    }
}

/* A loop for each surrogate and kind of reset, so that none decides inside. */
typedef void span_backward(const neuron *p, const real *dspike, const real *u, i64 n, real *dx, real *dv);
#define SPAN(name, kind, reset, detach_reset, linked)                                                 \
    static void name(const neuron *p, const real *dspike, const real *u, i64 n, real *dx, real *dv) { \
        lif_span_backward(kind, reset, detach_reset, linked, p, dspike, u, n, dx, dv);                \
    }
#define SPANS(name, kind)                                \
    SPAN(name##_alone, kind, 0, 0, 0)                    \
    SPAN(name##_subtract, kind, SUBTRACT, 0, 1)          \
    SPAN(name##_subtract_detached, kind, SUBTRACT, 1, 1) \
    SPAN(name##_zero, kind, ZERO, 0, 1)                  \
    SPAN(name##_zero_detached, kind, ZERO, 1, 1)
SPANS(rectangle, RECTANGLE)
SPANS(triangle, TRIANGLE)
SPANS(sigmoid, SIGMOID)
SPANS(atan, ATAN)

/* by surrogate; then subtract, subtract detached, zero, zero detached */
#define LINKED(name) {name##_subtract, name##_subtract_detached, name##_zero, name##_zero_detached}
static span_backward *const linked_spans[4][4] = {LINKED(rectangle), LINKED(triangle), LINKED(sigmoid), LINKED(atan)};
static span_backward *const alone_spans[4] = {rectangle_alone, triangle_alone, sigmoid_alone, atan_alone};

int RI(lif_sequence_backward)(const real *dspikes, const real *dv_last, const real *u, double leak, double threshold,
                              int reset, double gain, int surrogate, double width, int detach_reset, int temporal,
                              i64 B, i64 T, i64 N, real *dx, real *dv0, int threads) {
    if (surrogate < RECTANGLE || surrogate > ATAN) return RI_BADARG;
    const neuron p = neuron_of(leak, threshold, gain, surrogate, width);
    span_backward *alone = alone_spans[surrogate];
    span_backward *linked = temporal ? linked_spans[surrogate][2 * (reset == ZERO) + (detach_reset != 0)] : alone;
    EACH_BLOCK(surrogate == SIGMOID ? 2 : 1, {
        real *dv = dv0 + state;
        if (dv_last) copy(dv_last + state, n, dv);
        for (i64 t = T - 1; t >= 0; t--) {
            i64 here = at + t * N;
            (t == T - 1 && !dv_last ? alone : linked)(&p, dspikes + here, u + here, n, dx + here, dv);
        }
        if (!temporal || (T == 0 && !dv_last)) fill_zero(n, dv);
    });
    return RI_OK;
}

/* ---------------------------------------------------------------- behind batch norm
 *
 * Where the positions of a channel are many, a thread takes a channel through everything while it is in its cache:
 * forward two passes over x for the statistics and one that normalises, integrates and fires; backward one pass for du
 * and its two sums, and one for dx. Else the kernels of batch norm run on all channels, and the current is written
 * where u will stand, du where dx will: the loops read an element before they write it.
 */

enum { SEGMENT = 32 };

static void channel_statistics(const real *x, i64 B, i64 step, i64 S, double eps, real *mean, real *rstd) {
    const double n = (double)B * (double)S;
    double sum = 0.0, sum2 = 0.0, part, part2;
    for (i64 b = 0; b < B; b++) sum += ri_row_sum(x + b * step, S);
    const real m = (real)(sum / n);
    sum = 0.0;
    for (i64 b = 0; b < B; b++) {
        const real *row = x + b * step;
        RI_ROW_SUMS(S, part, RI_AT(row) - m, part2, (RI_AT(row) - m) * (RI_AT(row) - m));
        sum += part;
        sum2 += part2;
    }
    const double shift = sum / n, variance = sum2 / n - shift * shift;
    *mean = (real)((double)m + shift);
    *rstd = (real)(1.0 / sqrt((variance < 0.0 ? 0.0 : variance) + eps));
}

INLINE void norm_lif_span(int reset, int rests, const real *x, const real *v, real mean, real scale, real shift,
                          real leak, real threshold, i64 n, real *spike, real *v_next, real *u) {
#pragma omp simd
    for (i64 i = 0; i < n; i++) {
        real potential = (x[i] - mean) * scale + shift;
        if (!rests) potential += leak * v[i];
        int fires = potential >= threshold;
        u[i] = potential;
        spike[i] = fires ? R(1.0) : R(0.0);
        v_next[i] = fires ? (reset == SUBTRACT ? potential - threshold : R(0.0)) : potential;
    }
}

static void norm_lif_channel(const real *x, const real *v, real mean, real scale, real shift, real leak, real threshold,
                             int reset, i64 B, i64 step, i64 S, real *spike, real *v_next, real *u) {
#define SPANS_OF(RESET, RESTS)                                                                                  \
    for (i64 at = 0; at < B * step; at += step)                                                                 \
    norm_lif_span(RESET, RESTS, x + at, RESTS ? x : v + at, mean, scale, shift, leak, threshold, S, spike + at, \
                  v_next + at, u + at)
    if (reset == SUBTRACT && !v)
        SPANS_OF(SUBTRACT, 1);
    else if (reset == SUBTRACT)
        SPANS_OF(SUBTRACT, 0);
    else if (!v)
        SPANS_OF(ZERO, 1);
    else
        SPANS_OF(ZERO, 0);
}

int RI(batchnorm_lif_step)(const real *x, const real *v, const real *gain, const real *bias, double leak,
                           double threshold, int reset, double eps, double momentum, i64 B, i64 C, i64 S, real *spike,
                           real *v_next, real *u, real *mean, real *rstd, real *running_mean, real *running_variance,
                           int threads) {
    int status = RI_OK;
    if (S < SEGMENT) {
        status = RI(batchnorm)(x, gain, bias, eps, B, C, S, u, mean, rstd, threads);
        if (status) return status;
        if (!v) {
            fill_zero(B * C * S, v_next);
            v = v_next;
        }
        status = RI(lif_sequence)(u, v, leak, threshold, reset, 1.0, 1, 1, B * C * S, spike, v_next, u, threads);
    } else {
        int team = ri_team(threads, 2 * B * C * S);
        RI_FOR(team, c, C, {
            const i64 at = c * S, step = C * S;
            channel_statistics(x + at, B, step, S, eps, mean + c, rstd + c);
            norm_lif_channel(x + at, v ? v + at : NULL, mean[c], rstd[c] * gain[c], bias[c], (real)leak,
                             (real)threshold, reset, B, step, S, spike + at, v_next + at, u + at);
        });
    }
    if (running_mean) {
        const i64 n = B * S;
        const real e = (real)eps, unbiased = (real)((double)n / (double)(n > 1 ? n - 1 : 1)), m = (real)momentum;
        for (i64 c = 0; c < C; c++) {
            real variance = (R(1.0) / (rstd[c] * rstd[c]) - e) * unbiased;
            running_mean[c] += m * (mean[c] - running_mean[c]);
            running_variance[c] += m * (variance - running_variance[c]);
        }
    }
    return status;
}

/* A channel of the backward pass: du (into dx) with its sums, then dx. `carried` is room for S numbers. */
static void norm_lif_channel_backward(const neuron *p, span_backward *span, const real *dspike, const real *dv_next,
                                      const real *x, const real *u, real mean, real rstd, real scale, i64 B, i64 step,
                                      i64 S, real *carried, real *dx, real *dv, real *dgain, real *dbias) {
    const double n = (double)B * (double)S;
    double sum = 0.0, inner = 0.0, part, part_inner;
    for (i64 at = 0; at < B * step; at += step) {
        real *to = dv ? dv + at : carried;
        if (dv_next) copy(dv_next + at, S, to);
        span(p, dspike + at, u + at, S, dx + at, to);
        const real *du = dx + at, *row = x + at;
        RI_ROW_SUMS(S, part, RI_AT(du), part_inner, RI_AT(du) * (RI_AT(row) - mean));
        sum += part;
        inner += part_inner;
    }
    inner *= (double)rstd;
    *dgain = (real)inner;
    *dbias = (real)sum;
    const real mean_du = (real)(sum / n), slope = (real)(inner / n) * rstd;
    for (i64 at = 0; at < B * step; at += step) {
        real *to = dx + at;
        const real *row = x + at;
#pragma omp simd
        for (i64 i = 0; i < S; i++) to[i] = scale * (to[i] - mean_du - (row[i] - mean) * slope);
    }
}

int RI(batchnorm_lif_step_backward)(const real *dspike, const real *dv_next, const real *x, const real *u,
                                    const real *gain, const real *mean, const real *rstd, double leak, double threshold,
                                    int reset, int surrogate, double width, int detach_reset, i64 B, i64 C, i64 S,
                                    int accumulate, real *dx, real *dv, real *dgain, real *dbias, int threads) {
    if (surrogate < RECTANGLE || surrogate > ATAN) return RI_BADARG;
    const int wide = S >= SEGMENT;
    const i64 size = B * C * S;
    real *room = ri_workspace(RI_WS_OP2, (size_t)(2 * C + (wide || dv ? 0 : size)) * sizeof(real));
    if (!room) return RI_NOMEM;
    real *sums = room, *sums_inner = room + C;
    if (!wide) {
        int status = RI(lif_sequence_backward)(dspike, dv_next, u, leak, threshold, reset, 1.0, surrogate, width,
                                               detach_reset, 1, 1, 1, size, dx, dv ? dv : room + 2 * C, threads);
        if (status) return status;
        status = RI(batchnorm_backward)(dx, x, gain, mean, rstd, B, C, S, dx, sums_inner, sums, threads);
        if (status) return status;
    } else {
        const neuron p = neuron_of(leak, threshold, 1.0, surrogate, width);
        span_backward *span =
            dv_next ? linked_spans[surrogate][2 * (reset == ZERO) + (detach_reset != 0)] : alone_spans[surrogate];
        int team = ri_team(threads, 3 * size), failed = 0;
        RI_FOR(team, c, C, {
            const i64 at = c * S;
            real *carried = dv ? NULL : ri_workspace(RI_WS_OP, (size_t)S * sizeof(real));
            if (!dv && !carried) {
                _Pragma("omp atomic write") failed = 1;
            } else {
                norm_lif_channel_backward(&p, span, dspike + at, dv_next ? dv_next + at : NULL, x + at, u + at, mean[c],
                                          rstd[c], rstd[c] * gain[c], B, C * S, S, carried, dx + at,
                                          dv ? dv + at : NULL, sums_inner + c, sums + c);
            }
        });
        if (failed) return RI_NOMEM;
    }
    for (i64 c = 0; c < C; c++) {
        dgain[c] = accumulate ? dgain[c] + sums_inner[c] : sums_inner[c];
        dbias[c] = accumulate ? dbias[c] + sums[c] : sums[c];
    }
    return RI_OK;
}

/* ---------------------------------------------------------------- leaky integrator */

static void integrate_span(const real *x, const real *before, real leak, ri_uint zero, i64 n, real *v) {
#pragma omp simd
    for (i64 i = 0; i < n; i++) v[i] = product(leak, before[i], zero) + x[i];
}

static void integrate_span_backward(const real *dv, real leak, i64 n, real *dx, real *carried) {
#pragma omp simd
    for (i64 i = 0; i < n; i++) {
        real d = dv[i] + carried[i];
        dx[i] = d;
        carried[i] = leak * d;
    }
}

int RI(leaky_integrator_sequence)(const real *x, const real *v0, double leak, i64 B, i64 T, i64 N, real *v,
                                  int threads) {
    real l = (real)leak;
    ri_uint zero = opaque_zero();
    EACH_BLOCK(1, {
        const real *before = v0 + state;
        for (i64 t = 0; t < T; t++, at += N) {
            real *now = v + at;
            integrate_span(x + at, before, l, zero, n, now);
            before = now;
        }
    });
    return RI_OK;
}

int RI(leaky_integrator_sequence_backward)(const real *dv, double leak, i64 B, i64 T, i64 N, real *dx, real *dv0,
                                           int threads) {
    real l = (real)leak;
    EACH_BLOCK(1, {
        real *carried = dv0 + state;
        fill_zero(n, carried);
        for (i64 t = T - 1; t >= 0; t--) {
            integrate_span_backward(dv + at + t * N, l, n, dx + at + t * N, carried);
        }
    });
    return RI_OK;
}
