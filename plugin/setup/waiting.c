#include "setup/waiting.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "core/fork.h"
#include "core/log.h"
#include "core/socket.h"
#include "setup/greeting.h"

/* All but what the base says of itself belongs to the one thread that moves data. */
typedef struct {
    tpv_comm_t base;
    unsigned count; /* connections; 0 once a transport's comm has them */
    int fds[TPV_CONNECTIONS_MAX];
    tpv_offered_t offered[TPV_TRANSPORTS_MAX];
    size_t got;
    tpv_welcome_t welcome;
    tpv_comm_t *made;
} waiting_t;

void tpv_offered_drop(tpv_offered_t offered[TPV_TRANSPORTS_MAX]) {
    for (int i = 0; tpv_transports[i]; i++) {
        if (offered[i].made && tpv_transports[i]->drop) tpv_transports[i]->drop(offered[i].end);
        offered[i] = (tpv_offered_t){0};
    }
}

static void close_connections(waiting_t *comm) {
    for (unsigned i = 0; i < comm->count; i++)
        if (comm->fds[i] >= 0) tpv_socket_close(comm->fds[i], tpv_comm_own(&comm->base));
    comm->count = 0;
}

static ncclResult_t fail_foreign(waiting_t *comm) {
    return tpv_comm_fail(&comm->base, ncclRemoteError, "what answers there is not this plugin");
}

/* The welcome is whole: have the transport whose offer was taken make the comm. */
static ncclResult_t become(waiting_t *comm) {
    tpv_message_t answer = {.size = comm->welcome.size};
    tpv_connections_t connections = {.device = comm->base.device, .count = comm->count, .fds = comm->fds};
    int taken = 0;
    memcpy(answer.bytes, comm->welcome.answer, answer.size);
    while (tpv_transports[taken] && tpv_transports[taken]->id != comm->welcome.transport)
        taken++;
    if (!tpv_transports[taken] || !comm->offered[taken].made) return fail_foreign(comm);
    tpv_setup_lock();
    ncclResult_t result =
        tpv_transports[taken]->send_over(comm->offered[taken].end, &answer, &connections, &comm->made);
    if (result == ncclSuccess) comm->offered[taken] = (tpv_offered_t){0};
    tpv_offered_drop(comm->offered);
    tpv_setup_unlock();
    if (result == ncclRemoteError) return fail_foreign(comm);
    if (result != ncclSuccess) return tpv_comm_fail(&comm->base, result, "the comm cannot be made");
    close_connections(comm);
    tpv_comm_become(&comm->base, comm->made);
    return ncclSuccess;
}

/* The peer may take any time until it calls accept; that its host is alive is for keepalive to find out. */
static ncclResult_t listen_to_peer(waiting_t *comm) {
    for (;;) {
        size_t wanted = TPV_WELCOME_BYTES + (comm->got < TPV_WELCOME_BYTES ? 0 : comm->welcome.size) - comm->got;
        if (wanted == 0) return become(comm);
        ssize_t got = recv(comm->fds[0], (char *)&comm->welcome + comm->got, wanted, MSG_DONTWAIT);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && errno == EAGAIN) return ncclSuccess;
        if (got < 0)
            return tpv_comm_fail(&comm->base, ncclRemoteError, "the peer is gone before it accepted: %s",
                                 strerror(errno));
        if (got == 0)
            return tpv_comm_fail(&comm->base, ncclRemoteError, "the peer closed the connection without accepting it");
        comm->got += (size_t)got;
        if (comm->got == TPV_WELCOME_BYTES && !tpv_welcome_good(&comm->welcome)) return fail_foreign(comm);
    }
}

static ncclResult_t waiting_isend(tpv_comm_t *base, void *data, size_t size, int tag, tpv_registration_t *registration,
                                  void **request) {
    waiting_t *comm = (waiting_t *)base;
    if (tpv_comm_failed(base)) return tpv_comm_failure(base);
    ncclResult_t result = listen_to_peer(comm);
    if (result != ncclSuccess || !comm->made) return result;
    return comm->made->ops->isend(comm->made, data, size, tag, registration, request);
}

static void waiting_close(tpv_comm_t *base) {
    waiting_t *comm = (waiting_t *)base;
    if (comm->made) comm->made->ops->close(comm->made);
    tpv_setup_lock();
    tpv_offered_drop(comm->offered);
    tpv_setup_unlock();
    close_connections(comm);
    tpv_comm_end(base);
}

static const tpv_comm_ops_t waiting_ops = {.isend = waiting_isend, .close = waiting_close};

ncclResult_t tpv_waiting_create(tpv_device_t *device, const int *fds, unsigned count,
                                const tpv_offered_t offered[TPV_TRANSPORTS_MAX], tpv_comm_t **comm) {
    waiting_t *made = calloc(1, sizeof *made);
    if (!made) {
        TPV_NET_WARN("out of memory");
        return ncclSystemError;
    }
    made->count = count;
    memcpy(made->fds, fds, count * sizeof *fds);
    memcpy(made->offered, offered, sizeof made->offered);
    tpv_comm_start(&made->base, &waiting_ops, true, device, fds[0]);
    *comm = &made->base;
    return ncclSuccess;
}
