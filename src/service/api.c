#include "service/api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "service/routes.h"

#define FETCH_PATH "/v1/fetch"

void tpv_route_fail(tpv_service_t *service, tpv_exchange_t *exchange, tpv_status_t status) {
    tpv_metrics_refused(&service->metrics);
    TPV_INFO("%s %s: %s", tpv_exchange_method(exchange), tpv_exchange_path(exchange), tpv_error_message());
    tpv_exchange_fail(exchange, status, tpv_error_message());
}

void tpv_route_answer(tpv_service_t *service, tpv_exchange_t *exchange, json_t *root) {
    char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    if (text)
        tpv_exchange_answer(exchange, "application/json", text);
    else
        tpv_route_fail(service, exchange, tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the answer"));
}

static void list_leases(tpv_service_t *service, tpv_exchange_t *exchange) {
    tpv_lease_info_t *leases = NULL;
    size_t count = 0;
    tpv_status_t status = tpv_leases_read(NULL, &leases, &count);
    if (status != TPV_OK) {
        tpv_route_fail(service, exchange, status);
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
    tpv_route_answer(service, exchange, json_pack("{s:o}", "leases", list));
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
    tpv_route_fail(service, exchange, tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the metrics"));
}

static const char *after(const char *text, const char *prefix) {
    size_t length = strlen(prefix);
    return strncmp(text, prefix, length) == 0 ? text + length : NULL;
}

static void handle(void *user, tpv_exchange_t *exchange) {
    tpv_service_t *service = user;
    const char *method = tpv_exchange_method(exchange), *path = tpv_exchange_path(exchange), *rest;
    bool get = strcmp(method, "GET") == 0, post = strcmp(method, "POST") == 0, del = strcmp(method, "DELETE") == 0;
    if (get && strcmp(path, "/healthz") == 0)
        tpv_route_answer(service, exchange, json_pack("{s:s}", "status", "ok"));
    else if (get && strcmp(path, "/metrics") == 0)
        print_metrics(service, exchange);
    else if (get && strcmp(path, "/v1/artifacts") == 0)
        tpv_route_artifact_list(service, exchange);
    else if (get && strcmp(path, "/v1/leases") == 0)
        list_leases(service, exchange);
    else if (get && (rest = after(path, "/v1/artifacts/")))
        tpv_route_artifact_manifest(service, exchange, rest);
    else if (post && strcmp(path, FETCH_PATH) == 0)
        tpv_route_fetch_begin(service, exchange);
    else if (post && strcmp(path, "/v1/artifacts") == 0)
        tpv_route_artifact_publish(service, exchange);
    else if (del && (rest = after(path, "/v1/artifacts/")))
        tpv_route_artifact_retire(service, exchange, rest);
    else if (del && (rest = after(path, "/v1/leases/")))
        tpv_route_lease_end(service, exchange, rest);
    else
        tpv_route_fail(service, exchange, tpv_error_set(TPV_ERR_NOT_FOUND, "no such path here: %s %s", method, path));
}

/* Only fetches and publications are ever suspended. */
static void resumed(void *user, tpv_exchange_t *exchange) {
    if (strcmp(tpv_exchange_path(exchange), FETCH_PATH) == 0)
        tpv_route_fetch_ended(user, exchange);
    else
        tpv_route_artifact_published(user, exchange);
}

static void closed(void *user, void *attached) {
    tpv_route_fetch_lost(user, attached);
}

static bool needed(const void *attached) {
    return tpv_route_fetch_goes_on(attached);
}

static bool reserve_body(void *user, size_t bytes) {
    return tpv_store_reserve_request(((tpv_service_t *)user)->store, bytes);
}

static void unreserve_body(void *user, size_t bytes) {
    tpv_store_unreserve(((tpv_service_t *)user)->store, bytes);
}

tpv_http_handler_t tpv_api_handler(tpv_service_t *service) {
    return (tpv_http_handler_t){.user = service,
                                .handle = handle,
                                .resumed = resumed,
                                .closed = closed,
                                .needed = needed,
                                .bodies = {service, reserve_body, unreserve_body}};
}
