#include "local/pair.h"

#include <poll.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/log.h"
#include "core/socket.h"

#define LOOK_INTERVAL_NS TPV_NS_PER_MS
/* For what costs more than a system call. */
#define LONG_LOOK_INTERVAL_NS (100 * TPV_NS_PER_MS)

static tpv_local_side_t side_of(const tpv_local_pair_t *pair, bool peer) {
    return pair->base.sends != peer ? TPV_LOCAL_SENDER : TPV_LOCAL_RECEIVER;
}

void tpv_local_pair_start(tpv_local_pair_t *pair, const tpv_comm_ops_t *ops, bool sends, tpv_end_t *end,
                          tpv_connections_t *connections) {
    char text[TPV_ADDRESS_TEXT];
    tpv_comm_start(&pair->base, ops, sends, connections->device, connections->fds[0]);
    pair->base.peer_process = end->peer.pid;
    pair->fd = connections->fds[0];
    connections->fds[0] = -1;
    tpv_socket_tune_idle(pair->fd);
    pair->end = end;
    pair->control = end->segment.control;
    tpv_local_segment_hold(&end->segment, side_of(pair, false));
    TPV_NET_INFO("%s process %d on this host (%s) through %s", sends ? "sending to" : "receiving from", end->peer.pid,
                 tpv_address_print(&pair->base.peer, text),
                 end->mode == TPV_LOCAL_PULL ? "process_vm_readv" : "shared memory");
}

void tpv_local_pair_end(tpv_local_pair_t *pair) {
    tpv_local_drop(pair->end);
    tpv_socket_close(pair->fd, tpv_comm_own(&pair->base));
    tpv_comm_end(&pair->base);
}

/* A connection can also end because an address or an interface has gone, under which its peer is as well as before. */
static bool gone(const tpv_local_pair_t *pair) {
    const tpv_local_peer_t *peer = &pair->end->peer;
    return peer->pid != getpid() && !tpv_local_segment_held(&pair->end->segment, side_of(pair, true));
}

void tpv_local_look_after_peer(tpv_local_pair_t *pair) {
    int64_t now = tpv_clock_ns();
    if (pair->peer_gone || now < pair->next_look) return;
    pair->next_look = now + LOOK_INTERVAL_NS;
    /* A negative descriptor is skipped. */
    int alive = pair->end->peer.alive;
    struct pollfd fds[2] = {{.fd = pair->disconnected ? -1 : pair->fd, .events = POLLIN},
                            {.fd = alive, .events = POLLIN}};
    if (poll(fds, 2, 0) > 0) {
        if (fds[0].revents) pair->disconnected = true;
        if (fds[1].revents) pair->peer_gone = true;
    }
    if (pair->disconnected && gone(pair)) pair->peer_gone = true;
    if (alive >= 0 || now < pair->next_long_look) return;
    pair->next_long_look = now + LONG_LOOK_INTERVAL_NS;
    if (tpv_local_peer_ended(&pair->end->peer)) pair->peer_gone = true;
}
