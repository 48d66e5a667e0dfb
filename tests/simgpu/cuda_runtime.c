/* The CUDA runtime as NCCL uses it: one device per process, whose memory is host memory. Signatures and meaning:
 * NVIDIA CUDA Runtime API 13.0. Functions whose trailing arguments differ between 12.x and 13.0 (capture information)
 * are declared with the leading arguments only, which both calling conventions allow. */
#include "simgpu/cuda_abi.h"
#include "simgpu/cuda_api.h"
#include "simgpu/event.h"
#include "simgpu/fatal.h"
#include "simgpu/kernel.h"
#include "simgpu/memory.h"
#include "simgpu/stream.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CUDA_VERSION = 13000 };

/* ---- device */

int sim_device_attribute(int attribute) {
    switch (attribute) {
    case CUDA_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
        return 8;
    case CUDA_ATTRIBUTE_MULTIPROCESSOR_COUNT:
        return 108;
    case CUDA_ATTRIBUTE_SHARED_MEMORY_PER_BLOCK_OPTIN:
        return 166912;
    case CUDA_ATTRIBUTE_UNIFIED_ADDRESSING:
        return 1;
    default:
        return 0;
    }
}

static int get_device(int *device) {
    *device = 0;
    return CUDA_SUCCESS;
}

static int set_device(int device) {
    return device == 0 ? CUDA_SUCCESS : CUDA_INVALID_DEVICE;
}

static int get_device_count(int *count) {
    *count = 1;
    return CUDA_SUCCESS;
}

static int get_version(int *version) {
    *version = CUDA_VERSION;
    return CUDA_SUCCESS;
}

static int get_driver_entry_point(const char *name, void **function, unsigned long long flags, int *result) {
    (void)flags;
    *function = sim_driver_function(name);
    if (result) *result = CUDA_ENTRY_POINT_SUCCESS;
    return CUDA_SUCCESS;
}

static int get_driver_entry_point_by_version(const char *name, void **function, unsigned version,
                                             unsigned long long flags, int *result) {
    (void)version;
    return get_driver_entry_point(name, function, flags, result);
}

static int device_get_attribute(int *value, int attribute, int device) {
    (void)device;
    *value = sim_device_attribute(attribute);
    return CUDA_SUCCESS;
}

static int get_device_properties(char *properties, int device) {
    (void)device;
    strcpy(properties + CUDA_PROPERTY_NAME, "simulated");
    memcpy(properties + CUDA_PROPERTY_TOTAL_GLOBAL_MEMORY, &(size_t){(size_t)16 << 30}, sizeof(size_t));
    memcpy(properties + CUDA_PROPERTY_MAJOR, &(int){8}, sizeof(int));
    memcpy(properties + CUDA_PROPERTY_MINOR, &(int){0}, sizeof(int));
    return CUDA_SUCCESS;
}

static int device_get_pci_bus_id(char *text, int size, int device) {
    (void)device;
    snprintf(text, (size_t)size, "0000:10:00.0");
    return CUDA_SUCCESS;
}

static int device_can_access_peer(int *can, int device, int peer) {
    (void)device;
    (void)peer;
    *can = 0;
    return CUDA_SUCCESS;
}

/* For calls whose success is all that NCCL needs: limits, function attributes, pool attributes, errors to drain. */
static int succeed(void) {
    return CUDA_SUCCESS;
}

/* ---- memory */

static int allocate(void **memory, size_t size, enum sim_memory_kind kind) {
    *memory = sim_memory_create(size, kind);
    return *memory ? CUDA_SUCCESS : CUDA_OUT_OF_MEMORY;
}

static int malloc_device(void **memory, size_t size) {
    return allocate(memory, size, SIM_MEMORY_DEVICE);
}

static int host_alloc(void **memory, size_t size, unsigned flags) {
    (void)flags;
    return allocate(memory, size, SIM_MEMORY_HOST);
}

static int host_register(void *memory, size_t size, unsigned flags) {
    (void)flags;
    sim_memory_register(memory, size);
    return CUDA_SUCCESS;
}

static int release(void *memory) {
    if (memory) sim_memory_release(memory);
    return CUDA_SUCCESS;
}

static int host_get_device_pointer(void **device, void *host, unsigned flags) {
    (void)flags;
    *device = host;
    return CUDA_SUCCESS;
}

static int pointer_get_attributes(struct cuda_pointer_attributes *attributes, void *pointer) {
    *attributes = (struct cuda_pointer_attributes){.host_pointer = pointer};
    struct sim_memory found;
    if (sim_memory_find(pointer, &found)) {
        attributes->type = (int)found.kind;
        attributes->device_pointer = pointer;
    }
    return CUDA_SUCCESS;
}

static int malloc_async(void **memory, size_t size, void *stream) {
    (void)stream;
    return malloc_device(memory, size);
}

static int malloc_from_pool_async(void **memory, size_t size, void *pool, void *stream) {
    (void)pool;
    return malloc_async(memory, size, stream);
}

static int free_async(void *memory, void *stream) {
    sim_stream_enqueue(sim_stream_of(stream), sim_memory_release, memory);
    return CUDA_SUCCESS;
}

static int mem_pool_create(void **pool, const void *properties) {
    (void)properties;
    *pool = sim_allocate(1);
    return CUDA_SUCCESS;
}

static int mem_pool_destroy(void *pool) {
    free(pool);
    return CUDA_SUCCESS;
}

/* ---- copies */

struct copy {
    void *destination;
    const void *source;
    size_t size;
};

static void run_copy(void *argument) {
    struct copy *copy = argument;
    memmove(copy->destination, copy->source, copy->size);
    free(copy);
}

/* Pageable host memory may be reused by the caller as soon as the call returns; pinned memory may not. */
static int memcpy_async(void *destination, const void *source, size_t size, int kind, void *handle) {
    sim_stream_t *stream = sim_stream_of(handle);
    bool from_host = kind == CUDA_COPY_HOST_TO_DEVICE || kind == CUDA_COPY_DEFAULT;
    bool to_host = kind == CUDA_COPY_DEVICE_TO_HOST || kind == CUDA_COPY_DEFAULT;
    struct copy *copy = sim_allocate(sizeof *copy);
    *copy = (struct copy){destination, source, size};
    sim_stream_enqueue(stream, run_copy, copy);
    if ((from_host && !sim_memory_find(source, NULL)) || (to_host && !sim_memory_find(destination, NULL)))
        sim_stream_synchronize(stream);
    return CUDA_SUCCESS;
}

static int memcpy_now(void *destination, const void *source, size_t size, int kind) {
    (void)kind;
    memmove(destination, source, size);
    return CUDA_SUCCESS;
}

struct fill {
    void *destination;
    int value;
    size_t size;
};

static void run_fill(void *argument) {
    struct fill *fill = argument;
    memset(fill->destination, fill->value, fill->size);
    free(fill);
}

static int memset_async(void *destination, int value, size_t size, void *stream) {
    struct fill *fill = sim_allocate(sizeof *fill);
    *fill = (struct fill){destination, value, size};
    sim_stream_enqueue(sim_stream_of(stream), run_fill, fill);
    return CUDA_SUCCESS;
}

static int memset_now(void *destination, int value, size_t size) {
    memset(destination, value, size);
    return CUDA_SUCCESS;
}

/* ---- streams and events */

static int stream_create_with_flags(sim_stream_t **stream, unsigned flags) {
    (void)flags;
    *stream = sim_stream_create();
    return CUDA_SUCCESS;
}

static int stream_destroy(sim_stream_t *stream) {
    sim_stream_destroy(stream);
    return CUDA_SUCCESS;
}

static int stream_synchronize(void *stream) {
    sim_stream_synchronize(sim_stream_of(stream));
    return CUDA_SUCCESS;
}

static int stream_query(void *stream) {
    return sim_stream_is_idle(sim_stream_of(stream)) ? CUDA_SUCCESS : CUDA_NOT_READY;
}

static int stream_get_id(void *stream, unsigned long long *id) {
    *id = (uintptr_t)sim_stream_of(stream);
    return CUDA_SUCCESS;
}

static int stream_capture_status(void *stream, int *status) {
    (void)stream;
    *status = CUDA_CAPTURE_NONE;
    return CUDA_SUCCESS;
}

static int exchange_capture_mode(int *mode) {
    static _Thread_local int current;
    int previous = current;
    current = *mode;
    *mode = previous;
    return CUDA_SUCCESS;
}

static int event_create_with_flags(sim_event_t **event, unsigned flags) {
    (void)flags;
    *event = sim_event_create();
    return CUDA_SUCCESS;
}

static int event_create(sim_event_t **event) {
    return event_create_with_flags(event, 0);
}

static int event_destroy(sim_event_t *event) {
    sim_event_destroy(event);
    return CUDA_SUCCESS;
}

static int event_record(sim_event_t *event, void *stream) {
    sim_event_record(event, sim_stream_of(stream));
    return CUDA_SUCCESS;
}

static int event_query(sim_event_t *event) {
    return sim_event_is_reached(event) ? CUDA_SUCCESS : CUDA_NOT_READY;
}

static int event_synchronize(sim_event_t *event) {
    sim_event_synchronize(event);
    return CUDA_SUCCESS;
}

static int stream_wait_event(void *stream, sim_event_t *event, unsigned flags) {
    (void)flags;
    sim_event_wait_on_stream(event, sim_stream_of(stream));
    return CUDA_SUCCESS;
}

/* ---- functions */

static int launch_host_func(void *stream, void (*function)(void *), void *argument) {
    sim_stream_enqueue(sim_stream_of(stream), function, argument);
    return CUDA_SUCCESS;
}

static int get_func_by_symbol(const void **function, const void *symbol) {
    *function = symbol;
    return CUDA_SUCCESS;
}

static int launch_kernel_ex(const struct cuda_launch_config *config, const void *kernel, void **arguments) {
    (void)kernel;
    sim_kernel_launch_pointers(sim_stream_of(config->stream), arguments);
    return CUDA_SUCCESS;
}

static const char *get_error_string(int error) {
    static _Thread_local char text[40];
    snprintf(text, sizeof text, "simulated CUDA error %d", error);
    return text;
}

#define FUNCTION(name, function)                                                                                       \
    { name, (void *)(uintptr_t)(function) }

const struct sim_function sim_runtime_functions[] = {
    FUNCTION("cudaGetDevice", get_device),
    FUNCTION("cudaSetDevice", set_device),
    FUNCTION("cudaGetDeviceCount", get_device_count),
    FUNCTION("cudaDriverGetVersion", get_version),
    FUNCTION("cudaRuntimeGetVersion", get_version),
    FUNCTION("cudaGetDriverEntryPoint", get_driver_entry_point),
    FUNCTION("cudaGetDriverEntryPointByVersion", get_driver_entry_point_by_version),
    FUNCTION("cudaDeviceGetAttribute", device_get_attribute),
    FUNCTION("cudaGetDeviceProperties", get_device_properties),
    FUNCTION("cudaGetDeviceProperties_v2", get_device_properties),
    FUNCTION("cudaDeviceGetPCIBusId", device_get_pci_bus_id),
    FUNCTION("cudaDeviceCanAccessPeer", device_can_access_peer),
    FUNCTION("cudaDeviceSetLimit", succeed),
    FUNCTION("cudaDeviceEnablePeerAccess", succeed),
    FUNCTION("cudaDeviceSynchronize", succeed),
    FUNCTION("cudaMalloc", malloc_device),
    FUNCTION("cudaHostAlloc", host_alloc),
    FUNCTION("cudaHostRegister", host_register),
    FUNCTION("cudaHostUnregister", release),
    FUNCTION("cudaHostGetDevicePointer", host_get_device_pointer),
    FUNCTION("cudaFree", release),
    FUNCTION("cudaFreeHost", release),
    FUNCTION("cudaPointerGetAttributes", pointer_get_attributes),
    FUNCTION("cudaMallocAsync", malloc_async),
    FUNCTION("cudaMallocFromPoolAsync", malloc_from_pool_async),
    FUNCTION("cudaFreeAsync", free_async),
    FUNCTION("cudaMemPoolCreate", mem_pool_create),
    FUNCTION("cudaMemPoolDestroy", mem_pool_destroy),
    FUNCTION("cudaMemPoolSetAttribute", succeed),
    FUNCTION("cudaMemcpyAsync", memcpy_async),
    FUNCTION("cudaMemcpy", memcpy_now),
    FUNCTION("cudaMemsetAsync", memset_async),
    FUNCTION("cudaMemset", memset_now),
    FUNCTION("cudaStreamCreateWithFlags", stream_create_with_flags),
    FUNCTION("cudaStreamDestroy", stream_destroy),
    FUNCTION("cudaStreamSynchronize", stream_synchronize),
    FUNCTION("cudaStreamQuery", stream_query),
    FUNCTION("cudaStreamGetId", stream_get_id),
    FUNCTION("cudaStreamIsCapturing", stream_capture_status),
    FUNCTION("cudaStreamGetCaptureInfo", stream_capture_status),
    FUNCTION("cudaStreamGetCaptureInfo_v2", stream_capture_status),
    FUNCTION("cudaStreamGetCaptureInfo_v3", stream_capture_status),
    FUNCTION("cudaThreadExchangeStreamCaptureMode", exchange_capture_mode),
    FUNCTION("cudaEventCreate", event_create),
    FUNCTION("cudaEventCreateWithFlags", event_create_with_flags),
    FUNCTION("cudaEventDestroy", event_destroy),
    FUNCTION("cudaEventRecord", event_record),
    FUNCTION("cudaEventQuery", event_query),
    FUNCTION("cudaEventSynchronize", event_synchronize),
    FUNCTION("cudaStreamWaitEvent", stream_wait_event),
    FUNCTION("cudaLaunchHostFunc", launch_host_func),
    FUNCTION("cudaLaunchKernelExC", launch_kernel_ex),
    FUNCTION("cudaFuncGetAttributes", succeed),
    FUNCTION("cudaFuncSetAttribute", succeed),
    FUNCTION("cudaGetFuncBySymbol", get_func_by_symbol),
    FUNCTION("cudaGetLastError", succeed),
    FUNCTION("cudaGetErrorString", get_error_string),
};

const size_t sim_runtime_function_count = sizeof sim_runtime_functions / sizeof *sim_runtime_functions;
