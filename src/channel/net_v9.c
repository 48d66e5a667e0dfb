#include "ncclnet/net_v9.h"

#include "channel/net_abi.h"

static ncclResult_t properties(const tpv_net_abi_t *abi, int dev, tpv_net_device_t *device) {
    ncclNetProperties_v9_t props = {0};
    ncclResult_t result = ((const ncclNet_v9_t *)abi->vtable)->getProperties(dev, &props);
    if (result != ncclSuccess) return result;
    tpv_net_device_set(device, props.name, props.speed, props.ptrSupport, props.maxRecvs, props.maxP2pBytes);
    device->registers_for_device = props.regIsGlobal != 0;
    return ncclSuccess;
}

void tpv_net_abi_v9(const void *vtable, tpv_net_abi_t *abi) {
    const ncclNet_v9_t *net = vtable;
    *abi = (tpv_net_abi_t){
        TPV_NET_ABI_SAME(net, 9),
        .properties = properties,
        .raw = {.init_v6 = net->init,
                .listen_v6 = net->listen,
                .connect_v7 = net->connect,
                .accept_v7 = net->accept,
                .regMr_v8 = net->regMr,
                .isend_v9 = net->isend,
                .irecv_v9 = net->irecv},
    };
    tpv_net_abi_complete(abi);
}
