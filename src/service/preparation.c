#include "service/preparation.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "channel/route_device.h"
#include "channel/selection.h"

#define COMPILE_FACTOR 3 /* memory of a spec while it is compiled, in lengths of its text */

typedef struct {
    tpv_job_t job;
    tpv_service_t *service;
    tpv_exchange_t *exchange; /* suspended: nobody else touches it, nor its body */
    tpv_served_fetch_t *fetch;
} preparation_t;

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

/* The rank's own view must be the one that its spec says here, and have what it asks for. */
static tpv_status_t check_view(const tpv_request_t *request, const tpv_view_t *view) {
    if (*request->view_id && strcmp(request->view_id, tpv_view_id(view)) != 0)
        return tpv_error_set(TPV_ERR_REFUSED,
                             "the rank's view spec makes view %s here, and view %s at the rank: use the same version "
                             "of tpview at both",
                             tpv_view_id(view), request->view_id);
    uint64_t bytes = tpv_view_stats(view).bytes;
    uint64_t end = request->range_count > 0 ? request->ranges[request->range_count - 1].end : 0;
    if (end <= bytes) return TPV_OK;
    return tpv_error_set(TPV_ERR_FORMAT, "fetch request: the ranges end at byte %llu, the view has %llu bytes",
                         (unsigned long long)end, (unsigned long long)bytes);
}

/* From the parsed request to its lease. */
static tpv_status_t prepare(tpv_service_t *service, tpv_exchange_t *exchange, tpv_served_fetch_t *job) {
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
    if (request->deadline_ms) job->deadline = job->arrived + request->deadline_ms * TPV_NS_PER_MS; /* at most a year */
    job->entry = tpv_catalog_find_id(&service->catalog, request->artifact_id);
    if (!job->entry)
        return tpv_error_set(TPV_ERR_NOT_FOUND, "no artifact with artifact_id %s is served here", request->artifact_id);
    TPV_TRY(tpv_mover_look(service->mover, job));
    TPV_TRY(compile(service, job, &view));
    tpv_exchange_drop_body(exchange);
    request->view = NULL; /* was in the body */
    /* Compiling may have taken seconds, and what comes next may evict others. */
    tpv_status_t status = tpv_mover_look(service->mover, job);
    if (status == TPV_OK) status = check_view(request, view);
    if (status != TPV_OK) {
        tpv_view_free(view);
        return status;
    }
    job->store = service->store;
    TPV_TRY(tpv_store_acquire(service->store, job->entry, view, job->deadline, &job->stored, &job->reused));
    job->stream =
        (tpv_stream_t){.device = tpv_net_device_towards(service->net, tpv_exchange_descriptor(exchange)),
                       .comms = request->comms,
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

/* Its place is taken before any work: equal requests that come at once may not pass together. And before the look at
 * `closing`: who closes waits for those that have a place. */
static tpv_status_t admit(tpv_service_t *service) {
    if (!tpv_mover_admit(service->mover, service->options.max_fetches))
        return tpv_error_set(TPV_ERR_REFUSED, "%u fetches are in flight already, as many as are allowed",
                             service->options.max_fetches);
    if (!atomic_load_explicit(&service->closing, memory_order_relaxed)) return TPV_OK;
    tpv_mover_leave(service->mover);
    return tpv_error_set(TPV_ERR_REFUSED, "the service is shutting down");
}

static void refuse(tpv_served_fetch_t *fetch, tpv_status_t status) {
    fetch->outcome = status;
    memcpy(fetch->message, tpv_error_message(), sizeof fetch->message);
    TPV_INFO("a fetch is refused: %s", fetch->message);
    atomic_store_explicit(&fetch->answered, true, memory_order_release);
    fetch->answer(fetch);
    tpv_served_fetch_release(fetch);
}

static void run(tpv_job_t *job) {
    preparation_t *preparation = (preparation_t *)((char *)job - offsetof(preparation_t, job));
    tpv_service_t *service = preparation->service;
    tpv_served_fetch_t *fetch = preparation->fetch;
    size_t length = 0;
    const char *body = tpv_exchange_body(preparation->exchange, &length);
    /* It may have waited behind others for longer than its client, its deadline or the service last. */
    tpv_status_t status = tpv_mover_look(service->mover, fetch);
    if (status == TPV_OK) status = tpv_request_parse(body, length, &fetch->request);
    if (status == TPV_OK) status = prepare(service, preparation->exchange, fetch);
    free(preparation);
    if (status == TPV_OK) {
        tpv_mover_add(service->mover, fetch);
        return;
    }
    tpv_mover_leave(service->mover); /* first: whoever has the answer may ask again */
    refuse(fetch, status);
}

void tpv_preparation_start(tpv_service_t *service, tpv_exchange_t *exchange, tpv_served_fetch_t *fetch) {
    size_t length = 0;
    tpv_exchange_body(exchange, &length);
    tpv_status_t status = admit(service);
    preparation_t *preparation = status == TPV_OK ? calloc(1, sizeof *preparation) : NULL;
    if (!preparation) {
        if (status == TPV_OK) {
            tpv_mover_leave(service->mover);
            status = tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a fetch");
        }
        refuse(fetch, status);
        return;
    }
    *preparation = (preparation_t){.job = {.run = run}, .service = service, .exchange = exchange, .fetch = fetch};
    tpv_pool_submit(length > TPV_PREPARATION_LONG ? service->long_preparations : service->preparations, NULL,
                    &preparation->job);
}
