/* The fields of a JSON object from outside, read strictly. `what` names the value in messages, such as "output 3". */
#ifndef VIEW_FIELDS_H
#define VIEW_FIELDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "tpview/artifact.h"

/* TPV_ERR_FORMAT when `object` is no object or has a key that is not among `keys` (ends with NULL). */
tpv_status_t tpv_fields_known(const char *what, json_t *object, const char *const *keys);

/* The string under `key`. TPV_ERR_FORMAT when it is missing, empty or longer than TPV_MAX_NAME bytes. Owned by the
 * object. */
tpv_status_t tpv_field_name(const char *what, json_t *object, const char *key, const char **name);

/* The whole number >= 0 under `key`; `fallback` when it is missing. TPV_ERR_FORMAT. */
tpv_status_t tpv_field_whole(const char *what, json_t *object, const char *key, uint64_t fallback, uint64_t *value);

/* The true or false under `key`; `fallback` when it is missing. TPV_ERR_FORMAT. */
tpv_status_t tpv_field_truth(const char *what, json_t *object, const char *key, bool fallback, bool *value);

/* The array of at most TPV_MAX_DIMS whole numbers >= 0 under `key`; *present is false when it is missing. */
tpv_status_t tpv_field_dims(const char *what, json_t *object, const char *key, bool *present, uint32_t *dims,
                            uint64_t *values);

#endif
