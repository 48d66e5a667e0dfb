#include <assert.h>
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/id.h"
#include "base/log.h"
#include "base/params.h"
#include "base/text.h"
#include "channel/idle.h"
#include "channel/route_device.h"
#include "channel/stream.h"
#include "client/arrivals.h"
#include "client/source.h"
#include "client/transfer.h"

#define HTTP_PERIOD_NS TPV_NS_PER_MS
/* The longest deadline that a source takes; ours holds here all the same. */
#define LONGEST_MS (INT64_C(1000) * 86400 * 365)
#define PROGRESS_PERIOD_NS (100 * TPV_NS_PER_MS)
/* After a comm broke, how long the source's own word about the cause is awaited. */
#define CAUSE_WAIT_NS (250 * TPV_NS_PER_MS)
#define DEFAULT_WORKERS 8

static_assert(TPV_MAX_COMMS == TPV_STREAM_MAX_COMMS, "the public bound is the stream's");

/* One call of tpv_transfer. */
typedef struct {
    tpv_source_t *source;
    const tpv_fetch_options_t *options;
    int64_t deadline;
    tpv_net_t *net;
    tpv_stream_t stream;
    char id[TPV_ID_TEXT];
    tpv_arrivals_t *arrivals;
    tpv_receiver_t *receiver;
    char *request;
    bool answered; /* the source has said how its side ended */
    int64_t next_http, next_progress;
} fetch_t;

static tpv_status_t check_options(const tpv_fetch_options_t *options, const tpv_view_t *view, tpv_stream_t *stream) {
    uint32_t comms = options->comms ? options->comms : (uint32_t)tpv_param_int(TPV_PARAM_COMMS);
    uint64_t chunk = options->chunk_bytes ? options->chunk_bytes : (uint64_t)tpv_param_int(TPV_PARAM_CHUNK_BYTES);
    if (comms < 1 || comms > TPV_MAX_COMMS)
        return tpv_error_set(TPV_ERR_ARGUMENT, "%u comms: expected 1 to %d", comms, TPV_MAX_COMMS);
    if (chunk < TPV_MIN_CHUNK || chunk > TPV_MAX_CHUNK)
        return tpv_error_set(TPV_ERR_ARGUMENT, "chunks of %llu bytes: expected %u to %u", (unsigned long long)chunk,
                             TPV_MIN_CHUNK, TPV_MAX_CHUNK);
    *stream = (tpv_stream_t){.comms = comms, .chunk_bytes = (uint32_t)chunk, .bytes = tpv_view_stats(view).bytes};
    return tpv_id_random(stream->id);
}

/* The data comes the way that reaches the source, which the control connection shows: it has to stand by now. */
static tpv_status_t choose_device(fetch_t *fetch) {
    tpv_http_t *http = fetch->source->http;
    if (fetch->net->devices > 1 && tpv_http_descriptor(http) < 0)
        TPV_TRY(tpv_http_call(http, "GET", "/healthz", NULL, fetch->deadline));
    fetch->stream.device = tpv_net_device_towards(fetch->net, tpv_http_descriptor(http));
    return TPV_OK;
}

/* The body of POST /v1/fetch; docs/control-api.md has its fields. */
static tpv_status_t make_request(fetch_t *fetch, const tpv_artifact_t *artifact, const tpv_view_t *view) {
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    json_t *handles = json_array();
    for (uint32_t i = 0; i < fetch->stream.comms; i++) {
        char text[2 * NCCL_NET_HANDLE_MAXSIZE + 1];
        tpv_hex_encode(tpv_receiver_handle(fetch->receiver, i), NCCL_NET_HANDLE_MAXSIZE, text);
        json_array_append_new(handles, json_string(text));
    }
    json_t *root = json_pack("{s:s, s:s, s:s, s:o, s:I, s:{s:s, s:i, s:I, s:I}}", "fetch_id", fetch->id, "artifact_id",
                             tpv_artifact_id(artifact), "net", fetch->net->abi.name, "handles", handles,
                             "max_chunk_bytes", (json_int_t)fetch->stream.chunk_bytes, "rank", "host", host, "pid",
                             (int)getpid(), "tp_rank", (json_int_t)fetch->options->tp_rank, "tp_size",
                             (json_int_t)(fetch->options->tp_size ? fetch->options->tp_size : 1));
    if (fetch->deadline != TPV_DEADLINE_NEVER) {
        int64_t left_ms = tpv_deadline_left(fetch->deadline) / TPV_NS_PER_MS + 1;
        json_object_set_new(root, "deadline_ms", json_integer(left_ms < LONGEST_MS ? left_ms : LONGEST_MS));
    }
    char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    /* The spec is JSON text already, and may be long: it goes in as it is. */
    if (text && asprintf(&fetch->request, "{\"view\":%s,%s", tpv_view_json(view), text + 1) < 0) fetch->request = NULL;
    free(text);
    return fetch->request ? TPV_OK : tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the fetch request");
}

static tpv_status_t advance_control(fetch_t *fetch, bool force) {
    int64_t now = tpv_clock_ns();
    if (fetch->answered || (!force && now < fetch->next_http)) return TPV_OK;
    fetch->next_http = now + HTTP_PERIOD_NS;
    return tpv_http_advance(fetch->source->http, &fetch->answered);
}

static tpv_status_t tell_progress(fetch_t *fetch, bool force) {
    int64_t now = tpv_clock_ns();
    if (!fetch->options->progress || (!force && now < fetch->next_progress)) return TPV_OK;
    fetch->next_progress = now + PROGRESS_PERIOD_NS;
    if (fetch->options->progress(fetch->options->progress_user, tpv_arrivals_taken(fetch->arrivals),
                                 fetch->stream.bytes))
        return TPV_OK;
    return tpv_error_set(TPV_ERR_CANCELLED, "the fetch was cancelled");
}

static tpv_status_t deadline_error(const fetch_t *fetch) {
    return tpv_error_set(TPV_ERR_DEADLINE, "the deadline passed: source %s has delivered %llu of %llu bytes",
                         tpv_http_address(fetch->source->http),
                         (unsigned long long)tpv_receiver_counts(fetch->receiver).bytes,
                         (unsigned long long)fetch->stream.bytes);
}

/* A comm that breaks says little; the source often knows why. Keep the comm's message if nothing better comes soon. */
static tpv_status_t explain(fetch_t *fetch, tpv_status_t status) {
    char message[TPV_ERROR_MAX];
    memcpy(message, tpv_error_message(), sizeof message);
    int64_t until = tpv_clock_ns() + CAUSE_WAIT_NS;
    if (fetch->deadline < until) until = fetch->deadline;
    tpv_idle_t idle = {0};
    while (!fetch->answered && !tpv_deadline_passed(until)) {
        tpv_status_t told = advance_control(fetch, true);
        if (told != TPV_OK) return told;
        tpv_idle_wait(&idle, false, tpv_http_descriptor(fetch->source->http), until);
    }
    return tpv_error_set(status, "source %s: %s", tpv_http_address(fetch->source->http), message);
}

/* The duty cycle: the data comms and the control connection move side by side on this thread. */
static tpv_status_t run(fetch_t *fetch) {
    tpv_idle_t idle = {0};
    bool received = false, done = false, readable = true;
    while (!done || !fetch->answered) {
        bool moved = false;
        TPV_TRY(advance_control(fetch, readable));
        if (!received) {
            tpv_status_t status = tpv_receiver_advance(fetch->receiver, &moved, &received);
            if (status == TPV_ERR_PEER || status == TPV_ERR_NET) return explain(fetch, status);
            TPV_TRY(status);
        }
        if (!done) {
            bool taken = false;
            TPV_TRY(tpv_arrivals_advance(fetch->arrivals, &moved, &taken));
            done = received && taken;
        }
        TPV_TRY(tell_progress(fetch, false));
        if (tpv_deadline_passed(fetch->deadline)) return deadline_error(fetch);
        readable = tpv_idle_wait(&idle, moved, fetch->answered ? -1 : tpv_http_descriptor(fetch->source->http),
                                 fetch->deadline);
    }
    return tell_progress(fetch, true);
}

static tpv_status_t read_answer(const fetch_t *fetch, tpv_fetch_result_t *result) {
    size_t length = 0;
    const char *body = tpv_http_body(fetch->source->http, &length);
    json_t *root = json_loadb(body, length, JSON_REJECT_DUPLICATES, NULL);
    const char *kind = NULL, *label = NULL;
    tpv_status_t status = TPV_OK;
    if (json_unpack(root, "{s:s, s:s}", "export", &kind, "artifact", &label) != 0 ||
        strlen(kind) >= sizeof result->export_kind || strlen(label) >= sizeof result->artifact) {
        status = tpv_error_set(TPV_ERR_PROTOCOL, "source %s: its answer to the fetch is not of this API",
                               tpv_http_address(fetch->source->http));
    } else {
        memcpy(result->export_kind, kind, strlen(kind) + 1);
        memcpy(result->artifact, label, strlen(label) + 1);
        tpv_text_clean(result->export_kind);
        tpv_text_clean(result->artifact);
    }
    json_decref(root);
    return status;
}

/* Tell the source that every byte is here, so that it ends the lease now and not when it notices our leaving. */
static tpv_status_t acknowledge(fetch_t *fetch) {
    char path[64] = "/v1/leases/";
    memcpy(path + strlen(path), fetch->id, sizeof fetch->id);
    tpv_status_t status = tpv_http_call(fetch->source->http, "DELETE", path, NULL, fetch->deadline);
    if (status == TPV_OK) return TPV_OK;
    /* The bytes are whole and verified; the source ends the lease itself. */
    TPV_WARN("cannot acknowledge the fetch: %s", tpv_error_message());
    return TPV_OK;
}

/* Threads beside the caller's: one core is its own. */
static tpv_status_t count_workers(const tpv_fetch_options_t *options, unsigned *workers) {
    int64_t wanted = options->workers ? options->workers : tpv_param_int(TPV_PARAM_WORKERS);
    if (wanted < TPV_WORKERS_NONE || wanted > TPV_MAX_WORKERS)
        return tpv_error_set(TPV_ERR_ARGUMENT, "%lld workers: expected 1 to %d", (long long)wanted, TPV_MAX_WORKERS);
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (wanted == 0) wanted = cores < 2 ? TPV_WORKERS_NONE : cores - 1 < DEFAULT_WORKERS ? cores - 1 : DEFAULT_WORKERS;
    *workers = wanted == TPV_WORKERS_NONE ? 0 : (unsigned)wanted;
    return TPV_OK;
}

tpv_status_t tpv_transfer(tpv_source_t *source, const tpv_artifact_t *artifact, const tpv_view_t *view,
                          const tpv_fetch_options_t *options, int64_t deadline, tpv_sink_t *sink,
                          tpv_fetch_result_t *result, bool *refused) {
    int64_t begin = tpv_clock_ns();
    *refused = false;
    fetch_t fetch = {.source = source, .options = options, .deadline = deadline};
    if (!*tpv_artifact_id(artifact))
        return tpv_error_set(TPV_ERR_ARGUMENT, "the artifact has no artifact_id yet: call tpv_artifact_digest");
    unsigned workers = 0;
    TPV_TRY(check_options(options, view, &fetch.stream));
    TPV_TRY(count_workers(options, &workers));
    tpv_hex_encode(fetch.stream.id, TPV_ID_BYTES, fetch.id);
    TPV_TRY(tpv_net_open(options->net, &fetch.net));

    tpv_status_t status = choose_device(&fetch);
    if (status == TPV_OK)
        status = tpv_arrivals_open(sink, &fetch.stream, workers, !options->no_digests, &fetch.arrivals);
    if (status != TPV_OK) goto close_net;
    tpv_landing_t landing = tpv_arrivals_landing(fetch.arrivals);
    status = tpv_receiver_open(fetch.net, &fetch.stream, &landing, &fetch.receiver);
    if (status != TPV_OK) goto close_arrivals;
    status = make_request(&fetch, artifact, view);
    if (status == TPV_OK) status = tpv_http_start(source->http, "POST", "/v1/fetch", fetch.request);
    if (status == TPV_OK) status = run(&fetch);
    *refused = fetch.answered && (status == TPV_ERR_UNSUPPORTED || status == TPV_ERR_NO_MEMORY);

    *result = (tpv_fetch_result_t){.needed_bytes = fetch.stream.bytes, .digests_checked = !options->no_digests};
    tpv_stream_counts_t counts = tpv_receiver_counts(fetch.receiver);
    result->wire_bytes = counts.wire;
    result->chunks = counts.chunks;
    result->seconds = (double)(tpv_clock_ns() - begin) / (double)TPV_NS_PER_SECOND;
    const tpv_pace_t *pace = tpv_arrivals_pace(fetch.arrivals);
    if (pace->first_ns) result->first_seconds = (double)(pace->first_ns - begin) / (double)TPV_NS_PER_SECOND;
    result->gap_p99_seconds = (double)tpv_pace_gap_p99(pace) / (double)TPV_NS_PER_SECOND;
    memcpy(result->fetch_id, fetch.id, sizeof result->fetch_id);

    /* A request that is not answered is broken off: the source sees it and ends the lease. */
    tpv_receiver_close(fetch.receiver);
    if (status == TPV_OK) status = read_answer(&fetch, result);
    if (status == TPV_OK)
        status = acknowledge(&fetch);
    else
        tpv_http_cancel(source->http);
    free(fetch.request);
close_arrivals:
    tpv_arrivals_close(fetch.arrivals);
close_net:
    tpv_net_close(fetch.net);
    return status;
}
