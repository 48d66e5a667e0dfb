/* ncclNetPlugin_v10: no context; the traffic class comes with connect, so only the connecting side has one. */
#include "ncclnet/net_v10.h"

#include "abi/tables.h"

static ncclResult_t connect_to(int device, ncclNetCommConfig_v10_t *config, void *handle, void **comm,
                               ncclNetDeviceHandle_t **device_comm) {
    (void)device_comm; /* only device offload looks at it */
    int traffic_class = config ? config->trafficClass : TPV_NET_TRAFFIC_CLASS_UNDEFINED;
    return tpv_net_connect(NULL, device, traffic_class, handle, comm);
}

static ncclResult_t get_properties(int index, ncclNetProperties_v10_t *properties) {
    const tpv_device_t *device = tpv_device_get(index);
    if (!device) return ncclInvalidArgument;
    *properties = (ncclNetProperties_v10_t){TPV_PROPERTIES_V9(device, index)};
    return ncclSuccess;
}

extern const ncclNet_v10_t ncclNetPlugin_v10;
__attribute__((visibility("default"))) const ncclNet_v10_t ncclNetPlugin_v10 = {
    TPV_CALLS,
    .getProperties = get_properties,
    .init = tpv_net_init,
    .listen = tpv_abi_v6_listen,
    .connect = connect_to,
    .accept = tpv_net_accept,
    .regMr = tpv_net_register,
    .isend = tpv_net_isend,
    .irecv = tpv_net_irecv,
};
