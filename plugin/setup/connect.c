/*
 * Connecting. The state of a connect that is not at its end lies in a list of this process, found again by the address
 * and the content of the caller's handle: nothing in a handle, which came from another host, is ever believed to be our
 * own. One that is not called again is dropped when its owner goes away, or after some time.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "core/fork.h"
#include "core/log.h"
#include "core/params.h"
#include "core/socket.h"
#include "setup/dial.h"
#include "setup/greeting.h"
#include "setup/setup.h"
#include "setup/sweep.h"
#include "setup/waiting.h"

/* A listener exists before its handle is given away, so a refusal is hardly ever a matter of patience. */
#define REFUSED_NS (2 * TPV_NS_PER_SECOND)
#define RETRY_NS (100 * TPV_NS_PER_MS)
#define ABANDONED_NS (120 * TPV_NS_PER_SECOND)
/* Further connections that do not stand so long after the first one are done without. */
#define JOIN_NS TPV_NS_PER_SECOND
/* So long for an answer to packets that routing would have sent another way. */
#define TIED_NS (2 * TPV_NS_PER_SECOND)
/* A caller that does not call does not wait either: of a pause so much counts. */
#define PAUSE_NS TPV_NS_PER_SECOND

typedef enum { IDLE, CONNECTING, JOINING } phase_t;

/* What an errno says of an address, worst last; the best of a round decides how long to go on. */
typedef enum { HOPEFUL, REFUSED, UNUSABLE } prospect_t;

typedef struct attempt {
    struct attempt *next;
    const void *key; /* the caller's handle memory */
    const void *owner;
    unsigned fork_generation;
    tpv_handle_t handle;
    tpv_device_t *device;
    tpv_interface_t interface; /* the device's, as it is now */
    int traffic_class;
    int64_t last_call;
    int64_t clock; /* what the caller has waited; all below is by it */
    int64_t tried, not_before;
    phase_t phase;
    int index; /* of the address being tried */
    tpv_tie_t tie;
    unsigned count;               /* connections wanted */
    int fds[TPV_CONNECTIONS_MAX]; /* -1: none */
    /* The best of this round of all addresses. */
    prospect_t prospect;
    int error_number, error_index;
} attempt_t;

/* Under the setup lock. */
static attempt_t *attempts;

static void hang_up(attempt_t *attempt) {
    for (unsigned i = 0; i < TPV_CONNECTIONS_MAX; i++) {
        if (attempt->fds[i] >= 0) tpv_socket_close(attempt->fds[i], attempt->fork_generation == tpv_fork_generation());
        attempt->fds[i] = -1;
    }
}

static void release(attempt_t *attempt) {
    hang_up(attempt);
    free(attempt);
}

static void unlink_attempt(const attempt_t *attempt) {
    attempt_t **link = &attempts;
    while (*link != attempt)
        link = &(*link)->next;
    *link = attempt->next;
}

/* Drop what `owner` began (when not NULL), what nobody has asked for in a long time, and what is from before a fork. */
static void drop_attempts(const void *owner, int64_t now) {
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

static tpv_address_t target(const attempt_t *attempt, int index) {
    return tpv_handle_address(&attempt->handle, index, attempt->interface.index);
}

static void begin_round(attempt_t *attempt) {
    attempt->index = 0;
    attempt->prospect = UNUSABLE;
    attempt->error_number = 0;
    attempt->not_before = attempt->clock + RETRY_NS;
}

static void begin_address(attempt_t *attempt) {
    tpv_address_t address = target(attempt, attempt->index);
    attempt->tie = tpv_dial_tie(&attempt->interface, &address);
    attempt->phase = IDLE;
}

static prospect_t prospect_of(int error_number) {
    if (error_number == ECONNREFUSED) return REFUSED;
    return tpv_socket_verdict(error_number) == TPV_VERDICT_LATER || tpv_socket_errno_is_remote(error_number) ? HOPEFUL
                                                                                                             : UNUSABLE;
}

/* Whether the same address may do with less of a tie to the device. */
static bool may_loosen(const attempt_t *attempt, int error_number) {
    if (attempt->tie == TPV_TIE_DEVICE) return error_number != ECONNREFUSED;
    /* An answer of the network does not depend on it any more. */
    return attempt->tie == TPV_TIE_ADDRESS && attempt->phase == IDLE;
}

static void note(attempt_t *attempt, int error_number) {
    prospect_t prospect = prospect_of(error_number);
    if (attempt->error_number && prospect >= attempt->prospect) return;
    attempt->prospect = prospect;
    attempt->error_number = error_number;
    attempt->error_index = attempt->index;
}

static ncclResult_t give_up(const attempt_t *attempt) {
    char to[TPV_ADDRESS_TEXT], from[TPV_ADDRESS_TEXT];
    tpv_address_t address = target(attempt, attempt->error_index);
    const tpv_address_t *own = &attempt->interface.addresses[attempt->interface.address_count - 1];
    if (own->any.sa_family != address.any.sa_family) own = &attempt->interface.addresses[0];
    TPV_NET_WARN("connecting to %s from %s (%s): %s; NCCL_SOCKET_IFNAME chooses the interface of each side",
                 tpv_address_print(&address, to), attempt->device->name, tpv_address_print(own, from),
                 strerror(attempt->error_number));
    return tpv_socket_errno_is_remote(attempt->error_number) ? ncclRemoteError : ncclSystemError;
}

/* The present try came to nothing: go on with less of a tie, with the next address, round again after a while, or give
 * up. */
static ncclResult_t failed(attempt_t *attempt, int error_number) {
    bool later = tpv_socket_verdict(error_number) == TPV_VERDICT_LATER, loosen = may_loosen(attempt, error_number);
    hang_up(attempt);
    attempt->phase = IDLE;
    note(attempt, error_number);
    if (loosen && !later) {
        attempt->tie++;
        return ncclSuccess;
    }
    if (!later && attempt->index + 1 < attempt->handle.address_count) {
        attempt->index++;
        begin_address(attempt);
        return ncclSuccess;
    }
    int64_t patience = tpv_net_param_int(TPV_NET_PARAM_CONNECT_TIMEOUT) * TPV_NS_PER_SECOND;
    if (attempt->prospect != HOPEFUL && REFUSED_NS < patience) patience = REFUSED_NS;
    if (attempt->clock >= patience) return give_up(attempt);
    begin_round(attempt);
    begin_address(attempt);
    return ncclSuccess;
}

static ncclResult_t fail_here(const attempt_t *attempt, const char *call, int error_number) {
    TPV_NET_WARN("connecting from %s: %s: %s", attempt->device->name, call, strerror(error_number));
    return ncclSystemError;
}

static ncclResult_t begin(attempt_t *attempt) {
    if (attempt->clock < attempt->not_before) return ncclSuccess;
    tpv_address_t address = target(attempt, attempt->index);
    attempt->tried = attempt->clock;
    attempt->fds[0] = tpv_dial(&attempt->interface, attempt->tie, &address, attempt->traffic_class);
    if (attempt->fds[0] >= 0) {
        attempt->phase = CONNECTING;
        return ncclSuccess;
    }
    return tpv_socket_verdict(errno) == TPV_VERDICT_FATAL ? fail_here(attempt, "connect", errno)
                                                          : failed(attempt, errno);
}

static ncclResult_t wait_connected(attempt_t *attempt) {
    int error_number = 0;
    if (!tpv_dial_settled(attempt->fds[0], &error_number)) {
        int64_t share =
            tpv_net_param_int(TPV_NET_PARAM_CONNECT_TIMEOUT) * TPV_NS_PER_SECOND / attempt->handle.address_count;
        if (attempt->tie == TPV_TIE_DEVICE && TIED_NS < share) share = TIED_NS;
        return attempt->clock - attempt->tried > share ? failed(attempt, ETIMEDOUT) : ncclSuccess;
    }
    if (error_number) return failed(attempt, error_number);
    attempt->phase = JOINING;
    attempt->tried = attempt->clock;
    /* The further ones, all at once; what cannot be had is done without. */
    tpv_address_t address = target(attempt, attempt->index);
    for (unsigned i = 1; i < attempt->count; i++)
        attempt->fds[i] = tpv_dial(&attempt->interface, attempt->tie, &address, attempt->traffic_class);
    return ncclSuccess;
}

/* False while some connection may still come to stand. */
static bool joined(attempt_t *attempt) {
    bool late = attempt->clock - attempt->tried > JOIN_NS;
    for (unsigned i = 1; i < attempt->count; i++) {
        int error_number = 0;
        if (attempt->fds[i] < 0) continue;
        bool settled = tpv_dial_settled(attempt->fds[i], &error_number);
        if (!settled && !late) return false;
        if (settled && !error_number) continue;
        tpv_socket_close(attempt->fds[i], true);
        attempt->fds[i] = -1;
    }
    return true;
}

/* An empty send buffer takes these few bytes whole, so anything else means a lost connection. */
static bool send_hello(int fd, const void *bytes, size_t size) {
    return send(fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)size;
}

/* All connections that there will be stand: introduce them. */
static ncclResult_t greet(attempt_t *attempt, tpv_comm_t **comm) {
    uint8_t id[TPV_ID_BYTES];
    tpv_greeting_t greeting;
    tpv_offered_t offered[TPV_TRANSPORTS_MAX] = {0};
    unsigned count = 0;
    ncclResult_t result = tpv_id_create(id);
    if (result != ncclSuccess) return result;
    for (unsigned i = 0; i < attempt->count; i++)
        if (attempt->fds[i] >= 0) attempt->fds[count++] = attempt->fds[i];
    for (unsigned i = count; i < attempt->count; i++)
        attempt->fds[i] = -1;
    greeting.hello = tpv_hello(attempt->handle.id, id, count, 0);
    for (int i = 0; tpv_transports[i]; i++) {
        tpv_message_t offer = {0};
        offered[i].made = tpv_transports[i]->offer(attempt->device, attempt->handle.boot_id, &offer, &offered[i].end);
        if (offered[i].made) (void)tpv_greeting_offer(&greeting, tpv_transports[i]->id, &offer);
    }
    /* A listener that had no patience has closed by now. */
    bool good = !tpv_socket_ended(attempt->fds[0]) &&
                send_hello(attempt->fds[0], &greeting, sizeof greeting.hello + greeting.hello.offer_bytes);
    for (unsigned i = 1; i < count && good; i++) {
        tpv_hello_t hello = tpv_hello(attempt->handle.id, id, count, i);
        good = send_hello(attempt->fds[i], &hello, sizeof hello);
    }
    for (unsigned i = 0; i < count && good; i++)
        tpv_socket_tune_internal(attempt->fds[i]);
    if (good) result = tpv_waiting_create(attempt->device, attempt->fds, count, offered, comm);
    if (*comm) {
        for (unsigned i = 0; i < count; i++)
            attempt->fds[i] = -1;
        return ncclSuccess;
    }
    tpv_offered_drop(offered);
    return good ? result : failed(attempt, ECONNRESET);
}

static ncclResult_t advance(attempt_t *attempt, tpv_comm_t **comm) {
    ncclResult_t result = ncclSuccess;
    if (attempt->phase == IDLE) result = begin(attempt);
    if (result == ncclSuccess && attempt->phase == CONNECTING) result = wait_connected(attempt);
    if (result == ncclSuccess && attempt->phase == JOINING && joined(attempt)) result = greet(attempt, comm);
    return result;
}

static attempt_t *find(const void *key) {
    attempt_t *attempt = attempts;
    while (attempt && (attempt->key != key || memcmp(&attempt->handle, key, sizeof attempt->handle) != 0))
        attempt = attempt->next;
    return attempt;
}

static unsigned connections_wanted(const tpv_device_t *device) {
    unsigned most = 1;
    for (int i = 0; tpv_transports[i]; i++) {
        unsigned wanted = tpv_transports[i]->connections(device);
        if (wanted > most) most = wanted;
    }
    return most < TPV_CONNECTIONS_MAX ? most : TPV_CONNECTIONS_MAX;
}

static ncclResult_t start(const void *owner, tpv_device_t *device, int traffic_class, const void *handle, int64_t now,
                          attempt_t **attempt) {
    tpv_handle_t content;
    memcpy(&content, handle, sizeof content);
    ncclResult_t result = tpv_handle_check(&content);
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
    made->device = device;
    made->interface = device->interface;
    tpv_interface_refresh(&made->interface);
    made->traffic_class = tpv_socket_traffic_class(traffic_class);
    made->last_call = now;
    made->count = connections_wanted(device);
    for (unsigned i = 0; i < TPV_CONNECTIONS_MAX; i++)
        made->fds[i] = -1;
    begin_round(made);
    begin_address(made);
    made->not_before = 0;
    made->next = attempts;
    attempts = made;
    *attempt = made;
    return ncclSuccess;
}

ncclResult_t tpv_setup_connect(const void *owner, tpv_device_t *device, int traffic_class, const void *handle,
                               tpv_comm_t **comm) {
    int64_t now = tpv_clock_ns();
    ncclResult_t result = ncclSuccess;
    tpv_setup_lock();
    drop_attempts(NULL, now);
    tpv_setup_sweep();
    attempt_t *attempt = find(handle);
    if (!attempt) result = start(owner, device, traffic_class, handle, now, &attempt);
    if (result == ncclSuccess) {
        int64_t pause = now - attempt->last_call;
        attempt->clock += pause < PAUSE_NS ? pause : PAUSE_NS;
        attempt->last_call = now;
        result = advance(attempt, comm);
        if (result != ncclSuccess || *comm) {
            unlink_attempt(attempt);
            release(attempt);
        }
    }
    tpv_setup_unlock();
    return result;
}

void tpv_setup_abandon(const void *owner) {
    tpv_setup_lock();
    drop_attempts(owner, tpv_clock_ns());
    tpv_setup_sweep();
    tpv_setup_unlock();
}
