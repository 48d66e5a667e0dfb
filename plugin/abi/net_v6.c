/* ncclNetPlugin_v6: int sizes, no device handles. */
#include "ncclnet/net_v6.h"

#include "abi/tables.h"

static ncclResult_t connect_to(int device, void *handle, void **comm) {
    return tpv_abi_v7_connect(device, handle, comm, NULL);
}

static ncclResult_t accept_from(void *listener, void **comm) {
    return tpv_net_accept(listener, comm, NULL);
}

static ncclResult_t get_properties(int index, ncclNetProperties_v6_t *properties) {
    const tpv_device_t *device = tpv_device_get(index);
    if (!device) return ncclInvalidArgument;
    *properties = (ncclNetProperties_v6_t){TPV_PROPERTIES_V6(device)};
    return ncclSuccess;
}

extern const ncclNet_v6_t ncclNetPlugin_v6;
__attribute__((visibility("default"))) const ncclNet_v6_t ncclNetPlugin_v6 = {
    TPV_CALLS,
    .getProperties = get_properties,
    .init = tpv_abi_v6_init,
    .listen = tpv_abi_v6_listen,
    .connect = connect_to,
    .accept = accept_from,
    .regMr = tpv_abi_v6_regmr,
    .isend = tpv_abi_v6_isend,
    .irecv = tpv_abi_v6_irecv,
};
