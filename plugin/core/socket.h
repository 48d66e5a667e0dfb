/* Sockets as all parts of the plugin want them. */
#ifndef CORE_SOCKET_H
#define CORE_SOCKET_H

#include <stdbool.h>
#include <stdint.h>

#include "core/address.h"
#include "ncclnet/common.h"

/* What the errno of a network call means for who made it. */
typedef enum {
    TPV_VERDICT_LATER,   /* it may work in a moment: what lacks is a resource, or just nothing is there yet */
    TPV_VERDICT_ANOTHER, /* not with this address, peer or connection; another one may do */
    TPV_VERDICT_FATAL    /* a fault of this process */
} tpv_verdict_t;

tpv_verdict_t tpv_socket_verdict(int error_number);

/* Whether an errno of a connection that stood tells of the peer or of the way to it, and not of this process. */
bool tpv_socket_errno_is_remote(int error_number);

/* What of a traffic class that was asked for (-1: none) can be had; told when it cannot. */
int tpv_socket_traffic_class(int wanted);

/* Make a connection's socket ready for data: no delay, keepalive, buffer sizes, traffic class (-1: leave it). Options
 * that the kernel refuses are left as they are. */
void tpv_socket_tune(int fd, int family, int traffic_class);

/* For a connection that stands: if it does not leave the host, have nothing slow it down. */
void tpv_socket_tune_internal(int fd);

/* For a connection that carries no payload: nothing but its ends may end it. */
void tpv_socket_tune_idle(int fd);

/* Have the kernel send what it holds back because of MSG_MORE. */
void tpv_socket_push(int fd);

/* The two addresses of a connection; all zero where the kernel does not know. */
void tpv_socket_names(int fd, tpv_address_t *local, tpv_address_t *peer);

/* Whether a connection's peer has closed it, or it is lost; what is still to be read does not matter. */
bool tpv_socket_ended(int fd);

/* Close a socket for all processes that have it, if this one made it (`own`): a forked child keeps a descriptor of it,
 * and the peer would never hear of a close alone. What was written is still delivered. */
void tpv_socket_close(int fd, bool own);

/* For how many seconds the peer's host has not acknowledged anything although it was asked several times, once that is
 * as long as the peer timeout; otherwise 0. A peer that is alive but does not read answers window probes, so it is
 * never taken for lost. Meant for a connection on which sending is stuck; costs one system call. */
int64_t tpv_socket_peer_silence(int fd);

#endif
