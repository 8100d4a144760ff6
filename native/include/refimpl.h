/* refimpl.h - what every file of the C core shares: types, names, error codes, threads, workspace.
 *
 * One source serves every dtype and every instruction-set level. The build compiles each file of native/src once per
 * (level, dtype) pair with
 *     -DRI_REAL=float|double  -DRI_SUFFIX=f32_v4 (say)
 * so that RI(layernorm) is ri_layernorm_f32_v4 in one object and ri_layernorm_f64_v2 in another. A table of function
 * pointers per level is chosen once, when the library is loaded (see runtime.c).
 *
 * A kernel is a mirror of a NumPy body of refimpl/ops: same name, same argument names, same order of steps. Its
 * prototype stands in native/include/<family>.h in the form
 *     int RI(name)(const real *x, i64 B, ..., real *y, int threads);
 * which native/build.py reads to make the cffi declarations. Kernels return an error code and never abort; all arrays
 * are C-contiguous and were checked by the caller (refimpl/ops/native/<family>.py); outputs never overlap inputs
 * unless the prototype's comment says so.
 */
#ifndef REFIMPL_H
#define REFIMPL_H

#include <stddef.h>
#include <stdint.h>

typedef int64_t i64;

enum {
    RI_OK = 0,
    RI_NOMEM = 1,  /* a workspace could not be allocated */
    RI_INDEX = 2,  /* an index (label, row, token) lies outside its range */
    RI_BADARG = 3, /* sizes that do not fit together: a bug of the caller, reported instead of executed */
};

#ifdef RI_REAL
typedef RI_REAL real;
#define RI_PASTE2(a, b) ri_##a##_##b
#define RI_PASTE(a, b) RI_PASTE2(a, b)
#define RI(name) RI_PASTE(name, RI_SUFFIX)
#define RI_INTERNAL(name) RI(name) /* shared between C files, not offered to Python */
#endif

/* Scratch memory of the calling thread, 64-byte aligned, kept until the thread ends (so that a hot loop touches no
 * fresh pages); slots are independent blocks. NULL when memory is out. Two nested users take two slots. */
enum { RI_WS_GEMM_A, RI_WS_GEMM_B, RI_WS_CONV, RI_WS_OP, RI_WS_OP2, RI_WS_SLOTS };
void *ri_workspace(int slot, size_t bytes);

/* Threads worth starting for `work` elementary operations (about 1 ns each): starting a team costs some microseconds,
 * so small work stays on the calling thread. A negative number is taken at its word (tests force small teams so). */
static inline int ri_team(int threads, i64 work) {
    if (threads < 0) return -threads;
    i64 most = work / 16384;
    return most <= 1 ? 1 : (most < threads ? (int)most : threads);
}

/* The part [lo, hi) of n items that falls to thread `rank` of `team`, in multiples of `grain`. */
static inline void ri_share(i64 n, i64 grain, int rank, int team, i64 *lo, i64 *hi) {
    i64 blocks = (n + grain - 1) / grain;
    i64 base = blocks / team, rest = blocks % team;
    i64 first = rank * base + (rank < rest ? rank : rest);
    *lo = first * grain < n ? first * grain : n;
    i64 end = (first + base + (rank < rest)) * grain;
    *hi = end < n ? end : n;
}

/* EXPR for every element i of n, shared by the threads when there is enough to do (`cost` nanoseconds an element);
 * the whole body of an element-wise kernel: it returns. */
#define RI_EACH(cost, EXPR)                                                                                          \
    do {                                                                                                             \
        int team = ri_team(threads, n * (cost));                                                                     \
        if (team == 1) {                                                                                             \
            _Pragma("omp simd") for (i64 i = 0; i < n; i++) {                                                        \
                EXPR;                                                                                                \
            }                                                                                                        \
        } else {                                                                                                     \
            _Pragma("omp parallel for simd schedule(simd : static) num_threads(team)") for (i64 i = 0; i < n; i++) { \
                EXPR;                                                                                                \
            }                                                                                                        \
        }                                                                                                            \
        return RI_OK;                                                                                                \
    } while (0)

#endif
