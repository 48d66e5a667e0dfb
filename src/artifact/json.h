/*
 * JSON from outside, in bounded memory. jansson makes a tree of what it parses, and a few bytes of text can cost a
 * hundred bytes of tree. So a text with a million entries is walked here member by member, without a tree, and only the
 * small value of one member at a time goes through jansson, which has the last word on its syntax.
 */
#ifndef ARTIFACT_JSON_H
#define ARTIFACT_JSON_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "tpview/artifact.h"

/* A piece of a JSON text; not zero-terminated. */
typedef struct tpv_json_text {
    const char *start;
    size_t length;
} tpv_json_text_t;

/* Called for each member with its decoded name (valid UTF-8, at most TPV_MAX_NAME bytes, without an embedded zero) and
 * the text of its value, whose syntax has yet to be checked: by tpv_json_parse or tpv_json_members. A status other than
 * TPV_OK ends the walk. */
typedef tpv_status_t (*tpv_json_visit_t)(void *user, const char *name, tpv_json_text_t value);

/* Walk the members of the one object that `text` must be, with nothing but white space around it. Duplicate names are
 * left to the visitor. TPV_ERR_FORMAT says what is wrong at which byte, TPV_ERR_NO_MEMORY, or what a visit returned. */
tpv_status_t tpv_json_members(tpv_json_text_t text, tpv_json_visit_t visit, void *user);

/* Walk an object of which every member must be one of `names` (which ends with NULL) and stand there once; values[i] is
 * the text of names[i], with `start` NULL when it is not there. `values` is all zero before. Errors of
 * tpv_json_members.
 */
tpv_status_t tpv_json_pick(tpv_json_text_t text, const char *const *names, tpv_json_text_t *values);

/* Called for each item of an array with the text of its value, whose syntax has yet to be checked. */
typedef tpv_status_t (*tpv_json_item_t)(void *user, size_t index, tpv_json_text_t value);

/* Walk the items of the one array that `text` must be, in the same way. */
tpv_status_t tpv_json_items(tpv_json_text_t text, tpv_json_item_t visit, void *user);

/* Parse a value of at most `limit` bytes into a tree, refusing duplicate names. The caller decrefs *json.
 * TPV_ERR_FORMAT, TPV_ERR_NO_MEMORY. */
tpv_status_t tpv_json_parse(tpv_json_text_t text, size_t limit, json_t **json);

/* Read a dtype (a string) and a shape (an array of at most TPV_MAX_DIMS non-negative integers) into the tensor.
 * TPV_ERR_FORMAT. */
tpv_status_t tpv_json_dtype(const json_t *json, tpv_tensor_t *tensor);
tpv_status_t tpv_json_shape(const json_t *json, tpv_tensor_t *tensor);

#endif
