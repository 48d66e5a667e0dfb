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

tpv_status_t tpv_source_open(const char *address, const tpv_source_options_t *options, tpv_source_t **source) {
    char path[TPV_SOCKET_PATH_MAX], local[sizeof "unix:" + TPV_SOCKET_PATH_MAX];
    if (!address) {
        TPV_TRY(tpv_default_socket(false, path));
        snprintf(local, sizeof local, "unix:%s", path);
        address = local;
    }
    tpv_source_t *s = calloc(1, sizeof *s);
    if (!s) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for source %s", address);
    tpv_status_t status = tpv_http_open(address, options, &s->http);
    if (status != TPV_OK) {
        free(s);
        return status;
    }
    *source = s;
    return TPV_OK;
}

void tpv_source_close(tpv_source_t *source) {
    if (!source) return;
    tpv_http_close(source->http);
    free(source);
}

static int64_t deadline_of(double deadline_s) {
    return deadline_s > 0 ? tpv_deadline_in(deadline_s) : TPV_DEADLINE_NEVER;
}

/* "/v1/artifacts/" + name + tail, where `name` is made of characters that a path may have as they are. */
static tpv_status_t make_path(const char *name, const char *tail, char path[320]) {
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
    TPV_TRY(tpv_http_call(source->http, "GET", path, NULL, deadline_of(deadline_s)));
    *json = strdup(tpv_http_body(source->http, NULL));
    return *json ? TPV_OK : tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the answer to %s", path);
}

tpv_status_t tpv_source_artifact(tpv_source_t *source, const char *name, double deadline_s, tpv_artifact_t **artifact) {
    char path[320];
    TPV_TRY(make_path(name, "/manifest", path));
    TPV_TRY(tpv_http_call(source->http, "GET", path, NULL, deadline_of(deadline_s)));
    size_t bytes = 0;
    const char *json = tpv_http_body(source->http, &bytes);
    tpv_status_t status = tpv_artifact_from_manifest(json, bytes, artifact);
    return status == TPV_OK ? TPV_OK : tpv_error_prefix(status, "manifest of %s", name);
}

tpv_status_t tpv_source_publish(tpv_source_t *source, const char *definition, double deadline_s) {
    size_t at, equals;
    TPV_TRY(tpv_label_split(definition, &at, &equals));
    json_t *root = json_pack("{s:s}", "artifact", definition);
    char *body = root ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    if (!body) return tpv_error_set(TPV_ERR_ARGUMENT, "\"%s\" is not UTF-8 text", definition);
    tpv_status_t status = tpv_http_call(source->http, "POST", "/v1/artifacts", body, deadline_of(deadline_s));
    free(body);
    return status;
}

tpv_status_t tpv_source_retire(tpv_source_t *source, const char *label, double deadline_s) {
    char path[320];
    TPV_TRY(make_path(label, "", path));
    return tpv_http_call(source->http, "DELETE", path, NULL, deadline_of(deadline_s));
}
