#include "ncclnet/net_v10.h"

#include <stdio.h>

#include "channel/net_abi.h"

static ncclResult_t init(const void *vtable, void **ctx, ncclDebugLogger_t log) {
    const ncclNet_v10_t *net = vtable;
    *ctx = NULL;
    return net->init(log, NULL);
}

static ncclResult_t properties(const void *vtable, int dev, tpv_net_device_t *device) {
    const ncclNet_v10_t *net = vtable;
    ncclNetProperties_v10_t props = {0};
    ncclResult_t result = net->getProperties(dev, &props);
    if (result != ncclSuccess) return result;
    snprintf(device->name, sizeof device->name, "%s", props.name ? props.name : "");
    device->speed = props.speed;
    device->pointer_support = props.ptrSupport;
    device->max_message = props.maxP2pBytes;
    return ncclSuccess;
}

static ncclResult_t listen_(const void *vtable, void *ctx, int dev, void *handle, void **listenComm) {
    (void)ctx;
    return ((const ncclNet_v10_t *)vtable)->listen(dev, handle, listenComm);
}

static ncclResult_t connect_(const void *vtable, void *ctx, int dev, void *handle, void **sendComm) {
    (void)ctx;
    ncclNetCommConfig_v10_t config = {.trafficClass = -1};
    ncclNetDeviceHandle_t *device = NULL;
    return ((const ncclNet_v10_t *)vtable)->connect(dev, &config, handle, sendComm, &device);
}

/* v10 has no finalize. */
static ncclResult_t finalize(const void *vtable, void *ctx) {
    (void)vtable;
    (void)ctx;
    return ncclSuccess;
}

void tpv_net_abi_v10(const void *vtable, tpv_net_abi_t *abi) {
    const ncclNet_v10_t *net = vtable;
    *abi = (tpv_net_abi_t){.version = 10,
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
