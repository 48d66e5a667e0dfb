#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "channel/selection.h"
#include "service/routes.h"

#define COMPILE_FACTOR 3 /* memory of a spec while it is compiled, in lengths of its text */

static void end_fetch(tpv_service_t *service, tpv_served_fetch_t *job) {
    atomic_store_explicit(&job->ended, true, memory_order_release);
    tpv_mover_wake(service->mover);
    tpv_served_fetch_release(job);
}

/* On the mover's thread. */
static void on_outcome(tpv_served_fetch_t *job) {
    tpv_exchange_resume(job->connection);
}

/* The lease is held from here, before the first byte is read, until the mover ends it. A fetch without a deadline has a
 * lease without one, too; the mover ends it when no byte moves. */
static tpv_status_t begin_lease(tpv_service_t *service, tpv_served_fetch_t *job) {
    const tpv_request_t *request = &job->request;
    int64_t left = tpv_deadline_left(job->deadline);
    if (left == 0)
        return tpv_error_set(TPV_ERR_DEADLINE, "the fetch's deadline passed at the source before its first byte");
    tpv_selection_t selection;
    TPV_TRY(tpv_selection_make(&job->stream, &selection));
    uint64_t bytes = selection.bytes;
    tpv_selection_clear(&selection);
    tpv_lease_request_t lease = {.lease_id = request->fetch_id_text,
                                 .ttl_ns = left,
                                 .bytes_total = bytes,
                                 .remote_host = request->host,
                                 .remote_pid = request->pid,
                                 .tp_rank = request->tp_rank,
                                 .tp_size = request->tp_size};
    tpv_status_t status = tpv_lease_begin(service->table, job->stored->export, &lease, &job->lease);
    /* We use the export, so it can only have been withdrawn by an operator. */
    if (status == TPV_ERR_STALE)
        status = tpv_error_set(TPV_ERR_REFUSED, "artifact %s has just been retired", job->entry->label);
    return status;
}

/* The spec takes a multiple of its text while it is proven and compiled, which the budget must have. */
static tpv_status_t compile(tpv_service_t *service, const tpv_served_fetch_t *job, tpv_view_t **view) {
    const tpv_request_t *request = &job->request;
    uint64_t bytes = COMPILE_FACTOR * (uint64_t)request->view_length;
    bool small = bytes <= COMPILE_FACTOR * TPV_STORE_SMALL;
    if (!small && !tpv_store_reserve_request(service->store, bytes))
        return tpv_error_set(TPV_ERR_NO_MEMORY, "a view spec of %zu bytes takes %llu of memory: the budget has no room",
                             request->view_length, (unsigned long long)bytes);
    tpv_status_t status = tpv_view_from_json(job->entry->artifact, request->view, request->view_length, view);
    if (!small) tpv_store_unreserve(service->store, bytes);
    return status;
}

static tpv_status_t check_ranges(const tpv_request_t *request, uint64_t bytes) {
    uint64_t end = request->range_count > 0 ? request->ranges[request->range_count - 1].end : 0;
    if (end <= bytes) return TPV_OK;
    return tpv_error_set(TPV_ERR_FORMAT, "fetch request: the ranges end at byte %llu, the view has %llu bytes",
                         (unsigned long long)end, (unsigned long long)bytes);
}

/* From the admitted request to its lease. */
static tpv_status_t prepare_admitted(tpv_service_t *service, tpv_exchange_t *exchange, tpv_served_fetch_t *job) {
    tpv_request_t *request = &job->request;
    tpv_view_t *view = NULL;
    if (strcmp(request->net, service->net->abi.name) != 0)
        return tpv_error_set(TPV_ERR_REFUSED,
                             "the rank uses net plugin \"%s\", the source \"%s\": both must use the same", request->net,
                             service->net->abi.name);
    const struct sockaddr *peer = tpv_exchange_peer(exchange);
    if (peer)
        TPV_TRY(tpv_reach_confine(request->net, request->handles, request->comms, peer, service->options.allow_net,
                                  &job->elsewhere));
    job->deadline = request->deadline_ms ? tpv_deadline_in((double)request->deadline_ms / 1000.0) : TPV_DEADLINE_NEVER;
    job->entry = tpv_catalog_find_id(&service->catalog, request->artifact_id);
    if (!job->entry)
        return tpv_error_set(TPV_ERR_NOT_FOUND, "no artifact with artifact_id %s is served here", request->artifact_id);
    TPV_TRY(compile(service, job, &view));
    tpv_exchange_drop_body(exchange);
    request->view = NULL; /* was in the body */
    tpv_status_t status = check_ranges(request, tpv_view_stats(view).bytes);
    if (status != TPV_OK) {
        tpv_view_free(view);
        return status;
    }
    job->store = service->store;
    TPV_TRY(tpv_store_acquire(service->store, job->entry, view, job->deadline, &job->stored, &job->reused));
    job->stream =
        (tpv_stream_t){.comms = request->comms,
                       .chunk_bytes = tpv_feeder_chunk_bytes(job->stored, request->max_chunk_bytes, request->comms),
                       .bytes = job->stored->table.bytes,
                       .ranges = request->ranges,
                       .range_count = request->range_count};
    memcpy(job->stream.id, request->fetch_id, TPV_ID_BYTES);
    memcpy(job->view_id, tpv_view_id(job->stored->view), sizeof job->view_id);
    status = begin_lease(service, job);
    if (status != TPV_OK) tpv_store_release(service->store, job->stored);
    return status;
}

static tpv_status_t prepare_fetch(tpv_service_t *service, tpv_exchange_t *exchange, tpv_served_fetch_t *job) {
    size_t length = 0;
    const char *body = tpv_exchange_body(exchange, &length);
    TPV_TRY(tpv_request_parse(body, length, &job->request));
    if (atomic_load_explicit(&service->closing, memory_order_relaxed))
        return tpv_error_set(TPV_ERR_REFUSED, "the service is shutting down");
    /* Its place is taken before any work: equal requests that come at once may not pass together. */
    if (!tpv_mover_admit(service->mover, service->options.max_fetches))
        return tpv_error_set(TPV_ERR_REFUSED, "%u fetches are in flight already, as many as are allowed",
                             service->options.max_fetches);
    tpv_status_t status = prepare_admitted(service, exchange, job);
    if (status != TPV_OK) tpv_mover_leave(service->mover);
    return status;
}

void tpv_route_fetch_begin(tpv_service_t *service, tpv_exchange_t *exchange) {
    tpv_served_fetch_t *job = calloc(1, sizeof *job);
    if (!job) {
        tpv_route_fail(service, exchange, tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a fetch"));
        return;
    }
    atomic_init(&job->references, 2); /* the connection's and the mover's */
    tpv_status_t status = prepare_fetch(service, exchange, job);
    if (status != TPV_OK) {
        tpv_route_fail(service, exchange, status);
        tpv_served_fetch_release(job);
        tpv_served_fetch_release(job);
        return;
    }
    job->descriptor = tpv_exchange_descriptor(exchange);
    job->connection = exchange;
    job->answer = on_outcome;
    tpv_served_fetch_t *before = tpv_exchange_attach(exchange, job);
    if (before) end_fetch(service, before); /* one fetch for each connection */
    tpv_exchange_set_user(exchange, job);
    tpv_exchange_suspend(exchange);
    tpv_mover_add(service->mover, job);
}

void tpv_route_fetch_ended(tpv_service_t *service, tpv_exchange_t *exchange) {
    tpv_served_fetch_t *job = tpv_exchange_user(exchange);
    /* The resume came after the outcome was stored. */
    atomic_load_explicit(&job->answered, memory_order_acquire);
    if (job->outcome != TPV_OK) {
        tpv_metrics_refused(&service->metrics);
        tpv_exchange_fail(exchange, job->outcome, job->message);
        return;
    }
    tpv_route_answer(service, exchange,
                     json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I}", "fetch_id", job->request.fetch_id_text,
                               "artifact", job->entry->label, "view_id", job->view_id, "export",
                               job->reused && !job->fed.waited ? "warm" : "cold", "bytes", (json_int_t)job->sent.bytes,
                               "wire_bytes", (json_int_t)job->sent.wire, "chunks", (json_int_t)job->sent.chunks));
}

/* The end of a lease that is not this connection's, or is over, changes nothing: its own connection's end ends it. */
void tpv_route_lease_end(tpv_service_t *service, tpv_exchange_t *exchange, const char *id) {
    tpv_served_fetch_t *job = tpv_exchange_attach(exchange, NULL);
    bool ended = job && strcmp(job->request.fetch_id_text, id) == 0;
    if (ended)
        end_fetch(service, job);
    else if (job)
        tpv_exchange_attach(exchange, job);
    tpv_route_answer(service, exchange, json_pack("{s:b}", "ended", ended));
}

bool tpv_route_fetch_goes_on(const tpv_served_fetch_t *job) {
    return atomic_load_explicit(&job->references, memory_order_relaxed) > 1; /* one is the connection's */
}

void tpv_route_fetch_lost(tpv_service_t *service, tpv_served_fetch_t *job) {
    end_fetch(service, job);
}
