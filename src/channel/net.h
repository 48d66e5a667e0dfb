/* A loaded NCCL net plugin: ours or any other. */
#ifndef CHANNEL_NET_H
#define CHANNEL_NET_H

#include "channel/net_abi.h"
#include "tpview/status.h"

typedef struct tpv_net_registry tpv_net_registry_t;

/* Read-only once opened; the plugin's own rules say that different comms may be used by different threads. */
typedef struct tpv_net {
    tpv_net_abi_t abi;
    void *library;
    void *ctx;
    int devices;
    int device;                   /* the first: the one that comms are made on unless a stream says another */
    tpv_net_device_t properties;  /* its */
    tpv_net_registry_t *registry; /* registration.h; under its own mutex */
} tpv_net_t;

/*
 * Load the plugin as NCCL does (src/plugin/plugin_open.cc at v2.28.9): `name` is tried as it is (path or soname), then
 * as libnccl-net-<name>.so; beside that, in the folder of this library or program, so that a build tree works. NULL:
 * NCCL_NET_PLUGIN (a comma list: the first that starts wins), else "tpview". The newest ABI version that both know is
 * used. TPV_ERR_NOT_FOUND when nothing by that name can be loaded, TPV_ERR_UNSUPPORTED for a library without a symbol
 * that we know, TPV_ERR_NET when the plugin refuses to start or has no device. The caller owns *net.
 */
tpv_status_t tpv_net_open(const char *name, tpv_net_t **net);

/* The same for a vtable, of ABI `version`, that was found in `library` (from dlopen) by other means than its symbol.
 * *net owns `library` unless this fails. TPV_ERR_UNSUPPORTED for a version that we do not know. */
tpv_status_t tpv_net_open_table(void *library, const void *vtable, int version, tpv_net_t **net);

/* All comms must be closed. NULL is allowed. */
void tpv_net_close(tpv_net_t *net);

/* TPV_OK for ncclSuccess; otherwise a message "<plugin>: <what>: <NCCL's name of the code>", with what the plugin has
 * warned of on this thread, and TPV_ERR_PEER for ncclRemoteError, TPV_ERR_NET for the rest. */
tpv_status_t tpv_net_check(const tpv_net_t *net, ncclResult_t result, const char *what);

#endif
