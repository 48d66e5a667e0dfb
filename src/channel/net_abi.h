/*
 * One internal form of all supported versions of the ncclNet ABI. net_vN.c fills it from one version's table: what did
 * not change is taken as it is, the rest goes through functions here that take the form itself as first argument.
 */
#ifndef CHANNEL_NET_ABI_H
#define CHANNEL_NET_ABI_H

#include <stdbool.h>

#include "ncclnet/common.h"

typedef struct tpv_net_device {
    char name[64];
    int speed; /* Mb/s */
    int pointer_support;
    int max_receives;          /* of one irecv */
    bool registers_for_device; /* regIsGlobal: memory is registered for the device, not for one comm */
    size_t max_message;        /* longest single message */
} tpv_net_device_t;

typedef struct tpv_net_abi tpv_net_abi_t;

/* The plugin's own functions as the version has them. Sizes are int in old versions. */
typedef struct tpv_net_raw {
    ncclResult_t (*init_v6)(ncclDebugLogger_t log);
    ncclResult_t (*init_v10)(ncclDebugLogger_t log, ncclProfilerCallback_t profiler);
    ncclResult_t (*listen_v6)(int dev, void *handle, void **listenComm);
    ncclResult_t (*listen_v11)(void *ctx, int dev, void *handle, void **listenComm);
    ncclResult_t (*connect_v6)(int dev, void *handle, void **sendComm);
    ncclResult_t (*connect_v7)(int dev, void *handle, void **sendComm, ncclNetDeviceHandle_t **sendDevComm);
    ncclResult_t (*connect_v11)(void *ctx, int dev, void *handle, void **sendComm, ncclNetDeviceHandle_t **sendDevComm);
    ncclResult_t (*accept_v6)(void *listenComm, void **recvComm);
    ncclResult_t (*accept_v7)(void *listenComm, void **recvComm, ncclNetDeviceHandle_t **recvDevComm);
    ncclResult_t (*regMr_v6)(void *comm, void *data, int size, int type, void **mhandle);
    ncclResult_t (*regMr_v8)(void *comm, void *data, size_t size, int type, void **mhandle);
    ncclResult_t (*isend_v6)(void *sendComm, void *data, int size, int tag, void *mhandle, void **request);
    ncclResult_t (*isend_v9)(void *sendComm, void *data, size_t size, int tag, void *mhandle, void **request);
    ncclResult_t (*isend_v10)(void *sendComm, void *data, size_t size, int tag, void *mhandle, void *phandle,
                              void **request);
    ncclResult_t (*irecv_v6)(void *recvComm, int n, void **data, int *sizes, int *tags, void **mhandles,
                             void **request);
    ncclResult_t (*irecv_v9)(void *recvComm, int n, void **data, size_t *sizes, int *tags, void **mhandles,
                             void **request);
    ncclResult_t (*irecv_v10)(void *recvComm, int n, void **data, size_t *sizes, int *tags, void **mhandles,
                              void **phandles, void **request);
    ncclResult_t (*finalize_v11)(void *ctx);
} tpv_net_raw_t;

struct tpv_net_abi {
    int version;
    const char *name;
    const void *vtable; /* the plugin's table */
    tpv_net_raw_t raw;
    ncclResult_t (*init)(const tpv_net_abi_t *abi, void **ctx, ncclDebugLogger_t log);
    ncclResult_t (*properties)(const tpv_net_abi_t *abi, int dev, tpv_net_device_t *device);
    ncclResult_t (*listen)(const tpv_net_abi_t *abi, void *ctx, int dev, void *handle, void **listenComm);
    ncclResult_t (*connect)(const tpv_net_abi_t *abi, void *ctx, int dev, void *handle, void **sendComm);
    ncclResult_t (*accept)(const tpv_net_abi_t *abi, void *listenComm, void **recvComm);
    /* ncclInvalidArgument, without asking the plugin, for a size that the version's int cannot tell. */
    ncclResult_t (*regMr)(const tpv_net_abi_t *abi, void *comm, void *data, size_t size, int type, void **mhandle);
    ncclResult_t (*isend)(const tpv_net_abi_t *abi, void *sendComm, void *data, size_t size, int tag, void *mhandle,
                          void **request);
    /* Likewise for more than TPV_NET_MAX_RECEIVES; the device may want fewer (max_receives). */
    ncclResult_t (*irecv)(const tpv_net_abi_t *abi, void *recvComm, int n, void **data, size_t *sizes, int *tags,
                          void **mhandles, void **request);
    ncclResult_t (*finalize)(const tpv_net_abi_t *abi, void *ctx);
    ncclResult_t (*devices)(int *count);
    ncclResult_t (*deregMr)(void *comm, void *mhandle);
    ncclResult_t (*test)(void *request, int *done, int *sizes);
    ncclResult_t (*closeSend)(void *sendComm);
    ncclResult_t (*closeRecv)(void *recvComm);
    ncclResult_t (*closeListen)(void *listenComm);
};

#define TPV_NET_MAX_RECEIVES 8
/* What NCCL takes as the longest message of versions that do not tell (MAX_NET_SIZE, src/include/plugin/nccl_net.h at
 * v2.30.7). */
#define TPV_NET_MAX_MESSAGE_OLD ((size_t)1 << 30)

/* Newest first; the entry behind the last has no symbol. */
typedef struct tpv_net_version {
    const char *symbol;
    /* `vtable` is the plugin's symbol, which outlives *abi. */
    void (*bind)(const void *vtable, tpv_net_abi_t *abi);
} tpv_net_version_t;
extern const tpv_net_version_t tpv_net_versions[];

void tpv_net_abi_v6(const void *vtable, tpv_net_abi_t *abi);
void tpv_net_abi_v7(const void *vtable, tpv_net_abi_t *abi);
void tpv_net_abi_v8(const void *vtable, tpv_net_abi_t *abi);
void tpv_net_abi_v9(const void *vtable, tpv_net_abi_t *abi);
void tpv_net_abi_v10(const void *vtable, tpv_net_abi_t *abi);
void tpv_net_abi_v11(const void *vtable, tpv_net_abi_t *abi);
void tpv_net_abi_v12(const void *vtable, tpv_net_abi_t *abi);

/* ---- for net_vN.c ---- */

/* Members that are the same in every version. */
#define TPV_NET_ABI_SAME(net, number)                                                                                  \
    .version = (number), .name = (net)->name, .vtable = (net), .devices = (net)->devices, .deregMr = (net)->deregMr,   \
    .test = (net)->test, .closeSend = (net)->closeSend, .closeRecv = (net)->closeRecv,                                 \
    .closeListen = (net)->closeListen

/* What `properties` tells, with registrations that hold for one comm only. */
void tpv_net_device_set(tpv_net_device_t *device, const char *name, int speed, int pointer_support, int max_receives,
                        size_t max_message);

/* Choose the functions that fit what is in abi->raw, for all that are not set yet. */
void tpv_net_abi_complete(tpv_net_abi_t *abi);

#endif
