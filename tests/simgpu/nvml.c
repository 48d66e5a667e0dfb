/* A stand-in for libnvidia-ml.so.1 with the calls that NCCL makes (src/misc/nvmlwrap.cc, 2.18 to 2.32): one device of
 * compute capability 8.0, without NVLink and without access to peers. Signatures: NVIDIA NVML API 13.0. */
#include <stddef.h>

enum { NVML_SUCCESS = 0, NVML_ERROR_NOT_SUPPORTED = 3, NVML_P2P_STATUS_NOT_SUPPORTED = 1 };

#define NVML(name, ...)                                                                                                \
    __attribute__((visibility("default"))) int name(__VA_ARGS__);                                                      \
    int name(__VA_ARGS__)

NVML(nvmlInit, void) {
    return NVML_SUCCESS;
}

NVML(nvmlInit_v2, void) {
    return NVML_SUCCESS;
}

NVML(nvmlShutdown, void) {
    return NVML_SUCCESS;
}

NVML(nvmlDeviceGetCount, unsigned *count) {
    *count = 1;
    return NVML_SUCCESS;
}

NVML(nvmlDeviceGetCount_v2, unsigned *count) {
    return nvmlDeviceGetCount(count);
}

NVML(nvmlDeviceGetHandleByIndex, unsigned index, void **device) {
    (void)index;
    *device = (void *)1;
    return NVML_SUCCESS;
}

NVML(nvmlDeviceGetHandleByPciBusId, const char *bus_id, void **device) {
    (void)bus_id;
    return nvmlDeviceGetHandleByIndex(0, device);
}

NVML(nvmlDeviceGetIndex, void *device, unsigned *index) {
    (void)device;
    *index = 0;
    return NVML_SUCCESS;
}

NVML(nvmlDeviceGetCudaComputeCapability, void *device, int *major, int *minor) {
    (void)device;
    *major = 8;
    *minor = 0;
    return NVML_SUCCESS;
}

NVML(nvmlDeviceGetP2PStatus, void *device, void *peer, int capability, int *status) {
    (void)device;
    (void)peer;
    (void)capability;
    *status = NVML_P2P_STATUS_NOT_SUPPORTED;
    return NVML_SUCCESS;
}

__attribute__((visibility("default"))) const char *nvmlErrorString(int error);
const char *nvmlErrorString(int error) {
    return error == NVML_SUCCESS ? "success" : "not supported by the simulated device";
}

#define NVML_NOT_SUPPORTED(name)                                                                                       \
    NVML(name, void) {                                                                                                 \
        return NVML_ERROR_NOT_SUPPORTED;                                                                               \
    }

NVML_NOT_SUPPORTED(nvmlDeviceGetNvLinkState)
NVML_NOT_SUPPORTED(nvmlDeviceGetNvLinkRemotePciInfo)
NVML_NOT_SUPPORTED(nvmlDeviceGetNvLinkCapability)
NVML_NOT_SUPPORTED(nvmlDeviceGetFieldValues)
NVML_NOT_SUPPORTED(nvmlDeviceGetPciInfo_v3)
NVML_NOT_SUPPORTED(nvmlDeviceGetPciInfoExt)
NVML_NOT_SUPPORTED(nvmlDeviceGetPcieLinkMaxSpeed)
NVML_NOT_SUPPORTED(nvmlDeviceGetCurrPcieLinkGeneration)
NVML_NOT_SUPPORTED(nvmlDeviceGetCurrPcieLinkWidth)
NVML_NOT_SUPPORTED(nvmlDeviceGetGpuFabricInfoV)
NVML_NOT_SUPPORTED(nvmlDeviceGetPlatformInfo)
NVML_NOT_SUPPORTED(nvmlSystemGetConfComputeState)
NVML_NOT_SUPPORTED(nvmlSystemGetConfComputeSettings)
