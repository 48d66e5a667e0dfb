#include "core/socket.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "core/log.h"
#include "core/params.h"

/* The kernel's largest times for keepalive, in seconds (MAX_TCP_KEEPIDLE, include/net/tcp.h at Linux v6.1). */
#define KEEPALIVE_SECONDS_MAX 32767
#define KEEPALIVE_PROBES 3

static void set(int fd, int level, int name, int value) {
    (void)setsockopt(fd, level, name, &value, sizeof value);
}

int tpv_socket_traffic_class(int wanted) {
    if (wanted <= 255) return wanted;
    TPV_NET_WARN("traffic class %d is ignored: expected 0 to 255, which becomes the IP header's", wanted);
    return -1;
}

void tpv_socket_tune(int fd, int family, int traffic_class) {
    set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    /* Keepalive finds a lost peer while nothing is being sent, which is all that a receiver can do. TCP_USER_TIMEOUT is
     * not set: it would also end connections to live peers that do not read for so long (tcp_probe_timer in Linux
     * net/ipv4/tcp_timer.c); senders use tpv_socket_peer_silence instead. */
    int timeout = (int)tpv_net_param_int(TPV_NET_PARAM_PEER_TIMEOUT);
    int interval = timeout / 6 > 0 ? timeout / 6 : 1, idle = timeout - KEEPALIVE_PROBES * interval;
    if (idle > KEEPALIVE_SECONDS_MAX) {
        idle = KEEPALIVE_SECONDS_MAX;
        interval = (timeout - idle) / KEEPALIVE_PROBES;
    }
    set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set(fd, IPPROTO_TCP, TCP_KEEPIDLE, idle > 0 ? idle : 1);
    set(fd, IPPROTO_TCP, TCP_KEEPINTVL, interval);
    set(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES);
    int64_t send_buffer = tpv_net_param_int(TPV_NET_PARAM_SNDBUF);
    int64_t receive_buffer = tpv_net_param_int(TPV_NET_PARAM_RCVBUF);
    if (send_buffer > 0) set(fd, SOL_SOCKET, SO_SNDBUF, (int)send_buffer);
    if (receive_buffer > 0) set(fd, SOL_SOCKET, SO_RCVBUF, (int)receive_buffer);
    if (traffic_class >= 0 && family == AF_INET6) set(fd, IPPROTO_IPV6, IPV6_TCLASS, traffic_class);
    if (traffic_class >= 0 && family == AF_INET) set(fd, IPPROTO_IP, IP_TOS, traffic_class);
}

void tpv_socket_tune_internal(int fd) {
    tpv_address_t local, peer;
    tpv_socket_names(fd, &local, &peer);
    if (local.any.sa_family != peer.any.sa_family || local.any.sa_family == AF_UNSPEC) return;
    bool internal = local.any.sa_family == AF_INET6
                        ? memcmp(&local.v6.sin6_addr, &peer.v6.sin6_addr, sizeof local.v6.sin6_addr) == 0
                        : local.v4.sin_addr.s_addr == peer.v4.sin_addr.s_addr;
    /* There is no network to be careful with: "reno", which every kernel has and lets everybody use, never holds data
     * back here, while BBR, the default of some hosts, spreads it over time. */
    if (internal) (void)setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
}

void tpv_socket_push(int fd) {
    set(fd, IPPROTO_TCP, TCP_NODELAY, 1); /* tcp(7): setting it flushes pending output */
}

void tpv_socket_tune_idle(int fd) {
    set(fd, SOL_SOCKET, SO_KEEPALIVE, 0);
}

void tpv_socket_names(int fd, tpv_address_t *local, tpv_address_t *peer) {
    socklen_t local_length = sizeof *local, peer_length = sizeof *peer;
    memset(local, 0, sizeof *local);
    memset(peer, 0, sizeof *peer);
    (void)getsockname(fd, &local->any, &local_length);
    (void)getpeername(fd, &peer->any, &peer_length);
}

bool tpv_socket_ended(int fd) {
    struct pollfd poll_fd = {.fd = fd, .events = POLLRDHUP};
    return poll(&poll_fd, 1, 0) > 0;
}

void tpv_socket_close(int fd, bool own) {
    if (own) (void)shutdown(fd, SHUT_RDWR);
    close(fd);
}

tpv_verdict_t tpv_socket_verdict(int error_number) {
    switch (error_number) {
    case EAGAIN:
    case EINTR:
    case EINPROGRESS:
    case EALREADY:
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
        return TPV_VERDICT_LATER;
    case EBADF:
    case EFAULT:
    case ENOTSOCK:
    case EISCONN:
        return TPV_VERDICT_FATAL;
    default:
        /* EADDRNOTAVAIL, EADDRINUSE, EAFNOSUPPORT, EACCES, EPERM, ENETDOWN, EINVAL and all that tell of the way. */
        return TPV_VERDICT_ANOTHER;
    }
}

bool tpv_socket_errno_is_remote(int error_number) {
    switch (error_number) {
    case ECONNRESET:
    case ECONNREFUSED:
    case ECONNABORTED:
    case EPIPE:
    case ETIMEDOUT:
    case EHOSTUNREACH:
    case EHOSTDOWN:
    case ENETUNREACH:
    case ENETRESET:
    case ENOTCONN:
    case EPROTO:
        return true;
    default:
        return false;
    }
}

int64_t tpv_socket_peer_silence(int fd) {
    struct tcp_info info;
    socklen_t length = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) return 0;
    /* Both counters return to zero with every acknowledgement. One unanswered probe may just be on its way. */
    bool asked = info.tcpi_retransmits >= 2 || info.tcpi_probes >= 2;
    int64_t seconds = info.tcpi_last_ack_recv / 1000;
    return asked && seconds >= tpv_net_param_int(TPV_NET_PARAM_PEER_TIMEOUT) ? seconds : 0;
}
