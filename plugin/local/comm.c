#include "local/comm.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/fork.h"
#include "core/log.h"

#define LOOK_INTERVAL_NS TPV_NS_PER_MS

void tpv_local_comm_start(tpv_local_comm_t *comm, const tpv_comm_ops_t *ops, bool sends, tpv_local_link_t *link,
                          tpv_device_t *device, int fd) {
    char text[TPV_ADDRESS_TEXT];
    comm->base.ops = ops;
    comm->base.fork_generation = tpv_fork_generation();
    comm->sends = sends;
    comm->device = device;
    comm->fd = fd;
    comm->link = link;
    comm->control = link->segment.control;
    socklen_t length = sizeof comm->local;
    (void)getsockname(fd, &comm->local.any, &length);
    length = sizeof comm->peer;
    (void)getpeername(fd, &comm->peer.any, &length);
    TPV_NET_INFO("%s process %d on this host (%s) through %s", sends ? "sending to" : "receiving from", link->peer,
                 tpv_address_print(&comm->peer, text),
                 link->mode == TPV_LOCAL_PULL ? "process_vm_readv" : "shared memory");
}

void tpv_local_comm_end(tpv_local_comm_t *comm) {
    tpv_device_stats_t *stats = &comm->device->stats;
    tpv_local_link_free(comm->link);
    /* Plain close: in a forked child it only gives up the child's share of the connection. */
    close(comm->fd);
    atomic_fetch_add_explicit(&stats->comms, 1, memory_order_relaxed);
    if (comm->failure != ncclSuccess) atomic_fetch_add_explicit(&stats->comms_failed, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(comm->sends ? &stats->messages_sent : &stats->messages_received, comm->messages,
                              memory_order_relaxed);
    atomic_fetch_add_explicit(comm->sends ? &stats->bytes_sent : &stats->bytes_received, comm->bytes,
                              memory_order_relaxed);
    free(comm);
}

ncclResult_t tpv_local_fail(tpv_local_comm_t *comm, ncclResult_t result, const char *format, ...) {
    if (comm->failure != ncclSuccess) return comm->failure;
    comm->failure = result;
    char text[512], local[TPV_ADDRESS_TEXT], peer[TPV_ADDRESS_TEXT];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    TPV_NET_WARN("%s %s, process %d (here %s at %s): %s", comm->sends ? "sending to" : "receiving from",
                 tpv_address_print(&comm->peer, peer), comm->link->peer, comm->device->name,
                 tpv_address_print(&comm->local, local), text);
    return result;
}

ncclResult_t tpv_local_fail_data(tpv_local_comm_t *comm, const char *call) {
    return tpv_local_fail(comm, ncclSystemError, "%s: the data is not accessible: was it freed, or its file truncated?",
                          call);
}

void tpv_local_look_after_peer(tpv_local_comm_t *comm) {
    int64_t now = tpv_clock_ns();
    if (comm->peer_gone || now < comm->next_look) return;
    comm->next_look = now + LOOK_INTERVAL_NS;
    /* Nothing is ever sent over the connection, so anything that is to be read there is its end. A negative descriptor
     * is skipped. */
    struct pollfd fds[2] = {{.fd = comm->fd, .events = POLLIN}, {.fd = comm->link->peer_alive, .events = POLLIN}};
    if (poll(fds, 2, 0) > 0) comm->peer_gone = true;
}

bool tpv_local_own(const tpv_local_comm_t *comm) {
    return comm->base.fork_generation == tpv_fork_generation();
}
