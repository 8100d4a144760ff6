/* vmath.h - exp, expm1, log, log1p, tanh, sigmoid, normal distribution: branch-free, so that loops over them vectorise.
 *
 * Method: exp and log by argument reduction and a Taylor polynomial long enough for the type (truncation below a
 * quarter of an ulp); erfc as t exp(-x^2 + P(t)), t = 2/(2+x), with P a Chebyshev series computed for this file from
 * 40-digit values. Errors: exp, expm1, log, log1p, tanh, sigmoid <= 4 ulp; normal_cdf <= 16 ulp relative in its upper
 * half, and an absolute error of 4 ulp(1) * cdf(x) * (1 + x^2) in the lower tail (the x^2 of the exponent).
 * NaN gives NaN; infinities give the limits; results below the smallest subnormal give 0.
 */
#ifndef REFIMPL_VMATH_H
#define REFIMPL_VMATH_H
#include "refimpl.h"

#include <math.h>

#ifdef RI_REAL

#if defined(RI_IS_F32)
typedef int32_t ri_int;
typedef uint32_t ri_uint;
#define RI_MANT 23
#define RI_BIAS 127
#define RI_MAGIC 12582912.0f /* 1.5 * 2^23: adding it rounds to an integer, kept in the low bits */
#define RI_EXP_HI 89.0f
#define RI_EXP_LO -104.0f
#define RI_LN2_HI 0.693359375f
#define RI_LN2_LO -2.12194440e-4f
#define RI_TINY 1.17549435e-38f
#define R(x) x##f
#else
typedef int64_t ri_int;
typedef uint64_t ri_uint;
#define RI_MANT 52
#define RI_BIAS 1023
#define RI_MAGIC 6755399441055744.0
#define RI_EXP_HI 710.0
#define RI_EXP_LO -746.0
#define RI_LN2_HI 6.93147180369123816490e-01
#define RI_LN2_LO 1.90821492927058770002e-10
#define RI_TINY 2.2250738585072014e-308
#define R(x) x
#endif

#define RI_INF ((real)INFINITY)

static inline ri_uint ri_bits(real x) {
    ri_uint u;
    __builtin_memcpy(&u, &x, sizeof u);
    return u;
}

static inline real ri_float(ri_uint u) {
    real x;
    __builtin_memcpy(&x, &u, sizeof x);
    return x;
}

/* a NaN in a stays */
static inline real ri_max(real a, real b) {
    return b > a ? b : a;
}
static inline real ri_min(real a, real b) {
    return b < a ? b : a;
}
static inline real ri_abs(real x) {
    return ri_float(ri_bits(x) & ~((ri_uint)1 << (sizeof(real) * 8 - 1)));
}
/* |x| with the sign of s */
static inline real ri_copysign(real x, real s) {
    ri_uint sign = (ri_uint)1 << (sizeof(real) * 8 - 1);
    return ri_float((ri_bits(x) & ~sign) | (ri_bits(s) & sign));
}

/* 2^k for k of either sign within the exponent range of a normal number */
static inline real ri_pow2(ri_int k) {
    return ri_float((ri_uint)(k + RI_BIAS) << RI_MANT);
}

/* x = k ln 2 + r, |r| <= ln2 / 2. Returns r; *k by the trick of the magic constant (no float-to-int conversion, which
 * would be undefined for NaN). */
static inline real ri_reduce(real x, ri_int *k) {
    real t = x * R(1.44269504088896340736) + RI_MAGIC;
    real kf = t - RI_MAGIC;
    ri_uint d = ri_bits(t) - ri_bits(RI_MAGIC);
    *k = (ri_int)d;
    real r = x - kf * RI_LN2_HI;
    return r - kf * RI_LN2_LO;
}

/* (exp(r) - 1 - r) / r^2 for |r| <= ln2 / 2 */
static inline real ri_exp_tail(real r) {
#if defined(RI_IS_F32)
    real p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
#else
    real p = 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
#endif
    p = p * r + R(1.0) / R(120.0);
    p = p * r + R(1.0) / R(24.0);
    p = p * r + R(1.0) / R(6.0);
    return p * r + R(0.5);
}

static inline real ri_exp(real x) {
    x = x > RI_EXP_HI ? RI_EXP_HI : x;
    x = x < RI_EXP_LO ? RI_EXP_LO : x;
    ri_int k;
    real r = ri_reduce(x, &k);
    real e = R(1.0) + (r + r * r * ri_exp_tail(r));
    ri_int half = k >> 1; /* in two steps, so that subnormal and infinite results come out right */
    return e * ri_pow2(half) * ri_pow2(k - half);
}

/* exp(x) - 1 for x <= 0 (all that tanh and elu need) */
static inline real ri_expm1_neg(real x) {
    x = x < R(-40.0) ? R(-40.0) : x;
    ri_int k;
    real r = ri_reduce(x, &k);
    real scale = ri_pow2(k);
    return scale * (r + r * r * ri_exp_tail(r)) + (scale - R(1.0));
}

static inline real ri_log(real x) {
    real small = x < RI_TINY ? R(1.0) : R(0.0); /* subnormals are scaled into the normal range first */
    real scale = small * (ri_pow2(RI_MANT) - R(1.0)) + R(1.0);
    real y = x * scale;
    ri_uint u = ri_bits(y);
    /* mantissa into [sqrt(1/2), sqrt(2)) */
    ri_int k = (ri_int)(u - ri_bits(R(0.70710678118654752440))) >> RI_MANT;
    real m = ri_float(u - ((ri_uint)k << RI_MANT));
    real s = (m - R(1.0)) / (m + R(1.0));
    real z = s * s;
#if defined(RI_IS_F32)
    real p = 1.0f / 11.0f;
#else
    real p = 1.0 / 21.0;
    p = p * z + 1.0 / 19.0;
    p = p * z + 1.0 / 17.0;
    p = p * z + 1.0 / 15.0;
    p = p * z + 1.0 / 13.0;
    p = p * z + 1.0 / 11.0;
#endif
    p = p * z + R(1.0) / R(9.0);
    p = p * z + R(1.0) / R(7.0);
    p = p * z + R(1.0) / R(5.0);
    p = p * z + R(1.0) / R(3.0);
    /* an integer as a float, again by the magic constant */
    real kf = ri_float(ri_bits(RI_MAGIC) + (ri_uint)k) - RI_MAGIC - small * (real)RI_MANT;
    real result = kf * RI_LN2_HI + (R(2.0) * s + (R(2.0) * s * z * p + kf * RI_LN2_LO));
    result = x == R(0.0) ? -RI_INF : result;
    result = x < R(0.0) ? (real)NAN : result;
    result = x == RI_INF ? RI_INF : result;
    return x != x ? x : result;
}

/* log(1 + u) for 0 <= u <= 1, exact for tiny u (Kahan's correction) */
static inline real ri_log1p(real u) {
    real w = R(1.0) + u;
    real d = w - R(1.0);
    real safe = d == R(0.0) ? R(1.0) : d;
    real l = ri_log(w) * (u / safe);
    return d == R(0.0) ? u : l;
}

static inline real ri_tanh(real x) {
    real t = ri_expm1_neg(R(-2.0) * ri_abs(x));
    return x != x ? x : ri_copysign(-t / (t + R(2.0)), x);
}

static inline real ri_sigmoid(real x) {
    real e = ri_exp(-ri_abs(x));
    real s = R(1.0) / (R(1.0) + e);
    return x < R(0.0) ? e * s : s;
}

static inline real ri_softplus(real x) {
    return ri_max(x, R(0.0)) + ri_log1p(ri_exp(-ri_abs(x)));
}

/* erfc(x) for x >= 0 */
static inline real ri_erfc_pos(real x) {
    static const double c[] = {
        -1.3026537197817094342,     0.6419697923564902603,      0.019476473204185836312,    -0.0095615147868086316419,
        -0.0009465953444820368663,  0.00036683949785276145187,  0.000042523324806907771645, -0.000020278578112534243154,
        -1.6242900046470255135e-6,  1.3036558355805232018e-6,   1.5626441722066143178e-8,   -8.5238095914926542525e-8,
        6.5290544390988514964e-9,   5.0593434955514689418e-9,   -9.9136415649303308674e-10, -2.2736512229318358557e-10,
        9.646791102015526802e-11,   2.3940380830391147447e-12,  -6.8860275264975533984e-12, 8.9448792730907257167e-13,
        3.1309213993429580783e-13,  -1.1270822361367252366e-13, 3.8109052551892320552e-16,  7.1060976136092369878e-15,
        -1.5230282014571043043e-15, -9.4574945712912340005e-17, 1.2102371892242789923e-16,
    };
#if defined(RI_IS_F32)
    enum { N = 13 };
#else
    enum { N = 27 };
#endif
    real t = R(2.0) / (R(2.0) + x);
    real u = R(4.0) * t - R(2.0); /* twice the Chebyshev variable */
    real d = R(0.0), dd = R(0.0);
#pragma GCC unroll 32
    for (int j = N - 1; j > 0; j--) { /* Clenshaw */
        real old = d;
        d = u * d - dd + (real)c[j];
        dd = old;
    }
    return t * ri_exp(-x * x + (R(0.5) * ((real)c[0] + u * d) - dd));
}

/* P(Z <= x), Z standard normal */
static inline real ri_normal_cdf(real x) {
    real h = R(0.5) * ri_erfc_pos(ri_min(ri_abs(x) * R(0.70710678118654752440), R(40.0)));
    real y = x > R(0.0) ? R(1.0) - h : h;
    return x != x ? x : y;
}

static inline real ri_normal_pdf(real x) {
    return R(0.39894228040143267794) * ri_exp(R(-0.5) * x * x);
}

#endif
#endif
