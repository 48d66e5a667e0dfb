/* What stands in for the CUDA runtime and driver inside libnccl. */
#ifndef SIMGPU_CUDA_API_H
#define SIMGPU_CUDA_API_H

#include <stddef.h>

struct sim_function {
    const char *name;
    void *address;
};

/* The replacements of the runtime's functions, by their name in libnccl's symbol table. */
extern const struct sim_function sim_runtime_functions[];
extern const size_t sim_runtime_function_count;

/* The driver's function of that name. Never NULL: an unknown one answers CUDA_ERROR_NOT_SUPPORTED, by which NCCL knows
 * that a feature is absent. Thread-safe. */
void *sim_driver_function(const char *name);

/* What every simulated device reports for a cudaDeviceAttr or CUdevice_attribute: a compute capability 8.0 device
 * without peer access, GPUDirect, multicast or virtual memory management. Thread-safe. */
int sim_device_attribute(int attribute);

#endif
