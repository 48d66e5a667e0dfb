/*
 * Numbers in plan files: whole numbers, or short expressions over config.json, such as
 * "num_key_value_heads | num_attention_heads" and "2 * linear_num_key_heads * linear_key_head_dim".
 *
 *   alternatives  a | b | c     the first that is known
 *   sums          a + b - c
 *   products      a * b / c     a division that leaves a rest is not known
 *   a name                      the field of config.json, with dots to go down and @ for the layer's number; in a list,
 * its item min(a, b)  max(a, b)  (a)  12
 */
#ifndef VIEW_PLAN_VALUE_H
#define VIEW_PLAN_VALUE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "tpview/artifact.h"

#define TPV_MAX_SECTIONS 4

/* Where names are looked up: in each section of config.json in turn. Borrows all of it; read-only. */
typedef struct tpv_scope {
    const json_t *sections[TPV_MAX_SECTIONS]; /* objects or NULL */
    uint64_t layer;                           /* which item of a list counts; UINT64_MAX: none */
} tpv_scope_t;

/* The layer that a tensor belongs to: the first part of its name that is a number. UINT64_MAX when there is none. */
uint64_t tpv_layer_of(const char *tensor);

/* The field `path` of config.json as JSON, the layer's item if it is a list with as many; NULL when there is none. */
const json_t *tpv_scope_find(const tpv_scope_t *scope, const char *path);

/* Is `value` a number or expression that can be read? TPV_ERR_FORMAT says what is wrong with it; `what` names it. */
tpv_status_t tpv_value_check(const char *what, const json_t *value);

/* The number that a checked value stands for; false when config.json does not tell it, or it is no whole number from 0
 * to 2^62. NULL is not known. */
bool tpv_value_of(const json_t *value, const tpv_scope_t *scope, uint64_t *number);

#endif
