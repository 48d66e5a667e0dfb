/* Listening and accepting. All of it happens inside accept: hear strangers, gather the connections of each comm, agree
 * on a transport, and have it make the comm. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/boot.h"
#include "core/clock.h"
#include "core/fork.h"
#include "core/log.h"
#include "core/socket.h"
#include "core/transport.h"
#include "setup/gather.h"
#include "setup/setup.h"
#include "setup/strangers.h"
#include "setup/sweep.h"

#define BACKLOG 4096

/* Belongs to the one thread that accepts. */
struct tpv_listener {
    tpv_device_t *device;
    unsigned fork_generation;
    int traffic_class;
    int fd_count;
    int fds[TPV_HANDLE_ADDRESSES_MAX];
    tpv_gathering_t *gatherings;
    tpv_strangers_t strangers;
};

/* 0, or the errno of what went wrong, logged. */
static int listen_at(tpv_listener_t *listener, const tpv_address_t *wanted, tpv_handle_t *handle) {
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
    tpv_handle_add(handle, &address);
    listener->fds[listener->fd_count++] = fd;
    return 0;
failed:;
    int error_number = errno;
    TPV_NET_INFO("cannot listen at %s (%s): %s: %s", tpv_address_print(wanted, text), listener->device->name, call,
                 strerror(error_number));
    if (fd >= 0) close(fd);
    return error_number;
}

ncclResult_t tpv_setup_listen(tpv_device_t *device, int traffic_class, void *handle, tpv_listener_t **listener) {
    tpv_listener_t *made = calloc(1, sizeof *made);
    if (!made) {
        TPV_NET_WARN("out of memory");
        return ncclSystemError;
    }
    made->device = made->strangers.device = device;
    made->fork_generation = tpv_fork_generation();
    made->traffic_class = tpv_socket_traffic_class(traffic_class);
    tpv_handle_t content;
    ncclResult_t result = tpv_handle_create(&content);
    tpv_interface_t interface = device->interface;
    tpv_interface_refresh(&interface);
    int error_number = 0;
    for (int i = 0; i < interface.address_count && result == ncclSuccess; i++) {
        int failed = listen_at(made, &interface.addresses[i], &content);
        if (failed) error_number = failed;
    }
    if (result == ncclSuccess && made->fd_count == 0) {
        char text[TPV_ADDRESS_TEXT];
        TPV_NET_WARN("cannot listen at any address of %s, such as %s: %s", device->name,
                     tpv_address_print(&interface.addresses[0], text), strerror(error_number));
        result = ncclSystemError;
    }
    if (result != ncclSuccess) {
        tpv_setup_close_listener(made);
        return result;
    }
    const uint8_t *boot_id = tpv_boot_id();
    if (boot_id) memcpy(content.boot_id, boot_id, sizeof content.boot_id);
    memcpy(made->strangers.id, content.id, sizeof content.id);
    memcpy(handle, &content, sizeof content);
    *listener = made;
    return ncclSuccess;
}

bool tpv_setup_foreign(const tpv_listener_t *listener) {
    return listener->fork_generation != tpv_fork_generation();
}

/* The best transport that both sides can do. NULL: there is none. */
static const tpv_transport_t *choose(tpv_device_t *device, const tpv_greeting_t *greeting, tpv_message_t *answer,
                                     tpv_end_t **end) {
    for (int i = 0; tpv_transports[i]; i++) {
        const tpv_transport_t *transport = tpv_transports[i];
        tpv_message_t offer;
        *answer = (tpv_message_t){0};
        *end = NULL;
        if (tpv_greeting_find(greeting, transport->id, &offer) && transport->take(device, &offer, answer, end))
            return transport;
    }
    return NULL;
}

/* An empty send buffer takes these few bytes whole, so anything else means a lost connection. */
static bool send_welcome(int fd, const tpv_transport_t *transport, const tpv_message_t *answer) {
    tpv_welcome_t welcome = tpv_welcome(transport->id, answer);
    size_t size = TPV_WELCOME_BYTES + answer->size;
    return send(fd, &welcome, size, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)size;
}

/* All connections of a comm are here. *comm stays NULL when it is lost already. */
static ncclResult_t make_comm(tpv_listener_t *listener, tpv_gathering_t *gathering, tpv_comm_t **comm) {
    char text[TPV_ADDRESS_TEXT];
    tpv_message_t answer;
    tpv_end_t *end;
    ncclResult_t result = ncclSuccess;
    tpv_connections_t connections = {.device = listener->device, .count = gathering->count, .fds = gathering->fds};
    tpv_gathering_take(&listener->gatherings, gathering);
    const tpv_transport_t *transport = choose(listener->device, &gathering->greeting, &answer, &end);
    if (!transport || !send_welcome(gathering->fds[0], transport, &answer)) {
        TPV_NET_WARN("a comm from %s (%s) is given up: %s", tpv_address_print(&gathering->peer, text),
                     listener->device->name,
                     transport ? "its peer went away" : "its peer offers no transport that this side can do");
        if (transport && transport->drop) transport->drop(end);
    } else {
        tpv_setup_lock();
        result = transport->receive_over(end, &connections, comm);
        tpv_setup_unlock();
        if (result != ncclSuccess && transport->drop) transport->drop(end);
    }
    tpv_gathering_free(gathering, true);
    return result;
}

static void give_up_gatherings(tpv_listener_t *listener, int64_t now) {
    for (tpv_gathering_t *gathering = listener->gatherings, *next; gathering; gathering = next) {
        char text[TPV_ADDRESS_TEXT];
        next = gathering->next;
        const char *why = tpv_gathering_given_up(gathering, now);
        if (!why) continue;
        TPV_NET_WARN("a comm from %s (%s) has %u of its %u connections and is given up: %s",
                     tpv_address_print(&gathering->peer, text), listener->device->name, gathering->present,
                     gathering->count, why);
        tpv_gathering_take(&listener->gatherings, gathering);
        tpv_gathering_free(gathering, true);
    }
}

/* A greeting is whole. */
static ncclResult_t admit(tpv_listener_t *listener, unsigned index, int64_t now, tpv_comm_t **comm) {
    const tpv_stranger_t *stranger = &listener->strangers.all[index];
    const char *why;
    tpv_gathering_t *gathering =
        tpv_gathering_add(&listener->gatherings, &stranger->greeting, stranger->fd, &stranger->peer, now, &why);
    if (!gathering) {
        tpv_strangers_drop(&listener->strangers, index, why);
        return ncclSuccess;
    }
    tpv_socket_tune(stranger->fd, stranger->peer.any.sa_family, listener->traffic_class);
    tpv_strangers_forget(&listener->strangers, index);
    return tpv_gathering_whole(gathering) ? make_comm(listener, gathering, comm) : ncclSuccess;
}

ncclResult_t tpv_setup_accept(tpv_listener_t *listener, tpv_comm_t **comm) {
    int64_t now = tpv_clock_ns();
    for (int i = 0; i < listener->fd_count; i++) {
        ncclResult_t result = tpv_strangers_let_in(&listener->strangers, listener->fds[i], now);
        if (result != ncclSuccess) return result;
    }
    /* Then there may be more in the kernel, perhaps what a gathering waits for. */
    bool crowded = listener->strangers.count == TPV_STRANGERS_MAX;
    for (unsigned i = 0; i < listener->strangers.count;) {
        bool gone;
        if (tpv_strangers_hear(&listener->strangers, i, now, &gone)) {
            ncclResult_t result = admit(listener, i, now, comm);
            if (result != ncclSuccess || *comm) return result;
        } else if (!gone) {
            i++;
        }
    }
    if (!crowded) give_up_gatherings(listener, now);
    return ncclSuccess;
}

void tpv_setup_close_listener(tpv_listener_t *listener) {
    bool own = !tpv_setup_foreign(listener);
    for (unsigned i = 0; i < listener->strangers.count; i++)
        tpv_socket_close(listener->strangers.all[i].fd, own);
    for (tpv_gathering_t *gathering = listener->gatherings, *next; gathering; gathering = next) {
        next = gathering->next;
        tpv_gathering_free(gathering, own);
    }
    for (int i = 0; i < listener->fd_count; i++)
        tpv_socket_close(listener->fds[i], own);
    free(listener);
    tpv_setup_lock();
    tpv_setup_sweep();
    tpv_setup_unlock();
}
