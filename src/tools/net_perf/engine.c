#include "tools/net_perf/engine.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/error.h"

void *tpv_perf_lane_memory(const tpv_perf_setup_t *setup) {
    size_t bytes = tpv_perf_lane_bytes(setup);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        tpv_error_set_errno(TPV_ERR_NO_MEMORY, errno, "no memory for %u messages of %zu bytes", setup->inflight,
                            setup->largest);
        return NULL;
    }
    madvise(memory, bytes, MADV_HUGEPAGE);
    memset(memory, 0x5a, bytes);
    return memory;
}
