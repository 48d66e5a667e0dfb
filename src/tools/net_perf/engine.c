#include "tools/net_perf/engine.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

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

tpv_status_t tpv_perf_write(int fd, const void *data, size_t size) {
    for (size_t gone = 0; gone < size;) {
        ssize_t count = send(fd, (const char *)data + gone, size - gone, MSG_NOSIGNAL);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return tpv_error_set_errno(TPV_ERR_PEER, errno, "cannot send to the other process");
        gone += (size_t)count;
    }
    return TPV_OK;
}

tpv_status_t tpv_perf_read(int fd, void *data, size_t size) {
    for (size_t got = 0; got < size;) {
        ssize_t count = recv(fd, (char *)data + got, size - got, 0);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return tpv_error_set_errno(TPV_ERR_PEER, errno, "cannot receive from the other process");
        if (count == 0) return tpv_error_set(TPV_ERR_PEER, "the other process is gone");
        got += (size_t)count;
    }
    return TPV_OK;
}
