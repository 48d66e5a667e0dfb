/* Makes an unmodified libnccl run on a machine without a GPU. */
#ifndef SIMGPU_ATTACH_H
#define SIMGPU_ATTACH_H

/* Replaces the CUDA runtime inside the libnccl.so.2 behind the dlopen handle, before its first use in this process.
 * Returns 0, or -1 with a sentence in *problem (static or owned by this function): the release is unknown, or the
 * library cannot be read or patched. Call it once, from one thread. */
int sim_attach(void *libnccl, const char **problem);

#endif
