/* One thing that is measured: a pair of processes with an engine, or an outside program. Its processes live through the
 * whole run and sleep while another subject is being measured. */
#ifndef TOOLS_NET_PERF_SUBJECT_H
#define TOOLS_NET_PERF_SUBJECT_H

#include <sys/types.h>

#include "tools/net_perf/engine.h"

#define TPV_PERF_ROUNDS_MAX 101

typedef struct tpv_perf_subject tpv_perf_subject_t;

struct tpv_perf_subject {
    char name[32];
    const tpv_perf_engine_t *engine; /* NULL: ucx_perftest */
    char *environment;               /* comma list of NAME=VALUE to be set in its processes, or NULL */
    bool pinned;                     /* each process has one half of the CPUs to itself */
    bool checked;                    /* its bytes are checked when the user asks for it */
    tpv_perf_setup_t setup;

    char lost[256]; /* why it is not or no longer measured; "" while it is */
    pid_t workers[2];
    int orders[2]; /* sockets to the workers */

    /* Results of the present size, made by measuring. */
    unsigned rounds;
    double rates[TPV_PERF_ROUNDS_MAX]; /* GB/s, all comms together, one direction */
    uint64_t wrong;
};

/* Start the processes. A failure is told in `lost`. */
void tpv_perf_subject_start(tpv_perf_subject_t *subject);
void tpv_perf_subject_stop(tpv_perf_subject_t *subject);

/* Run one order and put its rate into *rate; with order->check its count of wrong messages is added to subject->wrong.
 * `warmup` messages are moved first. A failure is told in `lost`. */
void tpv_perf_subject_run(tpv_perf_subject_t *subject, const tpv_perf_order_t *order, uint64_t warmup, double *rate);

/* The same by ucx_perftest over shared memory and cma; false, with `lost` told, when it fails. */
bool tpv_perf_ucx_run(tpv_perf_subject_t *subject, const tpv_perf_order_t *order, uint64_t warmup, double *rate);
bool tpv_perf_ucx_installed(void);

double tpv_perf_subject_median(const tpv_perf_subject_t *subject);

#endif
