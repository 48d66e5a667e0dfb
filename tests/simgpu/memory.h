/* Simulated device memory: host memory that is known to be "on the device" or "pinned". */
#ifndef SIMGPU_MEMORY_H
#define SIMGPU_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

enum sim_memory_kind {
    SIM_MEMORY_HOST = 1,   /* cudaMemoryTypeHost: allocated by cudaHostAlloc, or registered */
    SIM_MEMORY_DEVICE = 2, /* cudaMemoryTypeDevice */
};

struct sim_memory {
    void *base;
    size_t size;
    enum sim_memory_kind kind;
};

/* Zeroed, page-aligned memory of at least `size` bytes, or NULL. Freed with sim_memory_release. Thread-safe. */
void *sim_memory_create(size_t size, enum sim_memory_kind kind);

/* Makes memory of the caller known as pinned host memory, until sim_memory_release. Thread-safe. */
void sim_memory_register(void *base, size_t size);

/* Ends an allocation or a registration that starts at `base`; unknown addresses are ignored. Thread-safe. */
void sim_memory_release(void *base);

/* Finds the allocation or registration that `address` lies in. Returns false, with *found untouched, when there is
 * none: the address is ordinary pageable memory. `found` may be NULL. Thread-safe. */
bool sim_memory_find(const void *address, struct sim_memory *found);

#endif
