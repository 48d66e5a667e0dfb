#include "artifact/json.h"

#include <stdbool.h>
#include <string.h>

#include "base/error.h"

typedef struct {
    tpv_json_text_t text;
    size_t at;
} cursor_t;

static int peek(const cursor_t *cursor) {
    return cursor->at < cursor->text.length ? (unsigned char)cursor->text.start[cursor->at] : -1;
}

static void skip_space(cursor_t *cursor) {
    while (peek(cursor) == ' ' || peek(cursor) == '\n' || peek(cursor) == '\r' || peek(cursor) == '\t')
        cursor->at++;
}

static tpv_status_t expected(const cursor_t *cursor, const char *what) {
    return tpv_error_set(TPV_ERR_FORMAT, "bad JSON at byte %zu: expected %s%s", cursor->at, what,
                         cursor->at == cursor->text.length ? ", found the end" : "");
}

/* Move behind the string that begins here. */
static tpv_status_t skip_string(cursor_t *cursor) {
    for (cursor->at++; peek(cursor) >= 0; cursor->at++) {
        if (peek(cursor) == '"') {
            cursor->at++;
            return TPV_OK;
        }
        if (peek(cursor) == '\\') cursor->at++;
    }
    cursor->at = cursor->text.length;
    return expected(cursor, "the end of a string");
}

/* Move behind the value that begins here. Only strings and brackets are looked at: its parser checks the rest. */
static tpv_status_t skip_value(cursor_t *cursor) {
    size_t depth = 0;
    do {
        switch (peek(cursor)) {
        case -1:
            return expected(cursor, "the end of a value");
        case '"':
            TPV_TRY(skip_string(cursor));
            break;
        case '{':
        case '[':
            depth++;
            cursor->at++;
            break;
        case '}':
        case ']':
            if (depth == 0) return expected(cursor, "a value");
            depth--;
            cursor->at++;
            break;
        case ',':
        case ':':
            if (depth == 0) return expected(cursor, "a value");
            cursor->at++;
            break;
        default:
            cursor->at++;
            if (depth == 0) { /* a number or a word */
                size_t rest = cursor->text.length - cursor->at;
                const char *here = cursor->text.start + cursor->at;
                size_t length = 0;
                while (length < rest && !strchr(",:{}[]\" \n\r\t", here[length]))
                    length++;
                cursor->at += length;
            }
        }
    } while (depth > 0);
    return TPV_OK;
}

static tpv_status_t visit_member(cursor_t *cursor, tpv_json_visit_t visit, void *user) {
    if (peek(cursor) != '"') return expected(cursor, "a name in quotes");
    size_t begin = cursor->at;
    TPV_TRY(skip_string(cursor));
    json_t *name = NULL;
    /* An escape such as \u0041 stands for one byte at least and has six. */
    tpv_json_text_t quoted = {cursor->text.start + begin, cursor->at - begin};
    if (quoted.length > 6 * TPV_MAX_NAME + 2)
        return tpv_error_set(TPV_ERR_FORMAT, "the name at byte %zu is longer than %d bytes", begin, TPV_MAX_NAME);
    tpv_status_t status = tpv_json_parse(quoted, quoted.length, &name);
    if (status != TPV_OK) return tpv_error_prefix(status, "the name at byte %zu", begin);
    if (json_string_length(name) > TPV_MAX_NAME) {
        status = tpv_error_set(TPV_ERR_FORMAT, "the name at byte %zu has %zu bytes: expected at most %d", begin,
                               json_string_length(name), TPV_MAX_NAME);
        goto done;
    }
    skip_space(cursor);
    if (peek(cursor) != ':') {
        status = expected(cursor, "':'");
        goto done;
    }
    cursor->at++;
    skip_space(cursor);
    begin = cursor->at;
    status = skip_value(cursor);
    if (status != TPV_OK) goto done;
    status = visit(user, json_string_value(name), (tpv_json_text_t){cursor->text.start + begin, cursor->at - begin});
done:
    json_decref(name);
    return status;
}

tpv_status_t tpv_json_members(tpv_json_text_t text, tpv_json_visit_t visit, void *user) {
    cursor_t cursor = {text, 0};
    skip_space(&cursor);
    if (peek(&cursor) != '{') return expected(&cursor, "an object");
    cursor.at++;
    skip_space(&cursor);
    bool more = peek(&cursor) != '}';
    if (!more) cursor.at++;
    while (more) {
        TPV_TRY(visit_member(&cursor, visit, user));
        skip_space(&cursor);
        int next = peek(&cursor);
        if (next != ',' && next != '}') return expected(&cursor, "',' or '}'");
        more = next == ',';
        cursor.at++;
        if (more) skip_space(&cursor);
    }
    skip_space(&cursor);
    if (cursor.at < text.length) return expected(&cursor, "nothing after the object");
    return TPV_OK;
}

typedef struct {
    const char *const *names;
    tpv_json_text_t *values;
} picked_t;

static tpv_status_t pick_member(void *user, const char *name, tpv_json_text_t value) {
    picked_t *picked = user;
    for (size_t i = 0; picked->names[i]; i++) {
        if (strcmp(picked->names[i], name) != 0) continue;
        if (picked->values[i].start) return tpv_error_set(TPV_ERR_FORMAT, "\"%s\" appears twice", name);
        picked->values[i] = value;
        return TPV_OK;
    }
    return tpv_error_set(TPV_ERR_FORMAT, "unknown key \"%.100s\"", name);
}

tpv_status_t tpv_json_pick(tpv_json_text_t text, const char *const *names, tpv_json_text_t *values) {
    picked_t picked = {names, values};
    return tpv_json_members(text, pick_member, &picked);
}

tpv_status_t tpv_json_items(tpv_json_text_t text, tpv_json_item_t visit, void *user) {
    cursor_t cursor = {text, 0};
    skip_space(&cursor);
    if (peek(&cursor) != '[') return expected(&cursor, "an array");
    cursor.at++;
    skip_space(&cursor);
    bool more = peek(&cursor) != ']';
    if (!more) cursor.at++;
    for (size_t index = 0; more; index++) {
        size_t begin = cursor.at;
        TPV_TRY(skip_value(&cursor));
        TPV_TRY(visit(user, index, (tpv_json_text_t){text.start + begin, cursor.at - begin}));
        skip_space(&cursor);
        int next = peek(&cursor);
        if (next != ',' && next != ']') return expected(&cursor, "',' or ']'");
        more = next == ',';
        cursor.at++;
        if (more) skip_space(&cursor);
    }
    skip_space(&cursor);
    if (cursor.at < text.length) return expected(&cursor, "nothing after the array");
    return TPV_OK;
}

/* jansson stops behind the second name: tell it as it is written. */
static tpv_status_t refuse_twice(tpv_json_text_t text, const json_error_t *error) {
    size_t end = error->position > 0 && (size_t)error->position <= text.length ? (size_t)error->position : 0;
    size_t begin = end > 0 ? end - 1 : 0;
    if (begin == 0 || text.start[begin] != '"') return tpv_error_set(TPV_ERR_FORMAT, "bad JSON: a name appears twice");
    do {
        begin--;
        size_t slashes = 0;
        while (slashes < begin && text.start[begin - slashes - 1] == '\\')
            slashes++;
        if (text.start[begin] == '"' && slashes % 2 == 0) break;
    } while (begin > 0);
    return tpv_error_set(TPV_ERR_FORMAT, "bad JSON: the name %.*s appears twice",
                         (int)(end - begin < 200 ? end - begin : 200), text.start + begin);
}

tpv_status_t tpv_json_parse(tpv_json_text_t text, size_t limit, json_t **json) {
    if (text.length > limit)
        return tpv_error_set(TPV_ERR_FORMAT, "a value of %zu bytes: expected at most %zu", text.length, limit);
    json_error_t error;
    *json = json_loadb(text.start, text.length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (*json) return TPV_OK;
    switch (json_error_code(&error)) {
    case json_error_out_of_memory:
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory to parse JSON");
    case json_error_numeric_overflow:
        return tpv_error_set(TPV_ERR_FORMAT, "bad JSON: a number is too large: expected at most 9223372036854775807");
    case json_error_invalid_utf8:
        return tpv_error_set(TPV_ERR_FORMAT, "bad JSON: invalid UTF-8");
    case json_error_duplicate_key:
        return refuse_twice(text, &error);
    case json_error_null_character:
    case json_error_null_byte_in_key:
        return tpv_error_set(TPV_ERR_FORMAT, "bad JSON: a zero byte in a string");
    default:
        return tpv_error_set(TPV_ERR_FORMAT, "bad JSON: %.150s", error.text);
    }
}

tpv_status_t tpv_json_dtype(const json_t *json, tpv_tensor_t *tensor) {
    if (!json_is_string(json)) return tpv_error_set(TPV_ERR_FORMAT, "dtype is not a string");
    return tpv_dtype_from_name(json_string_value(json), &tensor->dtype);
}

tpv_status_t tpv_json_shape(const json_t *json, tpv_tensor_t *tensor) {
    if (!json_is_array(json)) return tpv_error_set(TPV_ERR_FORMAT, "shape is not an array");
    if (json_array_size(json) > TPV_MAX_DIMS)
        return tpv_error_set(TPV_ERR_FORMAT, "shape has %zu dims: expected at most %d", json_array_size(json),
                             TPV_MAX_DIMS);
    tensor->dims = (uint32_t)json_array_size(json);
    for (uint32_t dim = 0; dim < tensor->dims; dim++) {
        const json_t *extent = json_array_get(json, dim);
        if (!json_is_integer(extent) || json_integer_value(extent) < 0)
            return tpv_error_set(TPV_ERR_FORMAT, "dim %u of shape is not a non-negative integer", dim);
        tensor->shape[dim] = (uint64_t)json_integer_value(extent);
    }
    return TPV_OK;
}
