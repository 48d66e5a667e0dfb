#include "client/source.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"

tpv_status_t tpv_source_open(const char *address, const char *token, tpv_source_t **source) {
    tpv_source_t *s = calloc(1, sizeof *s);
    if (!s) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for source %s", address);
    tpv_status_t status = tpv_http_open(address, token, &s->http);
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

tpv_status_t tpv_source_get(tpv_source_t *source, const char *path, double deadline_s, char **json) {
    int64_t deadline = deadline_s > 0 ? tpv_deadline_in(deadline_s) : TPV_DEADLINE_NEVER;
    TPV_TRY(tpv_http_call(source->http, "GET", path, NULL, deadline));
    *json = strdup(tpv_http_body(source->http, NULL));
    return *json ? TPV_OK : tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the answer to %s", path);
}

tpv_status_t tpv_source_artifact(tpv_source_t *source, const char *name, double deadline_s, tpv_artifact_t **artifact) {
    char path[320] = "/v1/artifacts/";
    size_t length = strlen(path), name_length = strlen(name);
    for (const char *c = name; *c; c++)
        if (!isalnum((unsigned char)*c) && !strchr("._-@", *c)) name_length = 0;
    if (name_length == 0 || name_length > 200)
        return tpv_error_set(TPV_ERR_ARGUMENT,
                             "\"%.200s\" is not NAME or NAME@VERSION: expected 1 to 200 letters, digits, '.', '_', '-'",
                             name);
    memcpy(path + length, name, name_length);
    memcpy(path + length + name_length, "/manifest", sizeof "/manifest");
    int64_t deadline = deadline_s > 0 ? tpv_deadline_in(deadline_s) : TPV_DEADLINE_NEVER;
    TPV_TRY(tpv_http_call(source->http, "GET", path, NULL, deadline));
    size_t bytes = 0;
    const char *json = tpv_http_body(source->http, &bytes);
    tpv_status_t status = tpv_artifact_from_manifest(json, bytes, artifact);
    return status == TPV_OK ? TPV_OK : tpv_error_prefix(status, "manifest of %s", name);
}
