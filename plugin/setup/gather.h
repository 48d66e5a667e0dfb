/* Comms of which the accepting side has some connections and waits for the others. */
#ifndef SETUP_GATHER_H
#define SETUP_GATHER_H

#include <stdbool.h>

#include "core/address.h"
#include "setup/greeting.h"

typedef struct tpv_gathering {
    struct tpv_gathering *next;
    unsigned count, present;
    int fds[TPV_CONNECTIONS_MAX]; /* -1: not here yet */
    int64_t since;
    tpv_address_t peer;
    tpv_greeting_t greeting; /* the first connection's, once it is here; before that another one's hello */
} tpv_gathering_t;

/* A connection with a whole greeting, owned from then on if this succeeds. NULL: its comm has this one already or
 * another number of them; *why says which, or that memory lacks. */
tpv_gathering_t *tpv_gathering_add(tpv_gathering_t **list, const tpv_greeting_t *greeting, int fd,
                                   const tpv_address_t *peer, int64_t now, const char **why);

static inline bool tpv_gathering_whole(const tpv_gathering_t *gathering) {
    return gathering->present == gathering->count;
}

/* Take it out of the list. The caller owns it then. */
void tpv_gathering_take(tpv_gathering_t **list, const tpv_gathering_t *gathering);

/* Close what it has (but places of -1) and free it, when it is in no list. `own`: no forked child does it. */
void tpv_gathering_free(tpv_gathering_t *gathering, bool own);

/* Why this one will never be whole, given that every connection that has come by now was looked at; NULL: it may. */
const char *tpv_gathering_given_up(const tpv_gathering_t *gathering, int64_t now);

#endif
