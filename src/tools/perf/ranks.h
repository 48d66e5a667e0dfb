/* All ranks of a run: they begin each trial together, and one that dies or hangs is noticed. */
#ifndef TOOLS_PERF_RANKS_H
#define TOOLS_PERF_RANKS_H

#include <sys/types.h>

#include "tools/perf/rank.h"

typedef struct tpv_ranks {
    unsigned count;
    pid_t *processes;
    int *orders; /* a socket to each */
    int stop;    /* a descriptor, the caller's: once it has something to read, no trial is waited for; -1: none */
} tpv_ranks_t;

/* Start `count` ranks, from setup->plan.tp_rank of its group on and round again, and wait until they are ready. The
 * errors of tpv_ranks_try. tpv_ranks_stop is called by the caller in any case. */
tpv_status_t tpv_ranks_start(const tpv_rank_setup_t *setup, unsigned count, tpv_ranks_t *ranks);

/* Have all of them do `order`; `trials` has room for each one's answer. The first of their errors, with the rank's
 * number in front; TPV_ERR_PEER when one has died or takes longer than TPV_TRIAL_SECONDS, TPV_ERR_CANCELLED for
 * ranks->stop. No further try then. */
#define TPV_TRIAL_SECONDS 600
tpv_status_t tpv_ranks_try(tpv_ranks_t *ranks, const tpv_trial_order_t *order, tpv_trial_t *trials);

void tpv_ranks_stop(tpv_ranks_t *ranks);

#endif
