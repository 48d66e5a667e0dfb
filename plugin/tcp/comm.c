#include "tcp/comm.h"

#include "core/fork.h"
#include "core/socket.h"
#include "tcp/lanes.h"

void tpv_tcp_comm_start(tpv_tcp_comm_t *comm, const tpv_comm_ops_t *ops, bool sends, tpv_connections_t *connections,
                        tpv_tcp_work_t work) {
    tpv_comm_start(&comm->base, ops, sends, connections->device, connections->fds[0]);
    pthread_mutex_init(&comm->lock, NULL);
    unsigned helpers = connections->count > 1 && work ? tpv_tcp_lanes_choose(connections->device).helpers : 0;
    comm->lane_count = connections->count;
    for (unsigned i = 0; i < comm->lane_count; i++) {
        tpv_tcp_lane_t *lane = &comm->lanes[i];
        *lane = (tpv_tcp_lane_t){.comm = comm, .index = i, .fd = connections->fds[i]};
        connections->fds[i] = -1;
        if (i > 0 && helpers > 0) lane->seat = tpv_tcp_seat_take(lane->fd, helpers, work, lane);
    }
}

void tpv_tcp_comm_calm(tpv_tcp_comm_t *comm) {
    for (unsigned i = 0; i < comm->lane_count; i++) {
        if (comm->lanes[i].seat) tpv_tcp_seat_leave(comm->lanes[i].seat);
        comm->lanes[i].seat = NULL;
    }
}

void tpv_tcp_comm_end(tpv_tcp_comm_t *comm) {
    bool own = tpv_comm_own(&comm->base);
    for (unsigned i = 0; i < comm->lane_count; i++)
        if (comm->lanes[i].fd >= 0) tpv_socket_close(comm->lanes[i].fd, own);
    /* A helper of the parent may have held a forked child's copy. */
    if (own) pthread_mutex_destroy(&comm->lock);
    tpv_comm_end(&comm->base);
}

ncclResult_t tpv_tcp_comm_result(tpv_tcp_comm_t *comm) {
    ncclResult_t failure = tpv_comm_failure(&comm->base);
    if (failure != ncclSuccess) tpv_tcp_comm_calm(comm);
    return failure;
}
