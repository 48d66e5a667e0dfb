#include "abi/net.h"

#include <stdbool.h>

#include "core/comm.h"
#include "core/fork.h"
#include "core/log.h"
#include "core/params.h"
#include "core/profiler.h"
#include "setup/setup.h"

static ncclResult_t refuse_after_fork(void) {
    TPV_NET_WARN("a forked process used a connection of its parent: it has to make its own");
    return ncclInvalidUsage;
}

static inline bool foreign(unsigned fork_generation) {
    return fork_generation != tpv_fork_generation();
}

ncclResult_t tpv_net_init(ncclDebugLogger_t logger, ncclProfilerCallback_t profiler) {
    tpv_net_log_set(logger);
    tpv_profiler_set(profiler);
    tpv_net_params_check();
    tpv_fork_watch();
    return tpv_devices_discover();
}

void tpv_net_abandon(const void *owner) {
    if (!owner) return;
    tpv_setup_abandon(owner);
    tpv_devices_log_stats();
}

ncclResult_t tpv_net_devices(int *count) {
    *count = tpv_device_count();
    return ncclSuccess;
}

ncclResult_t tpv_net_listen(int index, int traffic_class, void *handle, void **listener) {
    *listener = NULL;
    tpv_device_t *device = tpv_device_get(index);
    if (!device) return ncclInvalidArgument;
    tpv_listener_t *made = NULL;
    ncclResult_t result = tpv_setup_listen(device, traffic_class, handle, &made);
    *listener = made;
    return result;
}

ncclResult_t tpv_net_connect(const void *owner, int index, int traffic_class, void *handle, void **comm) {
    *comm = NULL;
    tpv_device_t *device = tpv_device_get(index);
    if (!device) return ncclInvalidArgument;
    tpv_comm_t *made = NULL;
    ncclResult_t result = tpv_setup_connect(owner, device, traffic_class, handle, &made);
    *comm = made;
    return result;
}

ncclResult_t tpv_net_accept(void *listener, void **comm, ncclNetDeviceHandle_t **device_comm) {
    (void)device_comm; /* only device offload looks at it */
    *comm = NULL;
    if (tpv_setup_foreign(listener)) return refuse_after_fork();
    tpv_comm_t *made = NULL;
    ncclResult_t result = tpv_setup_accept(listener, &made);
    *comm = made;
    return result;
}

ncclResult_t tpv_net_register(void *comm, void *data, size_t size, int type, void **registration) {
    tpv_comm_t *on = comm;
    *registration = NULL;
    if (foreign(on->fork_generation)) return refuse_after_fork();
    return tpv_comm_register(on, data, size, type, registration);
}

ncclResult_t tpv_net_deregister(void *comm, void *registration) {
    tpv_comm_deregister(comm, registration);
    return ncclSuccess;
}

/* NCCL's Socket transport hands out requests whatever has become of the peer, and programs look for an error in test
 * only (ncclNetSocketIsend, src/transport/net_socket.cc at v2.28.9). */
static ncclResult_t report_by_test(tpv_comm_t *comm, ncclResult_t result, void **request) {
    if (result != ncclRemoteError) return result;
    *request = &comm->broken;
    return ncclSuccess;
}

static tpv_comm_t *mover_of(void *comm) {
    tpv_comm_t *on = comm;
    return atomic_load_explicit(&on->mover, memory_order_acquire);
}

ncclResult_t tpv_net_isend(void *comm, void *data, size_t size, int tag, void *registration, void *profiler_handle,
                           void **request) {
    tpv_comm_t *on = mover_of(comm);
    *request = NULL;
    if (foreign(on->fork_generation)) return refuse_after_fork();
    if (!on->ops->isend) {
        TPV_NET_WARN("isend on a comm that receives");
        return ncclInvalidUsage;
    }
    if (size > TPV_MESSAGE_MAX) return tpv_comm_fail_long(on, size);
    ncclResult_t result = on->ops->isend(on, data, size, tag, registration, request);
    if (*request) tpv_profiler_begin(*request, false, 1, &size, &tag, profiler_handle ? &profiler_handle : NULL);
    return report_by_test(on, result, request);
}

ncclResult_t tpv_net_irecv(void *comm, int count, void **data, size_t *sizes, int *tags, void **registrations,
                           void **profiler_handles, void **request) {
    tpv_comm_t *on = mover_of(comm);
    /* What *request holds now means nothing, NCCL_NET_OPTIONAL_RECV_COMPLETION included: completion costs nothing. */
    *request = NULL;
    if (foreign(on->fork_generation)) return refuse_after_fork();
    if (!on->ops->irecv) {
        TPV_NET_WARN("irecv on a comm that sends");
        return ncclInvalidUsage;
    }
    if (count < 1 || count > TPV_GROUP_MEMBERS_MAX) {
        TPV_NET_WARN("irecv of %d messages at once: expected 1 to %d (maxRecvs)", count, TPV_GROUP_MEMBERS_MAX);
        return ncclInvalidUsage;
    }
    ncclResult_t result = on->ops->irecv(on, count, data, sizes, tags, registrations, request);
    if (*request) tpv_profiler_begin(*request, true, count, sizes, tags, profiler_handles);
    return report_by_test(on, result, request);
}

ncclResult_t tpv_net_iflush(void *comm, int count, void **data, int *sizes, void **registrations, void **request) {
    (void)comm, (void)count, (void)data, (void)sizes, (void)registrations;
    *request = NULL; /* data was written by the CPU: there is nothing to wait for */
    return ncclSuccess;
}

ncclResult_t tpv_net_test(void *request, int *done, int *sizes) {
    tpv_request_t *of = request;
    *done = 0;
    if (foreign(of->comm->fork_generation)) return refuse_after_fork();
    if (of == &of->comm->broken) return ncclRemoteError;
    ncclResult_t result = of->comm->ops->test(of, done, sizes);
    if (*done && of->event_count) tpv_profiler_end(of);
    return result;
}

ncclResult_t tpv_net_close(void *comm) {
    tpv_comm_t *on = comm;
    if (on) on->ops->close(on);
    return ncclSuccess;
}

ncclResult_t tpv_net_close_listener(void *listener) {
    if (listener) tpv_setup_close_listener(listener);
    return ncclSuccess;
}
