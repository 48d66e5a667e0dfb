/*
 * The one thread that moves data for all fetches, as a duty cycle: advance what can be advanced, sleep when nothing
 * can.
 */
#ifndef SERVICE_MOVER_H
#define SERVICE_MOVER_H

#include "channel/net.h"
#include "service/served_fetch.h"

typedef struct tpv_mover tpv_mover_t;

typedef struct tpv_mover_options {
    const tpv_net_t *net;
    tpv_pool_t *pool;
    tpv_table_t *table;
    tpv_store_t *store;
    tpv_metrics_t *metrics;
    int64_t lease_ttl_ns; /* without movement; once bytes have moved, only for a fetch that has no deadline */
} tpv_mover_options_t;

/* TPV_ERR_SYSTEM, TPV_ERR_NO_MEMORY. What `options` names outlives the mover. */
tpv_status_t tpv_mover_open(const tpv_mover_options_t *options, tpv_mover_t **mover);
/* Take one of `most` places for a fetch; false when none is left. Any thread. */
bool tpv_mover_admit(tpv_mover_t *mover, unsigned most);
/* Give a place back that no fetch was handed over for. Any thread. */
void tpv_mover_leave(tpv_mover_t *mover);
/*
 * Whether the fetch may go on: TPV_ERR_DEADLINE, TPV_ERR_REFUSED when all fetches are, TPV_ERR_STALE when its lease is
 * over, TPV_ERR_CANCELLED when it was ended, TPV_ERR_PEER when its control connection is gone; the last two are looked
 * for every 50 ms at most. By the thread that has the fetch: who prepares it, then the mover.
 */
tpv_status_t tpv_mover_look(const tpv_mover_t *mover, tpv_served_fetch_t *job);
/* Hand over a fetch that was admitted, with a reference of its own. A mover that was stopped answers TPV_ERR_REFUSED.
 * Any thread. */
void tpv_mover_add(tpv_mover_t *mover, tpv_served_fetch_t *job);
/* Something outside changed (a fetch was ended): look at once. Any thread. */
void tpv_mover_wake(tpv_mover_t *mover);
/* End every fetch that is not finished with TPV_ERR_REFUSED. Any thread. */
void tpv_mover_refuse_all(tpv_mover_t *mover);
/* Fetches that were admitted and have not ended. Any thread. */
unsigned tpv_mover_active(const tpv_mover_t *mover);
/* Wait until it holds none; false when `deadline` (base/clock.h) passed first. Any thread. */
bool tpv_mover_wait_idle(tpv_mover_t *mover, int64_t deadline);
/* Likewise, and false as soon as tpv_mover_refuse_all is called. Any thread. */
bool tpv_mover_wait_drained(tpv_mover_t *mover, int64_t deadline);
/* End what is left and the thread; the other calls stay allowed. NULL is allowed. */
void tpv_mover_stop(tpv_mover_t *mover);
/* Only when stopped and no other thread can call. NULL is allowed. */
void tpv_mover_close(tpv_mover_t *mover);

/* Drop one reference. */
void tpv_served_fetch_release(tpv_served_fetch_t *job);

#endif
