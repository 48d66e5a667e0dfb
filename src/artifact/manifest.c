/*
 * The index of an artifact as JSON text, as a service sends it:
 *
 *     {"format": "tpview-manifest-1", "artifact_id": "32 hex digits", "index_digest": "32 hex digits",
 *      "config": {facts of config.json}, "tensors": {"name": ["BF16", [151936, 5120]], …}}
 *
 * "config" is absent when the checkpoint has no config.json.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "artifact/artifact.h"
#include "artifact/config.h"
#include "artifact/json.h"
#include "base/error.h"
#include "base/identity.h"

#define MANIFEST_FORMAT "tpview-manifest-1"
#define CONFIG_BYTES (4u << 20)
#define SMALL_VALUE_BYTES 4096 /* far more than any value but "config" and "tensors" needs */

enum { FORMAT, ARTIFACT_ID, INDEX_DIGEST, CONFIG, TENSORS, MEMBERS };
static const char *const member_names[MEMBERS] = {"format", "artifact_id", "index_digest", "config", "tensors"};

static tpv_status_t note_member(void *user, const char *name, tpv_json_text_t value) {
    tpv_json_text_t *members = user;
    for (int i = 0; i < MEMBERS; i++) {
        if (strcmp(name, member_names[i]) != 0) continue;
        if (members[i].start) return tpv_error_set(TPV_ERR_FORMAT, "\"%s\" appears twice", name);
        members[i] = value;
        return TPV_OK;
    }
    return tpv_error_set(TPV_ERR_FORMAT, "unknown field \"%.100s\"", name);
}

static tpv_status_t read_text(const tpv_json_text_t *members, int member, char *text, size_t size) {
    json_t *json = NULL;
    tpv_status_t status = tpv_json_parse(members[member], SMALL_VALUE_BYTES, &json);
    if (status != TPV_OK) return tpv_error_prefix(status, "%s", member_names[member]);
    if (json_is_string(json) && json_string_length(json) < size) {
        memcpy(text, json_string_value(json), json_string_length(json) + 1);
    } else {
        status =
            tpv_error_set(TPV_ERR_FORMAT, "%s is not a string of at most %zu bytes", member_names[member], size - 1);
    }
    json_decref(json);
    return status;
}

static tpv_status_t read_identity(const tpv_json_text_t *members, int member, char digits[TPV_ID_CHARS]) {
    TPV_TRY(read_text(members, member, digits, TPV_ID_CHARS));
    if (tpv_identity_valid(digits)) return TPV_OK;
    return tpv_error_set(TPV_ERR_FORMAT, "%s is not 32 lower-case hex digits", member_names[member]);
}

static tpv_status_t read_config(tpv_json_text_t text, tpv_artifact_t *artifact) {
    json_t *json = NULL;
    TPV_TRY(tpv_json_parse(text, CONFIG_BYTES, &json));
    tpv_status_t status = tpv_artifact_set_config(artifact, json);
    json_decref(json);
    return status;
}

static tpv_status_t read_tensor(tpv_artifact_t *artifact, const char *name, const json_t *json) {
    if (strcmp(name, "__metadata__") == 0)
        return tpv_error_set(TPV_ERR_FORMAT, "the safetensors format reserves this name");
    if (!json_is_array(json) || json_array_size(json) != 2)
        return tpv_error_set(TPV_ERR_FORMAT, "not an array of a dtype and a shape");
    tpv_tensor_t tensor = {.name = name};
    TPV_TRY(tpv_json_dtype(json_array_get(json, 0), &tensor));
    TPV_TRY(tpv_json_shape(json_array_get(json, 1), &tensor));
    return tpv_artifact_add(artifact, &tensor);
}

static tpv_status_t visit_tensor(void *user, const char *name, tpv_json_text_t value) {
    json_t *json = NULL;
    tpv_status_t status = tpv_json_parse(value, SMALL_VALUE_BYTES, &json);
    if (status == TPV_OK) status = read_tensor(user, name, json);
    json_decref(json);
    return status == TPV_OK ? TPV_OK : tpv_error_prefix(status, "tensor \"%.200s\"", name);
}

static tpv_status_t read_manifest(tpv_json_text_t text, tpv_artifact_t *artifact) {
    tpv_json_text_t members[MEMBERS] = {0};
    TPV_TRY(tpv_json_members(text, note_member, members));
    for (int i = 0; i < MEMBERS; i++)
        if (i != CONFIG && !members[i].start)
            return tpv_error_set(TPV_ERR_FORMAT, "\"%s\" is missing", member_names[i]);
    char format[64], artifact_id[TPV_ID_CHARS], index_digest[TPV_ID_CHARS];
    TPV_TRY(read_text(members, FORMAT, format, sizeof format));
    if (strcmp(format, MANIFEST_FORMAT) != 0)
        return tpv_error_set(TPV_ERR_FORMAT, "format is \"%s\": expected \"%s\"", format, MANIFEST_FORMAT);
    TPV_TRY(read_identity(members, ARTIFACT_ID, artifact_id));
    TPV_TRY(read_identity(members, INDEX_DIGEST, index_digest));
    if (members[CONFIG].start) {
        tpv_status_t status = read_config(members[CONFIG], artifact);
        if (status != TPV_OK) return tpv_error_prefix(status, "config");
    }
    tpv_status_t status = tpv_json_members(members[TENSORS], visit_tensor, artifact);
    if (status != TPV_OK) return tpv_error_prefix(status, "tensors");
    TPV_TRY(tpv_artifact_seal(artifact));
    if (strcmp(artifact->index_digest, index_digest) != 0)
        return tpv_error_set(TPV_ERR_FORMAT, "index_digest is %s, but the tensors have %s", index_digest,
                             artifact->index_digest);
    tpv_artifact_set_id(artifact, artifact_id);
    return TPV_OK;
}

tpv_status_t tpv_artifact_from_manifest(const char *json, size_t length, tpv_artifact_t **artifact) {
    *artifact = NULL;
    tpv_artifact_t *made = tpv_artifact_create();
    if (!made) return TPV_ERR_NO_MEMORY;
    tpv_status_t status = read_manifest((tpv_json_text_t){json, length}, made);
    if (status != TPV_OK) {
        tpv_artifact_close(made);
        return tpv_error_prefix(status, "manifest");
    }
    *artifact = made;
    return TPV_OK;
}

/* A JSON value and what stands before and behind it. False when out of memory. */
static bool print_json(FILE *stream, const char *before, json_t *json, const char *behind) {
    char *text = json ? json_dumps(json, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    bool good = text && fprintf(stream, "%s%s%s", before, text, behind) >= 0;
    free(text);
    json_decref(json);
    return good;
}

static bool print_tensor(FILE *stream, const tpv_tensor_t *tensor) {
    if (!print_json(stream, "", json_string(tensor->name), ":[\"")) return false;
    fprintf(stream, "%s\",[", tpv_dtype_name(tensor->dtype));
    for (uint32_t dim = 0; dim < tensor->dims; dim++)
        fprintf(stream, "%s%llu", dim ? "," : "", (unsigned long long)tensor->shape[dim]);
    return fputs("]]", stream) >= 0;
}

tpv_status_t tpv_artifact_manifest(const tpv_artifact_t *artifact, char **json) {
    *json = NULL;
    const char *id = tpv_artifact_id(artifact);
    if (!*id)
        return tpv_error_set(TPV_ERR_ARGUMENT, "a manifest needs the artifact_id: call tpv_artifact_digest first");
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    if (!stream) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a manifest");
    fprintf(stream, "{\"format\":\"%s\",\"artifact_id\":\"%s\",\"index_digest\":\"%s\",", MANIFEST_FORMAT, id,
            artifact->index_digest);
    bool good = true;
    if (artifact->config.present) good = print_json(stream, "\"config\":", tpv_artifact_facts(artifact), ",");
    fputs("\"tensors\":{", stream);
    for (size_t i = 0; good && i < artifact->count; i++) {
        if (i > 0) fputc(',', stream);
        good = print_tensor(stream, &artifact->tensors[i]);
    }
    fputs("}}", stream);
    good = good && !ferror(stream);
    if (fclose(stream) != 0 || !good) {
        free(text);
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a manifest");
    }
    *json = text;
    return TPV_OK;
}
