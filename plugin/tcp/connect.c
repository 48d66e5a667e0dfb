/*
 * Connecting. The state of a connect that is not at its end lies in a list of this process, found again by the address
 * and the content of the caller's handle: nothing in a handle, which came from another host, is ever believed to be our
 * own. One that is not called again is dropped when its owner goes away, or after some time.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/fork.h"
#include "core/log.h"
#include "core/params.h"
#include "local/local.h"
#include "tcp/comm.h"
#include "tcp/lanes.h"
#include "tcp/linger.h"
#include "tcp/socket.h"

/* A listener exists before its handle is given away, so a refusal is hardly ever a matter of patience. */
#define REFUSED_NS (2 * TPV_NS_PER_SECOND)
#define RETRY_NS (100 * TPV_NS_PER_MS)
#define ABANDONED_NS (60 * TPV_NS_PER_SECOND)

typedef enum { IDLE, CONNECTING, GREETED, JOINING } phase_t;

typedef struct attempt {
    struct attempt *next;
    const void *key; /* the caller's handle memory */
    const void *owner;
    unsigned fork_generation;
    tpv_tcp_handle_t handle;
    tpv_tcp_device_t *device;
    int traffic_class;
    phase_t phase;
    int fd;
    int index; /* of the address being tried */
    int64_t began, tried, last_call, not_before;
    tpv_local_link_t *link; /* offered to the peer; NULL: nothing is */
    tpv_tcp_welcome_t welcome;
    size_t got;
    uint8_t comm[TPV_TCP_ID_BYTES];
    unsigned lane_count, joined; /* lanes 0 … joined - 1 are ready */
    int fds[TPV_TCP_LANES_MAX];  /* of lanes 1 and above; -1: not begun */
} attempt_t;

/* Under the setup lock. */
static attempt_t *attempts;

static void release(attempt_t *attempt) {
    if (attempt->fd >= 0) close(attempt->fd);
    for (unsigned i = 1; i < attempt->lane_count; i++)
        if (attempt->fds[i] >= 0) close(attempt->fds[i]);
    tpv_local_link_free(attempt->link);
    free(attempt);
}

static void unlink_attempt(const attempt_t *attempt) {
    attempt_t **link = &attempts;
    while (*link != attempt)
        link = &(*link)->next;
    *link = attempt->next;
}

/* Drop what `owner` began (when not NULL), what nobody has asked for in a long time, and what is from before a fork. */
static void sweep(const void *owner, int64_t now) {
    for (attempt_t **link = &attempts; *link;) {
        attempt_t *attempt = *link;
        bool dead = (owner && attempt->owner == owner) || now - attempt->last_call > ABANDONED_NS ||
                    attempt->fork_generation != tpv_fork_generation();
        if (dead) {
            *link = attempt->next;
            release(attempt);
        } else {
            link = &attempt->next;
        }
    }
}

static const char *target(const attempt_t *attempt, char *text) {
    tpv_address_t address = tpv_tcp_handle_address(&attempt->handle, attempt->index, 0);
    return tpv_address_print(&address, text);
}

/* The present address did not work: go on with the next, or round again after a while, or give up. */
static ncclResult_t next_address(attempt_t *attempt, int error_number, int64_t now) {
    char text[TPV_ADDRESS_TEXT];
    const char *tried = target(attempt, text);
    close(attempt->fd);
    attempt->fd = -1;
    attempt->phase = IDLE;
    if (++attempt->index < attempt->handle.address_count) return ncclSuccess;
    attempt->index = 0;
    attempt->not_before = now + RETRY_NS;
    int64_t patience = tpv_net_param_int(TPV_NET_PARAM_CONNECT_TIMEOUT) * TPV_NS_PER_SECOND;
    if (error_number == ECONNREFUSED && REFUSED_NS < patience) patience = REFUSED_NS;
    if (now - attempt->began < patience) return ncclSuccess;
    TPV_NET_WARN("connecting to %s from %s: %s", tried, attempt->device->base.name, strerror(error_number));
    return ncclRemoteError;
}

static ncclResult_t fail(const attempt_t *attempt, ncclResult_t result, const char *what, int error_number) {
    char text[TPV_ADDRESS_TEXT];
    TPV_NET_WARN("connecting to %s from %s: %s%s%s", target(attempt, text), attempt->device->base.name, what,
                 error_number ? ": " : "", error_number ? strerror(error_number) : "");
    return result;
}

/* A connect to a port of this host that nobody listens at can end up connected to itself. */
static bool connected_to_itself(int fd) {
    tpv_address_t local, peer;
    socklen_t local_length = sizeof local, peer_length = sizeof peer;
    memset(&local, 0, sizeof local);
    memset(&peer, 0, sizeof peer);
    return getsockname(fd, &local.any, &local_length) == 0 && getpeername(fd, &peer.any, &peer_length) == 0 &&
           local_length == peer_length && memcmp(&local, &peer, local_length) == 0;
}

static ncclResult_t greet(attempt_t *attempt, int64_t now) {
    if (connected_to_itself(attempt->fd)) return next_address(attempt, ECONNREFUSED, now);
    tpv_tcp_socket_tune_internal(attempt->fd);
    tpv_tcp_greeting_t greeting;
    tpv_local_link_free(attempt->link); /* of an earlier try */
    attempt->link = tpv_local_offer(attempt->handle.boot_id, &greeting.offer);
    greeting.hello = tpv_tcp_hello(attempt->handle.id, attempt->comm, attempt->lane_count, 0, attempt->link != NULL);
    size_t size = attempt->link ? sizeof greeting : sizeof greeting.hello;
    /* An empty send buffer takes these few bytes whole, so anything else means a lost connection. */
    ssize_t sent = send(attempt->fd, &greeting, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent != (ssize_t)size) return next_address(attempt, sent < 0 ? errno : ECONNRESET, now);
    attempt->phase = GREETED;
    attempt->got = 0;
    return ncclSuccess;
}

static ncclResult_t begin(attempt_t *attempt, int64_t now) {
    if (now < attempt->not_before) return ncclSuccess;
    tpv_address_t address = tpv_tcp_handle_address(&attempt->handle, attempt->index, attempt->device->interface.index);
    attempt->fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (attempt->fd < 0) {
        /* A host without IPv6 may still reach the other address. */
        if (errno == EAFNOSUPPORT) return next_address(attempt, errno, now);
        return fail(attempt, ncclSystemError, "socket", errno);
    }
    tpv_tcp_socket_tune(attempt->fd, address.any.sa_family, attempt->traffic_class);
    attempt->tried = now;
    if (connect(attempt->fd, &address.any, tpv_address_length(&address)) == 0) return greet(attempt, now);
    if (errno == EINPROGRESS || errno == EINTR) {
        attempt->phase = CONNECTING;
        return ncclSuccess;
    }
    if (tpv_tcp_errno_is_remote(errno) || errno == EINVAL) return next_address(attempt, errno, now);
    return fail(attempt, ncclSystemError, "connect", errno);
}

/* Whether a connection stands or has failed; *error_number says which. */
static bool settled(int fd, int *error_number) {
    struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};
    if (poll(&poll_fd, 1, 0) <= 0) return false;
    socklen_t length = sizeof *error_number;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, error_number, &length) != 0) *error_number = errno;
    return true;
}

static ncclResult_t wait_connected(attempt_t *attempt, int64_t now) {
    int error_number = 0;
    if (settled(attempt->fd, &error_number))
        return error_number ? next_address(attempt, error_number, now) : greet(attempt, now);
    int64_t share =
        tpv_net_param_int(TPV_NET_PARAM_CONNECT_TIMEOUT) * TPV_NS_PER_SECOND / attempt->handle.address_count;
    return now - attempt->tried > share ? next_address(attempt, ETIMEDOUT, now) : ncclSuccess;
}

/* The peer may take any time until it calls accept; that its host is alive is for keepalive to find out. */
static ncclResult_t wait_welcome(attempt_t *attempt, int64_t now, tpv_comm_t **comm) {
    char *into = (char *)&attempt->welcome + attempt->got;
    ssize_t got = recv(attempt->fd, into, sizeof attempt->welcome - attempt->got, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return ncclSuccess;
    if (got < 0) return fail(attempt, ncclRemoteError, "the peer is gone before it accepted", errno);
    if (got == 0) return fail(attempt, ncclRemoteError, "the peer closed the connection without accepting it", 0);
    attempt->got += (size_t)got;
    if (attempt->got < sizeof attempt->welcome) return ncclSuccess;
    uint8_t mode = attempt->welcome.mode;
    tpv_tcp_welcome_t expected = tpv_tcp_welcome(mode, attempt->welcome.pid);
    if (memcmp(&attempt->welcome, &expected, sizeof expected) != 0 || mode > TPV_LOCAL_SHARE ||
        (mode != TPV_LOCAL_DECLINED && !attempt->link))
        return fail(attempt, ncclRemoteError, "what answers there is not this plugin", 0);
    if (mode == TPV_LOCAL_DECLINED) {
        attempt->phase = JOINING;
        attempt->joined = 1;
        attempt->tried = now;
        return ncclSuccess;
    }
    tpv_local_offer_taken(attempt->link, mode, (int)attempt->welcome.pid);
    ncclResult_t result = tpv_local_sender_create(attempt->link, &attempt->device->base, attempt->fd, comm);
    if (result != ncclSuccess) return result;
    attempt->link = NULL; /* the comm's now, as is fd */
    attempt->fd = -1;
    return ncclSuccess;
}

static ncclResult_t begin_lane(attempt_t *attempt, unsigned index) {
    tpv_address_t address = tpv_tcp_handle_address(&attempt->handle, attempt->index, attempt->device->interface.index);
    int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return fail(attempt, ncclSystemError, "socket", errno);
    attempt->fds[index] = fd;
    tpv_tcp_socket_tune(fd, address.any.sa_family, attempt->traffic_class);
    if (connect(fd, &address.any, tpv_address_length(&address)) == 0 || errno == EINPROGRESS || errno == EINTR)
        return ncclSuccess;
    return fail(attempt, tpv_tcp_errno_is_remote(errno) ? ncclRemoteError : ncclSystemError,
                "a further connection of the comm", errno);
}

/* The comm's first connection is welcome: make the others, all at once. */
static ncclResult_t join(attempt_t *attempt, int64_t now, tpv_comm_t **comm) {
    for (unsigned i = 1; i < attempt->lane_count; i++) {
        ncclResult_t result = attempt->fds[i] < 0 ? begin_lane(attempt, i) : ncclSuccess;
        if (result != ncclSuccess) return result;
    }
    for (; attempt->joined < attempt->lane_count; attempt->joined++) {
        int fd = attempt->fds[attempt->joined], error_number = 0;
        if (!settled(fd, &error_number)) {
            if (now - attempt->tried <= tpv_net_param_int(TPV_NET_PARAM_CONNECT_TIMEOUT) * TPV_NS_PER_SECOND)
                return ncclSuccess;
            error_number = ETIMEDOUT;
        }
        tpv_tcp_hello_t hello =
            tpv_tcp_hello(attempt->handle.id, attempt->comm, attempt->lane_count, attempt->joined, false);
        if (!error_number && connected_to_itself(fd)) error_number = ECONNREFUSED;
        if (!error_number && send(fd, &hello, sizeof hello, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)sizeof hello)
            error_number = ECONNRESET;
        if (error_number) return fail(attempt, ncclRemoteError, "a further connection of the comm", error_number);
        tpv_tcp_socket_tune_internal(fd);
    }
    attempt->fds[0] = attempt->fd;
    ncclResult_t result = tpv_tcp_sender_create(attempt->device, attempt->fds, attempt->lane_count, comm);
    if (result != ncclSuccess) return result;
    attempt->fd = -1;
    attempt->lane_count = 0; /* the comm's now */
    return ncclSuccess;
}

static ncclResult_t advance(attempt_t *attempt, int64_t now, tpv_comm_t **comm) {
    ncclResult_t result = ncclSuccess;
    if (attempt->phase == IDLE) result = begin(attempt, now);
    if (result == ncclSuccess && attempt->phase == CONNECTING) result = wait_connected(attempt, now);
    if (result == ncclSuccess && attempt->phase == GREETED) result = wait_welcome(attempt, now, comm);
    if (result == ncclSuccess && attempt->phase == JOINING) result = join(attempt, now, comm);
    return result;
}

static attempt_t *find(const void *key) {
    attempt_t *attempt = attempts;
    while (attempt && (attempt->key != key || memcmp(&attempt->handle, key, sizeof attempt->handle) != 0))
        attempt = attempt->next;
    return attempt;
}

static ncclResult_t start(const void *owner, tpv_device_t *device, int traffic_class, const void *handle, int64_t now,
                          attempt_t **attempt) {
    tpv_tcp_handle_t content;
    memcpy(&content, handle, sizeof content);
    uint8_t comm[TPV_TCP_ID_BYTES];
    ncclResult_t result = tpv_tcp_handle_check(&content);
    if (result == ncclSuccess) result = tpv_tcp_id_create(comm);
    if (result != ncclSuccess) return result;
    attempt_t *made = calloc(1, sizeof *made);
    if (!made) {
        TPV_NET_WARN("out of memory");
        return ncclSystemError;
    }
    made->key = handle;
    made->owner = owner;
    made->fork_generation = tpv_fork_generation();
    made->handle = content;
    memcpy(made->comm, comm, sizeof made->comm);
    made->device = (tpv_tcp_device_t *)device;
    made->traffic_class = tpv_tcp_traffic_class(traffic_class);
    made->fd = -1;
    made->lane_count = tpv_tcp_lanes_choose(made->device).lanes;
    for (unsigned i = 0; i < TPV_TCP_LANES_MAX; i++)
        made->fds[i] = -1;
    made->began = now;
    made->next = attempts;
    attempts = made;
    *attempt = made;
    return ncclSuccess;
}

ncclResult_t tpv_tcp_connect(const void *owner, tpv_device_t *device, int traffic_class, const void *handle,
                             tpv_comm_t **comm) {
    int64_t now = tpv_clock_ns();
    ncclResult_t result = ncclSuccess;
    tpv_setup_lock();
    sweep(NULL, now);
    tpv_tcp_linger_sweep();
    attempt_t *attempt = find(handle);
    if (!attempt) result = start(owner, device, traffic_class, handle, now, &attempt);
    if (result == ncclSuccess) {
        attempt->last_call = now;
        result = advance(attempt, now, comm);
        if (result != ncclSuccess || *comm) {
            unlink_attempt(attempt);
            release(attempt);
        }
    }
    tpv_setup_unlock();
    return result;
}

void tpv_tcp_abandon(const void *owner) {
    tpv_setup_lock();
    sweep(owner, tpv_clock_ns());
    tpv_tcp_linger_sweep();
    tpv_setup_unlock();
}
