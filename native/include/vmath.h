/* vmath.h - exp, expm1, log, log1p, tanh, sigmoid, normal distribution: branch-free, so that loops over them vectorise.
 *
 * Method: exp and log by argument reduction and a polynomial long enough for the type (truncation below a quarter of an
 * ulp); erfc(z) as t Q(s) exp(-z^2), t = 2/(2+z), s = 2t - 1, with Q a Chebyshev series of erfc(z) exp(z^2) / t, cut
 * off below a quarter of an ulp and written in powers of s, computed for this file from 50-digit values. Errors: exp,
 * expm1, log, log1p, tanh, sigmoid <= 4 ulp; normal_cdf <= 16 ulp relative in its upper half, and an absolute error of
 * 4 ulp(1) * cdf(x) * (1 + x^2) in the lower tail (the x^2 of the exponent). NaN gives NaN; infinities give the limits;
 * results below the smallest subnormal give 0.
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
#define RI_APART 64 /* powers of two by which results near the ends of the range are kept away from them */
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
#define RI_APART 512
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

/* x = k ln 2 + r, |r| <= ln2 / 2. Returns r; *scale = 2^(k + shift). The magic constant moves k + shift + bias into the
 * low bits of a number (no float-to-int conversion, which would be undefined for NaN); from there one shift of the bits
 * makes the power of two. */
static inline real ri_reduce(real x, real shift, real *scale) {
    const real magic = RI_MAGIC + (shift + (real)RI_BIAS);
    real t = x * R(1.44269504088896340736) + magic;
    real kf = t - magic;
    *scale = ri_float(ri_bits(t) << RI_MANT);
    real r = x - kf * RI_LN2_HI;
    return r - kf * RI_LN2_LO;
}

/* (exp(r) - 1 - r) / r^2 for |r| <= ln2 / 2: in float32 the polynomial of degree 4 that is nearest to it relative to
 * exp(r) (4e-9), in float64 its Taylor series */
static inline real ri_exp_tail(real r) {
#if defined(RI_IS_F32)
    real p = 0.001381453999f;
    p = p * r + 0.008368745246f;
    p = p * r + 0.0416683908f;
    p = p * r + 0.166665204f;
    return p * r + 0.4999999343f;
#else
    real p = 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    return p * r + 0.5;
#endif
}

/* exp(x) from a power of two that lies `shift` away; `back` = 2^-shift. So subnormal and infinite results come out
 * right, by one rounding at the end. */
static inline real ri_exp_apart(real x, real shift, real back) {
    real scale;
    real r = ri_reduce(x, shift, &scale);
    real e = (r * ri_exp_tail(r) + R(1.0)) * r + R(1.0);
    return e * scale * back;
}

static inline real ri_exp(real x) {
    x = ri_max(ri_min(x, RI_EXP_HI), RI_EXP_LO);
    /* up for negative x, down for positive, in bits alone: from a choice a compiler makes two whole exponentials */
    const ri_uint sign = (ri_uint)1 << (sizeof(real) * 8 - 1);
    const ri_uint up = (ri_uint)(RI_BIAS + RI_APART) << RI_MANT;
    return ri_exp_apart(x, ri_copysign((real)RI_APART, -x), ri_float(up - ((ri_bits(x) & sign) >> 1)));
}

/* exp(x) for x <= 0 (and a little above: up to 40) */
static inline real ri_exp_neg(real x) {
    x = ri_max(x, RI_EXP_LO);
    return ri_exp_apart(x, (real)RI_APART, ri_float((ri_uint)(RI_BIAS - RI_APART) << RI_MANT));
}

/* exp(x) - 1 for x <= 0 (all that tanh and elu need) */
static inline real ri_expm1_neg(real x) {
    x = x < R(-40.0) ? R(-40.0) : x;
    real scale;
    real r = ri_reduce(x, R(0.0), &scale);
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
    real e = ri_exp_neg(-ri_abs(x));
    return (x < R(0.0) ? e : R(1.0)) / (R(1.0) + e);
}

static inline real ri_softplus(real x) {
    return ri_max(x, R(0.0)) + ri_log1p(ri_exp_neg(-ri_abs(x)));
}

/* P(Z <= x) for a standard normal Z, and *density = exp(-x^2 / 2) */
static inline real ri_normal_cdf_and(real x, real *density) {
#if defined(RI_IS_F32)
    static const real c[] = {
        0.510791356916f,     0.343580318711f,    0.139735733522f,   0.0182216694284f,
        -0.0107516261866f,   -0.0032434519181f,  0.00152915716076f, 0.000430670488436f,
        -0.000299382712072f, -3.66018769438e-5f, 4.21611971964e-5f,
    };
#else
    static const real c[] = {
        0.510791352621011489,      0.343580342206905273,      0.139736046278026891,     0.0182211157534424967,
        -0.0107553309447163639,    -0.00323959253398651317,   0.00154530602905764369,   0.000418648033296486809,
        -0.000331536747619460443,  -0.0000171857375945489391, 0.0000722353506143854335, -0.0000170743365307357001,
        -0.0000108480572688910958, 8.06004049102814625e-6,    -5.62816693519292463e-7,  -1.82080783840298215e-6,
        1.00091858626541011e-6,    -3.05871964567470975e-9,   -2.85548182383411717e-7,  1.64911631111846329e-7,
        -1.69827240129356662e-9,   -5.7601466971756245e-8,    2.90419854442090857e-8,   6.35386466950513922e-9,
        -9.7447566259322578e-9,    1.22845363501865661e-9,    1.20516659958836367e-9,   -3.38886955463086885e-10,
    };
#endif
    enum { N = sizeof c / sizeof *c };
    real z = ri_min(ri_abs(x) * R(0.70710678118654752440), R(40.0));
    real t = R(1.0) / (R(2.0) + z), s = R(4.0) * t - R(1.0);
    real q = c[N - 1];
#pragma GCC unroll 32
    for (int j = N - 2; j >= 0; j--) q = q * s + c[j];
    real e = ri_exp_neg(R(-0.5) * x * x);
    real h = t * q * e; /* erfc(z) / 2 */
    *density = e;
    return x > R(0.0) ? R(1.0) - h : h;
}

static inline real ri_normal_cdf(real x) {
    real density;
    return ri_normal_cdf_and(x, &density);
}

#endif
#endif
