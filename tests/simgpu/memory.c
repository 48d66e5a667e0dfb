#include "simgpu/memory.h"

#include "simgpu/fatal.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct region {
    struct sim_memory memory;
    bool owned; /* mapped here, not registered by the caller */
    struct region *next;
};

static pthread_mutex_t regions_lock = PTHREAD_MUTEX_INITIALIZER;
static struct region *regions; /* under regions_lock */

static void add(void *base, size_t size, enum sim_memory_kind kind, bool owned) {
    struct region *region = sim_allocate(sizeof *region);
    region->memory = (struct sim_memory){base, size, kind};
    region->owned = owned;
    pthread_mutex_lock(&regions_lock);
    region->next = regions;
    regions = region;
    pthread_mutex_unlock(&regions_lock);
}

void *sim_memory_create(size_t size, enum sim_memory_kind kind) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (size > SIZE_MAX - page) return NULL;
    size_t rounded = size ? (size + page - 1) / page * page : page;
    void *base = mmap(NULL, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return NULL;
    add(base, rounded, kind, true);
    return base;
}

void sim_memory_register(void *base, size_t size) {
    add(base, size, SIM_MEMORY_HOST, false);
}

void sim_memory_release(void *base) {
    pthread_mutex_lock(&regions_lock);
    struct region **link = &regions;
    while (*link && (*link)->memory.base != base)
        link = &(*link)->next;
    struct region *region = *link;
    if (region) *link = region->next;
    pthread_mutex_unlock(&regions_lock);
    if (region && region->owned) munmap(region->memory.base, region->memory.size);
    free(region);
}

bool sim_memory_find(const void *address, struct sim_memory *found) {
    pthread_mutex_lock(&regions_lock);
    const struct region *region = regions;
    while (region && (uintptr_t)address - (uintptr_t)region->memory.base >= region->memory.size)
        region = region->next;
    if (region && found) *found = region->memory;
    pthread_mutex_unlock(&regions_lock);
    return region != NULL;
}
