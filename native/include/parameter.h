/* parameter.h - numbers of a kernel that change its speed and not its results' meaning: sizes of blocks, mostly.
 *
 *     RI_PARAMETER(gemm_kc, 384, 128, 192, 256, 384, 512);
 *
 * at the start of a line in native/src/gemm.c declares one of them: its name (the file's first), the default, and all
 * values that it may take. Each dtype and instruction-set level has its own. native/build.py collects the declarations
 * into a table, through which refimpl/backends/native.py reads and sets them for the whole process.
 *
 * A kernel reads RI_VALUE(gemm_kc) once, when it is called, and hands it on: what is set while a call runs counts from
 * the next one. For every allowed value the results stay within the error bound of the operation, and the same values
 * give the same bits.
 */
#ifndef REFIMPL_PARAMETER_H
#define REFIMPL_PARAMETER_H
#include "refimpl.h"

enum { RI_MOST_VALUES = 8 };

struct ri_parameter {
    i64 value, normal;
    int count;
    i64 values[RI_MOST_VALUES];
};

#define RI_PARAMETER(name, normal, ...)          \
    struct ri_parameter RI(parameter_##name) = { \
        normal, normal, (int)(sizeof((i64[]){__VA_ARGS__}) / sizeof(i64)), {__VA_ARGS__}}

#define RI_VALUE(name) __atomic_load_n(&RI(parameter_##name).value, __ATOMIC_RELAXED)

#endif
