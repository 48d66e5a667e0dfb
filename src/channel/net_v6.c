#include "ncclnet/net_v6.h"

#include "channel/net_abi.h"

static ncclResult_t properties(const tpv_net_abi_t *abi, int dev, tpv_net_device_t *device) {
    ncclNetProperties_v6_t props = {0};
    ncclResult_t result = ((const ncclNet_v6_t *)abi->vtable)->getProperties(dev, &props);
    if (result != ncclSuccess) return result;
    tpv_net_device_set(device, props.name, props.speed, props.ptrSupport, props.maxRecvs, TPV_NET_MAX_MESSAGE_OLD);
    return ncclSuccess;
}

void tpv_net_abi_v6(const void *vtable, tpv_net_abi_t *abi) {
    const ncclNet_v6_t *net = vtable;
    *abi = (tpv_net_abi_t){
        TPV_NET_ABI_SAME(net, 6),
        .properties = properties,
        .raw = {.init_v6 = net->init,
                .listen_v6 = net->listen,
                .connect_v6 = net->connect,
                .accept_v6 = net->accept,
                .regMr_v6 = net->regMr,
                .isend_v6 = net->isend,
                .irecv_v6 = net->irecv},
    };
    tpv_net_abi_complete(abi);
}
