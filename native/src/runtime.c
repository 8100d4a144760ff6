/* runtime.c - the part of the C core that is compiled once: CPU detection and per-thread workspaces.
 *
 * Nothing here depends on a dtype or an instruction set. The only state is one block of scratch memory per thread and
 * slot, owned by that thread and freed when it ends.
 */
#include "parameter.h"
#include "refimpl.h"

#include <pthread.h>
#include <stdlib.h>

#ifdef _OPENMP
#include <omp.h>
#endif

struct block {
    void *memory;
    size_t bytes;
};

_Thread_local i64 ri_set_values[RI_MOST_PARAMETERS];

static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int key_ok = 0;

static void release(void *p) {
    struct block *slots = p;
    for (int i = 0; i < RI_WS_SLOTS; i++) free(slots[i].memory);
    free(slots);
}

static void make_key(void) {
    key_ok = pthread_key_create(&key, release) == 0;
}

void *ri_workspace(int slot, size_t bytes) {
    pthread_once(&once, make_key);
    if (!key_ok) return NULL;
    struct block *slots = pthread_getspecific(key);
    if (!slots) {
        slots = calloc(RI_WS_SLOTS, sizeof *slots);
        if (!slots) return NULL;
        if (pthread_setspecific(key, slots) != 0) {
            free(slots);
            return NULL;
        }
    }
    struct block *b = &slots[slot];
    if (b->bytes < bytes || !b->memory) {
        free(b->memory);
        b->memory = NULL;
        b->bytes = 0;
        size_t rounded = (bytes + 4095) / 4096 * 4096 + 4096;
        if (rounded < bytes || posix_memalign(&b->memory, 64, rounded) != 0) {
            b->memory = NULL;
            return NULL;
        }
        b->bytes = rounded;
    }
    return b->memory;
}

/* 0 = any CPU of this architecture, then the x86-64 micro-architecture levels 2, 3, 4. */
int ri_cpu_level(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!(__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("ssse3") && __builtin_cpu_supports("popcnt")))
        return 0;
    if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
          __builtin_cpu_supports("bmi2")))
        return 2;
    if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
          __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
          __builtin_cpu_supports("avx512vl")))
        return 3;
    return 4;
#else
    return 0;
#endif
}

/* Version of OpenMP the core was built with (201511 = 4.5), 0 without. */
int ri_openmp(void) {
#ifdef _OPENMP
    return _OPENMP;
#else
    return 0;
#endif
}
