/*
 * One TCP connection that carries messages one way, and notices (core/notice.h) the other. What both ends have in
 * common; send.c and receive.c add the rest. Everything in a comm belongs to the one thread that moves its data; `fd`,
 * `device` and the addresses are constant.
 */
#ifndef TCP_COMM_H
#define TCP_COMM_H

#include <stdbool.h>

#include "tcp/tcp.h"
#include "tcp/wire.h"

typedef struct {
    tpv_comm_t base;
    int fd;
    bool sends;
    ncclResult_t failure; /* sticky; ncclSuccess while the connection is good */
    int64_t quiet_until;  /* the kernel had nothing for us: no system call before this time */
    uint64_t messages, bytes;
    tpv_tcp_device_t *device;
    tpv_address_t local, peer;
} tpv_tcp_comm_t;

/* Make an end of a connection whose handshake is done; it owns `fd` unless this fails (ncclSystemError, logged). */
ncclResult_t tpv_tcp_sender_create(tpv_tcp_device_t *device, int fd, tpv_comm_t **comm);
ncclResult_t tpv_tcp_receiver_create(tpv_tcp_device_t *device, int fd, tpv_comm_t **comm);

/* Fill the common part of a comm whose memory is all zero. */
void tpv_tcp_comm_start(tpv_tcp_comm_t *comm, const tpv_comm_ops_t *ops, tpv_tcp_device_t *device, int fd);

/* Account for the comm, close its connection and free its memory. */
void tpv_tcp_comm_end(tpv_tcp_comm_t *comm);

/* Parts of both tables of operations. */
ncclResult_t tpv_tcp_register(tpv_comm_t *comm, void *data, size_t size, int type, void **registration);
ncclResult_t tpv_tcp_deregister(tpv_comm_t *comm, void *registration);

/* Mark the comm as failed for good and log why, once; later calls change nothing. Returns the comm's failure. */
ncclResult_t tpv_tcp_fail(tpv_tcp_comm_t *comm, ncclResult_t result, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same for an errno of a system call on the connection, which decides between remote and local. */
ncclResult_t tpv_tcp_fail_errno(tpv_tcp_comm_t *comm, const char *call, int error_number);
/* The same for a connection that the peer has closed. */
ncclResult_t tpv_tcp_fail_closed(tpv_tcp_comm_t *comm);

#endif
