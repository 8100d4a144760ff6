/* wave.c - a simulated cavity: linear mixing, a weak cubic part, magnitudes. Mirror of refimpl/ops/wave.py.
 *
 * Roofline: 4 B D N + 8 B N^2 flops of matrix product, and three passes over rows of at most 2N numbers with about 8
 * flops an element. For the vowels of the paper (412 rows, D = N = 20: 2 Mflop) all arrays stay in L2.
 */
#include "wave.h"
#include "gemm.h"
#include "vmath.h"

static inline real root(real x) {
#if defined(RI_IS_F32)
    return sqrtf(x);
#else
    return sqrt(x);
#endif
}

int RI(cubic_wave)(const real *x, const real *mixing, const real *coupling, double strength, i64 B, i64 D, i64 N,
                   real *y, int threads) {
    i64 both = 2 * N;
    real *xn = ri_workspace(RI_WS_OP, sizeof(real) * (size_t)(B * D + 2 * B * both + 1));
    if (!xn) return RI_NOMEM;
    real *a = xn + B * D, *cubic = a + B * both, s = (real)strength;
    int team = ri_team(threads, B * (D + 4 * N));
#pragma omp parallel for schedule(static) num_threads(team) if (team > 1)
    for (i64 b = 0; b < B; b++) {
        real squared = R(0.0);
#pragma omp simd reduction(+ : squared)
        for (i64 d = 0; d < D; d++) squared += x[b * D + d] * x[b * D + d];
        real length = root(squared) + R(1e-6);
#pragma omp simd
        for (i64 d = 0; d < D; d++) xn[b * D + d] = ri_abs(x[b * D + d]) / length;
    }
    int status = RI_INTERNAL(gemm)(0, 0, B, both, D, xn, D, mixing, both, 0, a, both, threads);
    if (status) return status;
#pragma omp parallel for schedule(static) num_threads(team) if (team > 1)
    for (i64 b = 0; b < B; b++) {
        const real *re = a + b * both, *im = re + N;
        real *to = cubic + b * both;
#pragma omp simd
        for (i64 j = 0; j < N; j++) {
            real squared = s * (re[j] * re[j] + im[j] * im[j]);
            to[j] = squared * re[j];
            to[N + j] = squared * im[j];
        }
    }
    status = RI_INTERNAL(gemm)(0, 0, B, both, both, cubic, both, coupling, both, 1, a, both, threads);
    if (status) return status;
#pragma omp parallel for schedule(static) num_threads(team) if (team > 1)
    for (i64 b = 0; b < B; b++) {
        const real *re = a + b * both, *im = re + N;
#pragma omp simd
        for (i64 j = 0; j < N; j++) y[b * N + j] = root(re[j] * re[j] + im[j] * im[j]);
    }
    return RI_OK;
}
