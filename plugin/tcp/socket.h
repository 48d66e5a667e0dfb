/* Sockets as all parts of the TCP transport want them. */
#ifndef TCP_SOCKET_H
#define TCP_SOCKET_H

#include <stdbool.h>
#include <stdint.h>

#include "core/address.h"
#include "ncclnet/common.h"

/* What of a traffic class that was asked for (-1: none) can be had; told when it cannot. */
int tpv_tcp_traffic_class(int wanted);

/* Make a connection's socket ready for data: no delay, keepalive, buffer sizes, traffic class (-1: leave it). Options
 * that the kernel refuses are left as they are. */
void tpv_tcp_socket_tune(int fd, int family, int traffic_class);

/* For a connection that stands: if it does not leave the host, have nothing slow it down. */
void tpv_tcp_socket_tune_internal(int fd);

/* Have the kernel send what it holds back because of MSG_MORE. */
void tpv_tcp_socket_push(int fd);

/* Whether an errno of a connection tells of the peer or of the way to it, and not of this process. */
bool tpv_tcp_errno_is_remote(int error_number);

/* For how many seconds the peer's host has not acknowledged anything although it was asked several times, once that is
 * as long as the peer timeout; otherwise 0. A peer that is alive but does not read answers window probes, so it is
 * never taken for lost. Meant for a connection on which sending is stuck; costs one system call. */
int64_t tpv_tcp_peer_silence(int fd);

#endif
