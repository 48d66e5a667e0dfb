#include "view/quant_config.h"

#include <stdio.h>
#include <string.h>

#define MAX_DEPTH 5 /* quantization_config.config_groups.group_0.weights.block_structure */
#define MAX_BLOCK (UINT64_C(1) << 32)

static void add_block(tpv_quant_config_t *config, uint64_t rows, uint64_t columns) {
    if (rows == 0 || columns == 0 || rows > MAX_BLOCK || columns > MAX_BLOCK) return;
    for (uint32_t i = 0; i < config->block_count; i++)
        if (config->block[i][0] == rows && config->block[i][1] == columns) return;
    if (config->block_count == TPV_MAX_QUANT_BLOCKS) return;
    config->block[config->block_count][0] = rows;
    config->block[config->block_count++][1] = columns;
}

static void add_bits(tpv_quant_config_t *config, uint64_t bits) {
    for (uint32_t i = 0; i < config->bits_count; i++)
        if (config->bits[i] == bits) return;
    if (bits >= 2 && bits <= 8 && config->bits_count < TPV_MAX_QUANT_BITS) config->bits[config->bits_count++] = bits;
}

static uint64_t number(const json_t *value) {
    return json_is_integer(value) && json_integer_value(value) > 0 ? (uint64_t)json_integer_value(value) : 0;
}

/* [128, 128], or "128x128" as compressed-tensors wrote it up to 0.10. */
static void read_block(tpv_quant_config_t *config, const json_t *value) {
    unsigned long long rows = 0, columns = 0;
    if (json_is_array(value) && json_array_size(value) == 2)
        add_block(config, number(json_array_get(value, 0)), number(json_array_get(value, 1)));
    if (json_is_string(value) && sscanf(json_string_value(value), "%9llux%9llu", &rows, &columns) == 2)
        add_block(config, rows, columns);
}

static bool is_one_of(const char *name, const char *const *names) {
    for (; *names; names++)
        if (strcmp(*names, name) == 0) return true;
    return false;
}

/*
 * Methods differ in where they say it and for which modules (config_groups of compressed-tensors, dynamic of GPTQModel,
 * quantized_layers of ModelOpt), but the names of the fields are the same. What is said of activations does not matter.
 */
static void walk(tpv_quant_config_t *config, const json_t *object, int depth) {
    static const char *const groups[] = {"group_size", "q_group_size", NULL};
    static const char *const widths[] = {"bits", "num_bits", "w_bit", NULL};
    static const char *const blocks[] = {"weight_block_size", "block_structure", NULL};
    static const char *const others[] = {"input_activations", "output_activations", "kv_cache_scheme", NULL};
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, name, value) {
        if (is_one_of(name, groups)) add_block(config, 1, number(value));
        if (is_one_of(name, widths)) add_bits(config, number(value));
        if (is_one_of(name, blocks)) read_block(config, value);
        if (strcmp(name, "desc_act") == 0 && json_is_boolean(value)) {
            tpv_told_t told = json_is_true(value) ? TPV_TOLD_TRUE : TPV_TOLD_FALSE;
            config->desc_act = config->desc_act == TPV_NOT_TOLD || config->desc_act == told ? told : TPV_TOLD_BOTH;
        }
        if (json_is_object(value) && depth < MAX_DEPTH && !is_one_of(name, others)) walk(config, value, depth + 1);
    }
}

static const char *text_of(const json_t *object, const char *name) {
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : "";
}

tpv_quant_config_t tpv_quant_config_read(const json_t *facts) {
    const json_t *found = json_object_get(facts, "quantization_config");
    if (!json_is_object(found)) found = json_object_get(json_object_get(facts, "text_config"), "quantization_config");
    if (!json_is_object(found)) found = json_object_get(facts, "compression_config"); /* compressed-tensors 0.3 */
    tpv_quant_config_t config = {.method = text_of(found, "quant_method"),
                                 .format = text_of(found, "checkpoint_format"),
                                 .version = text_of(found, "version")};
    walk(&config, found, 1);
    return config;
}
