/* Counters of the service in Prometheus' text format 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats). */
#ifndef SERVICE_METRICS_H
#define SERVICE_METRICS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "channel/stream.h"

#define TPV_METRICS_BUCKETS 12

/* Why an export was retired; victims are taken in this order. */
typedef enum tpv_eviction {
    TPV_EVICTED_WITHDRAWN,  /* its artifact was retired */
    TPV_EVICTED_EXPIRED,    /* no byte moved for its time */
    TPV_EVICTED_SUPERSEDED, /* a newer version is offered */
    TPV_EVICTED_ROOM,       /* the longest unmoved, for another one */
    TPV_EVICTED_UNCACHED,   /* had no room to be kept */
    TPV_EVICTED_COUNT
} tpv_eviction_t;

/* What one fetch took from where. */
typedef struct tpv_feeder_counts {
    uint64_t gathered_bytes, direct_bytes; /* prepared by this fetch: gathered, or one run in the mapping */
    uint64_t reused_bytes;                 /* found ready in the export */
    double gather_seconds;                 /* thread time, digests included */
    bool waited;                           /* some chunk was not ready when it was asked for */
} tpv_feeder_counts_t;

/* All words relaxed: each is a count of its own. */
typedef struct tpv_metrics {
    atomic_ullong fetches_started;
    atomic_ullong fetches_finished[TPV_STATUS_COUNT];
    atomic_ullong bytes_sent, wire_bytes_sent, bytes_gathered, bytes_direct;
    atomic_ullong gather_ns;
    atomic_ullong fetch_ns;
    atomic_ullong fetch_seconds[TPV_METRICS_BUCKETS + 1]; /* not cumulative; the last one is +Inf */
    atomic_ullong requests_refused;
    atomic_ullong gathers_started, exports_reused, bytes_reused;
    atomic_ullong evicted[TPV_EVICTED_COUNT];
    atomic_ullong drain_ns;
    atomic_ullong budget_used, budget_peak;
} tpv_metrics_t;

void tpv_metrics_fetch_started(tpv_metrics_t *metrics);
void tpv_metrics_fetch_finished(tpv_metrics_t *metrics, tpv_status_t status, const tpv_stream_counts_t *sent,
                                const tpv_feeder_counts_t *fed, double seconds);
void tpv_metrics_refused(tpv_metrics_t *metrics);
/* An export began to be gathered: once for each, however many fetches share it. */
void tpv_metrics_gather_started(tpv_metrics_t *metrics);
/* A fetch found the export that it wants. */
void tpv_metrics_reused(tpv_metrics_t *metrics);
/* `drain_ns`: since it was withdrawn, 0 when nobody read it then. */
void tpv_metrics_evicted(tpv_metrics_t *metrics, tpv_eviction_t reason, int64_t drain_ns);
/* Bytes of the budget in use from now on. Calls must not overlap. */
void tpv_metrics_budget(tpv_metrics_t *metrics, uint64_t used);

/* Write all of them, and the gauges that the caller knows. */
void tpv_metrics_print(const tpv_metrics_t *metrics, unsigned active, size_t artifacts, uint64_t budget, FILE *stream);

#endif
