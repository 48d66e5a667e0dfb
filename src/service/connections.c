#include "service/connections.h"

#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"

#define LOOK_PERIOD_NS (100 * TPV_NS_PER_MS)

typedef enum { WAITING, MOVING, SERVED, CLOSED } phase_t;

typedef struct {
    unsigned char bytes[8]; /* IPv4, or the first half of IPv6 */
    bool known;
} address_t;

/* All under the mutex, but for what never changes. */
struct tpv_connection {
    tpv_connections_t *all;
    int descriptor;
    address_t address;
    phase_t phase;
    int64_t since; /* when the phase began */
    int64_t until; /* when it must be over */
    void *attached;
    tpv_connection_t *next, *previous;
};

struct tpv_connections {
    tpv_connections_options_t options;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    tpv_connection_t *newest; /* under mutex */
    bool closing;             /* under mutex */
};

static int64_t seconds(double s) {
    return (int64_t)(s * (double)TPV_NS_PER_SECOND);
}

static address_t address_of(const struct sockaddr *address) {
    address_t a = {.known = false};
    if (!address) return a;
    if (address->sa_family == AF_INET) {
        memcpy(a.bytes, &((const struct sockaddr_in *)address)->sin_addr, sizeof(struct in_addr));
        a.known = true;
    } else if (address->sa_family == AF_INET6) {
        memcpy(a.bytes, &((const struct sockaddr_in6 *)address)->sin6_addr, sizeof a.bytes);
        a.known = true;
    }
    return a;
}

static bool same_address(const address_t *a, const address_t *b) {
    return a->known && b->known && memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

/* ---- under the mutex ---- */

static bool may_go(const tpv_connection_t *connection) {
    if (connection->phase == SERVED || connection->phase == CLOSED) return false;
    const tpv_connections_t *all = connection->all;
    return !connection->attached || !all->options.is_needed(connection->attached);
}

static void shut(tpv_connection_t *connection, const char *why) {
    TPV_INFO("control API: a connection is closed: %s", why);
    connection->phase = CLOSED;
    shutdown(connection->descriptor, SHUT_RDWR);
}

/* Make room for the newest: of those of its address that are not served, then of all, the one that has waited longest
 * goes. It may be the newest itself. */
static void make_room(tpv_connections_t *all) {
    tpv_connection_t *neighbour = NULL, *longest = NULL;
    unsigned neighbours = 0, open = 0;
    for (tpv_connection_t *c = all->newest; c; c = c->next) {
        open += c->phase != CLOSED;
        if (!may_go(c)) continue;
        if (!longest || c->since < longest->since) longest = c;
        if (!same_address(&c->address, &all->newest->address)) continue;
        neighbours++;
        if (!neighbour || c->since < neighbour->since) neighbour = c;
    }
    if (neighbours > all->options.most_per_address)
        shut(neighbour, "too many of its address wait");
    else if (open > all->options.most)
        shut(longest ? longest : all->newest, "too many");
}

static int64_t close_late(tpv_connections_t *all) {
    int64_t now = tpv_clock_ns(), next = TPV_DEADLINE_NEVER;
    for (tpv_connection_t *c = all->newest; c; c = c->next) {
        if (now >= c->until && may_go(c)) shut(c, "nothing came in time");
        if (c->phase != SERVED && c->phase != CLOSED && c->until < next) next = c->until;
    }
    return next > now + LOOK_PERIOD_NS ? next : now + LOOK_PERIOD_NS;
}

/* ---- the thread ---- */

static void *watch(void *argument) {
    tpv_connections_t *all = argument;
    prctl(PR_SET_NAME, "tpview http time");
    pthread_mutex_lock(&all->mutex);
    while (!all->closing) {
        int64_t next = all->newest ? close_late(all) : TPV_DEADLINE_NEVER;
        struct timespec until = {.tv_sec = next / TPV_NS_PER_SECOND, .tv_nsec = next % TPV_NS_PER_SECOND};
        if (next == TPV_DEADLINE_NEVER)
            pthread_cond_wait(&all->changed, &all->mutex);
        else
            pthread_cond_timedwait(&all->changed, &all->mutex, &until);
    }
    pthread_mutex_unlock(&all->mutex);
    return NULL;
}

tpv_status_t tpv_connections_open(const tpv_connections_options_t *options, tpv_connections_t **connections) {
    tpv_connections_t *all = calloc(1, sizeof *all);
    if (!all) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the HTTP server");
    all->options = *options;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&all->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&all->mutex, NULL);
    int error = pthread_create(&all->thread, NULL, watch, all);
    if (error) {
        pthread_cond_destroy(&all->changed);
        pthread_mutex_destroy(&all->mutex);
        free(all);
        return tpv_error_set_errno(TPV_ERR_SYSTEM, error, "cannot start a thread");
    }
    *connections = all;
    return TPV_OK;
}

void tpv_connections_close(tpv_connections_t *connections) {
    if (!connections) return;
    pthread_mutex_lock(&connections->mutex);
    connections->closing = true;
    pthread_cond_signal(&connections->changed);
    pthread_mutex_unlock(&connections->mutex);
    pthread_join(connections->thread, NULL);
    pthread_cond_destroy(&connections->changed);
    pthread_mutex_destroy(&connections->mutex);
    free(connections);
}

/* ---- one connection ---- */

/* The watcher is woken when it would look too late. */
static void enter(tpv_connection_t *connection, phase_t phase, int64_t since, int64_t until) {
    if (connection->phase == CLOSED) return;
    connection->phase = phase;
    connection->since = since;
    connection->until = until;
}

tpv_connection_t *tpv_connection_add(tpv_connections_t *connections, int descriptor, const struct sockaddr *address) {
    tpv_connection_t *c = calloc(1, sizeof *c);
    if (!c) {
        shutdown(descriptor, SHUT_RDWR);
        return NULL;
    }
    int64_t now = tpv_clock_ns();
    double begin =
        connections->options.idle_s < TPV_CONNECTION_BEGIN_S ? connections->options.idle_s : TPV_CONNECTION_BEGIN_S;
    *c = (tpv_connection_t){.all = connections, .descriptor = descriptor, .address = address_of(address)};
    enter(c, WAITING, now, now + seconds(begin));
    pthread_mutex_lock(&connections->mutex);
    c->next = connections->newest;
    if (c->next) c->next->previous = c;
    connections->newest = c;
    make_room(connections);
    pthread_cond_signal(&connections->changed);
    pthread_mutex_unlock(&connections->mutex);
    return c;
}

void *tpv_connection_remove(tpv_connection_t *connection) {
    if (!connection) return NULL;
    tpv_connections_t *all = connection->all;
    pthread_mutex_lock(&all->mutex);
    if (connection->previous)
        connection->previous->next = connection->next;
    else
        all->newest = connection->next;
    if (connection->next) connection->next->previous = connection->previous;
    pthread_mutex_unlock(&all->mutex);
    void *attached = connection->attached;
    free(connection);
    return attached;
}

void tpv_connection_wait(tpv_connection_t *connection) {
    tpv_connections_t *all = connection->all;
    int64_t now = tpv_clock_ns();
    pthread_mutex_lock(&all->mutex);
    enter(connection, WAITING, now, now + seconds(all->options.idle_s));
    pthread_cond_signal(&all->changed);
    pthread_mutex_unlock(&all->mutex);
}

void tpv_connection_transfer(tpv_connection_t *connection, size_t bytes) {
    tpv_connections_t *all = connection->all;
    int64_t now = tpv_clock_ns();
    double allowed = TPV_CONNECTION_BEGIN_S + (double)bytes / TPV_CONNECTION_BYTES_PER_S;
    pthread_mutex_lock(&all->mutex);
    int64_t since = connection->phase == MOVING ? connection->since : now;
    enter(connection, MOVING, since, since + seconds(allowed));
    pthread_cond_signal(&all->changed);
    pthread_mutex_unlock(&all->mutex);
}

void tpv_connection_serve(tpv_connection_t *connection) {
    pthread_mutex_lock(&connection->all->mutex);
    enter(connection, SERVED, tpv_clock_ns(), TPV_DEADLINE_NEVER);
    pthread_mutex_unlock(&connection->all->mutex);
}

void *tpv_connection_attach(tpv_connection_t *connection, void *attached) {
    pthread_mutex_lock(&connection->all->mutex);
    void *before = connection->attached;
    connection->attached = attached;
    pthread_mutex_unlock(&connection->all->mutex);
    return before;
}
