/* config.json of a checkpoint, and the same fields in a manifest. */
#ifndef ARTIFACT_CONFIG_H
#define ARTIFACT_CONFIG_H

#include <jansson.h>

#include "tpview/artifact.h"

/* The fields that plans use, as bits of tpv_model_config_t's `unusable`. */
enum {
    TPV_CONFIG_HIDDEN_SIZE = 1 << 0,
    TPV_CONFIG_HIDDEN_LAYERS = 1 << 1,
    TPV_CONFIG_ATTENTION_HEADS = 1 << 2,
    TPV_CONFIG_KEY_VALUE_HEADS = 1 << 3,
    TPV_CONFIG_HEAD_DIM = 1 << 4,
    TPV_CONFIG_MODEL_TYPE = 1 << 5,
    TPV_CONFIG_WEIGHT_BLOCK_SIZE = 1 << 6,
    TPV_CONFIG_TIE_WORD_EMBEDDINGS = 1 << 7,
    TPV_CONFIG_ALL = (1 << 8) - 1
};

/*
 * Read a config.json's object. The sizes of a checkpoint with several parts (text and vision) are those of text_config;
 * what that lacks, and model_type and tie_word_embeddings first of all, is taken from the top. Other fields do not
 * matter; null counts as missing, and a value of the wrong kind is noted. TPV_ERR_FORMAT for what is no object.
 */
tpv_status_t tpv_config_read(const json_t *json, tpv_model_config_t *config);

/* TPV_ERR_PLAN names the first of `fields` (TPV_CONFIG_…) whose value in config.json is of the wrong kind. */
tpv_status_t tpv_config_need(const tpv_model_config_t *config, uint32_t fields);

/*
 * What a plan may ask of a config.json: its numbers, truths and short words, lists of them, and objects that have such,
 * under the names they have. Bounded: what goes beyond is left out. NULL when out of memory; the caller decrefs.
 */
json_t *tpv_config_facts(const json_t *json);

/* What tpv_config_read found, under the same names, without what is missing; 0.5, which no field takes, where the value
 * was of the wrong kind. NULL when out of memory. */
json_t *tpv_config_json(const tpv_model_config_t *config);

#endif
