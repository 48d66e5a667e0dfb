#include "tools/perf/ranks.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "tools/common/exact_io.h"

static tpv_status_t hear_one(const tpv_ranks_t *ranks, unsigned index, int64_t deadline, tpv_trial_t *trial) {
    tpv_status_t heard = tpv_exact_read_until(ranks->orders[index], ranks->stop, deadline, trial, sizeof *trial);
    if (heard == TPV_ERR_CANCELLED) return heard;
    if (heard == TPV_ERR_DEADLINE)
        return tpv_error_set(TPV_ERR_PEER, "rank %u hangs: no answer in %d s", index, TPV_TRIAL_SECONDS);
    if (heard != TPV_OK) return tpv_error_set(TPV_ERR_PEER, "the process of rank %u died", index);
    if (trial->status == TPV_OK) return TPV_OK;
    trial->message[sizeof trial->message - 1] = '\0';
    return ranks->count > 1 ? tpv_error_set(trial->status, "rank %u: %s", index, trial->message)
                            : tpv_error_set(trial->status, "%s", trial->message);
}

static tpv_status_t hear(const tpv_ranks_t *ranks, tpv_trial_t *trials) {
    int64_t deadline = tpv_deadline_in(TPV_TRIAL_SECONDS);
    for (unsigned i = 0; i < ranks->count; i++)
        TPV_TRY(hear_one(ranks, i, deadline, &trials[i]));
    return TPV_OK;
}

static tpv_status_t start_one(const tpv_rank_setup_t *setup, unsigned index, tpv_ranks_t *ranks) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot make a socket pair");
    ranks->orders[index] = ends[0];
    ranks->processes[index] = fork();
    if (ranks->processes[index] == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (unsigned i = 0; i <= index; i++) /* so that each one's end is noticed */
            close(ranks->orders[i]);
        tpv_rank_setup_t own = *setup;
        own.plan.tp_rank = own.fetch.tp_rank = (setup->plan.tp_rank + index) % setup->plan.tp_size;
        tpv_rank_serve(&own, ends[1]);
        /* Not exit: what was registered to be run at exit is the parent's. */
        _exit(0);
    }
    close(ends[1]);
    if (ranks->processes[index] < 0) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot fork");
    return TPV_OK;
}

tpv_status_t tpv_ranks_start(const tpv_rank_setup_t *setup, unsigned count, tpv_ranks_t *ranks) {
    *ranks = (tpv_ranks_t){.stop = -1,
                           .processes = calloc(count, sizeof *ranks->processes),
                           .orders = calloc(count, sizeof *ranks->orders)};
    tpv_trial_t *answers = calloc(count, sizeof *answers);
    tpv_status_t status = TPV_OK;
    if (!ranks->processes || !ranks->orders || !answers)
        status = tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for %u ranks", count);
    fflush(NULL);
    for (unsigned i = 0; i < count && status == TPV_OK; i++) {
        ranks->orders[i] = ranks->processes[i] = -1;
        ranks->count = i + 1;
        status = start_one(setup, i, ranks);
    }
    if (status == TPV_OK) status = hear(ranks, answers);
    free(answers);
    return status;
}

tpv_status_t tpv_ranks_try(tpv_ranks_t *ranks, const tpv_trial_order_t *order, tpv_trial_t *trials) {
    for (unsigned i = 0; i < ranks->count; i++)
        if (tpv_exact_write(ranks->orders[i], order, sizeof *order) != TPV_OK)
            return tpv_error_set(TPV_ERR_PEER, "the process of rank %u died", i);
    return hear(ranks, trials);
}

void tpv_ranks_stop(tpv_ranks_t *ranks) {
    for (unsigned i = 0; i < ranks->count; i++) {
        if (ranks->orders[i] >= 0) close(ranks->orders[i]);
        /* It has nothing to do, or hangs. */
        if (ranks->processes[i] > 0) kill(ranks->processes[i], SIGKILL);
        if (ranks->processes[i] > 0) waitpid(ranks->processes[i], NULL, 0);
    }
    free(ranks->processes);
    free(ranks->orders);
    *ranks = (tpv_ranks_t){0};
}
