/* What this host gives to tpview: shared memory, huge pages, limits of the calling process. */
#ifndef TOOLS_TPVIEW_HOST_H
#define TOOLS_TPVIEW_HOST_H

#include <stdint.h>

#define TPV_HOST_UNLIMITED UINT64_MAX
#define TPV_HOST_UNKNOWN (UINT64_MAX - 1)

typedef struct tpv_host {
    uint64_t shared_bytes, shared_free_bytes;        /* of /dev/shm */
    uint64_t huge_page_bytes, huge_total, huge_free; /* explicit huge pages: size and numbers */
    char transparent[16];                            /* "always", "madvise", "never"; "unknown" */
    uint64_t memory_bytes, memory_available_bytes;
    uint64_t memlock_soft, memlock_hard; /* bytes that may be locked, getrlimit(2) */
    uint64_t nofile_soft, nofile_hard;   /* open files */
} tpv_host_t;

/* Numbers that this kernel does not tell are TPV_HOST_UNKNOWN. */
tpv_host_t tpv_host_read(void);

#endif
