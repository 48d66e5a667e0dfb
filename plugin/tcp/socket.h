/* Sockets as all parts of the TCP transport want them. */
#ifndef TCP_SOCKET_H
#define TCP_SOCKET_H

#include <stdbool.h>

#include "core/address.h"
#include "ncclnet/common.h"

/* Make a connection's socket ready for data: no delay, keepalive, buffer sizes, traffic class (-1: leave it). Options
 * that the kernel refuses are left as they are. */
void tpv_tcp_socket_tune(int fd, int family, int traffic_class);

/* Whether an errno of a connection tells of the peer or of the way to it, and not of this process. */
bool tpv_tcp_errno_is_remote(int error_number);

/* Whether the peer's host has not acknowledged anything for the peer timeout although it was asked several times. A
 * peer that is alive but does not read answers window probes, so it is never taken for lost. Meant for a connection
 * on which sending is stuck; costs one system call. */
bool tpv_tcp_peer_is_silent(int fd);

#endif
