#include "artifact/config.h"

#include <string.h>

#include "base/error.h"

/* The numbers of tpv_model_config_t by their names in config.json (transformers' PretrainedConfig and its kin). */
static const struct {
    const char *name;
    size_t place;
    uint32_t bit; /* 0: not used by plans */
} numbers[] = {
    {"hidden_size", offsetof(tpv_model_config_t, hidden_size), TPV_CONFIG_HIDDEN_SIZE},
    {"intermediate_size", offsetof(tpv_model_config_t, intermediate_size), 0},
    {"vocab_size", offsetof(tpv_model_config_t, vocab_size), 0},
    {"num_hidden_layers", offsetof(tpv_model_config_t, num_hidden_layers), TPV_CONFIG_HIDDEN_LAYERS},
    {"num_attention_heads", offsetof(tpv_model_config_t, num_attention_heads), TPV_CONFIG_ATTENTION_HEADS},
    {"num_key_value_heads", offsetof(tpv_model_config_t, num_key_value_heads), TPV_CONFIG_KEY_VALUE_HEADS},
    {"head_dim", offsetof(tpv_model_config_t, head_dim), TPV_CONFIG_HEAD_DIM},
};
#define MAX_WORD 128
#define MAX_DEPTH 5 /* quantization_config.config_groups.group_0.weights.block_structure */
#define MAX_FACTS 4096
#define MAX_LIST 1024
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

static bool read_number(const json_t *value, uint64_t *number) {
    /* A list tells each layer's number: plans read it from the facts. */
    if (!value || json_is_array(value)) return true;
    if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
    *number = (uint64_t)json_integer_value(value);
    return true;
}

static bool read_text(const json_t *value, char *text, size_t size) {
    if (!value) return true;
    if (!json_is_string(value) || json_string_length(value) >= size) return false;
    memcpy(text, json_string_value(value), json_string_length(value) + 1);
    return true;
}

static bool read_block_size(const json_t *value, uint64_t block[2]) {
    if (!value) return true;
    uint64_t extents[2] = {0};
    if (!json_is_array(value) || json_array_size(value) != 2) return false;
    for (size_t i = 0; i < 2; i++)
        if (!read_number(json_array_get(value, i), &extents[i]) || extents[i] == 0) return false;
    memcpy(block, extents, sizeof extents);
    return true;
}

static void read_fields(const json_t *top, const json_t *text, tpv_model_config_t *config) {
    for (size_t i = 0; i < NUMBERS; i++)
        if (!read_number(member(text, top, numbers[i].name), number_at(config, numbers[i].place)))
            config->unusable |= numbers[i].bit;
    if (!read_text(member(top, text, "model_type"), config->model_type, sizeof config->model_type))
        config->unusable |= TPV_CONFIG_MODEL_TYPE;
    const json_t *quantisation = member(top, text, "quantization_config");
    read_text(member(quantisation, NULL, "quant_method"), config->quant_method, sizeof config->quant_method);
    if ((quantisation && !json_is_object(quantisation)) ||
        !read_block_size(member(quantisation, NULL, "weight_block_size"), config->weight_block_size))
        config->unusable |= TPV_CONFIG_WEIGHT_BLOCK_SIZE;
    const json_t *tie = member(top, text, "tie_word_embeddings"); /* as transformers 5 does */
    if (tie && !json_is_boolean(tie)) config->unusable |= TPV_CONFIG_TIE_WORD_EMBEDDINGS;
    config->tie_word_embeddings = json_is_true(tie);
}

tpv_status_t tpv_config_read(const json_t *json, tpv_model_config_t *config) {
    *config = (tpv_model_config_t){.present = true};
    if (!json_is_object(json)) return tpv_error_set(TPV_ERR_FORMAT, "not an object");
    const json_t *text = member(json, NULL, "text_config");
    read_fields(json, text, config);
    /* Which of the two a field would come from is not known then. */
    if (text && !json_is_object(text)) config->unusable = TPV_CONFIG_ALL;
    return TPV_OK;
}

tpv_status_t tpv_config_need(const tpv_model_config_t *config, uint32_t fields) {
    static const char *const texts[] = {
        "hidden_size is not a non-negative integer",
        "num_hidden_layers is not a non-negative integer",
        "num_attention_heads is not a non-negative integer",
        "num_key_value_heads is not a non-negative integer",
        "head_dim is not a non-negative integer",
        "model_type is not a string of at most 63 bytes",
        "quantization_config.weight_block_size is not an array of two positive integers",
        "tie_word_embeddings is neither true nor false"};
    if (config->unusable == TPV_CONFIG_ALL && fields)
        return tpv_error_set(TPV_ERR_PLAN, "config.json: text_config is not an object");
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (config->unusable & fields & 1u << i) return tpv_error_set(TPV_ERR_PLAN, "config.json: %s", texts[i]);
    return TPV_OK;
}

/* What a plan may ask for: numbers, truths, short words, lists of them, and objects that have such. Numbers that are
 * not whole are of no use to it, but tell that a field is of the wrong kind. */
static bool is_plain(const json_t *value) {
    return json_is_number(value) || json_is_boolean(value) || json_is_null(value) ||
           (json_is_string(value) && json_string_length(value) <= MAX_WORD);
}

static json_t *plain_list(const json_t *list, size_t *left) {
    if (json_array_size(list) > MAX_LIST || json_array_size(list) > *left) return NULL;
    size_t index;
    json_t *item;
    json_array_foreach(list, index, item) {
        if (!is_plain(item)) return NULL;
    }
    *left -= json_array_size(list);
    return json_deep_copy(list);
}

static json_t *facts_of(const json_t *object, int depth, size_t *left) {
    json_t *facts = json_object(), *kept;
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, name, value) {
        if (*left == 0) break;
        if (strlen(name) > MAX_WORD) continue;
        kept = NULL;
        if (is_plain(value)) kept = json_deep_copy(value);
        if (json_is_array(value)) kept = plain_list(value, left);
        if (json_is_object(value) && depth < MAX_DEPTH && !strstr(name, "label"))
            kept = facts_of(value, depth + 1, left);
        if (!kept) continue;
        --*left;
        if (json_object_set_new(facts, name, kept) == 0) continue;
        json_decref(facts);
        return NULL;
    }
    return facts;
}

json_t *tpv_config_facts(const json_t *json) {
    size_t left = MAX_FACTS;
    return facts_of(json, 0, &left);
}

/* The value, or what stands for one of the wrong kind; NULL when it is missing. Takes over `value`. */
static json_t *shown(const tpv_model_config_t *config, uint32_t bit, json_t *value) {
    if (!(config->unusable & bit)) return value;
    json_decref(value);
    return json_real(0.5);
}

static int put(json_t *json, const char *name, json_t *value) {
    return value ? json_object_set_new(json, name, value) : 0;
}

static json_t *block_size_json(const tpv_model_config_t *config) {
    const uint64_t *block = config->weight_block_size;
    return block[0] > 0 ? json_pack("[I, I]", (json_int_t)block[0], (json_int_t)block[1]) : NULL;
}

json_t *tpv_config_json(const tpv_model_config_t *config) {
    json_t *json = json_object(), *quantisation = json_object();
    json_t *type = *config->model_type ? json_string(config->model_type) : NULL;
    int bad = put(json, "model_type", shown(config, TPV_CONFIG_MODEL_TYPE, type));
    for (size_t i = 0; i < NUMBERS; i++) {
        uint64_t number = *(const uint64_t *)(const void *)((const char *)config + numbers[i].place);
        json_t *value = number > 0 ? json_integer((json_int_t)number) : NULL;
        bad |= put(json, numbers[i].name, shown(config, numbers[i].bit, value));
    }
    if (*config->quant_method) bad |= put(quantisation, "quant_method", json_string(config->quant_method));
    bad |= put(quantisation, "weight_block_size", shown(config, TPV_CONFIG_WEIGHT_BLOCK_SIZE, block_size_json(config)));
    if (json_object_size(quantisation) > 0) bad |= json_object_set(json, "quantization_config", quantisation);
    json_decref(quantisation);
    json_t *tie = config->tie_word_embeddings ? json_true() : NULL;
    bad |= put(json, "tie_word_embeddings", shown(config, TPV_CONFIG_TIE_WORD_EMBEDDINGS, tie));
    if (bad == 0) return json;
    json_decref(json);
    return NULL;
}
