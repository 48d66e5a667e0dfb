/* config.json of a checkpoint, and the same fields in a manifest. */
#ifndef ARTIFACT_CONFIG_H
#define ARTIFACT_CONFIG_H

#include <jansson.h>

#include "tpview/artifact.h"

/*
 * Read a config.json's object. The sizes of a checkpoint with several parts (text and vision) are those of text_config;
 * what that lacks, and model_type first of all, is taken from the top. Other fields do not matter. TPV_ERR_FORMAT names
 * a field of the wrong type; null counts as missing.
 */
tpv_status_t tpv_config_read(const json_t *json, tpv_model_config_t *config);

/* Read the form that tpv_config_json makes; any other field is refused. TPV_ERR_FORMAT. */
tpv_status_t tpv_config_read_strict(const json_t *json, tpv_model_config_t *config);

/* What tpv_config_read found, under the same names, without what is missing. NULL when out of memory. */
json_t *tpv_config_json(const tpv_model_config_t *config);

#endif
