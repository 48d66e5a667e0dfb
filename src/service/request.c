#include "service/request.h"

#include <stdlib.h>
#include <string.h>

#include "artifact/json.h"
#include "base/error.h"
#include "base/text.h"
#include "channel/stream.h"
#include "tpview/fetch.h"
#include "tpview/view.h"

#define MAX_FIELD_BYTES                                                                                                \
    (64u << 10) /* text of any field but the view and the ranges; 64 handles have a quarter of it                      \
                 */
#define MAX_RANGES_BYTES (512u << 10) /* pairs of numbers of 13 digits */

static tpv_status_t get_text(const json_t *object, const char *field, size_t room, char *text) {
    const json_t *value = json_object_get(object, field);
    size_t length = json_string_length(value);
    if (!json_is_string(value) || length >= room || strlen(json_string_value(value)) != length)
        return tpv_error_set(TPV_ERR_FORMAT, "fetch request: \"%s\" must be a text of at most %zu bytes", field,
                             room - 1);
    memcpy(text, json_string_value(value), length + 1);
    return TPV_OK;
}

static tpv_status_t get_number(const json_t *object, const char *field, int64_t low, int64_t high, int64_t *number) {
    const json_t *value = json_object_get(object, field);
    if (!json_is_integer(value) || json_integer_value(value) < low || json_integer_value(value) > high)
        return tpv_error_set(TPV_ERR_FORMAT, "fetch request: \"%s\" must be a whole number from %lld to %lld", field,
                             (long long)low, (long long)high);
    *number = json_integer_value(value);
    return TPV_OK;
}

static tpv_status_t get_id(const json_t *object, const char *field, char text[TPV_ID_TEXT]) {
    uint8_t bytes[TPV_ID_BYTES];
    if (get_text(object, field, TPV_ID_TEXT, text) != TPV_OK || !tpv_hex_decode(text, TPV_ID_BYTES, bytes))
        return tpv_error_set(TPV_ERR_FORMAT, "fetch request: \"%s\" must be 32 lower-case hex digits", field);
    return TPV_OK;
}

/* A member that we do not know may be one that the client relies on. */
static tpv_status_t check_fields(const json_t *object, const char *what, const char *const *fields) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value) {
        const char *const *field = fields;
        while (*field && strcmp(*field, key) != 0)
            field++;
        if (!*field) return tpv_error_set(TPV_ERR_FORMAT, "%s: unknown field \"%.64s\"", what, key);
    }
    return TPV_OK;
}

static tpv_status_t parse_handles(const json_t *root, tpv_request_t *request) {
    const json_t *handles = json_object_get(root, "handles");
    size_t count = json_array_size(handles);
    if (count < 1 || count > TPV_MAX_COMMS)
        return tpv_error_set(TPV_ERR_FORMAT, "fetch request: \"handles\" must be 1 to %d net handles", TPV_MAX_COMMS);
    request->handles = calloc(count, NCCL_NET_HANDLE_MAXSIZE);
    if (!request->handles) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for %zu handles", count);
    request->comms = (uint32_t)count;
    for (size_t i = 0; i < count; i++) {
        const char *text = json_string_value(json_array_get(handles, i));
        if (!text || !tpv_hex_decode(text, NCCL_NET_HANDLE_MAXSIZE, request->handles + i * NCCL_NET_HANDLE_MAXSIZE))
            return tpv_error_set(TPV_ERR_FORMAT, "fetch request: handle %zu must be %d lower-case hex digits", i,
                                 2 * NCCL_NET_HANDLE_MAXSIZE);
    }
    return TPV_OK;
}

static tpv_status_t parse_ranges(const json_t *ranges, tpv_request_t *request) {
    if (!ranges) return TPV_OK;
    size_t count = json_array_size(ranges);
    if (count < 1 || count > TPV_STREAM_MAX_RANGES)
        return tpv_error_set(TPV_ERR_FORMAT, "fetch request: \"ranges\" must be 1 to %d pairs [begin, end]",
                             TPV_STREAM_MAX_RANGES);
    request->ranges = calloc(count, sizeof *request->ranges);
    if (!request->ranges) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for %zu ranges", count);
    request->range_count = (uint32_t)count;
    int64_t before = -1;
    for (size_t i = 0; i < count; i++) {
        const json_t *pair = json_array_get(ranges, i), *low = json_array_get(pair, 0), *high = json_array_get(pair, 1);
        int64_t begin = json_integer_value(low), end = json_integer_value(high);
        if (json_array_size(pair) != 2 || !json_is_integer(low) || !json_is_integer(high) || begin <= before ||
            end <= begin)
            return tpv_error_set(TPV_ERR_FORMAT,
                                 "fetch request: range %zu must be two whole numbers [begin, end), behind the range "
                                 "before it and not next to it",
                                 i);
        request->ranges[i] = (tpv_range_t){(uint64_t)begin, (uint64_t)end};
        before = end;
    }
    return TPV_OK;
}

static tpv_status_t parse_rank(const json_t *root, tpv_request_t *request) {
    static const char *const fields[] = {"host", "pid", "tp_rank", "tp_size", NULL};
    const json_t *rank = json_object_get(root, "rank");
    if (!json_is_object(rank)) return tpv_error_set(TPV_ERR_FORMAT, "fetch request: \"rank\" must be an object");
    int64_t pid = 0, tp_rank = 0, tp_size = 0;
    TPV_TRY(check_fields(rank, "fetch request: \"rank\"", fields));
    TPV_TRY(get_text(rank, "host", sizeof request->host, request->host));
    tpv_text_clean(request->host); /* for logs and the lease table, which others print */
    TPV_TRY(get_number(rank, "pid", 1, INT32_MAX, &pid));
    TPV_TRY(get_number(rank, "tp_size", 1, TPV_MAX_TP_SIZE, &tp_size));
    TPV_TRY(get_number(rank, "tp_rank", 0, tp_size - 1, &tp_rank));
    request->pid = (int32_t)pid;
    request->tp_rank = (uint32_t)tp_rank;
    request->tp_size = (uint32_t)tp_size;
    return TPV_OK;
}

enum { VIEW, REST, RANGES = 8, VIEW_ID, FIELDS };

/* The small fields, as one object: their texts are checked and bounded before a tree is made of them. */
static tpv_status_t parse_small(const char *const *names, const tpv_json_text_t *values, json_t **root) {
    *root = json_object();
    tpv_status_t status = *root ? TPV_OK : tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a fetch request");
    for (size_t i = REST; i < FIELDS && status == TPV_OK; i++) {
        json_t *value = NULL;
        if (!values[i].start) continue;
        status = tpv_json_parse(values[i], i == RANGES ? MAX_RANGES_BYTES : MAX_FIELD_BYTES, &value);
        if (status != TPV_OK)
            tpv_error_prefix(status, "fetch request: \"%s\"", names[i]);
        else if (json_object_set_new(*root, names[i], value) != 0)
            status = tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a fetch request");
    }
    return status;
}

static tpv_status_t parse(const json_t *root, tpv_request_t *request) {
    TPV_TRY(get_id(root, "fetch_id", request->fetch_id_text));
    tpv_hex_decode(request->fetch_id_text, TPV_ID_BYTES, request->fetch_id);
    TPV_TRY(get_id(root, "artifact_id", request->artifact_id));
    if (json_object_get(root, "view_id")) TPV_TRY(get_id(root, "view_id", request->view_id));
    TPV_TRY(get_text(root, "net", sizeof request->net, request->net));
    TPV_TRY(parse_handles(root, request));
    int64_t chunk = 0;
    TPV_TRY(get_number(root, "max_chunk_bytes", TPV_MIN_CHUNK, TPV_MAX_CHUNK, &chunk));
    request->max_chunk_bytes = (uint32_t)chunk;
    if (json_object_get(root, "deadline_ms"))
        TPV_TRY(get_number(root, "deadline_ms", 1, INT64_C(1000) * 86400 * 365, &request->deadline_ms));
    TPV_TRY(parse_ranges(json_object_get(root, "ranges"), request));
    return parse_rank(root, request);
}

tpv_status_t tpv_request_parse(const char *json, size_t length, tpv_request_t *request) {
    static const char *const names[FIELDS + 1] = {"view",    "fetch_id",        "artifact_id", "net",
                                                  "handles", "max_chunk_bytes", "rank",        "deadline_ms",
                                                  "ranges",  "view_id",         NULL};
    tpv_json_text_t values[FIELDS] = {0};
    json_t *root = NULL;
    *request = (tpv_request_t){0};
    tpv_status_t status = tpv_json_pick((tpv_json_text_t){json, length}, names, values);
    if (status != TPV_OK) return tpv_error_prefix(status, "fetch request");
    status = parse_small(names, values, &root);
    if (status == TPV_OK) status = parse(root, request);
    json_decref(root);
    if (status != TPV_OK) return status;
    if (!values[VIEW].start || *values[VIEW].start != '{')
        return tpv_error_set(TPV_ERR_FORMAT, "fetch request: \"view\" must be an object");
    request->view = values[VIEW].start;
    request->view_length = values[VIEW].length;
    return TPV_OK;
}

void tpv_request_clear(tpv_request_t *request) {
    free(request->handles);
    free(request->ranges);
    request->handles = NULL;
    request->ranges = NULL;
}
