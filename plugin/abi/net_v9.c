/* ncclNetPlugin_v9: isend and irecv take a size_t. */
#include "ncclnet/net_v9.h"

#include "abi/tables.h"

static ncclResult_t isend(void *comm, void *data, size_t size, int tag, void *registration, void **request) {
    return tpv_net_isend(comm, data, size, tag, registration, NULL, request);
}

static ncclResult_t irecv(void *comm, int count, void **data, size_t *sizes, int *tags, void **registrations,
                          void **request) {
    return tpv_net_irecv(comm, count, data, sizes, tags, registrations, NULL, request);
}

static ncclResult_t get_properties(int index, ncclNetProperties_v9_t *properties) {
    const tpv_device_t *device = tpv_device_get(index);
    if (!device) return ncclInvalidArgument;
    *properties = (ncclNetProperties_v9_t){TPV_PROPERTIES_V9(device, index)};
    return ncclSuccess;
}

extern const ncclNet_v9_t ncclNetPlugin_v9;
__attribute__((visibility("default"))) const ncclNet_v9_t ncclNetPlugin_v9 = {
    TPV_CALLS,
    .getProperties = get_properties,
    .init = tpv_abi_v6_init,
    .listen = tpv_abi_v6_listen,
    .connect = tpv_abi_v7_connect,
    .accept = tpv_net_accept,
    .regMr = tpv_net_register,
    .isend = isend,
    .irecv = irecv,
};
