/* Comms of which the accepting side has welcomed the first connection and waits for the others. */
#ifndef TCP_GATHER_H
#define TCP_GATHER_H

#include <stdbool.h>
#include <stdint.h>

#include "core/address.h"
#include "tcp/wire.h"

typedef struct tpv_tcp_gathering {
    struct tpv_tcp_gathering *next;
    uint8_t comm[TPV_TCP_ID_BYTES];
    unsigned lane_count, present;
    int fds[TPV_TCP_LANES_MAX]; /* -1: not here yet */
    int64_t since;
    tpv_address_t peer;
} tpv_tcp_gathering_t;

/* Begin with the first connection, which is owned from then on. NULL, logged, without memory. */
tpv_tcp_gathering_t *tpv_tcp_gathering_begin(tpv_tcp_gathering_t **list, const tpv_tcp_hello_t *hello, int fd,
                                             const tpv_address_t *peer, int64_t now);

/* A further connection, owned from then on if this succeeds. NULL: there is no such comm, or it has this one already.
 */
tpv_tcp_gathering_t *tpv_tcp_gathering_add(tpv_tcp_gathering_t *list, const tpv_tcp_hello_t *hello, int fd);

/* Take it out of the list. The caller owns it and its connections; free() ends it. */
void tpv_tcp_gathering_take(tpv_tcp_gathering_t **list, const tpv_tcp_gathering_t *gathering);

/* Close everything of one that was taken out, or never complete. */
void tpv_tcp_gathering_free(tpv_tcp_gathering_t *gathering);

/* Why this one will never be complete, given that every connection that has come by now was looked at; NULL: it may. */
const char *tpv_tcp_gathering_given_up(const tpv_tcp_gathering_t *gathering, int64_t now);

#endif
