/* One internal form of all supported versions of the ncclNet ABI. net_vN.c fills it from one version's vtable: calls
 * whose signature did not change are taken as they are, the others go through a small wrapper. */
#ifndef CHANNEL_NET_ABI_H
#define CHANNEL_NET_ABI_H

#include "ncclnet/common.h"

typedef struct tpv_net_device {
    char name[64];
    int speed; /* Mb/s */
    int pointer_support;
    size_t max_message; /* longest single message */
} tpv_net_device_t;

typedef struct tpv_net_abi {
    int version;
    const char *name;
    const void *vtable; /* first argument of the wrappers */
    ncclResult_t (*init)(const void *vtable, void **ctx, ncclDebugLogger_t log);
    ncclResult_t (*properties)(const void *vtable, int dev, tpv_net_device_t *device);
    ncclResult_t (*listen)(const void *vtable, void *ctx, int dev, void *handle, void **listenComm);
    ncclResult_t (*connect)(const void *vtable, void *ctx, int dev, void *handle, void **sendComm);
    ncclResult_t (*finalize)(const void *vtable, void *ctx);
    ncclResult_t (*devices)(int *count);
    ncclResult_t (*accept)(void *listenComm, void **recvComm, ncclNetDeviceHandle_t **recvDevComm);
    ncclResult_t (*regMr)(void *comm, void *data, size_t size, int type, void **mhandle);
    ncclResult_t (*deregMr)(void *comm, void *mhandle);
    ncclResult_t (*isend)(void *sendComm, void *data, size_t size, int tag, void *mhandle, void *phandle,
                          void **request);
    ncclResult_t (*irecv)(void *recvComm, int n, void **data, size_t *sizes, int *tags, void **mhandles,
                          void **phandles, void **request);
    ncclResult_t (*test)(void *request, int *done, int *sizes);
    ncclResult_t (*closeSend)(void *sendComm);
    ncclResult_t (*closeRecv)(void *recvComm);
    ncclResult_t (*closeListen)(void *listenComm);
} tpv_net_abi_t;

/* `vtable` is the plugin's symbol ncclNetPlugin_vN, which outlives *abi. */
void tpv_net_abi_v10(const void *vtable, tpv_net_abi_t *abi);
void tpv_net_abi_v11(const void *vtable, tpv_net_abi_t *abi);

#endif
