/* The CUDA driver as NCCL uses it, found through cudaGetDriverEntryPoint. Signatures: NVIDIA CUDA Driver API 13.0. */
#include "simgpu/cuda_abi.h"
#include "simgpu/cuda_api.h"
#include "simgpu/event.h"
#include "simgpu/kernel.h"
#include "simgpu/memory.h"
#include "simgpu/stream.h"

#include <stdint.h>
#include <string.h>

/* The one context, of the one device. */
#define CONTEXT ((void *)1)

static int not_supported(void) {
    return CUDA_NOT_SUPPORTED;
}

static int succeed(void) {
    return CUDA_SUCCESS;
}

static int device_get(int *device, int ordinal) {
    *device = ordinal;
    return CUDA_SUCCESS;
}

static int device_get_attribute(int *value, int attribute, int device) {
    (void)device;
    *value = sim_device_attribute(attribute);
    return CUDA_SUCCESS;
}

static int device_get_uuid(unsigned char uuid[16], int device) {
    memset(uuid, 0, 16);
    uuid[0] = (unsigned char)(device + 1);
    return CUDA_SUCCESS;
}

static int get_error_text(int error, const char **text) {
    (void)error;
    *text = "simulated CUDA driver error";
    return CUDA_SUCCESS;
}

static int mem_get_address_range(void **base, size_t *size, void *pointer) {
    struct sim_memory found;
    if (!sim_memory_find(pointer, &found)) return CUDA_NOT_FOUND;
    if (base) *base = found.base;
    if (size) *size = found.size;
    return CUDA_SUCCESS;
}

/* NCCL asks for CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE and the like: none applies. */
static int pointer_get_attribute(void *value, int attribute, void *pointer) {
    (void)attribute;
    if (!sim_memory_find(pointer, NULL)) return CUDA_INVALID_VALUE;
    memset(value, 0, sizeof(int));
    return CUDA_SUCCESS;
}

static int ctx_get_current(void **context) {
    *context = CONTEXT;
    return CUDA_SUCCESS;
}

static int ctx_get_device(int *device) {
    *device = 0;
    return CUDA_SUCCESS;
}

static int ctx_get_id(void *context, unsigned long long *id) {
    (void)context;
    *id = 1;
    return CUDA_SUCCESS;
}

static int launch(sim_stream_t *stream, void **extra) {
    const void *arguments = NULL;
    size_t size = 0;
    for (; (uintptr_t)extra[0] != CUDA_LAUNCH_PARAM_END; extra += 2) {
        if ((uintptr_t)extra[0] == CUDA_LAUNCH_PARAM_BUFFER_POINTER)
            arguments = extra[1];
        else if ((uintptr_t)extra[0] == CUDA_LAUNCH_PARAM_BUFFER_SIZE)
            size = *(const size_t *)extra[1];
    }
    if (!arguments || !size) return CUDA_INVALID_VALUE;
    sim_kernel_launch(stream, arguments, size);
    return CUDA_SUCCESS;
}

static int launch_kernel_ex(const struct cuda_launch_config *config, const void *kernel, void **arguments,
                            void **extra) {
    (void)kernel;
    (void)arguments;
    sim_stream_t *stream = sim_stream_of(config->stream);
    /* The completion of the launch, not of the kernel: reached when the kernel begins. */
    for (unsigned i = 0; i < config->attribute_count; i++)
        if (config->attributes[i].id == CUDA_LAUNCH_ATTRIBUTE_COMPLETION_EVENT)
            sim_event_record(config->attributes[i].value.event, stream);
    return launch(stream, extra);
}

#define FUNCTION(name, function)                                                                                       \
    { name, (void *)(uintptr_t)(function) }

static const struct sim_function driver_functions[] = {
    FUNCTION("cuDeviceGet", device_get),
    FUNCTION("cuDeviceGetAttribute", device_get_attribute),
    FUNCTION("cuDeviceGetUuid", device_get_uuid),
    FUNCTION("cuGetErrorString", get_error_text),
    FUNCTION("cuGetErrorName", get_error_text),
    FUNCTION("cuMemGetAddressRange", mem_get_address_range),
    FUNCTION("cuPointerGetAttribute", pointer_get_attribute),
    FUNCTION("cuCtxCreate", ctx_get_current),
    FUNCTION("cuCtxDestroy", succeed),
    FUNCTION("cuCtxGetCurrent", ctx_get_current),
    FUNCTION("cuCtxSetCurrent", succeed),
    FUNCTION("cuCtxGetDevice", ctx_get_device),
    FUNCTION("cuCtxGetId", ctx_get_id),
    FUNCTION("cuLaunchKernelEx", launch_kernel_ex),
};

void *sim_driver_function(const char *name) {
    for (size_t i = 0; i < sizeof driver_functions / sizeof *driver_functions; i++)
        if (strcmp(driver_functions[i].name, name) == 0) return driver_functions[i].address;
    return (void *)(uintptr_t)not_supported;
}
