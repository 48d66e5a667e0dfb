#include "ncclnet/net_v11.h"

#include <stdio.h>

#include "channel/net_abi.h"

static ncclResult_t init(const void *vtable, void **ctx, ncclDebugLogger_t log) {
    const ncclNet_v11_t *net = vtable;
    ncclNetCommConfig_v11_t config = {.trafficClass = -1};
    *ctx = NULL;
    return net->init(ctx, 0, &config, log, NULL);
}

static ncclResult_t properties(const void *vtable, int dev, tpv_net_device_t *device) {
    const ncclNet_v11_t *net = vtable;
    ncclNetProperties_v11_t props = {0};
    ncclResult_t result = net->getProperties(dev, &props);
    if (result != ncclSuccess) return result;
    snprintf(device->name, sizeof device->name, "%s", props.name ? props.name : "");
    device->speed = props.speed;
    device->pointer_support = props.ptrSupport;
    device->max_message = props.maxP2pBytes;
    return ncclSuccess;
}

static ncclResult_t listen_(const void *vtable, void *ctx, int dev, void *handle, void **listenComm) {
    return ((const ncclNet_v11_t *)vtable)->listen(ctx, dev, handle, listenComm);
}

static ncclResult_t connect_(const void *vtable, void *ctx, int dev, void *handle, void **sendComm) {
    ncclNetDeviceHandle_t *device = NULL;
    return ((const ncclNet_v11_t *)vtable)->connect(ctx, dev, handle, sendComm, &device);
}

static ncclResult_t finalize(const void *vtable, void *ctx) {
    const ncclNet_v11_t *net = vtable;
    return net->finalize ? net->finalize(ctx) : ncclSuccess;
}

void tpv_net_abi_v11(const void *vtable, tpv_net_abi_t *abi) {
    const ncclNet_v11_t *net = vtable;
    *abi = (tpv_net_abi_t){.version = 11,
                           .name = net->name,
                           .vtable = vtable,
                           .init = init,
                           .properties = properties,
                           .listen = listen_,
                           .connect = connect_,
                           .finalize = finalize,
                           .devices = net->devices,
                           .accept = net->accept,
                           .regMr = net->regMr,
                           .deregMr = net->deregMr,
                           .isend = net->isend,
                           .irecv = net->irecv,
                           .test = net->test,
                           .closeSend = net->closeSend,
                           .closeRecv = net->closeRecv,
                           .closeListen = net->closeListen};
}
