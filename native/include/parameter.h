/* parameter.h - numbers of a kernel that change its speed and not its results' meaning: sizes of blocks, mostly.
 *
 *     RI_PARAMETER(gemm_kc, 384, 128, 192, 256, 384, 512);
 *
 * at the start of a line in native/src/gemm.c declares one of them: its name (the file's first), the default, and all
 * values that it may take. Each dtype and instruction-set level has its own. native/build.py collects the declarations
 * into a table, through which refimpl/backends/native.py reads and sets them.
 *
 * A value is set for the thread that sets it and no other, so that wisdom can set one around a single call. A kernel
 * reads RI_VALUE(gemm_kc) once, in the thread that calls it, and hands it on to its team. For every allowed value the
 * results stay within the error bound of the operation, and the same values give the same bits.
 */
#ifndef REFIMPL_PARAMETER_H
#define REFIMPL_PARAMETER_H
#include "refimpl.h"

enum { RI_MOST_VALUES = 8, RI_MOST_PARAMETERS = 128 };

struct ri_parameter {
    i64 normal;
    int number, count; /* its number: set when the instruction-set level is chosen */
    i64 values[RI_MOST_VALUES];
};

extern _Thread_local i64 ri_set_values[RI_MOST_PARAMETERS]; /* by number: 1 + what is set, or 0 */

static inline i64 ri_value(const struct ri_parameter *p) {
    i64 set = ri_set_values[p->number];
    return set ? set - 1 : p->normal;
}

#define RI_PARAMETER(name, normal, ...)          \
    struct ri_parameter RI(parameter_##name) = { \
        normal, 0, (int)(sizeof((i64[]){__VA_ARGS__}) / sizeof(i64)), {__VA_ARGS__}}

#define RI_VALUE(name) ri_value(&RI(parameter_##name))

#endif
