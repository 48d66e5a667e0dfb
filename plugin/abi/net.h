/*
 * The one internal interface that every ABI shim stands on. Where a function has the same meaning in all ABI versions,
 * its type is the ABI's, so that a shim's table can name it directly. `comm`, `listener` and `request` are what earlier
 * calls returned. Comms and listeners made before a fork are refused in the child (ncclInvalidUsage), except by the
 * close functions. No function blocks.
 */
#ifndef ABI_NET_H
#define ABI_NET_H

#include "core/device.h"

#define TPV_NET_NAME "TPView"
#define TPV_NET_COMMS_MAX 65536
#define TPV_NET_TRAFFIC_CLASS_UNDEFINED (-1)

/* Read the environment, fill the device table; from now on log through `logger` and report events to `profiler` (both
 * may be NULL). Any number of times. */
ncclResult_t tpv_net_init(ncclDebugLogger_t logger, ncclProfilerCallback_t profiler);

/* An owner of connects goes away: those that it did not carry to their end are dropped. NULL does nothing. */
void tpv_net_abandon(const void *owner);

ncclResult_t tpv_net_devices(int *count);

/* `owner` NULL: nobody; a connect that is not called again is dropped after some time. */
ncclResult_t tpv_net_listen(int device, int traffic_class, void *handle, void **listener);
ncclResult_t tpv_net_connect(const void *owner, int device, int traffic_class, void *handle, void **comm);
ncclResult_t tpv_net_accept(void *listener, void **comm, ncclNetDeviceHandle_t **device_comm);

ncclResult_t tpv_net_register(void *comm, void *data, size_t size, int type, void **registration);
ncclResult_t tpv_net_deregister(void *comm, void *registration);

ncclResult_t tpv_net_isend(void *comm, void *data, size_t size, int tag, void *registration, void *profiler_handle,
                           void **request);
ncclResult_t tpv_net_irecv(void *comm, int count, void **data, size_t *sizes, int *tags, void **registrations,
                           void **profiler_handles, void **request);
ncclResult_t tpv_net_iflush(void *comm, int count, void **data, int *sizes, void **registrations, void **request);
ncclResult_t tpv_net_test(void *request, int *done, int *sizes);

ncclResult_t tpv_net_close(void *comm);
ncclResult_t tpv_net_close_listener(void *listener);

#endif
