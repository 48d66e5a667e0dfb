#include "channel/net_abi.h"

#include <limits.h>
#include <stdio.h>

const tpv_net_version_t tpv_net_versions[] = {
    {"ncclNetPlugin_v12", tpv_net_abi_v12}, {"ncclNetPlugin_v11", tpv_net_abi_v11},
    {"ncclNetPlugin_v10", tpv_net_abi_v10}, {"ncclNetPlugin_v9", tpv_net_abi_v9},
    {"ncclNetPlugin_v8", tpv_net_abi_v8},   {"ncclNetPlugin_v7", tpv_net_abi_v7},
    {"ncclNetPlugin_v6", tpv_net_abi_v6},   {NULL, NULL},
};

static ncclResult_t init_older(const tpv_net_abi_t *abi, void **ctx, ncclDebugLogger_t log) {
    *ctx = NULL;
    return abi->raw.init_v10 ? abi->raw.init_v10(log, NULL) : abi->raw.init_v6(log);
}

static ncclResult_t listen_any(const tpv_net_abi_t *abi, void *ctx, int dev, void *handle, void **listenComm) {
    return abi->raw.listen_v11 ? abi->raw.listen_v11(ctx, dev, handle, listenComm)
                               : abi->raw.listen_v6(dev, handle, listenComm);
}

static ncclResult_t connect_any(const tpv_net_abi_t *abi, void *ctx, int dev, void *handle, void **sendComm) {
    ncclNetDeviceHandle_t *device = NULL;
    if (abi->raw.connect_v11) return abi->raw.connect_v11(ctx, dev, handle, sendComm, &device);
    if (abi->raw.connect_v7) return abi->raw.connect_v7(dev, handle, sendComm, &device);
    return abi->raw.connect_v6(dev, handle, sendComm);
}

static ncclResult_t accept_any(const tpv_net_abi_t *abi, void *listenComm, void **recvComm) {
    ncclNetDeviceHandle_t *device = NULL;
    return abi->raw.accept_v7 ? abi->raw.accept_v7(listenComm, recvComm, &device)
                              : abi->raw.accept_v6(listenComm, recvComm);
}

static ncclResult_t reg_mr(const tpv_net_abi_t *abi, void *comm, void *data, size_t size, int type, void **mhandle) {
    if (abi->raw.regMr_v8) return abi->raw.regMr_v8(comm, data, size, type, mhandle);
    if (size > INT_MAX) return ncclInvalidArgument;
    return abi->raw.regMr_v6(comm, data, (int)size, type, mhandle);
}

static ncclResult_t isend_v10(const tpv_net_abi_t *abi, void *sendComm, void *data, size_t size, int tag, void *mhandle,
                              void **request) {
    return abi->raw.isend_v10(sendComm, data, size, tag, mhandle, NULL, request);
}

static ncclResult_t isend_older(const tpv_net_abi_t *abi, void *sendComm, void *data, size_t size, int tag,
                                void *mhandle, void **request) {
    if (abi->raw.isend_v9) return abi->raw.isend_v9(sendComm, data, size, tag, mhandle, request);
    if (size > INT_MAX) return ncclInvalidArgument;
    return abi->raw.isend_v6(sendComm, data, (int)size, tag, mhandle, request);
}

static ncclResult_t irecv_v10(const tpv_net_abi_t *abi, void *recvComm, int n, void **data, size_t *sizes, int *tags,
                              void **mhandles, void **request) {
    void *parents[TPV_NET_MAX_RECEIVES] = {0};
    if (n > TPV_NET_MAX_RECEIVES) return ncclInvalidArgument;
    return abi->raw.irecv_v10(recvComm, n, data, sizes, tags, mhandles, parents, request);
}

static ncclResult_t irecv_older(const tpv_net_abi_t *abi, void *recvComm, int n, void **data, size_t *sizes, int *tags,
                                void **mhandles, void **request) {
    int narrow[TPV_NET_MAX_RECEIVES];
    if (n > TPV_NET_MAX_RECEIVES) return ncclInvalidArgument;
    if (abi->raw.irecv_v9) return abi->raw.irecv_v9(recvComm, n, data, sizes, tags, mhandles, request);
    for (int i = 0; i < n; i++) {
        if (sizes[i] > INT_MAX) return ncclInvalidArgument;
        narrow[i] = (int)sizes[i];
    }
    return abi->raw.irecv_v6(recvComm, n, data, narrow, tags, mhandles, request);
}

static ncclResult_t finalize(const tpv_net_abi_t *abi, void *ctx) {
    return abi->raw.finalize_v11 ? abi->raw.finalize_v11(ctx) : ncclSuccess;
}

void tpv_net_abi_complete(tpv_net_abi_t *abi) {
    if (!abi->init) abi->init = init_older;
    if (!abi->connect) abi->connect = connect_any;
    abi->listen = listen_any;
    abi->accept = accept_any;
    abi->regMr = reg_mr;
    abi->isend = abi->raw.isend_v10 ? isend_v10 : isend_older;
    abi->irecv = abi->raw.irecv_v10 ? irecv_v10 : irecv_older;
    abi->finalize = finalize;
}

void tpv_net_device_set(tpv_net_device_t *device, const char *name, int speed, int pointer_support, int max_receives,
                        size_t max_message) {
    snprintf(device->name, sizeof device->name, "%s", name ? name : "");
    device->speed = speed;
    device->pointer_support = pointer_support;
    device->max_receives = max_receives;
    device->max_message = max_message;
    device->registers_for_device = false;
}
