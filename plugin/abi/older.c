/* Calls that several older ABI versions share. */
#include "abi/tables.h"
#include "core/comm.h"
#include "core/log.h"

static ncclResult_t refuse_size(int size) {
    TPV_NET_WARN("a size of %d bytes: expected 0 or more", size);
    return ncclInvalidArgument;
}

ncclResult_t tpv_abi_v6_init(ncclDebugLogger_t logger) {
    return tpv_net_init(logger, NULL);
}

ncclResult_t tpv_abi_v6_listen(int device, void *handle, void **listener) {
    return tpv_net_listen(device, TPV_NET_TRAFFIC_CLASS_UNDEFINED, handle, listener);
}

ncclResult_t tpv_abi_v6_regmr(void *comm, void *data, int size, int type, void **registration) {
    *registration = NULL;
    if (size < 0) return refuse_size(size);
    return tpv_net_register(comm, data, (size_t)size, type, registration);
}

ncclResult_t tpv_abi_v6_isend(void *comm, void *data, int size, int tag, void *registration, void **request) {
    *request = NULL;
    if (size < 0) return refuse_size(size);
    return tpv_net_isend(comm, data, (size_t)size, tag, registration, NULL, request);
}

ncclResult_t tpv_abi_v6_irecv(void *comm, int count, void **data, int *sizes, int *tags, void **registrations,
                              void **request) {
    size_t wide[TPV_GROUP_MEMBERS_MAX];
    *request = NULL;
    for (int i = 0; i < count && i < TPV_GROUP_MEMBERS_MAX; i++) {
        if (sizes[i] < 0) return refuse_size(sizes[i]);
        wide[i] = (size_t)sizes[i];
    }
    return tpv_net_irecv(comm, count, data, wide, tags, registrations, NULL, request);
}

ncclResult_t tpv_abi_v7_connect(int device, void *handle, void **comm, ncclNetDeviceHandle_t **device_comm) {
    (void)device_comm; /* only device offload looks at it */
    return tpv_net_connect(NULL, device, TPV_NET_TRAFFIC_CLASS_UNDEFINED, handle, comm);
}
