#include "client/attempt.h"

#include <assert.h>
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/descriptors.h"
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

#define HTTP_PERIOD_NS TPV_NS_PER_MS
/* The longest deadline that a source takes; ours holds here all the same. */
#define LONGEST_MS (INT64_C(1000) * 86400 * 365)
#define PROGRESS_PERIOD_NS (100 * TPV_NS_PER_MS)
/* After a comm broke, how long the source's own word about the cause is awaited. */
#define CAUSE_WAIT_NS (250 * TPV_NS_PER_MS)
#define DEFAULT_WORKERS 8
/* A plugin out of descriptors may take comms later, so that it waits without a word: what it needs for one, and how
 * long nothing moves before that is taken for the cause. */
#define COMM_DESCRIPTORS 4
#define DESCRIPTOR_PATIENCE_NS (5 * TPV_NS_PER_SECOND)

static_assert(TPV_MAX_COMMS == TPV_STREAM_MAX_COMMS, "the public bound is the stream's");

/* One call of tpv_attempt_run. */
typedef struct {
    tpv_attempt_t *attempt;
    tpv_http_t *http;
    const tpv_fetch_options_t *options;
    int64_t deadline;
    tpv_net_t *net;
    tpv_stream_t stream;
    tpv_ranges_t missing; /* what the stream's ranges are */
    tpv_arrivals_t *arrivals;
    tpv_receiver_t *receiver;
    char *request;
    bool answered; /* the source has said how its side ended */
    bool sent;     /* and that it has sent all: the lease is there until we end it */
    bool reported; /* it has said so on a comm */
    bool strange;  /* its answer is not one of this view */
    int64_t moved; /* when a byte last did */
    int64_t next_http, next_progress, next_descriptors;
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

/* What is asked for: all, or what the sink lacks. A sink that lacks nothing is given its last chunk again, so that the
 * source still says what it is of. */
static tpv_status_t choose_ranges(fetch_t *fetch) {
    tpv_ranges_t *have = fetch->attempt->have;
    uint64_t bytes = fetch->stream.bytes, last = bytes < fetch->stream.chunk_bytes ? bytes : fetch->stream.chunk_bytes;
    if (have->total == 0) return TPV_OK;
    if (have->total == bytes) TPV_TRY(tpv_ranges_remove(have, bytes - last, bytes));
    TPV_TRY(tpv_ranges_missing(have, bytes, TPV_STREAM_MAX_RANGES, &fetch->missing));
    fetch->stream.ranges = fetch->missing.list;
    fetch->stream.range_count = (uint32_t)fetch->missing.count;
    return TPV_OK;
}

/* The body of POST /v1/fetch; docs/control-api.md has its fields. */
static tpv_status_t make_request(fetch_t *fetch) {
    const tpv_artifact_t *artifact = fetch->attempt->artifact;
    const tpv_view_t *view = fetch->attempt->view;
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    json_t *handles = json_array();
    for (uint32_t i = 0; i < fetch->stream.comms; i++) {
        char text[2 * NCCL_NET_HANDLE_MAXSIZE + 1];
        tpv_hex_encode(tpv_receiver_handle(fetch->receiver, i), NCCL_NET_HANDLE_MAXSIZE, text);
        json_array_append_new(handles, json_string(text));
    }
    json_t *root =
        json_pack("{s:s, s:s, s:s, s:s, s:o, s:I, s:{s:s, s:i, s:I, s:I}}", "fetch_id", fetch->attempt->fetch_id,
                  "artifact_id", tpv_artifact_id(artifact), "view_id", tpv_view_id(view), "net", fetch->net->abi.name,
                  "handles", handles, "max_chunk_bytes", (json_int_t)fetch->stream.chunk_bytes, "rank", "host", host,
                  "pid", (int)getpid(), "tp_rank", (json_int_t)fetch->options->tp_rank, "tp_size",
                  (json_int_t)(fetch->options->tp_size ? fetch->options->tp_size : 1));
    if (fetch->deadline != TPV_DEADLINE_NEVER) {
        int64_t left_ms = tpv_deadline_left(fetch->deadline) / TPV_NS_PER_MS + 1;
        json_object_set_new(root, "deadline_ms", json_integer(left_ms < LONGEST_MS ? left_ms : LONGEST_MS));
    }
    if (fetch->stream.ranges) {
        json_t *ranges = json_array();
        for (size_t i = 0; i < fetch->missing.count; i++)
            json_array_append_new(ranges, json_pack("[I, I]", (json_int_t)fetch->missing.list[i].begin,
                                                    (json_int_t)fetch->missing.list[i].end));
        json_object_set_new(root, "ranges", ranges);
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
    tpv_status_t status = tpv_http_advance(fetch->http, &fetch->answered);
    fetch->sent = fetch->answered && status == TPV_OK;
    return status;
}

static tpv_status_t tell_progress(fetch_t *fetch, bool force) {
    int64_t now = tpv_clock_ns();
    if (!fetch->options->progress || (!force && now < fetch->next_progress)) return TPV_OK;
    fetch->next_progress = now + PROGRESS_PERIOD_NS;
    if (fetch->options->progress(fetch->options->progress_user, fetch->attempt->have->total, fetch->stream.bytes))
        return TPV_OK;
    return tpv_error_set(TPV_ERR_CANCELLED, "the fetch was cancelled");
}

static tpv_status_t deadline_error(const fetch_t *fetch) {
    return tpv_error_set(TPV_ERR_DEADLINE, "the deadline passed at source %s, with %llu of %llu bytes there",
                         tpv_http_address(fetch->http), (unsigned long long)fetch->attempt->have->total,
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
        tpv_idle_wait(&idle, false, tpv_http_descriptor(fetch->http), until);
    }
    return tpv_error_set(status, "source %s: %s", tpv_http_address(fetch->http), message);
}

/* Everything but the source ends the attempt for good. */
static tpv_status_t final(fetch_t *fetch, tpv_status_t status) {
    fetch->attempt->end = TPV_ATTEMPT_FINAL;
    return status;
}

static tpv_status_t look_around(fetch_t *fetch, bool moved) {
    tpv_status_t status = tell_progress(fetch, false);
    if (status != TPV_OK) return final(fetch, status);
    int64_t now = tpv_clock_ns();
    if (tpv_deadline_passed(fetch->deadline)) return final(fetch, deadline_error(fetch));
    if (moved) fetch->moved = now;
    if (now - fetch->moved < fetch->attempt->patience_ns) return TPV_OK;
    return tpv_error_set(TPV_ERR_PEER, "source %s: no byte came for %g s", tpv_http_address(fetch->http),
                         (double)fetch->attempt->patience_ns / (double)TPV_NS_PER_SECOND);
}

/* Comms that cannot be had for want of descriptors do not come by waiting. */
static tpv_status_t look_for_descriptors(fetch_t *fetch) {
    int64_t now = tpv_clock_ns();
    if (now - fetch->moved < DESCRIPTOR_PATIENCE_NS || now < fetch->next_descriptors) return TPV_OK;
    fetch->next_descriptors = now + TPV_NS_PER_SECOND;
    uint64_t limit, left;
    if (!tpv_receiver_listens(fetch->receiver) || (left = tpv_descriptors_left(&limit)) >= COMM_DESCRIPTORS)
        return TPV_OK;
    return final(fetch, tpv_error_set(TPV_ERR_SYSTEM,
                                      "this process may open %llu more file descriptors, too few for its comms: raise "
                                      "the limit of %llu (ulimit -n, LimitNOFILE=) or take fewer comms than %u",
                                      (unsigned long long)left, (unsigned long long)limit, fetch->stream.comms));
}

/* A request while no data moves. */
static tpv_status_t call(fetch_t *fetch, const char *method, const char *path) {
    tpv_idle_t idle = {0};
    bool done = false;
    fetch->moved = tpv_clock_ns();
    tpv_status_t status = tpv_http_start(fetch->http, method, path, NULL);
    while (status == TPV_OK) {
        status = tpv_http_advance(fetch->http, &done);
        if (status == TPV_OK && done) return TPV_OK;
        if (status == TPV_OK) status = look_around(fetch, false);
        if (status == TPV_OK) tpv_idle_wait(&idle, false, tpv_http_descriptor(fetch->http), fetch->deadline);
    }
    tpv_http_cancel(fetch->http);
    return status;
}

/* The data comes the way that reaches the source, which the control connection shows: it has to stand before anything
 * is asked for. */
static tpv_status_t choose_device(fetch_t *fetch) {
    if (fetch->net->devices > 1 && tpv_http_descriptor(fetch->http) < 0) TPV_TRY(call(fetch, "GET", "/healthz"));
    fetch->stream.device = tpv_net_device_towards(fetch->net, tpv_http_descriptor(fetch->http));
    return TPV_OK;
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
            fetch->reported = tpv_receiver_reported(fetch->receiver);
            if (status == TPV_ERR_PEER || status == TPV_ERR_NET) return explain(fetch, status);
            TPV_TRY(status);
        }
        if (!done) {
            bool taken = false;
            tpv_status_t status = tpv_arrivals_advance(fetch->arrivals, &moved, &taken);
            if (status != TPV_OK) return final(fetch, status);
            done = received && taken;
        }
        TPV_TRY(look_around(fetch, moved));
        TPV_TRY(look_for_descriptors(fetch));
        readable =
            tpv_idle_wait(&idle, moved, fetch->answered ? -1 : tpv_http_descriptor(fetch->http), fetch->deadline);
    }
    TPV_TRY(tpv_arrivals_mismatch(fetch->arrivals));
    tpv_status_t status = tell_progress(fetch, true);
    return status == TPV_OK ? TPV_OK : final(fetch, status);
}

static tpv_status_t read_answer(const fetch_t *fetch) {
    tpv_attempt_t *attempt = fetch->attempt;
    size_t length = 0;
    const char *body = tpv_http_body(fetch->http, &length);
    json_t *root = json_loadb(body, length, JSON_REJECT_DUPLICATES, NULL);
    const char *kind = NULL, *label = NULL, *view_id = NULL;
    tpv_status_t status = TPV_OK;
    if (json_unpack(root, "{s:s, s:s, s:s}", "export", &kind, "artifact", &label, "view_id", &view_id) != 0 ||
        strlen(kind) >= sizeof attempt->export_kind || strlen(label) >= sizeof attempt->artifact_label) {
        status = tpv_error_set(TPV_ERR_PROTOCOL, "source %s: its answer to the fetch is not of this API",
                               tpv_http_address(fetch->http));
    } else if (strcmp(view_id, tpv_view_id(attempt->view)) != 0) {
        status = tpv_error_set(TPV_ERR_PROTOCOL, "source %s: it sent view %.64s, and %s was asked for",
                               tpv_http_address(fetch->http), view_id, tpv_view_id(attempt->view));
    } else {
        memcpy(attempt->export_kind, kind, strlen(kind) + 1);
        memcpy(attempt->artifact_label, label, strlen(label) + 1);
        tpv_text_clean(attempt->export_kind);
        tpv_text_clean(attempt->artifact_label);
    }
    json_decref(root);
    return status;
}

/* Tell the source that it may end the lease now. One that does not answer in time loses the connection, which ends the
 * lease as well. With `whole`, the bytes are all there and verified, so that nothing here is an error; who has to ask
 * again does not wait for the answer. */
static void acknowledge(fetch_t *fetch, bool whole) {
    char path[64] = "/v1/leases/";
    bool done = false;
    memcpy(path + strlen(path), fetch->attempt->fetch_id, sizeof fetch->attempt->fetch_id);
    if (!whole) {
        if (tpv_http_start(fetch->http, "DELETE", path, NULL) == TPV_OK) (void)tpv_http_advance(fetch->http, &done);
        tpv_http_cancel(fetch->http);
        return;
    }
    fetch->attempt->patience_ns = tpv_source_patience_ns();
    if (call(fetch, "DELETE", path) != TPV_OK) TPV_WARN("cannot acknowledge the fetch: %s", tpv_error_message());
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

/* What the status says of the service, unless it is final already. */
static tpv_attempt_end_t judge(const fetch_t *fetch, tpv_status_t status) {
    if (status == TPV_OK) return TPV_ATTEMPT_DONE;
    if (fetch->attempt->end == TPV_ATTEMPT_FINAL || status == TPV_ERR_DEADLINE) return TPV_ATTEMPT_FINAL;
    bool broken = status == TPV_ERR_PEER || status == TPV_ERR_NET || status == TPV_ERR_PROTOCOL ||
                  status == TPV_ERR_DIGEST || status == TPV_ERR_STALE;
    if (broken) return TPV_ATTEMPT_BROKEN;
    /* What this process lacks, it lacks at every service. */
    bool lacks = status == TPV_ERR_NO_MEMORY || status == TPV_ERR_SYSTEM || status == TPV_ERR_INTERNAL;
    return lacks && !fetch->reported && !tpv_http_told(fetch->http) ? TPV_ATTEMPT_FINAL : TPV_ATTEMPT_REFUSED;
}

/* Listening, asking and receiving, with everything open. */
static tpv_status_t exchange(fetch_t *fetch) {
    tpv_attempt_t *attempt = fetch->attempt;
    attempt->end = TPV_ATTEMPT_REFUSED;
    tpv_status_t status = make_request(fetch);
    if (status == TPV_OK) status = tpv_http_start(fetch->http, "POST", "/v1/fetch", fetch->request);
    if (status != TPV_OK) return final(fetch, status);
    fetch->moved = tpv_clock_ns();
    status = run(fetch);

    tpv_stream_counts_t counts = tpv_receiver_counts(fetch->receiver);
    attempt->wire_bytes = counts.wire;
    attempt->chunks = counts.chunks;
    /* A request that is not answered is broken off: the source sees it and ends the lease. */
    tpv_receiver_close(fetch->receiver);
    fetch->receiver = NULL;
    /* It says of which view the bytes are, also of those that came before a comm broke or a digest was wrong. */
    if (fetch->sent && attempt->end != TPV_ATTEMPT_FINAL) {
        tpv_status_t told = read_answer(fetch);
        fetch->strange = told != TPV_OK;
        if (fetch->strange) status = told;
    }
    tpv_attempt_end_t end = fetch->strange ? TPV_ATTEMPT_REFUSED : judge(fetch, status);
    char message[TPV_ERROR_MAX];
    memcpy(message, tpv_error_message(), sizeof message);
    if (fetch->sent)
        acknowledge(fetch, status == TPV_OK);
    else
        tpv_http_cancel(fetch->http);
    attempt->end = end;
    return status == TPV_OK ? TPV_OK : tpv_error_set(status, "%s", message);
}

/* What has arrived when an attempt breaks off need not be asked for again, unless it is of another view: then nobody
 * knows what of the memory has been overwritten. */
static tpv_status_t keep_arrivals(fetch_t *fetch, tpv_status_t status) {
    if (status == TPV_OK || fetch->attempt->end == TPV_ATTEMPT_FINAL) return status;
    char message[TPV_ERROR_MAX];
    memcpy(message, tpv_error_message(), sizeof message);
    tpv_status_t finished = tpv_arrivals_finish(fetch->arrivals);
    if (finished != TPV_OK) return final(fetch, finished);
    if (fetch->strange) {
        tpv_ranges_clear(fetch->attempt->have);
        *fetch->attempt->pace = (tpv_pace_t){0};
    }
    return tpv_error_set(status, "%s", message);
}

tpv_status_t tpv_attempt_run(tpv_attempt_t *attempt, tpv_http_t *http) {
    const tpv_fetch_options_t *options = attempt->options;
    fetch_t fetch = {.attempt = attempt, .http = http, .options = options, .deadline = attempt->deadline};
    unsigned workers = 0;
    attempt->end = TPV_ATTEMPT_FINAL;
    TPV_TRY(check_options(options, attempt->view, &fetch.stream));
    TPV_TRY(count_workers(options, &workers));
    tpv_hex_encode(fetch.stream.id, TPV_ID_BYTES, attempt->fetch_id);
    TPV_TRY(tpv_net_open(options->net, &fetch.net));
    attempt->end = TPV_ATTEMPT_REFUSED;
    tpv_status_t status = choose_device(&fetch);
    if (status != TPV_OK) {
        attempt->end = judge(&fetch, status);
        goto close_net;
    }
    attempt->end = TPV_ATTEMPT_FINAL;
    status = choose_ranges(&fetch);
    if (status == TPV_OK)
        status = tpv_arrivals_open(attempt->sink, &fetch.stream, workers, !options->no_digests, attempt->have,
                                   attempt->pace, &fetch.arrivals);
    if (status != TPV_OK) goto close_net;
    tpv_landing_t landing = tpv_arrivals_landing(fetch.arrivals);
    status = tpv_receiver_open(fetch.net, &fetch.stream, &landing, &fetch.receiver);
    if (status == TPV_OK) status = keep_arrivals(&fetch, exchange(&fetch));
    if (status == TPV_OK) attempt->end = TPV_ATTEMPT_DONE;
    free(fetch.request);
    tpv_receiver_close(fetch.receiver);
    tpv_arrivals_close(fetch.arrivals);
close_net:
    tpv_ranges_clear(&fetch.missing);
    tpv_net_close(fetch.net);
    return status;
}
