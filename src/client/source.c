#include "client/source.h"

#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/default_socket.h"
#include "base/error.h"
#include "base/label.h"
#include "base/params.h"

int64_t tpv_source_patience_ns(void) {
    return tpv_param_int(TPV_PARAM_SOURCE_TIMEOUT) * TPV_NS_PER_SECOND;
}

tpv_status_t tpv_source_add(tpv_source_t *source, const char *address, const tpv_source_options_t *options) {
    if (!address)
        return tpv_error_set(TPV_ERR_ARGUMENT, "no address of the further source: expected unix:PATH, HOST:PORT or "
                                               "https://HOST:PORT");
    if (source->count == TPV_MAX_SOURCES)
        return tpv_error_set(TPV_ERR_ARGUMENT, "source %s is one too many: expected at most %d", address,
                             TPV_MAX_SOURCES);
    TPV_TRY(tpv_http_open(address, options, &source->services[source->count]));
    source->count++;
    return TPV_OK;
}

tpv_status_t tpv_source_open(const char *address, const tpv_source_options_t *options, tpv_source_t **source) {
    char path[TPV_SOCKET_PATH_MAX], local[sizeof "unix:" + TPV_SOCKET_PATH_MAX];
    if (!address) {
        TPV_TRY(tpv_default_socket(false, path));
        snprintf(local, sizeof local, "unix:%s", path);
        address = local;
    }
    tpv_source_t *s = calloc(1, sizeof *s);
    if (!s) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for source %s", address);
    tpv_status_t status = tpv_source_add(s, address, options);
    if (status != TPV_OK) {
        free(s);
        return status;
    }
    *source = s;
    return TPV_OK;
}

void tpv_source_close(tpv_source_t *source) {
    if (!source) return;
    for (unsigned i = 0; i < source->count; i++)
        tpv_http_close(source->services[i]);
    free(source);
}

static int64_t deadline_of(double deadline_s) {
    return deadline_s > 0 ? tpv_deadline_in(deadline_s) : TPV_DEADLINE_NEVER;
}

/* GET from one service after the other, until one answers well; its answer is *http's body. */
static tpv_status_t get(tpv_source_t *source, const char *path, int64_t deadline, tpv_http_t **http) {
    char failures[TPV_ERROR_MAX] = "";
    tpv_status_t status = TPV_OK;
    for (unsigned i = 0; i < source->count; i++) {
        unsigned at = source->present;
        bool last = i + 1 == source->count;
        int64_t until = last || deadline - tpv_clock_ns() < tpv_source_patience_ns()
                            ? deadline
                            : tpv_clock_ns() + tpv_source_patience_ns();
        *http = source->services[at];
        status = tpv_http_call(*http, "GET", path, NULL, until);
        if (status == TPV_OK || tpv_deadline_passed(deadline)) return status;
        size_t length = strlen(failures);
        snprintf(failures + length, sizeof failures - length, "%s%s", length ? "; then " : "", tpv_error_message());
        source->present = (at + 1) % source->count;
    }
    return tpv_error_set(status, "%s", failures);
}

/* What changes a service is sent to that one, and not to whichever is there. */
static tpv_status_t change(tpv_source_t *source, const char *method, const char *path, const char *body,
                           double deadline_s) {
    if (source->count > 1)
        return tpv_error_set(TPV_ERR_ARGUMENT, "publishing and retiring is for one source at a time: %u are given",
                             source->count);
    return tpv_http_call(source->services[0], method, path, body, deadline_of(deadline_s));
}

/* "/v1/artifacts/" + name + tail, where `name` is made of characters that a path may have as they are. */
static tpv_status_t make_path(const char *name, const char *tail, char path[320]) {
    if (!name) return tpv_error_set(TPV_ERR_ARGUMENT, "no name of an artifact: expected NAME or NAME@VERSION");
    size_t length = strlen(name);
    for (const char *c = name; *c; c++)
        if (!isalnum((unsigned char)*c) && !strchr("._-@", *c)) length = 0;
    if (length == 0 || length > 200)
        return tpv_error_set(TPV_ERR_ARGUMENT,
                             "\"%.200s\" is not NAME or NAME@VERSION: expected 1 to 200 letters, digits, '.', '_', '-'",
                             name);
    snprintf(path, 320, "/v1/artifacts/%s%s", name, tail);
    return TPV_OK;
}

tpv_status_t tpv_source_get(tpv_source_t *source, const char *path, double deadline_s, char **json) {
    tpv_http_t *http;
    if (!path) return tpv_error_set(TPV_ERR_ARGUMENT, "no path to get: expected one such as /v1/artifacts");
    TPV_TRY(get(source, path, deadline_of(deadline_s), &http));
    *json = strdup(tpv_http_body(http, NULL));
    return *json ? TPV_OK : tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the answer to %s", path);
}

tpv_status_t tpv_source_artifact(tpv_source_t *source, const char *name, double deadline_s, tpv_artifact_t **artifact) {
    char path[320];
    TPV_TRY(make_path(name, "/manifest", path));
    tpv_http_t *http;
    TPV_TRY(get(source, path, deadline_of(deadline_s), &http));
    size_t bytes = 0;
    const char *json = tpv_http_body(http, &bytes);
    tpv_status_t status = tpv_artifact_from_manifest(json, bytes, artifact);
    return status == TPV_OK ? TPV_OK : tpv_error_prefix(status, "manifest of %s", name);
}

tpv_status_t tpv_source_publish(tpv_source_t *source, const char *definition, double deadline_s) {
    size_t at, equals;
    if (!definition) return tpv_error_set(TPV_ERR_ARGUMENT, "no definition of an artifact: expected NAME@VERSION=DIR");
    TPV_TRY(tpv_label_split(definition, &at, &equals));
    json_t *root = json_pack("{s:s}", "artifact", definition);
    char *body = root ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    if (!body) return tpv_error_set(TPV_ERR_ARGUMENT, "\"%s\" is not UTF-8 text", definition);
    tpv_status_t status = change(source, "POST", "/v1/artifacts", body, deadline_s);
    free(body);
    return status;
}

tpv_status_t tpv_source_retire(tpv_source_t *source, const char *label, double deadline_s) {
    char path[320];
    TPV_TRY(make_path(label, "", path));
    return change(source, "DELETE", path, NULL, deadline_s);
}
