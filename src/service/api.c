#include "service/api.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"

static void fail(tpv_service_t *service, tpv_exchange_t *exchange, tpv_status_t status) {
    tpv_metrics_refused(&service->metrics);
    TPV_INFO("%s %s: %s", tpv_exchange_method(exchange), tpv_exchange_path(exchange), tpv_error_message());
    tpv_exchange_fail(exchange, status, tpv_error_message());
}

static void answer_json(tpv_service_t *service, tpv_exchange_t *exchange, json_t *root) {
    char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    if (text)
        tpv_exchange_answer(exchange, "application/json", text);
    else
        fail(service, exchange, tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the answer"));
}

/* ---- artifacts ---- */

static void list_artifacts(tpv_service_t *service, tpv_exchange_t *exchange) {
    json_t *list = json_array();
    tpv_entry_t *entry;
    for (size_t i = 0; (entry = tpv_catalog_at(&service->catalog, i)); i++) {
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s, s:I, s:I}", "name", entry->name, "version",
                                              entry->version, "artifact_id", tpv_artifact_id(entry->artifact),
                                              "index_digest", tpv_artifact_index_digest(entry->artifact), "tensors",
                                              (json_int_t)tpv_artifact_tensor_count(entry->artifact), "bytes",
                                              (json_int_t)tpv_artifact_bytes(entry->artifact)));
        tpv_entry_release(entry);
    }
    answer_json(service, exchange, json_pack("{s:o}", "artifacts", list));
}

/* `rest` is "NAME[@VERSION]/manifest". */
static void send_manifest(tpv_service_t *service, tpv_exchange_t *exchange, const char *rest) {
    char name[TPV_LABEL_MAX + 1];
    const char *slash = strchr(rest, '/');
    size_t length = slash ? (size_t)(slash - rest) : 0;
    if (!slash || strcmp(slash, "/manifest") != 0 || length >= sizeof name) {
        fail(service, exchange, tpv_error_set(TPV_ERR_NOT_FOUND, "no such path: expected /v1/artifacts/NAME/manifest"));
        return;
    }
    memcpy(name, rest, length);
    name[length] = '\0';
    tpv_entry_t *entry = tpv_catalog_find(&service->catalog, name);
    char *json = NULL;
    tpv_status_t status = entry ? tpv_artifact_manifest(entry->artifact, &json)
                                : tpv_error_set(TPV_ERR_NOT_FOUND, "no artifact \"%s\" is served here", name);
    tpv_entry_release(entry);
    if (status == TPV_OK)
        tpv_exchange_answer(exchange, "application/json", json);
    else
        fail(service, exchange, status);
}

/* Whoever may name a folder here reads what this process may read: the Unix socket's owner, or a holder of the token.
 */
static tpv_status_t check_trusted(const tpv_exchange_t *exchange) {
    if (tpv_exchange_trusted(exchange)) return TPV_OK;
    return tpv_error_set(TPV_ERR_PERMISSION,
                         "publishing and retiring need the Unix socket, or TCP with a service that has a token");
}

static tpv_status_t open_published(const tpv_service_t *service, tpv_exchange_t *exchange, tpv_entry_t **entry) {
    size_t length = 0;
    const char *body = tpv_exchange_body(exchange, &length), *definition = NULL;
    TPV_TRY(check_trusted(exchange));
    json_t *root = json_loadb(body, length, JSON_REJECT_DUPLICATES, NULL);
    tpv_status_t status;
    if (json_unpack(root, "{s:s!}", "artifact", &definition) != 0)
        status = tpv_error_set(TPV_ERR_FORMAT, "publish request: expected {\"artifact\":\"NAME@VERSION=DIR\"}");
    else
        status = tpv_entry_open(definition, service->options.threads, NULL, NULL, entry);
    json_decref(root);
    return status;
}

static void publish_artifact(tpv_service_t *service, tpv_exchange_t *exchange) {
    tpv_entry_t *entry = NULL;
    tpv_status_t status = open_published(service, exchange, &entry);
    if (status == TPV_OK) status = tpv_service_publish(service, entry);
    if (status == TPV_OK)
        answer_json(service, exchange,
                    json_pack("{s:s, s:s}", "artifact", entry->label, "artifact_id", tpv_artifact_id(entry->artifact)));
    else
        fail(service, exchange, status);
    tpv_entry_release(entry);
}

static void retire_artifact(tpv_service_t *service, tpv_exchange_t *exchange, const char *label) {
    tpv_status_t status = check_trusted(exchange);
    if (status == TPV_OK) status = tpv_service_retire(service, label);
    if (status == TPV_OK)
        answer_json(service, exchange, json_pack("{s:s}", "retired", label));
    else
        fail(service, exchange, status);
}

/* ---- fetches ---- */

static void end_fetch(tpv_service_t *service, tpv_fetch_job_t *job) {
    atomic_store_explicit(&job->ended, true, memory_order_release);
    tpv_mover_wake(service->mover);
    tpv_fetch_job_release(job);
}

/* On the mover's thread. */
static void on_outcome(tpv_fetch_job_t *job) {
    tpv_exchange_resume(job->connection);
}

/* The lease is held from here, before the first byte is read, until the mover ends it. A fetch without a deadline has a
 * lease without one, too; the mover ends it when no byte moves. */
static tpv_status_t begin_lease(tpv_service_t *service, tpv_fetch_job_t *job) {
    const tpv_request_t *request = &job->request;
    tpv_lease_request_t lease = {.lease_id = request->fetch_id_text,
                                 .ttl_ns = tpv_deadline_left(job->deadline),
                                 .bytes_total = job->stream.bytes,
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

static tpv_status_t prepare_fetch(tpv_service_t *service, tpv_exchange_t *exchange, tpv_fetch_job_t *job) {
    size_t length = 0;
    const char *body = tpv_exchange_body(exchange, &length);
    tpv_view_t *view = NULL;
    TPV_TRY(tpv_request_parse(body, length, &job->request));
    tpv_request_t *request = &job->request;
    if (atomic_load_explicit(&service->closing, memory_order_relaxed))
        return tpv_error_set(TPV_ERR_REFUSED, "the service is shutting down");
    if (tpv_mover_active(service->mover) >= service->options.max_fetches)
        return tpv_error_set(TPV_ERR_REFUSED, "%u fetches are in flight already, as many as are allowed",
                             service->options.max_fetches);
    if (strcmp(request->net, service->net->abi.name) != 0)
        return tpv_error_set(TPV_ERR_ARGUMENT,
                             "the rank uses net plugin \"%s\", the source \"%s\": both must use the same", request->net,
                             service->net->abi.name);
    job->deadline = request->deadline_ms ? tpv_deadline_in((double)request->deadline_ms / 1000.0) : TPV_DEADLINE_NEVER;
    job->entry = tpv_catalog_find_id(&service->catalog, request->artifact_id);
    if (!job->entry)
        return tpv_error_set(TPV_ERR_NOT_FOUND, "no artifact with artifact_id %s is served here", request->artifact_id);
    TPV_TRY(tpv_view_from_json(job->entry->artifact, request->view, request->view_length, &view));
    job->stream = (tpv_stream_t){
        .comms = request->comms, .chunk_bytes = request->chunk_bytes, .bytes = tpv_view_stats(view).bytes};
    memcpy(job->stream.id, request->fetch_id, TPV_ID_BYTES);
    job->store = service->store;
    TPV_TRY(tpv_store_acquire(service->store, job->entry, view, request->chunk_bytes, job->deadline, &job->stored,
                              &job->reused));
    memcpy(job->view_id, tpv_view_id(job->stored->view), sizeof job->view_id);
    tpv_status_t status = begin_lease(service, job);
    if (status != TPV_OK) tpv_store_release(service->store, job->stored);
    return status;
}

static void begin_fetch(tpv_service_t *service, tpv_exchange_t *exchange) {
    tpv_fetch_job_t *job = calloc(1, sizeof *job);
    if (!job) {
        fail(service, exchange, tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a fetch"));
        return;
    }
    atomic_init(&job->references, 2); /* the connection's and the mover's */
    tpv_status_t status = prepare_fetch(service, exchange, job);
    if (status != TPV_OK) {
        fail(service, exchange, status);
        tpv_fetch_job_release(job);
        tpv_fetch_job_release(job);
        return;
    }
    job->descriptor = tpv_exchange_descriptor(exchange);
    job->connection = exchange;
    job->answer = on_outcome;
    tpv_fetch_job_t *before = tpv_exchange_attach(exchange, job);
    if (before) end_fetch(service, before); /* one fetch for each connection */
    tpv_exchange_set_user(exchange, job);
    tpv_exchange_suspend(exchange);
    tpv_mover_add(service->mover, job);
}

static void answer_fetch(void *user, tpv_exchange_t *exchange) {
    tpv_service_t *service = user;
    tpv_fetch_job_t *job = tpv_exchange_user(exchange);
    /* The resume came after the outcome was stored. */
    atomic_load_explicit(&job->answered, memory_order_acquire);
    if (job->outcome != TPV_OK) {
        tpv_metrics_refused(&service->metrics);
        tpv_exchange_fail(exchange, job->outcome, job->message);
        return;
    }
    answer_json(service, exchange,
                json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I}", "fetch_id", job->request.fetch_id_text, "artifact",
                          job->entry->label, "view_id", job->view_id, "export",
                          job->reused && !job->fed.waited ? "warm" : "cold", "bytes", (json_int_t)job->sent.bytes,
                          "wire_bytes", (json_int_t)job->sent.wire, "chunks", (json_int_t)job->sent.chunks));
}

/* The end of a lease that is not this connection's, or is over, changes nothing: its own connection's end ends it. */
static void end_lease(tpv_service_t *service, tpv_exchange_t *exchange, const char *id) {
    tpv_fetch_job_t *job = tpv_exchange_attach(exchange, NULL);
    bool ended = job && strcmp(job->request.fetch_id_text, id) == 0;
    if (ended)
        end_fetch(service, job);
    else if (job)
        tpv_exchange_attach(exchange, job);
    answer_json(service, exchange, json_pack("{s:b}", "ended", ended));
}

static void connection_closed(void *user, void *attached) {
    end_fetch(user, attached);
}

/* ---- the rest ---- */

static void list_leases(tpv_service_t *service, tpv_exchange_t *exchange) {
    tpv_lease_info_t *leases = NULL;
    size_t count = 0;
    tpv_status_t status = tpv_leases_read(NULL, &leases, &count);
    if (status != TPV_OK) {
        fail(service, exchange, status);
        return;
    }
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++) {
        const tpv_lease_info_t *lease = &leases[i];
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:f, s:I, s:I}", "lease_id",
                                        lease->lease_id, "artifact", lease->artifact, "view_id", lease->view_id,
                                        "state", tpv_lease_state_name(lease->lease_state), "host", lease->host, "pid",
                                        (int)lease->rank_pid, "tp_rank", (int)lease->tp_rank, "tp_size",
                                        (int)lease->tp_size, "age_s", lease->age_s, "bytes_done",
                                        (json_int_t)lease->bytes_done, "bytes_total", (json_int_t)lease->bytes_total));
    }
    free(leases);
    answer_json(service, exchange, json_pack("{s:o}", "leases", list));
}

static void print_metrics(tpv_service_t *service, tpv_exchange_t *exchange) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *stream = open_memstream(&text, &bytes);
    if (stream) {
        tpv_metrics_print(&service->metrics, tpv_mover_active(service->mover), tpv_catalog_count(&service->catalog),
                          service->budget, stream);
        if (fclose(stream) == 0) {
            tpv_exchange_answer(exchange, "text/plain; version=0.0.4", text);
            return;
        }
    }
    free(text);
    fail(service, exchange, tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the metrics"));
}

static const char *after(const char *text, const char *prefix) {
    size_t length = strlen(prefix);
    return strncmp(text, prefix, length) == 0 ? text + length : NULL;
}

static void handle(void *user, tpv_exchange_t *exchange) {
    tpv_service_t *service = user;
    const char *method = tpv_exchange_method(exchange), *path = tpv_exchange_path(exchange), *rest;
    bool get = strcmp(method, "GET") == 0;
    if (get && strcmp(path, "/healthz") == 0)
        answer_json(service, exchange, json_pack("{s:s}", "status", "ok"));
    else if (get && strcmp(path, "/metrics") == 0)
        print_metrics(service, exchange);
    else if (get && strcmp(path, "/v1/artifacts") == 0)
        list_artifacts(service, exchange);
    else if (get && strcmp(path, "/v1/leases") == 0)
        list_leases(service, exchange);
    else if (get && (rest = after(path, "/v1/artifacts/")))
        send_manifest(service, exchange, rest);
    else if (strcmp(method, "POST") == 0 && strcmp(path, "/v1/fetch") == 0)
        begin_fetch(service, exchange);
    else if (strcmp(method, "POST") == 0 && strcmp(path, "/v1/artifacts") == 0)
        publish_artifact(service, exchange);
    else if (strcmp(method, "DELETE") == 0 && (rest = after(path, "/v1/artifacts/")))
        retire_artifact(service, exchange, rest);
    else if (strcmp(method, "DELETE") == 0 && (rest = after(path, "/v1/leases/")))
        end_lease(service, exchange, rest);
    else
        fail(service, exchange, tpv_error_set(TPV_ERR_NOT_FOUND, "no such path here: %s %s", method, path));
}

tpv_http_handler_t tpv_api_handler(tpv_service_t *service) {
    return (tpv_http_handler_t){
        .user = service, .handle = handle, .resumed = answer_fetch, .closed = connection_closed};
}
