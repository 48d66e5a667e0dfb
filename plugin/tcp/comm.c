#include "tcp/comm.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/fork.h"
#include "core/log.h"
#include "tcp/socket.h"

ncclResult_t tpv_tcp_comm_create(tpv_tcp_device_t *device, int fd, const tpv_comm_ops_t *ops, tpv_comm_t **comm) {
    tpv_tcp_comm_t *made = calloc(1, sizeof *made);
    if (!made) {
        TPV_NET_WARN("out of memory");
        return ncclSystemError;
    }
    made->base.ops = ops;
    made->base.fork_generation = tpv_fork_generation();
    made->device = device;
    made->fd = fd;
    made->free_slots = UINT32_MAX;
    for (int i = 0; i < TPV_TCP_REQUESTS; i++) {
        made->requests[i].base.comm = &made->base;
        made->requests[i].slot = (uint8_t)i;
    }
    /* Kept for messages: a lost connection does not know its peer any more. */
    socklen_t length = sizeof made->local;
    (void)getsockname(fd, &made->local.any, &length);
    length = sizeof made->peer;
    (void)getpeername(fd, &made->peer.any, &length);
    *comm = &made->base;
    return ncclSuccess;
}

ncclResult_t tpv_tcp_register(tpv_comm_t *comm, void *data, size_t size, int type, void **registration) {
    (void)comm, (void)data, (void)size;
    *registration = NULL; /* the kernel copies: there is nothing to prepare */
    if (type == NCCL_PTR_HOST) return ncclSuccess;
    TPV_NET_WARN("regMr: TCP moves host memory only (type %d, expected %d)", type, NCCL_PTR_HOST);
    return ncclInvalidUsage;
}

ncclResult_t tpv_tcp_deregister(tpv_comm_t *comm, void *registration) {
    (void)comm, (void)registration;
    return ncclSuccess;
}

void tpv_tcp_comm_close(tpv_comm_t *base) {
    tpv_tcp_comm_t *comm = (tpv_tcp_comm_t *)base;
    tpv_device_stats_t *stats = &comm->device->base.stats;
    /* Plain close: in a forked child it only gives up the child's share of the connection. */
    close(comm->fd);
    bool sender = base->ops == &tpv_tcp_send_ops;
    atomic_fetch_add_explicit(&stats->comms, 1, memory_order_relaxed);
    if (comm->failure != ncclSuccess) atomic_fetch_add_explicit(&stats->comms_failed, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(sender ? &stats->messages_sent : &stats->messages_received, comm->messages,
                              memory_order_relaxed);
    atomic_fetch_add_explicit(sender ? &stats->bytes_sent : &stats->bytes_received, comm->bytes, memory_order_relaxed);
    free(comm);
}

ncclResult_t tpv_tcp_no_isend(tpv_comm_t *comm, void *data, size_t size, int tag, void *registration, void **request) {
    (void)comm, (void)data, (void)size, (void)tag, (void)registration, (void)request;
    TPV_NET_WARN("isend on a comm that receives");
    return ncclInvalidUsage;
}

ncclResult_t tpv_tcp_no_irecv(tpv_comm_t *comm, int count, void **data, const size_t *sizes, const int *tags,
                              void **registrations, void **request) {
    (void)comm, (void)count, (void)data, (void)sizes, (void)tags, (void)registrations, (void)request;
    TPV_NET_WARN("irecv on a comm that sends");
    return ncclInvalidUsage;
}

ncclResult_t tpv_tcp_fail(tpv_tcp_comm_t *comm, ncclResult_t result, const char *format, ...) {
    if (comm->failure != ncclSuccess) return comm->failure;
    comm->failure = result;
    char text[512], local[TPV_ADDRESS_TEXT], peer[TPV_ADDRESS_TEXT];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    TPV_NET_WARN("%s %s (here %s at %s): %s", comm->base.ops == &tpv_tcp_send_ops ? "sending to" : "receiving from",
                 tpv_address_print(&comm->peer, peer), comm->device->base.name, tpv_address_print(&comm->local, local),
                 text);
    return result;
}

ncclResult_t tpv_tcp_fail_errno(tpv_tcp_comm_t *comm, const char *call, int error_number) {
    if (tpv_tcp_errno_is_remote(error_number))
        return tpv_tcp_fail(comm, ncclRemoteError, "the peer is gone: %s: %s", call, strerror(error_number));
    if (error_number == EFAULT)
        return tpv_tcp_fail(comm, ncclSystemError,
                            "%s: the data is not accessible: was it freed, or its file truncated?", call);
    return tpv_tcp_fail(comm, ncclSystemError, "%s: %s", call, strerror(error_number));
}
