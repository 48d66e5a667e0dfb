/*
 * A TCP comm: connections, its lanes, that carry messages one way, and the first of them notices (core/notice.h) the
 * other way. What both ends have in common; send.c and receive.c add the rest. Lane 0, and every lane without a seat,
 * is moved by the thread that owns the comm; the others by helper threads, one at a time (tcp/workers.h).
 */
#ifndef TCP_COMM_H
#define TCP_COMM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "core/transport.h"
#include "tcp/wire.h"
#include "tcp/workers.h"

typedef struct tpv_tcp_comm tpv_tcp_comm_t;

/* Constant but for what is said of a field. */
typedef struct {
    tpv_tcp_comm_t *comm;
    unsigned index;
    int fd;
    tpv_tcp_seat_t *seat; /* NULL: the owner moves it. The owner's field. */
    bool awake;           /* with a seat: a helper is on it, or will be. Under the comm's lock. */
    int64_t quiet_until;  /* without one: the kernel had nothing for us; no system call before. The owner's field. */
} tpv_tcp_lane_t;

struct tpv_tcp_comm {
    tpv_comm_t base;
    /* Constant. */
    unsigned lane_count;
    tpv_tcp_lane_t lanes[TPV_CONNECTIONS_MAX];
    /* Of the queue or the receives, see send.c and receive.c; not the base's, which is for what is registered. */
    pthread_mutex_t lock;
};

/* Make an end of connections that stand; it owns them unless this fails (ncclSystemError, logged). `end`, of
 * core/transport.h, is not used. Under the setup lock (core/fork.h). */
ncclResult_t tpv_tcp_send_over(tpv_end_t *end, const tpv_message_t *answer, tpv_connections_t *connections,
                               tpv_comm_t **comm);
ncclResult_t tpv_tcp_receive_over(tpv_end_t *end, tpv_connections_t *connections, tpv_comm_t **comm);

/* Fill the common part of a comm whose memory is all zero. `work`, with a lane as its argument, may be called from then
 * on for lanes that are woken. Under the setup lock. */
void tpv_tcp_comm_start(tpv_tcp_comm_t *comm, const tpv_comm_ops_t *ops, bool sends, tpv_connections_t *connections,
                        tpv_tcp_work_t work);

/* Have no helper on the comm any more. May wait for one that is at work, and holds no lock that others need. */
void tpv_tcp_comm_calm(tpv_tcp_comm_t *comm);

/* Close its connections (but for lanes whose fd is -1), account for it and free its memory. It must be calm. */
void tpv_tcp_comm_end(tpv_tcp_comm_t *comm);

/* What to tell the owner: ncclSuccess, or the failure; then no helper touches the caller's memory any more. The owner
 * only. */
ncclResult_t tpv_tcp_comm_result(tpv_tcp_comm_t *comm);

#endif
