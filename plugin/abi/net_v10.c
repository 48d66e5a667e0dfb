/* ncclNetPlugin_v10: no context; the traffic class comes with connect. */
#include "ncclnet/net_v10.h"

#include "core/net.h"

static ncclResult_t init(ncclDebugLogger_t logger, ncclProfilerCallback_t profiler) {
    (void)profiler;
    return tpv_net_init(logger);
}

static ncclResult_t get_properties(int index, ncclNetProperties_v10_t *properties) {
    const tpv_device_t *device = tpv_device_get(index);
    if (!device) return ncclInvalidArgument;
    *properties = (ncclNetProperties_v10_t){
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
    };
    return ncclSuccess;
}

static ncclResult_t listen_on(int device, void *handle, void **listener) {
    return tpv_net_listen(device, TPV_NET_TRAFFIC_CLASS_UNDEFINED, handle, listener);
}

static ncclResult_t connect_to(int device, ncclNetCommConfig_v10_t *config, void *handle, void **comm,
                               ncclNetDeviceHandle_t **device_comm) {
    (void)device_comm; /* only device offload looks at it */
    int traffic_class = config ? config->trafficClass : TPV_NET_TRAFFIC_CLASS_UNDEFINED;
    return tpv_net_connect(NULL, device, traffic_class, handle, comm);
}

extern const ncclNet_v10_t ncclNetPlugin_v10;
__attribute__((visibility("default"))) const ncclNet_v10_t ncclNetPlugin_v10 = {
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
};
