#include "view/plan_value.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"

#define MAX_TEXT 256
#define MAX_DEPTH 16
#define MAX_NUMBER (UINT64_C(1) << 62)

uint64_t tpv_layer_of(const char *tensor) {
    for (const char *part = tensor; part; part = strchr(part, '.'), part = part ? part + 1 : NULL) {
        uint64_t number = 0;
        const char *at = part;
        while (isdigit((unsigned char)*at) && at - part < 9)
            number = number * 10 + (uint64_t)(*at++ - '0');
        if (at > part && (*at == '.' || *at == '\0')) return number;
    }
    return UINT64_MAX;
}

/* An `@` in the path stands for the layer's number. */
static const json_t *go_down(const json_t *object, const char *path, size_t length, uint64_t layer) {
    char key[MAX_TEXT];
    while (object && length > 0) {
        const char *dot = memchr(path, '.', length);
        size_t part = dot ? (size_t)(dot - path) : length;
        if (part >= sizeof key) return NULL;
        memcpy(key, path, part);
        key[part] = '\0';
        if (strcmp(key, "@") == 0) snprintf(key, sizeof key, "%llu", (unsigned long long)layer);
        object = json_object_get(object, key);
        path += part + (dot != NULL);
        length -= part + (dot != NULL);
    }
    return object && !json_is_null(object) ? object : NULL;
}

static const json_t *find(const tpv_scope_t *scope, const char *path, size_t length) {
    for (int i = 0; i < TPV_MAX_SECTIONS; i++) {
        const json_t *found = scope->sections[i] ? go_down(scope->sections[i], path, length, scope->layer) : NULL;
        if (!found) continue;
        if (json_is_array(found) && scope->layer != UINT64_MAX) found = json_array_get(found, (size_t)scope->layer);
        return found && !json_is_null(found) ? found : NULL;
    }
    return NULL;
}

const json_t *tpv_scope_find(const tpv_scope_t *scope, const char *path) {
    return find(scope, path, strlen(path));
}

/* One reading of an expression. Without a scope only its form is looked at, and nothing is known. */
typedef struct {
    const char *start, *at;
    const tpv_scope_t *scope;
    int depth;
    const char *fault; /* what was expected at `at`; NULL so far */
} reader_t;

typedef struct {
    uint64_t number;
    bool known;
} value_t;

static value_t read_alternatives(reader_t *reader);

static void skip_space(reader_t *reader) {
    while (*reader->at == ' ')
        reader->at++;
}

static bool take(reader_t *reader, char sign) {
    skip_space(reader);
    if (*reader->at != sign) return false;
    reader->at++;
    return true;
}

static value_t fail(reader_t *reader, const char *expected) {
    if (!reader->fault) reader->fault = expected;
    return (value_t){0};
}

static value_t known(uint64_t number) {
    return (value_t){.number = number, .known = number <= MAX_NUMBER};
}

static size_t take_name(reader_t *reader) {
    const char *name = reader->at;
    while (*reader->at && (isalnum((unsigned char)*reader->at) || strchr("_.@", *reader->at)))
        reader->at++;
    return (size_t)(reader->at - name);
}

static value_t read_length(reader_t *reader) {
    skip_space(reader);
    const char *name = reader->at;
    size_t length = take_name(reader);
    if (length == 0) return fail(reader, "a field of config.json");
    if (!take(reader, ')')) return fail(reader, "')'");
    if (!reader->scope) return (value_t){0};
    tpv_scope_t whole = *reader->scope;
    whole.layer = UINT64_MAX;
    const json_t *list = find(&whole, name, length);
    return json_is_array(list) ? known(json_array_size(list)) : (value_t){0};
}

static value_t read_name(reader_t *reader) {
    const char *name = reader->at;
    size_t length = take_name(reader);
    bool min = length == 3 && memcmp(name, "min", 3) == 0, max = length == 3 && memcmp(name, "max", 3) == 0;
    if ((min || max) && take(reader, '(')) {
        value_t a = read_alternatives(reader);
        if (!take(reader, ',')) return fail(reader, "','");
        value_t b = read_alternatives(reader);
        if (!take(reader, ')')) return fail(reader, "')'");
        value_t chosen = min == (a.number < b.number) ? a : b;
        chosen.known = a.known && b.known;
        return chosen;
    }
    if (length == 6 && memcmp(name, "length", 6) == 0 && take(reader, '(')) return read_length(reader);
    if (!reader->scope) return (value_t){0};
    const json_t *found = find(reader->scope, name, length);
    if (json_is_boolean(found)) return known(json_is_true(found));
    if (!json_is_integer(found) || json_integer_value(found) < 0) return (value_t){0};
    return known((uint64_t)json_integer_value(found));
}

static value_t read_factor(reader_t *reader) {
    skip_space(reader);
    if (take(reader, '(')) {
        value_t inner = read_alternatives(reader);
        return take(reader, ')') ? inner : fail(reader, "')'");
    }
    if (isdigit((unsigned char)*reader->at)) {
        uint64_t number = 0;
        const char *begin = reader->at;
        while (isdigit((unsigned char)*reader->at) && reader->at - begin < 18)
            number = number * 10 + (uint64_t)(*reader->at++ - '0');
        return known(number);
    }
    if (isalpha((unsigned char)*reader->at)) return read_name(reader);
    return fail(reader, "a number or a field of config.json");
}

static value_t read_product(reader_t *reader) {
    value_t left = read_factor(reader);
    for (;;) {
        bool times = take(reader, '*');
        if (!times && !take(reader, '/')) return left;
        value_t right = read_factor(reader);
        bool fits = left.known && right.known;
        uint64_t number = 0;
        if (fits && times) fits = tpv_mul_fits(left.number, right.number, &number);
        if (fits && !times) fits = right.number > 0 && left.number % right.number == 0;
        if (fits && !times) number = left.number / right.number;
        left = fits ? known(number) : (value_t){0};
    }
}

static value_t read_sum(reader_t *reader) {
    value_t left = read_product(reader);
    for (;;) {
        bool plus = take(reader, '+');
        if (!plus && !take(reader, '-')) return left;
        value_t right = read_product(reader);
        bool fits = left.known && right.known && (plus || left.number >= right.number);
        left = fits ? known(plus ? left.number + right.number : left.number - right.number) : (value_t){0};
    }
}

static value_t read_alternatives(reader_t *reader) {
    if (++reader->depth > MAX_DEPTH) return fail(reader, "fewer brackets");
    value_t first = read_sum(reader);
    while (take(reader, '|')) {
        value_t next = read_sum(reader);
        if (!first.known) first = next;
    }
    reader->depth--;
    return first;
}

tpv_status_t tpv_value_check(const char *what, const json_t *value) {
    if (json_is_integer(value)) {
        if (json_integer_value(value) >= 0 && (uint64_t)json_integer_value(value) <= MAX_NUMBER) return TPV_OK;
        return tpv_error_set(TPV_ERR_FORMAT, "%s: a number is out of range: expected 0 or more", what);
    }
    size_t length = json_string_length(value);
    if (!json_is_string(value) || length == 0 || length >= MAX_TEXT)
        return tpv_error_set(TPV_ERR_FORMAT,
                             "%s: expected a whole number or an expression over config.json of at most %d bytes", what,
                             MAX_TEXT - 1);
    reader_t reader = {.start = json_string_value(value), .at = json_string_value(value)};
    read_alternatives(&reader);
    skip_space(&reader);
    if (!reader.fault && *reader.at) reader.fault = "one of | + - * /";
    if (!reader.fault) return TPV_OK;
    return tpv_error_set(TPV_ERR_FORMAT, "%s: expression \"%s\": expected %s at byte %zu", what, reader.start,
                         reader.fault, (size_t)(reader.at - reader.start));
}

bool tpv_value_of(const json_t *value, const tpv_scope_t *scope, uint64_t *number) {
    if (json_is_integer(value)) {
        *number = (uint64_t)json_integer_value(value);
        return true;
    }
    if (!json_is_string(value)) return false;
    reader_t reader = {.start = json_string_value(value), .at = json_string_value(value), .scope = scope};
    value_t result = read_alternatives(&reader);
    *number = result.number;
    return result.known && !reader.fault;
}
