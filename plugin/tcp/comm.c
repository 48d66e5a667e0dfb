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

void tpv_tcp_comm_start(tpv_tcp_comm_t *comm, const tpv_comm_ops_t *ops, tpv_tcp_device_t *device, int fd) {
    comm->base.ops = ops;
    comm->base.fork_generation = tpv_fork_generation();
    comm->device = device;
    comm->fd = fd;
    /* Kept for messages: a lost connection does not know its peer any more. */
    socklen_t length = sizeof comm->local;
    (void)getsockname(fd, &comm->local.any, &length);
    length = sizeof comm->peer;
    (void)getpeername(fd, &comm->peer.any, &length);
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

void tpv_tcp_comm_end(tpv_tcp_comm_t *comm) {
    tpv_device_stats_t *stats = &comm->device->base.stats;
    /* Plain close: in a forked child it only gives up the child's share of the connection. */
    if (comm->fd >= 0) close(comm->fd);
    atomic_fetch_add_explicit(&stats->comms, 1, memory_order_relaxed);
    if (comm->failure != ncclSuccess) atomic_fetch_add_explicit(&stats->comms_failed, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(comm->sends ? &stats->messages_sent : &stats->messages_received, comm->messages,
                              memory_order_relaxed);
    atomic_fetch_add_explicit(comm->sends ? &stats->bytes_sent : &stats->bytes_received, comm->bytes,
                              memory_order_relaxed);
    free(comm);
}

ncclResult_t tpv_tcp_fail(tpv_tcp_comm_t *comm, ncclResult_t result, const char *format, ...) {
    if (comm->failure != ncclSuccess) return comm->failure;
    comm->failure = result;
    char text[512], local[TPV_ADDRESS_TEXT], peer[TPV_ADDRESS_TEXT];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    TPV_NET_WARN("%s %s (here %s at %s): %s", comm->sends ? "sending to" : "receiving from",
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

ncclResult_t tpv_tcp_fail_closed(tpv_tcp_comm_t *comm) {
    return tpv_tcp_fail(comm, ncclRemoteError, "the peer closed the connection");
}
