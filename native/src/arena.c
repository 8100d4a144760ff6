/* arena.c - memory for NumPy's arrays that is kept and handed out again, for training loops.
 *
 * A training step allocates the same activations and gradients as the one before. From the system each of them comes as
 * fresh pages: a fault and a cleared page for every 4 kB, about 0.25 us each, or 0.06 ns a byte: as much as two passes
 * over memory at 35 GB/s. Blocks of at least RI_ARENA_LEAST bytes are therefore kept when an array dies, in free lists
 * by size class (eight to a doubling, so at most 1/8 is wasted), while an arena is open; the next array of that class
 * gets one in some ten nanoseconds, with its pages in place and often still in cache. Smaller blocks go to malloc,
 * which keeps them anyway.
 *
 * This is a handler after NumPy's NEP 49: NumPy stores with each array which handler made its memory and gives it back
 * to that one, wherever and whenever the array dies; so an array may outlive the arena. refimpl/backends/arena.py opens
 * and closes it. When the last arena is closed, all that is kept goes back to the system. At most RI_ARENA_MOST bytes
 * are kept. Data are aligned to 64 bytes.
 */
#define _GNU_SOURCE /* madvise */
#include "refimpl.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

enum { CLASSES = 8 * 48, ALIGN = 64, BIG = -1 };
#define RI_ARENA_LEAST ((size_t)32 << 10)
#define RI_ARENA_MOST ((size_t)4 << 30)
#define HUGE_PAGE ((size_t)2 << 20)

/* Stands in the 64 bytes before the data. */
struct head {
    void *memory;      /* what free() takes */
    size_t bytes;      /* usable bytes behind the head */
    int slot;          /* -1: not kept */
    struct head *next; /* in a free list */
};

static struct head *lists[CLASSES];
static size_t kept = 0, reused = 0, fresh = 0;
static int depth = 0;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

/* The class of n bytes and its size: 2^e (8 + f) / 8, the smallest that is not below n. */
static int class_of(size_t n, size_t *size) {
    int e = 63 - __builtin_clzll((unsigned long long)n);
    size_t step = (size_t)1 << (e - 3);
    size_t rounded = (n + step - 1) / step * step;
    int slot = 8 * e + (int)((rounded >> (e - 3)) - 8);
    *size = rounded;
    return slot < CLASSES ? slot : BIG;
}

static void *data_of(struct head *h) {
    return (char *)h + ALIGN;
}

static struct head *head_of(void *data) {
    return (struct head *)((char *)data - ALIGN);
}

static struct head *from_system(size_t bytes, int slot) {
    if (bytes > SIZE_MAX - 2 * ALIGN) return NULL;
    void *memory = malloc(bytes + 2 * ALIGN);
    if (!memory) return NULL;
    struct head *h = (struct head *)(((uintptr_t)memory + ALIGN - 1) & ~(uintptr_t)(ALIGN - 1));
    h->memory = memory;
    h->bytes = bytes;
    h->slot = slot;
    h->next = NULL;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (bytes >= 2 * HUGE_PAGE) {
        uintptr_t first = ((uintptr_t)data_of(h) + 4095) & ~(uintptr_t)4095;
        madvise((void *)first, ((uintptr_t)data_of(h) + bytes - first) & ~(uintptr_t)4095, MADV_HUGEPAGE);
    }
#endif
    return h;
}

static void *arena_malloc(void *context, size_t n) {
    if (n < RI_ARENA_LEAST) {
        struct head *h = from_system(n, BIG);
        return h ? data_of(h) : NULL;
    }
    size_t size;
    int slot = class_of(n, &size);
    if (slot == BIG) size = n;
    pthread_mutex_lock(&mutex);
    struct head *h = slot == BIG ? NULL : lists[slot];
    if (h) {
        lists[slot] = h->next;
        kept -= h->bytes;
        reused++;
    } else {
        fresh++;
    }
    pthread_mutex_unlock(&mutex);
    if (!h) h = from_system(size, slot);
    return h ? data_of(h) : NULL;
}

static void *arena_calloc(void *context, size_t count, size_t size) {
    size_t n;
    if (__builtin_mul_overflow(count, size, &n)) return NULL;
    void *data = arena_malloc(context, n);
    if (data) memset(data, 0, n);
    return data;
}

static void arena_free(void *context, void *data, size_t n) {
    if (!data) return;
    struct head *h = head_of(data);
    if (h->slot >= 0) {
        pthread_mutex_lock(&mutex);
        int keep = depth > 0 && kept + h->bytes <= RI_ARENA_MOST;
        if (keep) {
            h->next = lists[h->slot];
            lists[h->slot] = h;
            kept += h->bytes;
        }
        pthread_mutex_unlock(&mutex);
        if (keep) return;
    }
    free(h->memory);
}

static void *arena_realloc(void *context, void *data, size_t n) {
    if (!data) return arena_malloc(context, n);
    struct head *h = head_of(data);
    if (n <= h->bytes && n >= h->bytes / 2) return data;
    void *moved = arena_malloc(context, n);
    if (!moved) return NULL;
    memcpy(moved, data, n < h->bytes ? n : h->bytes);
    arena_free(context, data, h->bytes);
    return moved;
}

static void trim(void) {
    for (int slot = 0; slot < CLASSES; slot++) {
        while (lists[slot]) {
            struct head *h = lists[slot];
            lists[slot] = h->next;
            free(h->memory);
        }
    }
    kept = 0;
}

void ri_arena_open(void) {
    pthread_mutex_lock(&mutex);
    depth++;
    pthread_mutex_unlock(&mutex);
}

void ri_arena_close(void) {
    pthread_mutex_lock(&mutex);
    if (--depth == 0) trim();
    pthread_mutex_unlock(&mutex);
}

/* which: 0 bytes kept now, 1 blocks handed out again, 2 blocks fresh from the system (both since the start). */
i64 ri_arena_count(int which) {
    pthread_mutex_lock(&mutex);
    size_t counts[3] = {kept, reused, fresh};
    pthread_mutex_unlock(&mutex);
    return (i64)counts[which];
}

/* Around fork(): no other thread may hold the lock while the process is copied. */
static void before_fork(void) {
    pthread_mutex_lock(&mutex);
}

static void after_fork(void) {
    pthread_mutex_unlock(&mutex);
}

/* The layout that NumPy reads (PyDataMem_Handler, version 1). */
struct handler {
    char name[127];
    uint8_t version;
    struct {
        void *context;
        void *(*malloc)(void *, size_t);
        void *(*calloc)(void *, size_t, size_t);
        void *(*realloc)(void *, void *, size_t);
        void (*free)(void *, void *, size_t);
    } allocator;
};

static struct handler handler = {
    .name = "refimpl_arena",
    .version = 1,
    .allocator = {NULL, arena_malloc, arena_calloc, arena_realloc, arena_free},
};

static void register_fork(void) {
    pthread_atfork(before_fork, after_fork, after_fork);
}

void *ri_arena_handler(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_fork);
    return &handler;
}
