/* Who this process is to others on its host. */
#ifndef LOCAL_HOST_H
#define LOCAL_HOST_H

#include "core/handshake.h"

typedef struct {
    uint8_t boot_id[TPV_ID_BYTES]; /* of the running kernel */
    uint64_t pid_namespace;        /* process ids mean the same to two processes that share it */
} tpv_local_host_t;

/* NULL when the same-host transport is switched off (TPVIEW_NET_LOCAL) or the kernel does not say. */
const tpv_local_host_t *tpv_local_host(void);

/* Random bytes at a fixed place in this process's memory, which no other process has there, a forked child included.
 * Whoever reads them there has read from this very address space, whatever became of its process id. NULL when that
 * cannot be had. Under the setup lock (core/fork.h). */
const uint8_t *tpv_local_nonce(void);

#endif
