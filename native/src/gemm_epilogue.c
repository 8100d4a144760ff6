/* gemm_epilogue.c - the activation of a product, applied to a tile of C or to a stretch of one of its rows. */
#include "gemm_internal.h"

#define EACH(F)                                                   \
    do {                                                          \
        _Pragma("omp simd") for (i64 i = 0; i < n; i++) x[i] = F; \
        return;                                                   \
    } while (0)

void RI_INTERNAL(gemm_activate)(int activation, i64 n, real *x) {
    switch (activation) {
        case RI_ACT_RELU:
            EACH(ri_relu(x[i]));
        case RI_ACT_TANH:
            EACH(ri_tanh(x[i]));
        case RI_ACT_SIGMOID:
            EACH(ri_sigmoid(x[i]));
        case RI_ACT_LEAKY_RELU:
            EACH(ri_leaky_relu(x[i], RI_LEAKY_SLOPE));
        case RI_ACT_ELU:
            EACH(ri_elu(x[i], RI_ELU_ALPHA));
        case RI_ACT_GELU:
            EACH(ri_gelu(x[i]));
        case RI_ACT_GELU_TANH:
            EACH(ri_gelu_tanh(x[i]));
        case RI_ACT_SILU:
            EACH(ri_silu(x[i]));
        case RI_ACT_SOFTPLUS:
            EACH(ri_softplus(x[i]));
        default:
            break;
    }
}

void RI_INTERNAL(gemm_finish)(int activation, i64 n, real *c, real *before) {
    if (before && n > 0) memcpy(before, c, sizeof(real) * (size_t)n);
    RI_INTERNAL(gemm_activate)(activation, n, c);
}
