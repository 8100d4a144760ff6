/* activate.h - the activations of one number, which activation.c applies to arrays and gemm.c to tiles of a product.
 */
#ifndef REFIMPL_ACTIVATE_H
#define REFIMPL_ACTIVATE_H
#include "vmath.h"

/* An activation by number, in the order of `ACTIVATIONS` in refimpl/ops/matmul.py; their parameters have the default
 * values of the operations. */
enum {
    RI_IDENTITY,
    RI_ACT_RELU,
    RI_ACT_TANH,
    RI_ACT_SIGMOID,
    RI_ACT_LEAKY_RELU,
    RI_ACT_ELU,
    RI_ACT_GELU,
    RI_ACT_GELU_TANH,
    RI_ACT_SILU,
    RI_ACT_SOFTPLUS,
};

#ifdef RI_REAL

#define RI_LEAKY_SLOPE R(0.01)
#define RI_ELU_ALPHA R(1.0)

/* sqrt(2/pi) and the cubic's coefficient of the tanh form of GELU */
#define RI_GELU_C R(0.79788456080286535588)
#define RI_GELU_A R(0.044715)

static inline real ri_relu(real x) {
    return x < R(0.0) ? R(0.0) : x; /* NaN stays NaN */
}

static inline real ri_leaky_relu(real x, real slope) {
    return x >= R(0.0) ? x : slope * x;
}

static inline real ri_elu(real x, real alpha) {
    return x > R(0.0) ? x : alpha * ri_expm1_neg(ri_min(x, R(0.0)));
}

static inline real ri_gelu(real x) {
    return x * ri_normal_cdf(x);
}

static inline real ri_gelu_tanh(real x) {
    const real t = ri_tanh(RI_GELU_C * (x + RI_GELU_A * x * x * x));
    return R(0.5) * x * (R(1.0) + t);
}

static inline real ri_silu(real x) {
    return x * ri_sigmoid(x);
}

#endif
#endif
