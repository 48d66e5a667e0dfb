/* ncclNetPlugin_v11: a context for each communicator, which holds its traffic class. */
#include "ncclnet/net_v11.h"

#include <stdlib.h>

#include "core/log.h"
#include "core/net.h"

typedef struct {
    int traffic_class;
} context_t;

static ncclResult_t init(void **ctx, uint64_t comm_id, ncclNetCommConfig_v11_t *config, ncclDebugLogger_t logger,
                         ncclProfilerCallback_t profiler) {
    (void)comm_id, (void)profiler;
    *ctx = NULL;
    ncclResult_t result = tpv_net_init(logger);
    if (result != ncclSuccess) return result;
    context_t *context = malloc(sizeof *context);
    if (!context) {
        TPV_NET_WARN("out of memory");
        return ncclSystemError;
    }
    context->traffic_class = config ? config->trafficClass : TPV_NET_TRAFFIC_CLASS_UNDEFINED;
    *ctx = context;
    return ncclSuccess;
}

/* NCCL 2.28 and 2.29 call this even when init failed: NULL is then what init left. */
static ncclResult_t finalize(void *ctx) {
    tpv_net_abandon(ctx);
    free(ctx);
    return ncclSuccess;
}

static ncclResult_t get_properties(int index, ncclNetProperties_v11_t *properties) {
    const tpv_device_t *device = tpv_device_get(index);
    if (!device) return ncclInvalidArgument;
    *properties = (ncclNetProperties_v11_t){
        .name = device->name,
        .pciPath = device->pci_path,
        .guid = device->guid,
        .ptrSupport = device->pointer_support,
        .regIsGlobal = device->registration_is_global,
        .speed = device->speed,
        .port = device->port,
        .maxComms = TPV_NET_COMMS_MAX,
        .maxRecvs = device->receives_max,
        .netDeviceType = NCCL_NET_DEVICE_HOST,
        .netDeviceVersion = NCCL_NET_DEVICE_INVALID_VERSION,
        .vProps = {.ndevs = 1, .devs = {index}},
        .maxP2pBytes = device->message_max,
        .maxCollBytes = device->message_max,
        .maxMultiRequestSize = 1,
    };
    return ncclSuccess;
}

static int traffic_class_of(const void *ctx) {
    const context_t *context = ctx;
    return context ? context->traffic_class : TPV_NET_TRAFFIC_CLASS_UNDEFINED;
}

static ncclResult_t listen_on(void *ctx, int device, void *handle, void **listener) {
    return tpv_net_listen(device, traffic_class_of(ctx), handle, listener);
}

static ncclResult_t connect_to(void *ctx, int device, void *handle, void **comm, ncclNetDeviceHandle_t **device_comm) {
    (void)device_comm; /* only device offload looks at it */
    return tpv_net_connect(ctx, device, traffic_class_of(ctx), handle, comm);
}

extern const ncclNet_v11_t ncclNetPlugin_v11;
__attribute__((visibility("default"))) const ncclNet_v11_t ncclNetPlugin_v11 = {
    .name = TPV_NET_NAME,
    .init = init,
    .devices = tpv_net_devices,
    .getProperties = get_properties,
    .listen = listen_on,
    .connect = connect_to,
    .accept = tpv_net_accept,
    .regMr = tpv_net_register,
    .deregMr = tpv_net_deregister,
    .isend = tpv_net_isend,
    .irecv = tpv_net_irecv,
    .iflush = tpv_net_iflush,
    .test = tpv_net_test,
    .closeSend = tpv_net_close,
    .closeRecv = tpv_net_close,
    .closeListen = tpv_net_close_listener,
    .finalize = finalize,
};
