#include "client/transfer.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "client/attempt.h"
#include "client/source.h"

/* What is known of a service since the last byte came, from whomever. */
typedef struct {
    bool refused; /* by its own word: for the whole transfer */
    bool failed;
    bool mismatched; /* gave nothing but wrong digests: that may happen once */
} service_t;

/* One call of tpv_transfer. */
typedef struct {
    tpv_source_t *source;
    tpv_attempt_t attempt;
    tpv_ranges_t have;
    tpv_pace_t pace;
    service_t services[TPV_MAX_SOURCES];
    tpv_fetch_result_t *result;
    char failures[TPV_ERROR_MAX]; /* since the last byte came: on success they are told in a warning */
} transfer_t;

/* The next service that is worth asking, from `at` on; count: none is. */
static unsigned choose(const transfer_t *transfer, unsigned at) {
    unsigned count = transfer->source->count;
    for (unsigned i = 0; i < count; i++) {
        const service_t *service = &transfer->services[(at + i) % count];
        if (!service->refused && !service->failed) return (at + i) % count;
    }
    return count;
}

static unsigned choices(const transfer_t *transfer) {
    unsigned count = 0;
    for (unsigned i = 0; i < transfer->source->count; i++)
        count += !transfer->services[i].refused && !transfer->services[i].failed;
    return count;
}

static void note_failure(transfer_t *transfer) {
    size_t length = strlen(transfer->failures);
    if (strstr(transfer->failures, tpv_error_message())) return;
    snprintf(transfer->failures + length, sizeof transfer->failures - length, "%s%s", length ? "; then " : "",
             tpv_error_message());
}

/* Ask one service for what is missing. */
static tpv_status_t ask(transfer_t *transfer, unsigned index) {
    tpv_attempt_t *attempt = &transfer->attempt;
    tpv_fetch_share_t *share = &transfer->result->sources[index];
    uint64_t before = transfer->have.total;
    attempt->patience_ns = choices(transfer) > 1 ? tpv_source_patience_ns() : INT64_MAX;
    attempt->wire_bytes = attempt->chunks = 0;
    tpv_status_t status = tpv_attempt_run(attempt, transfer->source->services[index]);
    /* Less than before, if a service with longer chunks broke off within bytes that were there. */
    uint64_t came = transfer->have.total > before ? transfer->have.total - before : 0;
    share->attempts++;
    share->bytes += came;
    share->wire_bytes += attempt->wire_bytes;
    transfer->result->wire_bytes += attempt->wire_bytes;
    transfer->result->chunks += attempt->chunks;
    if (status == TPV_OK || attempt->end == TPV_ATTEMPT_FINAL) return status;
    if (came > 0) {
        *transfer->failures = '\0';
        for (unsigned i = 0; i < transfer->source->count; i++)
            transfer->services[i].failed = transfer->services[i].mismatched = false;
    }
    service_t *service = &transfer->services[index];
    service->failed = came == 0 && (status != TPV_ERR_DIGEST || service->mismatched);
    service->mismatched = came == 0 && status == TPV_ERR_DIGEST;
    service->refused = attempt->end == TPV_ATTEMPT_REFUSED;
    note_failure(transfer);
    return status;
}

static tpv_status_t run(transfer_t *transfer, bool *refused) {
    unsigned count = transfer->source->count, at = transfer->source->present;
    bool lacks = false; /* a service does, so that whole tensors may be had when no other gives the view */
    tpv_status_t status;
    do {
        status = ask(transfer, at);
        transfer->source->present = at;
        if (status == TPV_OK || transfer->attempt.end == TPV_ATTEMPT_FINAL) return status;
        lacks = lacks || (transfer->attempt.end == TPV_ATTEMPT_REFUSED &&
                          (status == TPV_ERR_UNSUPPORTED || status == TPV_ERR_NO_MEMORY));
        /* The others first: they are not known to be in trouble. */
        at = choose(transfer, at + 1);
        if (at < count)
            TPV_INFO("%s: going on at source %s with %llu of %llu bytes there", tpv_error_message(),
                     tpv_http_address(transfer->source->services[at]), (unsigned long long)transfer->have.total,
                     (unsigned long long)transfer->result->needed_bytes);
    } while (at < count);
    *refused = lacks;
    return tpv_error_set(status, "%s", transfer->failures);
}

tpv_status_t tpv_transfer(tpv_source_t *source, const tpv_artifact_t *artifact, const tpv_view_t *view,
                          const tpv_fetch_options_t *options, int64_t deadline, tpv_sink_t *sink,
                          tpv_fetch_result_t *result, bool *refused) {
    int64_t begin = tpv_clock_ns();
    *refused = false;
    if (!*tpv_artifact_id(artifact))
        return tpv_error_set(TPV_ERR_ARGUMENT, "the artifact has no artifact_id yet: call tpv_artifact_digest");
    *result = (tpv_fetch_result_t){.needed_bytes = tpv_view_stats(view).bytes,
                                   .digests_checked = !options->no_digests,
                                   .source_count = source->count};
    transfer_t transfer = {.source = source, .result = result};
    transfer.attempt = (tpv_attempt_t){.artifact = artifact,
                                       .view = view,
                                       .options = options,
                                       .deadline = deadline,
                                       .sink = sink,
                                       .have = &transfer.have,
                                       .pace = &transfer.pace};
    tpv_status_t status = run(&transfer, refused);
    if (status == TPV_OK && *transfer.failures) TPV_WARN("the fetch had to be asked for again: %s", transfer.failures);
    const tpv_attempt_t *last = &transfer.attempt;
    result->seconds = (double)(tpv_clock_ns() - begin) / (double)TPV_NS_PER_SECOND;
    if (transfer.pace.first_ns)
        result->first_seconds = (double)(transfer.pace.first_ns - begin) / (double)TPV_NS_PER_SECOND;
    result->gap_p99_seconds = (double)tpv_pace_gap_p99(&transfer.pace) / (double)TPV_NS_PER_SECOND;
    memcpy(result->fetch_id, last->fetch_id, sizeof result->fetch_id);
    memcpy(result->artifact, last->artifact_label, sizeof result->artifact);
    memcpy(result->export_kind, last->export_kind, sizeof result->export_kind);
    tpv_ranges_clear(&transfer.have);
    return status;
}
