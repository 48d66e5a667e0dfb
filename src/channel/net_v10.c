#include "ncclnet/net_v10.h"

#include "channel/net_abi.h"

static ncclResult_t connect_(const tpv_net_abi_t *abi, void *ctx, int dev, void *handle, void **sendComm) {
    (void)ctx;
    ncclNetCommConfig_v10_t config = {.trafficClass = -1};
    ncclNetDeviceHandle_t *device = NULL;
    return ((const ncclNet_v10_t *)abi->vtable)->connect(dev, &config, handle, sendComm, &device);
}

static ncclResult_t properties(const tpv_net_abi_t *abi, int dev, tpv_net_device_t *device) {
    ncclNetProperties_v10_t props = {0};
    ncclResult_t result = ((const ncclNet_v10_t *)abi->vtable)->getProperties(dev, &props);
    if (result != ncclSuccess) return result;
    tpv_net_device_set(device, props.name, props.speed, props.ptrSupport, props.maxRecvs, props.maxP2pBytes);
    device->registers_for_device = props.regIsGlobal != 0;
    return ncclSuccess;
}

void tpv_net_abi_v10(const void *vtable, tpv_net_abi_t *abi) {
    const ncclNet_v10_t *net = vtable;
    *abi = (tpv_net_abi_t){
        TPV_NET_ABI_SAME(net, 10),
        .properties = properties,
        .connect = connect_,
        .raw = {.init_v10 = net->init,
                .listen_v6 = net->listen,
                .accept_v7 = net->accept,
                .regMr_v8 = net->regMr,
                .isend_v10 = net->isend,
                .irecv_v10 = net->irecv},
    };
    tpv_net_abi_complete(abi);
}
