/*
 * Listening and accepting. A new connection is a stranger until its hello has proved that it knows the handle's id. Up
 * to PENDING_MAX strangers are heard side by side, each with its own deadline, so none of them can hold up a rightful
 * peer; all of it happens inside accept.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/fork.h"
#include "core/log.h"
#include "core/params.h"
#include "local/local.h"
#include "tcp/comm.h"
#include "tcp/gather.h"
#include "tcp/linger.h"
#include "tcp/socket.h"

#define PENDING_MAX 64
#define BACKLOG 4096
/* When all places are taken, a stranger that was heard for so long makes room for the next. */
#define PATIENCE_NS TPV_NS_PER_SECOND

typedef struct {
    int fd;
    size_t got;
    int64_t since;
    tpv_address_t peer;
    tpv_tcp_greeting_t greeting;
} pending_t;

/* Belongs to the one thread that accepts. */
typedef struct {
    tpv_listener_t base;
    tpv_tcp_device_t *device;
    int traffic_class;
    uint8_t id[TPV_TCP_ID_BYTES];
    int fd_count, pending_count;
    int fds[TPV_TCP_ADDRESSES_MAX];
    bool warned; /* of a stranger */
    tpv_tcp_gathering_t *gatherings;
    pending_t pending[PENDING_MAX];
} tcp_listener_t;

static ncclResult_t listen_at(tcp_listener_t *listener, const tpv_address_t *wanted, tpv_tcp_handle_t *handle) {
    tpv_address_t address = *wanted;
    char text[TPV_ADDRESS_TEXT];
    const char *call = "socket";
    int one = 1;
    int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) goto failed;
    if (address.any.sa_family == AF_INET6) (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    call = "bind";
    if (bind(fd, &address.any, tpv_address_length(&address)) != 0) goto failed;
    call = "listen";
    if (listen(fd, BACKLOG) != 0) goto failed;
    call = "getsockname";
    socklen_t length = sizeof address;
    if (getsockname(fd, &address.any, &length) != 0) goto failed;
    tpv_tcp_handle_add(handle, &address);
    listener->fds[listener->fd_count++] = fd;
    return ncclSuccess;
failed:
    TPV_NET_WARN("cannot listen at %s (%s): %s: %s", tpv_address_print(wanted, text), listener->device->base.name, call,
                 strerror(errno));
    if (fd >= 0) close(fd);
    return ncclSystemError;
}

ncclResult_t tpv_tcp_listen(tpv_device_t *base, int traffic_class, void *handle, tpv_listener_t **listener) {
    tpv_tcp_device_t *device = (tpv_tcp_device_t *)base;
    tcp_listener_t *made = calloc(1, sizeof *made);
    if (!made) {
        TPV_NET_WARN("out of memory");
        return ncclSystemError;
    }
    made->base.transport = &tpv_tcp_transport;
    made->base.fork_generation = tpv_fork_generation();
    made->device = device;
    made->traffic_class = tpv_tcp_traffic_class(traffic_class);
    tpv_tcp_handle_t content;
    ncclResult_t result = tpv_tcp_handle_create(&content);
    for (int i = 0; i < device->interface.address_count && result == ncclSuccess; i++)
        result = listen_at(made, &device->interface.addresses[i], &content);
    if (result != ncclSuccess) {
        tpv_tcp_close_listener(&made->base);
        return result;
    }
    const tpv_local_host_t *host = tpv_local_host();
    if (host) memcpy(content.boot_id, host->boot_id, sizeof content.boot_id);
    memcpy(made->id, content.id, sizeof made->id);
    memcpy(handle, &content, sizeof content);
    *listener = &made->base;
    return ncclSuccess;
}

static void forget(tcp_listener_t *listener, int index) {
    listener->pending[index] = listener->pending[--listener->pending_count];
}

static void drop(tcp_listener_t *listener, int index, const char *why) {
    char text[TPV_ADDRESS_TEXT];
    uint64_t before = atomic_fetch_add_explicit(&listener->device->base.stats.strangers, 1, memory_order_relaxed);
    /* One warning for each listener: a scanner must not fill the log. */
    if (!listener->warned)
        TPV_NET_WARN("dropped a connection from %s (%s): %s; it is stranger %" PRIu64,
                     tpv_address_print(&listener->pending[index].peer, text), listener->device->base.name, why,
                     before + 1);
    listener->warned = true;
    close(listener->pending[index].fd);
    forget(listener, index);
}

/* False when all places are taken by strangers that still have a right to be heard. */
static bool have_place(tcp_listener_t *listener, int64_t now) {
    if (listener->pending_count < PENDING_MAX) return true;
    int oldest = 0;
    for (int i = 1; i < PENDING_MAX; i++)
        if (listener->pending[i].since < listener->pending[oldest].since) oldest = i;
    if (now - listener->pending[oldest].since < PATIENCE_NS) return false;
    drop(listener, oldest, "it sent no whole hello and others are waiting");
    return true;
}

/* Take what the kernel has from one listening socket. */
static ncclResult_t gather_strangers(tcp_listener_t *listener, int fd, int64_t now) {
    for (int i = 0; i < PENDING_MAX && have_place(listener, now); i++) {
        pending_t *pending = &listener->pending[listener->pending_count];
        socklen_t length = sizeof pending->peer;
        int accepted = accept4(fd, &pending->peer.any, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (accepted < 0) {
            if (errno == EAGAIN) return ncclSuccess;
            /* accept(2): Linux hands errors of the new connection over here. They mean one stranger less. */
            if (tpv_tcp_errno_is_remote(errno) || errno == EINTR || errno == EPERM || errno == ENETDOWN) continue;
            TPV_NET_WARN("accept on %s: %s", listener->device->base.name, strerror(errno));
            return ncclSystemError;
        }
        pending->fd = accepted;
        pending->got = 0;
        pending->since = now;
        listener->pending_count++;
    }
    return ncclSuccess;
}

/* How much there is to read before an answer is due. */
static size_t expected_bytes(const pending_t *pending) {
    bool offers = pending->got >= sizeof pending->greeting.hello && pending->greeting.hello.offers;
    return sizeof pending->greeting.hello + (offers ? sizeof pending->greeting.offer : 0);
}

/* Read more of a hello. True when it is whole and right; otherwise *dropped says whether the stranger is gone. */
static bool hear(tcp_listener_t *listener, int index, int64_t now, bool *dropped) {
    pending_t *pending = &listener->pending[index];
    char *into = (char *)&pending->greeting + pending->got;
    ssize_t got = recv(pending->fd, into, expected_bytes(pending) - pending->got, MSG_DONTWAIT);
    const char *why = NULL;
    if (got > 0) {
        pending->got += (size_t)got;
        if (!tpv_tcp_hello_begins(&pending->greeting.hello, pending->got))
            why = "it did not begin with a hello of this plugin";
        else if (pending->got >= sizeof pending->greeting.hello && pending->greeting.hello.version != TPV_TCP_VERSION)
            why = "it speaks another version of the protocol: all ranks need the same release of the plugin";
        else if (pending->got >= sizeof pending->greeting.hello &&
                 !tpv_tcp_hello_proves(&pending->greeting.hello, listener->id))
            why = "it does not know this listener's id";
        else if (pending->got >= sizeof pending->greeting.hello && pending->got == expected_bytes(pending))
            return true;
    } else if (got == 0) {
        why = "it closed before its hello was whole";
    } else if (errno != EAGAIN && errno != EINTR) {
        why = strerror(errno);
    }
    if (!why && now - pending->since > tpv_net_param_int(TPV_NET_PARAM_HANDSHAKE_TIMEOUT) * TPV_NS_PER_SECOND)
        why = "it sent no whole hello in time (TPVIEW_NET_HANDSHAKE_TIMEOUT)";
    *dropped = why != NULL;
    if (why) drop(listener, index, why);
    return false;
}

/* All connections of a comm are here. */
static ncclResult_t make_comm(tcp_listener_t *listener, tpv_tcp_gathering_t *gathering, tpv_comm_t **comm) {
    tpv_tcp_gathering_take(&listener->gatherings, gathering);
    tpv_setup_lock();
    ncclResult_t result = tpv_tcp_receiver_create(listener->device, gathering->fds, gathering->lane_count, comm);
    tpv_setup_unlock();
    if (result == ncclSuccess)
        free(gathering);
    else
        tpv_tcp_gathering_free(gathering);
    return result;
}

/* A rightful peer's further connection. *comm stays NULL when there are more to come. */
static ncclResult_t add_lane(tcp_listener_t *listener, int index, tpv_comm_t **comm) {
    pending_t *pending = &listener->pending[index];
    tpv_tcp_gathering_t *gathering = tpv_tcp_gathering_add(listener->gatherings, &pending->greeting.hello, pending->fd);
    if (!gathering) {
        drop(listener, index, "it belongs to no comm that is being made");
        return ncclSuccess;
    }
    tpv_tcp_socket_tune(pending->fd, pending->peer.any.sa_family, listener->traffic_class);
    forget(listener, index);
    return gathering->present == gathering->lane_count ? make_comm(listener, gathering, comm) : ncclSuccess;
}

/* A rightful peer's first connection: answer it. *comm stays NULL when it is gone already, or others will follow. */
static ncclResult_t welcome(tcp_listener_t *listener, int index, int64_t now, tpv_comm_t **comm) {
    pending_t pending = listener->pending[index];
    const tpv_tcp_hello_t *hello = &pending.greeting.hello;
    tpv_tcp_socket_tune(pending.fd, pending.peer.any.sa_family, listener->traffic_class);
    tpv_local_mode_t mode = TPV_LOCAL_DECLINED;
    tpv_local_link_t *link = hello->offers ? tpv_local_take(&pending.greeting.offer, &mode) : NULL;
    tpv_tcp_welcome_t answer = tpv_tcp_welcome((uint8_t)mode, link ? (uint32_t)getpid() : 0);
    /* An empty send buffer takes these few bytes whole, so anything else means a lost connection. */
    if (send(pending.fd, &answer, sizeof answer, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)sizeof answer) {
        tpv_local_link_free(link);
        drop(listener, index, "it went away during the handshake");
        return ncclSuccess;
    }
    forget(listener, index);
    if (link) {
        ncclResult_t result = tpv_local_receiver_create(link, &listener->device->base, pending.fd, comm);
        if (result != ncclSuccess) {
            tpv_local_link_free(link);
            close(pending.fd);
        }
        return result;
    }
    tpv_tcp_gathering_t *gathering =
        tpv_tcp_gathering_begin(&listener->gatherings, hello, pending.fd, &pending.peer, now);
    if (!gathering) {
        close(pending.fd);
        return ncclSystemError;
    }
    return gathering->lane_count == 1 ? make_comm(listener, gathering, comm) : ncclSuccess;
}

static void give_up_gatherings(tcp_listener_t *listener, int64_t now) {
    for (tpv_tcp_gathering_t *gathering = listener->gatherings, *next; gathering; gathering = next) {
        char text[TPV_ADDRESS_TEXT];
        next = gathering->next;
        const char *why = tpv_tcp_gathering_given_up(gathering, now);
        if (!why) continue;
        TPV_NET_WARN("a comm from %s (%s) has %u of its %u connections and is given up: %s",
                     tpv_address_print(&gathering->peer, text), listener->device->base.name, gathering->present,
                     gathering->lane_count, why);
        tpv_tcp_gathering_take(&listener->gatherings, gathering);
        tpv_tcp_gathering_free(gathering);
    }
}

ncclResult_t tpv_tcp_accept(tpv_listener_t *base, tpv_comm_t **comm) {
    tcp_listener_t *listener = (tcp_listener_t *)base;
    int64_t now = tpv_clock_ns();
    for (int i = 0; i < listener->fd_count; i++) {
        ncclResult_t result = gather_strangers(listener, listener->fds[i], now);
        if (result != ncclSuccess) return result;
    }
    /* Then there may be more in the kernel, perhaps what a gathering waits for. */
    bool crowded = listener->pending_count == PENDING_MAX;
    for (int i = 0; i < listener->pending_count;) {
        bool dropped = false;
        if (hear(listener, i, now, &dropped)) {
            ncclResult_t result = listener->pending[i].greeting.hello.index ? add_lane(listener, i, comm)
                                                                            : welcome(listener, i, now, comm);
            if (result != ncclSuccess || *comm) return result;
        } else if (!dropped) {
            i++;
        }
    }
    if (!crowded) give_up_gatherings(listener, now);
    return ncclSuccess;
}

void tpv_tcp_close_listener(tpv_listener_t *base) {
    tcp_listener_t *listener = (tcp_listener_t *)base;
    for (int i = 0; i < listener->pending_count; i++)
        close(listener->pending[i].fd);
    for (tpv_tcp_gathering_t *gathering = listener->gatherings, *next; gathering; gathering = next) {
        next = gathering->next;
        tpv_tcp_gathering_free(gathering);
    }
    for (int i = 0; i < listener->fd_count; i++)
        close(listener->fds[i]);
    free(listener);
    tpv_setup_lock();
    tpv_tcp_linger_sweep();
    tpv_setup_unlock();
}
