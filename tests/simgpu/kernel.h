/* NCCL's kernels, carried out on the CPU by the thread of the stream they were launched on. */
#ifndef SIMGPU_KERNEL_H
#define SIMGPU_KERNEL_H

#include "simgpu/stream.h"

#include <stddef.h>

/* Enqueues a kernel whose arguments are one block of `size` bytes (ncclDevKernelArgs4K, NCCL 2.22 and newer), which is
 * copied. Thread-safe. */
void sim_kernel_launch(sim_stream_t *stream, const void *arguments, size_t size);

/* The same for a kernel with the three arguments comm, channelMask and workHead, given as pointers to them (NCCL
 * before 2.22). Thread-safe. */
void sim_kernel_launch_pointers(sim_stream_t *stream, void **arguments);

#endif
