/*
 * Memory of this process that a net plugin may send from and receive into.
 *
 * NCCL's ABI registers memory with a comm. Where the plugin says that a registration holds for the whole device
 * (regIsGlobal), a region is registered once, whichever comms use it, and until the last of them lets it go.
 */
#ifndef CHANNEL_REGISTRATION_H
#define CHANNEL_REGISTRATION_H

#include <stdbool.h>
#include <stddef.h>

#include "channel/net.h"

/* The caller's, all zero before; of one comm, and used by the thread that has it. */
typedef struct tpv_registration {
    const void *base;
    size_t bytes;
    void *handle; /* for messages in this memory */
    bool held;
} tpv_registration_t;

/* Register [base, base + bytes) of host memory for messages of `comm`. TPV_ERR_NET when the plugin does not take it,
 * TPV_ERR_NO_MEMORY. */
tpv_status_t tpv_net_register(const tpv_net_t *net, void *comm, const void *base, size_t bytes,
                              tpv_registration_t *registration);
/* Before `comm` is closed and before the memory goes; no effect on one that is not held. */
void tpv_net_deregister(const tpv_net_t *net, void *comm, tpv_registration_t *registration);

/* What a net keeps of them. NULL when there is no memory; none may be held any more when it is closed. */
tpv_net_registry_t *tpv_net_registry_open(void);
void tpv_net_registry_close(tpv_net_registry_t *registry);

#endif
