#include "ncclnet/net_v11.h"

#include "channel/net_abi.h"

static ncclResult_t init(const tpv_net_abi_t *abi, void **ctx, ncclDebugLogger_t log) {
    ncclNetCommConfig_v11_t config = {.trafficClass = -1};
    *ctx = NULL;
    return ((const ncclNet_v11_t *)abi->vtable)->init(ctx, 0, &config, log, NULL);
}

static ncclResult_t properties(const tpv_net_abi_t *abi, int dev, tpv_net_device_t *device) {
    ncclNetProperties_v11_t props = {0};
    ncclResult_t result = ((const ncclNet_v11_t *)abi->vtable)->getProperties(dev, &props);
    if (result != ncclSuccess) return result;
    tpv_net_device_set(device, props.name, props.speed, props.ptrSupport, props.maxRecvs, props.maxP2pBytes);
    device->registers_for_device = props.regIsGlobal != 0;
    return ncclSuccess;
}

void tpv_net_abi_v11(const void *vtable, tpv_net_abi_t *abi) {
    const ncclNet_v11_t *net = vtable;
    *abi = (tpv_net_abi_t){
        TPV_NET_ABI_SAME(net, 11),
        .properties = properties,
        .init = init,
        .raw = {.listen_v11 = net->listen,
                .connect_v11 = net->connect,
                .accept_v7 = net->accept,
                .regMr_v8 = net->regMr,
                .isend_v10 = net->isend,
                .irecv_v10 = net->irecv,
                .finalize_v11 = net->finalize},
    };
    tpv_net_abi_complete(abi);
}
