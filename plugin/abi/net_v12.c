/* ncclNetPlugin_v12: rails and planes. */
#include "ncclnet/net_v12.h"

#include "abi/context.h"
#include "abi/tables.h"

static ncclResult_t init(void **ctx, uint64_t comm_id, ncclNetCommConfig_v12_t *config, ncclDebugLogger_t logger,
                         ncclProfilerCallback_t profiler) {
    (void)comm_id;
    return tpv_context_init(ctx, config ? config->trafficClass : TPV_NET_TRAFFIC_CLASS_UNDEFINED, logger, profiler);
}

static ncclResult_t set_net_attr(void *ctx, ncclNetAttr_v12_t *attr) {
    const ncclNetCommAttr_v12_t *sends = &attr->sendCommAttr, *receives = &attr->recvCommAttr;
    tpv_context_expect(ctx, sends->maxConcurrentPeers, sends->maxFlowsPerPeer);
    tpv_context_expect(ctx, receives->maxConcurrentPeers, receives->maxFlowsPerPeer);
    return ncclSuccess;
}

static ncclResult_t get_properties(int index, ncclNetProperties_v12_t *properties) {
    const tpv_device_t *device = tpv_device_get(index);
    if (!device) return ncclInvalidArgument;
    *properties = (ncclNetProperties_v12_t){TPV_PROPERTIES_V12(device, index)};
    return ncclSuccess;
}

extern const ncclNet_v12_t ncclNetPlugin_v12;
__attribute__((visibility("default"))) const ncclNet_v12_t ncclNetPlugin_v12 = {
    TPV_CALLS,
    .getProperties = get_properties,
    .init = init,
    .listen = tpv_context_listen,
    .connect = tpv_context_connect,
    .accept = tpv_net_accept,
    .regMr = tpv_net_register,
    .isend = tpv_net_isend,
    .irecv = tpv_net_irecv,
    .finalize = tpv_context_finalize,
    .setNetAttr = set_net_attr,
};
