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

#include "tcp/tcp.h"
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
    bool sends;
    tpv_tcp_device_t *device;
    tpv_address_t local, peer;
    unsigned lane_count;
    tpv_tcp_lane_t lanes[TPV_TCP_LANES_MAX];
    /* Any thread. */
    _Atomic ncclResult_t failure; /* sticky; ncclSuccess while the connections are good */
    pthread_mutex_t lock;
    /* The owner's. */
    uint64_t messages, bytes;
};

/* Make an end of `count` connections whose handshake is done; it owns `fds` unless this fails (ncclSystemError,
 * logged). Under the setup lock (core/fork.h). */
ncclResult_t tpv_tcp_sender_create(tpv_tcp_device_t *device, const int *fds, unsigned count, tpv_comm_t **comm);
ncclResult_t tpv_tcp_receiver_create(tpv_tcp_device_t *device, const int *fds, unsigned count, tpv_comm_t **comm);

/* Fill the common part of a comm whose memory is all zero. `work`, with a lane as its argument, may be called from then
 * on for lanes that are woken. Under the setup lock. */
void tpv_tcp_comm_start(tpv_tcp_comm_t *comm, const tpv_comm_ops_t *ops, tpv_tcp_device_t *device, const int *fds,
                        unsigned count, tpv_tcp_work_t work);

/* Have no helper on the comm any more. */
void tpv_tcp_comm_calm(tpv_tcp_comm_t *comm);

/* Account for the comm, close its connections (but for lanes whose fd is -1) and free its memory. It must be calm. */
void tpv_tcp_comm_end(tpv_tcp_comm_t *comm);

/* Whether nothing can be moved any more. Any thread. */
static inline bool tpv_tcp_failed(tpv_tcp_comm_t *comm) {
    return atomic_load_explicit(&comm->failure, memory_order_acquire) != ncclSuccess;
}

/* What to tell the owner: ncclSuccess, or the failure; then no helper touches the caller's memory any more. The owner
 * only. */
ncclResult_t tpv_tcp_comm_result(tpv_tcp_comm_t *comm);

/* Parts of both tables of operations. */
ncclResult_t tpv_tcp_register(tpv_comm_t *comm, void *data, size_t size, int type, void **registration);
ncclResult_t tpv_tcp_deregister(tpv_comm_t *comm, void *registration);

/* Mark the comm as failed for good and log why, once; later calls change nothing. Any thread. */
void tpv_tcp_fail(tpv_tcp_comm_t *comm, ncclResult_t result, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same for an errno of a system call on a connection, which decides between remote and local. */
void tpv_tcp_fail_errno(tpv_tcp_comm_t *comm, const char *call, int error_number);
/* The same for a connection that the peer has closed. */
void tpv_tcp_fail_closed(tpv_tcp_comm_t *comm);

#endif
