#include "ncclnet/net_v8.h"

#include "channel/net_abi.h"

static ncclResult_t properties(const tpv_net_abi_t *abi, int dev, tpv_net_device_t *device) {
    ncclNetProperties_v8_t props = {0};
    ncclResult_t result = ((const ncclNet_v8_t *)abi->vtable)->getProperties(dev, &props);
    if (result != ncclSuccess) return result;
    tpv_net_device_set(device, props.name, props.speed, props.ptrSupport, props.maxRecvs, TPV_NET_MAX_MESSAGE_OLD);
    device->registers_for_device = props.regIsGlobal != 0;
    return ncclSuccess;
}

void tpv_net_abi_v8(const void *vtable, tpv_net_abi_t *abi) {
    const ncclNet_v8_t *net = vtable;
    *abi = (tpv_net_abi_t){
        TPV_NET_ABI_SAME(net, 8),
        .properties = properties,
        .raw = {.init_v6 = net->init,
                .listen_v6 = net->listen,
                .connect_v7 = net->connect,
                .accept_v7 = net->accept,
                .regMr_v8 = net->regMr,
                .isend_v6 = net->isend,
                .irecv_v6 = net->irecv},
    };
    tpv_net_abi_complete(abi);
}
