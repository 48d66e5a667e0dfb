/* Counters of the service in Prometheus' text format 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats). */
#ifndef SERVICE_METRICS_H
#define SERVICE_METRICS_H

#include <stdatomic.h>
#include <stdio.h>

#include "channel/stream.h"
#include "service/feeder.h"

#define TPV_METRICS_BUCKETS 12

/* All words relaxed: each is a count of its own. */
typedef struct tpv_metrics {
    atomic_ullong fetches_started;
    atomic_ullong fetches_finished[TPV_STATUS_COUNT];
    atomic_ullong bytes_sent, wire_bytes_sent, bytes_gathered, bytes_direct;
    atomic_ullong gather_ns;
    atomic_ullong fetch_ns;
    atomic_ullong fetch_seconds[TPV_METRICS_BUCKETS + 1]; /* not cumulative; the last one is +Inf */
    atomic_ullong requests_refused;
} tpv_metrics_t;

void tpv_metrics_fetch_started(tpv_metrics_t *metrics);
void tpv_metrics_fetch_finished(tpv_metrics_t *metrics, tpv_status_t status, const tpv_stream_counts_t *sent,
                                const tpv_feeder_counts_t *fed, double seconds);
void tpv_metrics_refused(tpv_metrics_t *metrics);

/* Write all of them, and the gauges that the caller knows. */
void tpv_metrics_print(const tpv_metrics_t *metrics, unsigned active, size_t artifacts, FILE *stream);

#endif
