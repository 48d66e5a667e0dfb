/*
 * A net plugin that passes everything on to another one (ABI v11), but damages one message on its way: of the N-th
 * isend of more than 1024 bytes in this process it sends a private copy in which the byte in the middle is flipped.
 *   TEST_REAL_NET         path of the plugin to pass on to
 *   TEST_CORRUPT_MESSAGE  N, counted from 1; "N+": that one and all after it; unset or 0: none
 * Only for plugins that need no registered memory.
 */
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ncclnet/net_v11.h"

#define SMALL 1024

extern ncclNet_v11_t ncclNetPlugin_v11;
__attribute__((visibility("default"))) ncclNet_v11_t ncclNetPlugin_v11;

static const ncclNet_v11_t *actual;
static long wanted;
static int all_after;
static _Atomic long counted;
/* The copy lives until the process ends: a request in flight may read it until its comm is closed. */
static char *_Atomic damaged_copy;

static ncclResult_t corrupt_isend(void *comm, void *data, size_t size, int tag, void *registration, void *profiler,
                                  void **request) {
    if (size <= SMALL || wanted == 0) return actual->isend(comm, data, size, tag, registration, profiler, request);
    long number = atomic_fetch_add(&counted, 1) + 1;
    char *copy = NULL;
    if ((number == wanted || (all_after && number > wanted)) && (copy = malloc(size))) {
        memcpy(copy, data, size);
        copy[size / 2] ^= 0x10;
    }
    ncclResult_t result = actual->isend(comm, copy ? copy : data, size, tag, registration, profiler, request);
    if (result == ncclSuccess && *request) {
        if (copy) atomic_store(&damaged_copy, copy);
        return result;
    }
    /* Not taken: the caller comes again with the same message. */
    atomic_fetch_sub(&counted, 1);
    free(copy);
    return result;
}

__attribute__((constructor)) static void load(void) {
    const char *path = getenv("TEST_REAL_NET"), *number = getenv("TEST_CORRUPT_MESSAGE");
    void *library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    actual = library ? dlsym(library, "ncclNetPlugin_v11") : NULL;
    if (!actual) {
        fprintf(stderr, "corruptnet: TEST_REAL_NET=%s: %s\n", path ? path : "(unset)",
                path ? dlerror() : "expected the path of a net plugin");
        abort();
    }
    char *end = NULL;
    wanted = number ? strtol(number, &end, 10) : 0;
    all_after = end && *end == '+';
    ncclNetPlugin_v11 = *actual;
    ncclNetPlugin_v11.isend = corrupt_isend;
}
