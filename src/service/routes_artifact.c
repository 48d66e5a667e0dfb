#include <string.h>

#include "service/publisher.h"
#include "service/routes.h"

void tpv_route_artifact_list(tpv_service_t *service, tpv_exchange_t *exchange) {
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
    tpv_route_answer(service, exchange, json_pack("{s:o}", "artifacts", list));
}

static void release_entry(void *entry) {
    tpv_entry_release(entry);
}

/* `rest` is "NAME[@VERSION]/manifest". */
void tpv_route_artifact_manifest(tpv_service_t *service, tpv_exchange_t *exchange, const char *rest) {
    char name[TPV_LABEL_MAX + 1];
    const char *slash = strchr(rest, '/');
    size_t length = slash ? (size_t)(slash - rest) : 0;
    if (!slash || strcmp(slash, "/manifest") != 0 || length >= sizeof name) {
        tpv_route_fail(service, exchange,
                       tpv_error_set(TPV_ERR_NOT_FOUND, "no such path: expected /v1/artifacts/NAME/manifest"));
        return;
    }
    memcpy(name, rest, length);
    name[length] = '\0';
    tpv_entry_t *entry = tpv_catalog_find(&service->catalog, name);
    if (entry)
        tpv_exchange_answer_kept(exchange, "application/json", entry->manifest, strlen(entry->manifest), release_entry,
                                 entry);
    else
        tpv_route_fail(service, exchange, tpv_catalog_lacks(&service->catalog, name));
}

/* A label and a path, each byte of which JSON may write as six. Parsed, small values take sixty times their text. */
#define PUBLISH_REQUEST_MAX ((size_t)64 << 10)

/* Whoever may name a folder here decides what every rank gets under a model's name. */
static tpv_status_t check_admin(const tpv_exchange_t *exchange) {
    if (tpv_exchange_is_admin(exchange)) return TPV_OK;
    return tpv_error_set(TPV_ERR_PERMISSION,
                         "publishing and retiring need the Unix socket, or over TCP the token of --admin-token-file");
}

/* A digest of a large checkpoint takes minutes: a thread of its own computes it, and the exchange waits suspended. */
void tpv_route_artifact_publish(tpv_service_t *service, tpv_exchange_t *exchange) {
    size_t length = 0;
    const char *body = tpv_exchange_body(exchange, &length), *definition = NULL;
    json_t *root = NULL;
    tpv_status_t status = check_admin(exchange);
    if (status == TPV_OK && length > PUBLISH_REQUEST_MAX)
        status = tpv_error_set(TPV_ERR_FORMAT, "publish request: %zu bytes: expected at most %zu", length,
                               PUBLISH_REQUEST_MAX);
    if (status == TPV_OK) root = json_loadb(body, length, JSON_REJECT_DUPLICATES, NULL);
    if (status == TPV_OK && json_unpack(root, "{s:s!}", "artifact", &definition) != 0)
        status = tpv_error_set(TPV_ERR_FORMAT, "publish request: expected {\"artifact\":\"NAME@VERSION=DIR\"}");
    if (status == TPV_OK) status = tpv_publisher_start(service, exchange, definition);
    json_decref(root);
    if (status != TPV_OK) tpv_route_fail(service, exchange, status);
}

void tpv_route_artifact_published(tpv_service_t *service, tpv_exchange_t *exchange) {
    tpv_entry_t *entry = NULL;
    tpv_status_t status = tpv_publisher_finish(exchange, &entry);
    if (status == TPV_OK)
        tpv_route_answer(
            service, exchange,
            json_pack("{s:s, s:s}", "artifact", entry->label, "artifact_id", tpv_artifact_id(entry->artifact)));
    else
        tpv_route_fail(service, exchange, status);
    tpv_entry_release(entry);
}

void tpv_route_artifact_retire(tpv_service_t *service, tpv_exchange_t *exchange, const char *label) {
    tpv_status_t status = check_admin(exchange);
    if (status == TPV_OK) status = tpv_service_retire(service, label);
    if (status == TPV_OK)
        tpv_route_answer(service, exchange, json_pack("{s:s}", "retired", label));
    else
        tpv_route_fail(service, exchange, status);
}
