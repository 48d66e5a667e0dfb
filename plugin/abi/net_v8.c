/* ncclNetPlugin_v8: regMr takes a size_t. */
#include "ncclnet/net_v8.h"

#include "abi/tables.h"

static ncclResult_t get_properties(int index, ncclNetProperties_v8_t *properties) {
    const tpv_device_t *device = tpv_device_get(index);
    if (!device) return ncclInvalidArgument;
    *properties = (ncclNetProperties_v8_t){TPV_PROPERTIES_V8(device)};
    return ncclSuccess;
}

extern const ncclNet_v8_t ncclNetPlugin_v8;
__attribute__((visibility("default"))) const ncclNet_v8_t ncclNetPlugin_v8 = {
    TPV_CALLS,
    .getProperties = get_properties,
    .init = tpv_abi_v6_init,
    .listen = tpv_abi_v6_listen,
    .connect = tpv_abi_v7_connect,
    .accept = tpv_net_accept,
    .regMr = tpv_net_register,
    .isend = tpv_abi_v6_isend,
    .irecv = tpv_abi_v6_irecv,
};
