/*
 * One TCP connection that carries messages one way. Everything in a comm belongs to the one thread that moves its data;
 * `fd`, `device` and the addresses are constant.
 */
#ifndef TCP_COMM_H
#define TCP_COMM_H

#include <stdbool.h>

#include "tcp/tcp.h"
#include "tcp/wire.h"

#define TPV_TCP_REQUESTS NCCL_NET_MAX_REQUESTS
_Static_assert(TPV_TCP_REQUESTS == 32, "free_slots has a bit for each request");

typedef struct {
    tpv_request_t base;
    uint8_t slot;
    bool done;
    char *data;
    size_t size;             /* to send, or room for what is received; once done, what was moved */
    tpv_tcp_header_t header; /* of a send */
} tpv_tcp_request_t;

typedef struct {
    tpv_comm_t base;
    int fd;
    ncclResult_t failure; /* sticky; ncclSuccess while the connection is good */
    uint32_t free_slots;  /* bit i: requests[i] is free */
    uint32_t head, tail;  /* requests not done yet, oldest first: queue[head % 32] … queue[tail % 32 - 1] */
    uint8_t queue[TPV_TCP_REQUESTS];
    size_t offset;       /* sender: bytes of the head's header and payload gone; receiver: of its payload come */
    size_t unsent;       /* sender: bytes in the queue that no system call has been made for yet */
    bool receiving;      /* receiver: the head's header has come, its payload has not */
    size_t incoming;     /* receiver: payload bytes of the head */
    size_t header_bytes; /* receiver: how much of `header` has come */
    tpv_tcp_header_t header;
    int64_t quiet_until;   /* the kernel had nothing for us: no system call before this time */
    int64_t stalled_since; /* sender: when the kernel first took no more; 0 when it took some since */
    int64_t next_check;    /* sender: when to ask the kernel about the peer again */
    uint64_t messages, bytes;
    tpv_tcp_device_t *device;
    tpv_address_t local, peer;
    tpv_tcp_request_t requests[TPV_TCP_REQUESTS];
} tpv_tcp_comm_t;

/* Make a comm of a connection whose handshake is done; it owns `fd` unless this fails (ncclSystemError, logged). */
ncclResult_t tpv_tcp_comm_create(tpv_tcp_device_t *device, int fd, const tpv_comm_ops_t *ops, tpv_comm_t **comm);

extern const tpv_comm_ops_t tpv_tcp_send_ops, tpv_tcp_receive_ops;

/* Parts of both tables of operations. */
ncclResult_t tpv_tcp_register(tpv_comm_t *comm, void *data, size_t size, int type, void **registration);
ncclResult_t tpv_tcp_deregister(tpv_comm_t *comm, void *registration);
void tpv_tcp_comm_close(tpv_comm_t *comm);
ncclResult_t tpv_tcp_no_isend(tpv_comm_t *comm, void *data, size_t size, int tag, void *registration, void **request);
ncclResult_t tpv_tcp_no_irecv(tpv_comm_t *comm, int count, void **data, const size_t *sizes, const int *tags,
                              void **registrations, void **request);

/* Mark the comm as failed for good and log why, once; later calls change nothing. Returns the comm's failure. */
ncclResult_t tpv_tcp_fail(tpv_tcp_comm_t *comm, ncclResult_t result, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same for an errno of a system call on the connection, which decides between remote and local. */
ncclResult_t tpv_tcp_fail_errno(tpv_tcp_comm_t *comm, const char *call, int error_number);

/* A free request appended to the queue; NULL when all are in use. */
static inline tpv_tcp_request_t *tpv_tcp_request_take(tpv_tcp_comm_t *comm) {
    if (!comm->free_slots) return NULL;
    unsigned slot = (unsigned)__builtin_ctz(comm->free_slots);
    comm->free_slots &= comm->free_slots - 1;
    comm->queue[comm->tail++ % TPV_TCP_REQUESTS] = (uint8_t)slot;
    tpv_tcp_request_t *request = &comm->requests[slot];
    request->done = false;
    return request;
}

static inline tpv_tcp_request_t *tpv_tcp_request_at(tpv_tcp_comm_t *comm, uint32_t position) {
    return &comm->requests[comm->queue[position % TPV_TCP_REQUESTS]];
}

/* The queue's head is done. */
static inline void tpv_tcp_request_finish_head(tpv_tcp_comm_t *comm, size_t size) {
    tpv_tcp_request_t *request = tpv_tcp_request_at(comm, comm->head++);
    request->size = size;
    request->done = true;
    comm->messages++;
    comm->bytes += size;
}

/* Report a done request to its owner and free it. */
static inline void tpv_tcp_request_give_back(tpv_tcp_comm_t *comm, const tpv_tcp_request_t *request, int *done,
                                             int *sizes) {
    *done = 1;
    if (sizes) *sizes = (int)request->size;
    comm->free_slots |= UINT32_C(1) << request->slot;
}

#endif
