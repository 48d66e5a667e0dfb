/* ncclNetPlugin_v7: device handles. */
#include "ncclnet/net_v7.h"

#include "abi/tables.h"

static ncclResult_t get_properties(int index, ncclNetProperties_v7_t *properties) {
    const tpv_device_t *device = tpv_device_get(index);
    if (!device) return ncclInvalidArgument;
    *properties = (ncclNetProperties_v7_t){TPV_PROPERTIES_V7(device)};
    return ncclSuccess;
}

extern const ncclNet_v7_t ncclNetPlugin_v7;
__attribute__((visibility("default"))) const ncclNet_v7_t ncclNetPlugin_v7 = {
    TPV_CALLS,
    .getProperties = get_properties,
    .init = tpv_abi_v6_init,
    .listen = tpv_abi_v6_listen,
    .connect = tpv_abi_v7_connect,
    .accept = tpv_net_accept,
    .regMr = tpv_abi_v6_regmr,
    .isend = tpv_abi_v6_isend,
    .irecv = tpv_abi_v6_irecv,
};
