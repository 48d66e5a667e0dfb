#include "tcp/comm.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/fork.h"
#include "core/log.h"
#include "tcp/lanes.h"
#include "tcp/socket.h"

void tpv_tcp_comm_start(tpv_tcp_comm_t *comm, const tpv_comm_ops_t *ops, tpv_tcp_device_t *device, const int *fds,
                        unsigned count, tpv_tcp_work_t work) {
    comm->base.ops = ops;
    comm->base.fork_generation = tpv_fork_generation();
    comm->device = device;
    pthread_mutex_init(&comm->lock, NULL);
    /* Kept for messages: a lost connection does not know its peer any more. */
    socklen_t length = sizeof comm->local;
    (void)getsockname(fds[0], &comm->local.any, &length);
    length = sizeof comm->peer;
    (void)getpeername(fds[0], &comm->peer.any, &length);
    unsigned helpers = count > 1 && work ? tpv_tcp_lanes_choose(device).helpers : 0;
    comm->lane_count = count;
    for (unsigned i = 0; i < count; i++) {
        tpv_tcp_lane_t *lane = &comm->lanes[i];
        *lane = (tpv_tcp_lane_t){.comm = comm, .index = i, .fd = fds[i]};
        if (i > 0 && helpers > 0) lane->seat = tpv_tcp_seat_take(fds[i], helpers, work, lane);
    }
}

void tpv_tcp_comm_calm(tpv_tcp_comm_t *comm) {
    bool seated = false;
    for (unsigned i = 0; i < comm->lane_count; i++)
        seated = seated || comm->lanes[i].seat;
    if (!seated) return;
    tpv_setup_lock();
    for (unsigned i = 0; i < comm->lane_count; i++) {
        if (comm->lanes[i].seat) tpv_tcp_seat_leave(comm->lanes[i].seat);
        comm->lanes[i].seat = NULL;
    }
    tpv_setup_unlock();
}

void tpv_tcp_comm_end(tpv_tcp_comm_t *comm) {
    tpv_device_stats_t *stats = &comm->device->base.stats;
    /* Plain close: in a forked child it only gives up the child's share of the connection. */
    for (unsigned i = 0; i < comm->lane_count; i++)
        if (comm->lanes[i].fd >= 0) close(comm->lanes[i].fd);
    atomic_fetch_add_explicit(&stats->comms, 1, memory_order_relaxed);
    if (tpv_tcp_failed(comm)) atomic_fetch_add_explicit(&stats->comms_failed, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(comm->sends ? &stats->messages_sent : &stats->messages_received, comm->messages,
                              memory_order_relaxed);
    atomic_fetch_add_explicit(comm->sends ? &stats->bytes_sent : &stats->bytes_received, comm->bytes,
                              memory_order_relaxed);
    /* A helper of the parent may have held a forked child's copy. */
    if (comm->base.fork_generation == tpv_fork_generation()) pthread_mutex_destroy(&comm->lock);
    free(comm);
}

ncclResult_t tpv_tcp_comm_result(tpv_tcp_comm_t *comm) {
    ncclResult_t failure = atomic_load_explicit(&comm->failure, memory_order_acquire);
    if (failure != ncclSuccess) tpv_tcp_comm_calm(comm);
    return failure;
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

void tpv_tcp_fail(tpv_tcp_comm_t *comm, ncclResult_t result, const char *format, ...) {
    ncclResult_t before = ncclSuccess;
    if (!atomic_compare_exchange_strong_explicit(&comm->failure, &before, result, memory_order_acq_rel,
                                                 memory_order_relaxed))
        return;
    char text[512], local[TPV_ADDRESS_TEXT], peer[TPV_ADDRESS_TEXT];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    TPV_NET_WARN("%s %s (here %s at %s): %s", comm->sends ? "sending to" : "receiving from",
                 tpv_address_print(&comm->peer, peer), comm->device->base.name, tpv_address_print(&comm->local, local),
                 text);
}

void tpv_tcp_fail_errno(tpv_tcp_comm_t *comm, const char *call, int error_number) {
    if (tpv_tcp_errno_is_remote(error_number))
        tpv_tcp_fail(comm, ncclRemoteError, "the peer is gone: %s: %s", call, strerror(error_number));
    else if (error_number == EFAULT)
        tpv_tcp_fail(comm, ncclSystemError, "%s: the data is not accessible: was it freed, or its file truncated?",
                     call);
    else
        tpv_tcp_fail(comm, ncclSystemError, "%s: %s", call, strerror(error_number));
}

void tpv_tcp_fail_closed(tpv_tcp_comm_t *comm) {
    tpv_tcp_fail(comm, ncclRemoteError, "the peer closed the connection");
}
