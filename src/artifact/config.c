#include "artifact/config.h"

#include <string.h>

#include "base/error.h"

/* The numbers of tpv_model_config_t by their names in config.json (transformers' PretrainedConfig and its kin). */
static const struct {
    const char *name;
    size_t place;
} numbers[] = {
    {"hidden_size", offsetof(tpv_model_config_t, hidden_size)},
    {"intermediate_size", offsetof(tpv_model_config_t, intermediate_size)},
    {"vocab_size", offsetof(tpv_model_config_t, vocab_size)},
    {"num_hidden_layers", offsetof(tpv_model_config_t, num_hidden_layers)},
    {"num_attention_heads", offsetof(tpv_model_config_t, num_attention_heads)},
    {"num_key_value_heads", offsetof(tpv_model_config_t, num_key_value_heads)},
    {"head_dim", offsetof(tpv_model_config_t, head_dim)},
};
#define NUMBERS (sizeof numbers / sizeof *numbers)

static uint64_t *number_at(tpv_model_config_t *config, size_t place) {
    return (uint64_t *)(void *)((char *)config + place);
}

/* A member of `first`, or of `second` when the first has none or null. */
static const json_t *member(const json_t *first, const json_t *second, const char *name) {
    const json_t *value = json_object_get(first, name);
    if (!value || json_is_null(value)) value = json_object_get(second, name);
    return value && !json_is_null(value) ? value : NULL;
}

static tpv_status_t read_number(const json_t *value, const char *name, uint64_t *number) {
    if (!value) return TPV_OK;
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return tpv_error_set(TPV_ERR_FORMAT, "%s is not a non-negative integer", name);
    *number = (uint64_t)json_integer_value(value);
    return TPV_OK;
}

static tpv_status_t read_text(const json_t *value, const char *name, char *text, size_t size) {
    if (!value) return TPV_OK;
    if (!json_is_string(value)) return tpv_error_set(TPV_ERR_FORMAT, "%s is not a string", name);
    if (json_string_length(value) >= size)
        return tpv_error_set(TPV_ERR_FORMAT, "%s has %zu bytes: expected at most %zu", name, json_string_length(value),
                             size - 1);
    memcpy(text, json_string_value(value), json_string_length(value) + 1);
    return TPV_OK;
}

static tpv_status_t read_quantisation(const json_t *value, tpv_model_config_t *config) {
    if (!value) return TPV_OK;
    if (!json_is_object(value)) return tpv_error_set(TPV_ERR_FORMAT, "quantization_config is not an object");
    TPV_TRY(read_text(member(value, NULL, "quant_method"), "quantization_config.quant_method", config->quant_method,
                      sizeof config->quant_method));
    const json_t *block = member(value, NULL, "weight_block_size");
    if (!block) return TPV_OK;
    if (!json_is_array(block) || json_array_size(block) != 2)
        return tpv_error_set(TPV_ERR_FORMAT, "quantization_config.weight_block_size is not an array of two integers");
    for (size_t i = 0; i < 2; i++) {
        const json_t *extent = json_array_get(block, i);
        if (!json_is_integer(extent) || json_integer_value(extent) < 1)
            return tpv_error_set(TPV_ERR_FORMAT, "quantization_config.weight_block_size has an item that is not a "
                                                 "positive integer");
        config->weight_block_size[i] = (uint64_t)json_integer_value(extent);
    }
    return TPV_OK;
}

static tpv_status_t read_fields(const json_t *top, const json_t *text, tpv_model_config_t *config) {
    for (size_t i = 0; i < NUMBERS; i++)
        TPV_TRY(read_number(member(text, top, numbers[i].name), numbers[i].name, number_at(config, numbers[i].place)));
    TPV_TRY(read_text(member(top, text, "model_type"), "model_type", config->model_type, sizeof config->model_type));
    TPV_TRY(read_quantisation(member(top, text, "quantization_config"), config));
    const json_t *tie = member(text, top, "tie_word_embeddings");
    if (tie && !json_is_boolean(tie))
        return tpv_error_set(TPV_ERR_FORMAT, "tie_word_embeddings is neither true nor false");
    config->tie_word_embeddings = json_is_true(tie);
    return TPV_OK;
}

tpv_status_t tpv_config_read(const json_t *json, tpv_model_config_t *config) {
    *config = (tpv_model_config_t){.present = true};
    if (!json_is_object(json)) return tpv_error_set(TPV_ERR_FORMAT, "not an object");
    const json_t *text = member(json, NULL, "text_config");
    if (text && !json_is_object(text)) return tpv_error_set(TPV_ERR_FORMAT, "text_config is not an object");
    return read_fields(json, text, config);
}

static tpv_status_t refuse_unknown(const json_t *json, const json_t *known, const char *where) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)json, name, value) {
        if (!json_object_get(known, name))
            return tpv_error_set(TPV_ERR_FORMAT, "unknown or empty field \"%.100s\"%s", name, where);
    }
    return TPV_OK;
}

tpv_status_t tpv_config_read_strict(const json_t *json, tpv_model_config_t *config) {
    *config = (tpv_model_config_t){.present = true};
    if (!json_is_object(json)) return tpv_error_set(TPV_ERR_FORMAT, "not an object");
    TPV_TRY(read_fields(json, NULL, config));
    /* Whatever is not written back was not understood. */
    json_t *known = tpv_config_json(config);
    if (!known) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory to read a config");
    tpv_status_t status = refuse_unknown(json, known, "");
    if (status == TPV_OK)
        status = refuse_unknown(json_object_get(json, "quantization_config"),
                                json_object_get(known, "quantization_config"), " in quantization_config");
    json_decref(known);
    return status;
}

json_t *tpv_config_json(const tpv_model_config_t *config) {
    json_t *json = json_object();
    int bad = json ? 0 : -1;
    if (*config->model_type) bad |= json_object_set_new(json, "model_type", json_string(config->model_type));
    for (size_t i = 0; i < NUMBERS; i++) {
        uint64_t number = *(const uint64_t *)(const void *)((const char *)config + numbers[i].place);
        if (number > 0) bad |= json_object_set_new(json, numbers[i].name, json_integer((json_int_t)number));
    }
    if (*config->quant_method || config->weight_block_size[0] > 0) {
        json_t *quantisation = json_object();
        if (*config->quant_method)
            bad |= json_object_set_new(quantisation, "quant_method", json_string(config->quant_method));
        if (config->weight_block_size[0] > 0)
            bad |= json_object_set_new(quantisation, "weight_block_size",
                                       json_pack("[I, I]", (json_int_t)config->weight_block_size[0],
                                                 (json_int_t)config->weight_block_size[1]));
        bad |= json_object_set_new(json, "quantization_config", quantisation);
    }
    if (config->tie_word_embeddings) bad |= json_object_set_new(json, "tie_word_embeddings", json_true());
    if (bad == 0) return json;
    json_decref(json);
    return NULL;
}
