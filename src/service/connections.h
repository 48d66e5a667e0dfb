/*
 * The connections of the control API: how many there may be, and for how long they may do nothing.
 *
 * A connection that waits for a request, or whose request or answer is on the way, has a time by which it must be done,
 * and is the first to go when there are too many. One whose request is being served is left alone: its fetch has a
 * deadline of its own. Nobody is kept out by slow clients: a newcomer takes the place of the one that has waited
 * longest, of its own address first.
 *
 * Connections are closed by shutting their sockets down, which their HTTP thread notices. All calls may come from any
 * thread; those with a connection only from the HTTP thread that has it.
 */
#ifndef SERVICE_CONNECTIONS_H
#define SERVICE_CONNECTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include "tpview/status.h"

typedef struct tpv_connections tpv_connections_t;
typedef struct tpv_connection tpv_connection_t;

typedef struct tpv_connections_options {
    unsigned most;             /* in all */
    unsigned most_per_address; /* that are not being served; an IPv6 address stands for its /64 */
    double idle_s;             /* between requests; for the first one at most TPV_CONNECTION_BEGIN_S */
    /* Whether `attached` still needs its connection, though no request is served on it. Called under a lock: it must
     * not call back. */
    bool (*is_needed)(const void *attached);
} tpv_connections_options_t;

#define TPV_CONNECTION_BEGIN_S 15.0       /* to say what one wants, once connected */
#define TPV_CONNECTION_BYTES_PER_S 32768u /* a request or an answer has at least this rate after as much time */

/* TPV_ERR_NO_MEMORY, TPV_ERR_SYSTEM. */
tpv_status_t tpv_connections_open(const tpv_connections_options_t *options, tpv_connections_t **connections);
/* Only when there is no connection left. NULL is allowed. */
void tpv_connections_close(tpv_connections_t *connections);

/* A new one; `descriptor` stays open until tpv_connection_remove. NULL without memory, and then it is shut down. */
tpv_connection_t *tpv_connection_add(tpv_connections_t *connections, int descriptor, const struct sockaddr *address);
/* Returns what was attached. NULL is allowed. */
void *tpv_connection_remove(tpv_connection_t *connection);

/* It waits for a request. */
void tpv_connection_wait(tpv_connection_t *connection);
/* `bytes` of a request or an answer are on their way or have come, in all. */
void tpv_connection_transfer(tpv_connection_t *connection, size_t bytes);
/* Its request is being served. */
void tpv_connection_serve(tpv_connection_t *connection);

/* Keep something for the connection; returns what was kept before. */
void *tpv_connection_attach(tpv_connection_t *connection, void *attached);

#endif
