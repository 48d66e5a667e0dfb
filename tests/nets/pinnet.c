/*
 * A net plugin that passes everything on to another one (ABI v11), but takes memory as one does that pins what it
 * registers: the kernel pins for writing and for long, which it refuses for memory that may not be written and for
 * files of a disk (mm/gup.c, check_vma_flags and writable_file_mapping_allowed). A message must lie in memory that is
 * registered, with the registration that belongs to it. It is no comm's own: registrations hold for the device.
 *   TEST_REAL_NET     path of the plugin to pass on to
 *   TEST_PIN_LOG      a file that gets a line for each registration: "taken BYTES" or "refused BYTES"
 * Only for plugins that need no registered memory.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ncclnet/net_v11.h"

extern ncclNet_v11_t ncclNetPlugin_v11;
__attribute__((visibility("default"))) ncclNet_v11_t ncclNetPlugin_v11;

typedef struct {
    const char *base;
    size_t size;
} pinned_t;

static const ncclNet_v11_t *actual;

static void note(const char *what, size_t size) {
    const char *path = getenv("TEST_PIN_LOG");
    int log = path ? open(path, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
    if (log < 0) return;
    dprintf(log, "%s %zu\n", what, size);
    close(log);
}

/* A line of /proc/self/maps: low-high permissions offset device inode path (proc_pid_maps(5)). */
static bool may_be_pinned(const char *line) {
    char permissions[5];
    unsigned long inode;
    int at = 0;
    if (sscanf(line, "%*x-%*x %4s %*x %*s %lu %n", permissions, &inode, &at) != 2 || permissions[1] != 'w')
        return false;
    bool in_memory = inode == 0 || strncmp(line + at, "/dev/shm/", 9) == 0 || strncmp(line + at, "/memfd:", 7) == 0 ||
                     strncmp(line + at, "/anon_hugepage", 14) == 0;
    return in_memory || permissions[3] == 'p';
}

static bool all_may_be_pinned(uintptr_t low, uintptr_t high) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[4200];
    bool all = maps != NULL;
    uintptr_t at = low;
    while (all && at < high && fgets(line, sizeof line, maps)) {
        uintptr_t begin, end;
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR, &begin, &end) != 2 || end <= at) continue;
        all = begin <= at && may_be_pinned(line);
        at = end;
    }
    if (maps) fclose(maps);
    return all && at >= high;
}

static ncclResult_t pin_register(void *comm, void *data, size_t size, int type, void **registration) {
    (void)comm;
    bool takes = type == NCCL_PTR_HOST && all_may_be_pinned((uintptr_t)data, (uintptr_t)data + size);
    note(takes ? "taken" : "refused", size);
    pinned_t *pinned = takes ? malloc(sizeof *pinned) : NULL;
    if (!pinned) return ncclSystemError;
    *pinned = (pinned_t){data, size};
    *registration = pinned;
    return ncclSuccess;
}

static ncclResult_t pin_deregister(void *comm, void *registration) {
    (void)comm;
    free(registration);
    return ncclSuccess;
}

static bool is_pinned(const pinned_t *pinned, const char *data, size_t size) {
    return pinned && data >= pinned->base && size <= pinned->size &&
           (size_t)(data - pinned->base) <= pinned->size - size;
}

static ncclResult_t pin_isend(void *comm, void *data, size_t size, int tag, void *registration, void *profiler,
                              void **request) {
    if (!is_pinned(registration, data, size)) return ncclInvalidUsage;
    return actual->isend(comm, data, size, tag, NULL, profiler, request);
}

static ncclResult_t pin_irecv(void *comm, int count, void **data, size_t *sizes, int *tags, void **registrations,
                              void **profilers, void **request) {
    void *none[NCCL_NET_MAX_REQUESTS] = {NULL};
    for (int i = 0; i < count; i++)
        if (!is_pinned(registrations[i], data[i], sizes[i])) return ncclInvalidUsage;
    return actual->irecv(comm, count, data, sizes, tags, none, profilers, request);
}

static ncclResult_t pin_properties(int device, ncclNetProperties_v11_t *properties) {
    ncclResult_t result = actual->getProperties(device, properties);
    properties->regIsGlobal = 1;
    return result;
}

__attribute__((constructor)) static void load(void) {
    const char *path = getenv("TEST_REAL_NET");
    void *library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    actual = library ? dlsym(library, "ncclNetPlugin_v11") : NULL;
    if (!actual) {
        fprintf(stderr, "pinnet: TEST_REAL_NET=%s: %s\n", path ? path : "(unset)",
                path ? dlerror() : "expected the path of a net plugin");
        abort();
    }
    ncclNetPlugin_v11 = *actual;
    ncclNetPlugin_v11.getProperties = pin_properties;
    ncclNetPlugin_v11.regMr = pin_register;
    ncclNetPlugin_v11.deregMr = pin_deregister;
    ncclNetPlugin_v11.isend = pin_isend;
    ncclNetPlugin_v11.irecv = pin_irecv;
}
