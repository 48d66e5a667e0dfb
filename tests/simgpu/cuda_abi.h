/* The few numbers and layouts of the CUDA runtime and driver that NCCL's calls carry, so that no CUDA toolkit is
 * needed. Source: NVIDIA CUDA Toolkit 13.0, driver_types.h and cuda.h; the same in 12.x. */
#ifndef SIMGPU_CUDA_ABI_H
#define SIMGPU_CUDA_ABI_H

#include <stddef.h>

/* cudaError_t and CUresult share these values. */
enum {
    CUDA_SUCCESS = 0,
    CUDA_INVALID_VALUE = 1,
    CUDA_OUT_OF_MEMORY = 2,
    CUDA_INVALID_DEVICE = 101,
    CUDA_NOT_FOUND = 500,
    CUDA_NOT_READY = 600,
    CUDA_NOT_SUPPORTED = 801,
};

/* enum cudaMemcpyKind */
enum { CUDA_COPY_HOST_TO_DEVICE = 1, CUDA_COPY_DEVICE_TO_HOST = 2, CUDA_COPY_DEFAULT = 4 };

/* enum cudaDeviceAttr, which has the values of CUdevice_attribute */
enum {
    CUDA_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
    CUDA_ATTRIBUTE_UNIFIED_ADDRESSING = 41,
    CUDA_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
    CUDA_ATTRIBUTE_SHARED_MEMORY_PER_BLOCK_OPTIN = 97,
};

/* enum cudaStreamCaptureStatus, cudaDriverEntryPointQueryResult */
enum { CUDA_CAPTURE_NONE = 0, CUDA_ENTRY_POINT_SUCCESS = 0 };

/* The beginning of struct cudaPointerAttributes; 13.0 appends reserved words, which NCCL does not read. */
struct cuda_pointer_attributes {
    int type, device;
    void *device_pointer, *host_pointer;
};

/* Fields of struct cudaDeviceProp that NCCL reads, by offset (the same for cudaGetDeviceProperties_v2 of 12.x). */
enum {
    CUDA_PROPERTY_NAME = 0,
    CUDA_PROPERTY_TOTAL_GLOBAL_MEMORY = 288,
    CUDA_PROPERTY_MAJOR = 360,
    CUDA_PROPERTY_MINOR = 364,
};

/* CUlaunchAttribute and CUlaunchConfig; cudaLaunchConfig_t has stream, attributes and their count at the same place. */
struct cuda_launch_attribute {
    int id;
    int padding;
    union {
        char size[64];
        void *event;
    } value;
};

struct cuda_launch_config {
    unsigned grid[3], block[3];
    size_t shared_memory; /* unsigned int and padding in CUlaunchConfig */
    void *stream;
    const struct cuda_launch_attribute *attributes;
    unsigned attribute_count;
};

_Static_assert(sizeof(struct cuda_launch_attribute) == 72, "CUlaunchAttribute");
_Static_assert(offsetof(struct cuda_launch_config, stream) == 32, "CUlaunchConfig.hStream");

enum { CUDA_LAUNCH_ATTRIBUTE_COMPLETION_EVENT = 12 };

/* The words of the `extra` list of cuLaunchKernel: CU_LAUNCH_PARAM_*. */
enum { CUDA_LAUNCH_PARAM_END = 0, CUDA_LAUNCH_PARAM_BUFFER_POINTER = 1, CUDA_LAUNCH_PARAM_BUFFER_SIZE = 2 };

#endif
