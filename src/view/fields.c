#include "view/fields.h"

#include <string.h>

#include "base/error.h"

tpv_status_t tpv_fields_known(const char *what, json_t *object, const char *const *keys) {
    if (!json_is_object(object)) return tpv_error_set(TPV_ERR_FORMAT, "%s: expected a JSON object", what);
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value) {
        const char *const *known = keys;
        while (*known && strcmp(*known, key) != 0)
            known++;
        if (!*known) return tpv_error_set(TPV_ERR_FORMAT, "%s: unknown key \"%.100s\"", what, key);
    }
    return TPV_OK;
}

tpv_status_t tpv_field_name(const char *what, json_t *object, const char *key, const char **name) {
    json_t *value = json_object_get(object, key);
    size_t length = json_string_length(value);
    if (!json_is_string(value) || length == 0 || length > TPV_MAX_NAME)
        return tpv_error_set(TPV_ERR_FORMAT, "%s: \"%s\" must be a string of 1 to %d bytes", what, key, TPV_MAX_NAME);
    *name = json_string_value(value);
    return TPV_OK;
}

tpv_status_t tpv_field_whole(const char *what, json_t *object, const char *key, uint64_t fallback, uint64_t *value) {
    json_t *number = json_object_get(object, key);
    *value = fallback;
    if (!number) return TPV_OK;
    if (!json_is_integer(number) || json_integer_value(number) < 0)
        return tpv_error_set(TPV_ERR_FORMAT, "%s: \"%s\" must be a whole number of 0 or more", what, key);
    *value = (uint64_t)json_integer_value(number);
    return TPV_OK;
}

tpv_status_t tpv_field_truth(const char *what, json_t *object, const char *key, bool fallback, bool *value) {
    json_t *truth = json_object_get(object, key);
    *value = fallback;
    if (!truth) return TPV_OK;
    if (!json_is_boolean(truth)) return tpv_error_set(TPV_ERR_FORMAT, "%s: \"%s\" must be true or false", what, key);
    *value = json_is_true(truth);
    return TPV_OK;
}

tpv_status_t tpv_field_dims(const char *what, json_t *object, const char *key, bool *present, uint32_t *dims,
                            uint64_t *values) {
    json_t *array = json_object_get(object, key);
    *present = array != NULL;
    *dims = 0;
    if (!array) return TPV_OK;
    size_t count = json_array_size(array);
    if (!json_is_array(array) || count > TPV_MAX_DIMS)
        return tpv_error_set(TPV_ERR_FORMAT, "%s: \"%s\" must be an array of at most %d whole numbers", what, key,
                             TPV_MAX_DIMS);
    for (size_t i = 0; i < count; i++) {
        json_t *number = json_array_get(array, i);
        if (!json_is_integer(number) || json_integer_value(number) < 0)
            return tpv_error_set(TPV_ERR_FORMAT, "%s: \"%s\" must have whole numbers of 0 or more", what, key);
        values[i] = (uint64_t)json_integer_value(number);
    }
    *dims = (uint32_t)count;
    return TPV_OK;
}
