#include "service/metrics.h"

#include "tpview/tpview.h"

static const double bounds[TPV_METRICS_BUCKETS] = {0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600};

static void add(atomic_ullong *word, unsigned long long amount) {
    atomic_fetch_add_explicit(word, amount, memory_order_relaxed);
}

static unsigned long long get(const atomic_ullong *word) {
    return atomic_load_explicit(word, memory_order_relaxed);
}

void tpv_metrics_fetch_started(tpv_metrics_t *metrics) {
    add(&metrics->fetches_started, 1);
}

void tpv_metrics_refused(tpv_metrics_t *metrics) {
    add(&metrics->requests_refused, 1);
}

void tpv_metrics_gather_started(tpv_metrics_t *metrics) {
    add(&metrics->gathers_started, 1);
}

void tpv_metrics_reused(tpv_metrics_t *metrics) {
    add(&metrics->exports_reused, 1);
}

void tpv_metrics_evicted(tpv_metrics_t *metrics, tpv_eviction_t reason, int64_t drain_ns) {
    add(&metrics->evicted[reason], 1);
    add(&metrics->drain_ns, (unsigned long long)drain_ns);
}

void tpv_metrics_budget(tpv_metrics_t *metrics, uint64_t used) {
    atomic_store_explicit(&metrics->budget_used, used, memory_order_relaxed);
    if (used > get(&metrics->budget_peak)) atomic_store_explicit(&metrics->budget_peak, used, memory_order_relaxed);
}

void tpv_metrics_fetch_finished(tpv_metrics_t *metrics, tpv_status_t status, const tpv_stream_counts_t *sent,
                                const tpv_feeder_counts_t *fed, double seconds) {
    int bucket = 0;
    while (bucket < TPV_METRICS_BUCKETS && seconds > bounds[bucket])
        bucket++;
    add(&metrics->fetch_seconds[bucket], 1);
    add(&metrics->fetch_ns, (unsigned long long)(seconds * 1e9));
    add(&metrics->bytes_sent, sent->bytes);
    add(&metrics->wire_bytes_sent, sent->wire);
    add(&metrics->bytes_gathered, fed->gathered_bytes);
    add(&metrics->bytes_direct, fed->direct_bytes);
    add(&metrics->bytes_reused, fed->reused_bytes);
    add(&metrics->gather_ns, (unsigned long long)(fed->gather_seconds * 1e9));
    /* Last: whoever sees a fetch finished sees its bytes. */
    add(&metrics->fetches_finished[status], 1);
}

static void print_counter(FILE *stream, const char *name, const char *help, unsigned long long value) {
    fprintf(stream, "# HELP tpview_%s %s\n# TYPE tpview_%s counter\ntpview_%s %llu\n", name, help, name, name, value);
}

static void print_seconds(FILE *stream, const char *name, const char *help, unsigned long long ns) {
    fprintf(stream, "# HELP tpview_%s %s\n# TYPE tpview_%s counter\ntpview_%s %.9g\n", name, help, name, name,
            (double)ns / 1e9);
}

static void print_gauge(FILE *stream, const char *name, const char *help, unsigned long long value) {
    fprintf(stream, "# HELP tpview_%s %s\n# TYPE tpview_%s gauge\ntpview_%s %llu\n", name, help, name, name, value);
}

static void print_evictions(const tpv_metrics_t *metrics, FILE *stream) {
    static const char *const reasons[TPV_EVICTED_COUNT] = {"withdrawn", "expired", "superseded", "room", "uncached"};
    fprintf(stream, "# HELP tpview_exports_retired_total Exports retired, by reason.\n"
                    "# TYPE tpview_exports_retired_total counter\n");
    for (int i = 0; i < TPV_EVICTED_COUNT; i++)
        fprintf(stream, "tpview_exports_retired_total{reason=\"%s\"} %llu\n", reasons[i], get(&metrics->evicted[i]));
}

static void print_histogram(const tpv_metrics_t *metrics, FILE *stream) {
    fprintf(stream, "# HELP tpview_fetch_seconds Time from a fetch's admission to its outcome.\n"
                    "# TYPE tpview_fetch_seconds histogram\n");
    unsigned long long sum = 0;
    for (int i = 0; i < TPV_METRICS_BUCKETS; i++) {
        sum += get(&metrics->fetch_seconds[i]);
        fprintf(stream, "tpview_fetch_seconds_bucket{le=\"%g\"} %llu\n", bounds[i], sum);
    }
    sum += get(&metrics->fetch_seconds[TPV_METRICS_BUCKETS]);
    fprintf(stream, "tpview_fetch_seconds_bucket{le=\"+Inf\"} %llu\n", sum);
    fprintf(stream, "tpview_fetch_seconds_sum %.9g\ntpview_fetch_seconds_count %llu\n",
            (double)get(&metrics->fetch_ns) / 1e9, sum);
}

void tpv_metrics_print(const tpv_metrics_t *metrics, unsigned active, size_t artifacts, uint64_t budget, FILE *stream) {
    fprintf(stream,
            "# HELP tpview_build_info Version of the service.\n# TYPE tpview_build_info gauge\n"
            "tpview_build_info{version=\"%s\"} 1\n",
            tpv_version());
    print_gauge(stream, "artifacts", "Artifacts on offer.", artifacts);
    print_gauge(stream, "fetches_active", "Fetches between admission and the end of their lease.", active);
    print_counter(stream, "fetches_started_total", "Fetches admitted.", get(&metrics->fetches_started));
    fprintf(stream, "# HELP tpview_fetches_finished_total Fetches with an outcome, by status.\n"
                    "# TYPE tpview_fetches_finished_total counter\n");
    for (int i = 0; i < TPV_STATUS_COUNT; i++)
        fprintf(stream, "tpview_fetches_finished_total{status=\"%s\"} %llu\n", tpv_status_name((tpv_status_t)i),
                get(&metrics->fetches_finished[i]));
    print_counter(stream, "requests_refused_total", "Control requests answered with an error.",
                  get(&metrics->requests_refused));
    print_counter(stream, "bytes_sent_total", "View bytes sent.", get(&metrics->bytes_sent));
    print_counter(stream, "wire_bytes_sent_total", "Bytes of all messages sent.", get(&metrics->wire_bytes_sent));
    print_counter(stream, "bytes_gathered_total", "View bytes that were gathered first.",
                  get(&metrics->bytes_gathered));
    print_counter(stream, "bytes_direct_total", "View bytes sent from the artifact's mapping.",
                  get(&metrics->bytes_direct));
    print_counter(stream, "bytes_reused_total", "View bytes found ready in a cached export.",
                  get(&metrics->bytes_reused));
    print_counter(stream, "gathers_started_total", "Exports that began to be gathered.",
                  get(&metrics->gathers_started));
    print_counter(stream, "exports_reused_total", "Fetches that found their export there.",
                  get(&metrics->exports_reused));
    print_evictions(metrics, stream);
    print_seconds(stream, "drain_seconds_total", "Time from the withdrawal of exports in use to their end.",
                  get(&metrics->drain_ns));
    print_gauge(stream, "budget_bytes", "What export cache and staging may take.", budget);
    print_gauge(stream, "budget_used_bytes", "Export cache and staging now.", get(&metrics->budget_used));
    print_gauge(stream, "budget_peak_bytes", "Export cache and staging at most.", get(&metrics->budget_peak));
    print_seconds(stream, "gather_seconds_total", "Thread time spent on gathering and digests.",
                  get(&metrics->gather_ns));
    print_histogram(metrics, stream);
}
