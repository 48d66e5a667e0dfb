/* What belongs to one NCCL communicator, from ABI v11 on. NCCL gives the pointer to every call that makes something; it
 * is NULL where init did not succeed, which all of these accept. */
#ifndef ABI_CONTEXT_H
#define ABI_CONTEXT_H

#include "abi/net.h"

/* tpv_net_init for a communicator. *context stays NULL on failure. `traffic_class` -1: undefined. */
ncclResult_t tpv_context_init(void **context, int traffic_class, ncclDebugLogger_t logger,
                              ncclProfilerCallback_t profiler);

/* NCCL 2.28 and 2.29 call this even when init failed (ncclNetPluginInit, src/plugin/net.cc at v2.28.9). */
ncclResult_t tpv_context_finalize(void *context);

ncclResult_t tpv_context_listen(void *context, int device, void *handle, void **listener);
ncclResult_t tpv_context_connect(void *context, int device, void *handle, void **comm,
                                 ncclNetDeviceHandle_t **device_comm);

/* What NCCL expects of the traffic to come. It says so on the progress thread whenever an operation differs from the
 * one before (setXferNetAttrs, src/transport/net.cc at v2.30.7), so this is two stores; the largest are logged by
 * finalize. */
void tpv_context_expect(void *context, int peers, int flows);

#endif
