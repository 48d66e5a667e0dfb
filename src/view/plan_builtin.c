/*
 * Built-in plans. Names and shapes are those of Hugging Face checkpoints (transformers 5.23.0, models/llama, mistral,
 * qwen2, qwen3, qwen3_moe, mixtral); what is cut how follows vLLM 0.32 (QKVParallelLinear, MergedColumnParallelLinear,
 * RowParallelLinear, VocabParallelEmbedding).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "artifact/config.h"
#include "base/error.h"
#include "view/plan_rules.h"
#include "view/spec.h"

enum { DENSE = 1, QWEN3 = 2, QWEN3_MOE = 4, MIXTRAL = 8, EVERY = DENSE | QWEN3 | QWEN3_MOE | MIXTRAL };

static const struct {
    const char *model_type;
    unsigned family;
} families[] = {
    {"llama", DENSE}, {"mistral", DENSE},       {"qwen2", DENSE},
    {"qwen3", QWEN3}, {"qwen3_moe", QWEN3_MOE}, {"mixtral", MIXTRAL},
};

static const struct {
    unsigned families;
    const char *pattern, *word;
} table[] = {
    {EVERY, "model.embed_tokens", "vocab_parallel"},
    {EVERY, "lm_head", "vocab_parallel"},
    {EVERY, "model.norm", "replicate"},
    {EVERY, "model.layers.*.input_layernorm", "replicate"},
    {EVERY, "model.layers.*.post_attention_layernorm", "replicate"},
    {EVERY, "model.layers.*.self_attn.q_proj", "colwise"},
    {EVERY, "model.layers.*.self_attn.k_proj", "colwise"},
    {EVERY, "model.layers.*.self_attn.v_proj", "colwise"},
    {EVERY, "model.layers.*.self_attn.o_proj", "rowwise"},
    /* A buffer that older llama checkpoints carry along. */
    {DENSE, "model.layers.*.self_attn.rotary_emb.inv_freq", "replicate"},
    {QWEN3 | QWEN3_MOE, "model.layers.*.self_attn.q_norm", "replicate"},
    {QWEN3 | QWEN3_MOE, "model.layers.*.self_attn.k_norm", "replicate"},
    {DENSE | QWEN3 | QWEN3_MOE, "model.layers.*.mlp.gate_proj", "colwise"},
    {DENSE | QWEN3 | QWEN3_MOE, "model.layers.*.mlp.up_proj", "colwise"},
    {DENSE | QWEN3 | QWEN3_MOE, "model.layers.*.mlp.down_proj", "rowwise"},
    {QWEN3_MOE, "model.layers.*.mlp.gate", "replicate"},
    {QWEN3_MOE, "model.layers.*.mlp.experts.*.gate_proj", "colwise"},
    {QWEN3_MOE, "model.layers.*.mlp.experts.*.up_proj", "colwise"},
    {QWEN3_MOE, "model.layers.*.mlp.experts.*.down_proj", "rowwise"},
    {MIXTRAL, "model.layers.*.block_sparse_moe.gate", "replicate"},
    {MIXTRAL, "model.layers.*.block_sparse_moe.experts.*.w1", "colwise"},
    {MIXTRAL, "model.layers.*.block_sparse_moe.experts.*.w3", "colwise"},
    {MIXTRAL, "model.layers.*.block_sparse_moe.experts.*.w2", "rowwise"},
};
#define TABLE_ROWS (sizeof table / sizeof *table)

static unsigned family_of(const tpv_model_config_t *config) {
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (strcmp(families[i].model_type, config->model_type) == 0) return families[i].family;
    return 0;
}

size_t tpv_rules_builtin_heads(const tpv_model_config_t *config, tpv_head_rule_t *heads) {
    uint64_t count = config->num_attention_heads, kv_count = config->num_key_value_heads;
    if (count == 0) return 0;
    if (kv_count == 0) kv_count = count;
    uint64_t head_dim = config->head_dim;
    if (head_dim == 0 && config->hidden_size % count == 0) head_dim = config->hidden_size / count;
    heads[0] = (tpv_head_rule_t){.pattern = "**.q_proj", .count = count, .head_dim = head_dim};
    heads[1] = (tpv_head_rule_t){.pattern = "**.k_proj", .count = kv_count, .head_dim = head_dim, .replicate = true};
    heads[2] = (tpv_head_rule_t){.pattern = "**.v_proj", .count = kv_count, .head_dim = head_dim, .replicate = true};
    heads[3] = (tpv_head_rule_t){.pattern = "**.o_proj", .count = count, .head_dim = head_dim};
    return TPV_BUILTIN_HEAD_RULES;
}

tpv_status_t tpv_rules_builtin(const tpv_model_config_t *config, tpv_rules_t *rules) {
    if (!config->present)
        return tpv_error_set(TPV_ERR_PLAN, "the checkpoint has no config.json that tells its model_type: give a plan "
                                           "file");
    TPV_TRY(tpv_config_need(config, TPV_CONFIG_MODEL_TYPE));
    unsigned family = family_of(config);
    if (family == 0)
        return tpv_error_set(TPV_ERR_PLAN,
                             "model_type \"%s\" has no built-in plan (llama, mistral, qwen2, qwen3, qwen3_moe and "
                             "mixtral have): give a plan file",
                             config->model_type);
    TPV_TRY(tpv_config_need(config, TPV_CONFIG_HIDDEN_LAYERS | TPV_CONFIG_ATTENTION_HEADS | TPV_CONFIG_KEY_VALUE_HEADS |
                                        TPV_CONFIG_HEAD_DIM | TPV_CONFIG_TIE_WORD_EMBEDDINGS));
    if (config->head_dim == 0) TPV_TRY(tpv_config_need(config, TPV_CONFIG_HIDDEN_SIZE));
    if (config->num_attention_heads == 0 || config->num_hidden_layers == 0)
        return tpv_error_set(TPV_ERR_PLAN, "config.json lacks num_attention_heads or num_hidden_layers, which the "
                                           "built-in plan needs");
    rules->rules = calloc(TABLE_ROWS, sizeof *rules->rules);
    rules->heads = calloc(TPV_BUILTIN_HEAD_RULES, sizeof *rules->heads);
    if (!rules->rules || !rules->heads) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the built-in plan");
    for (size_t i = 0; i < TABLE_ROWS; i++) {
        if (!(table[i].families & family)) continue;
        tpv_rule_t *rule = &rules->rules[rules->rule_count++];
        rule->pattern = table[i].pattern;
        rule->word = table[i].word;
        TPV_TRY(tpv_cut_kind_from_word(rule->pattern, rule->word, &rule->kind));
    }
    rules->head_count = tpv_rules_builtin_heads(config, rules->heads);
    return TPV_OK;
}

/* ---- is the model whole? ----------------------------------------------------------------------------------------- */

/* Any parameter of the module counts: a quantised one may have no "weight". */
static bool has_module(const tpv_artifact_t *artifact, const char *module) {
    size_t length = strlen(module);
    size_t low = 0, high = tpv_artifact_tensor_count(artifact);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const char *name = tpv_artifact_tensor(artifact, middle)->name;
        int order = strncmp(name, module, length);
        if (order == 0 && name[length] == '.') return true;
        if (order < 0 || (order == 0 && name[length] < '.'))
            low = middle + 1;
        else
            high = middle;
    }
    return false;
}

static tpv_status_t need_module(const tpv_artifact_t *artifact, const char *module) {
    if (has_module(artifact, module)) return TPV_OK;
    return tpv_error_set(TPV_ERR_PLAN, "%s.weight: missing in the checkpoint", module);
}

static tpv_status_t need_parts(const tpv_artifact_t *artifact, const char *parent, const char *const *parts) {
    char module[TPV_MAX_NAME + 1];
    for (; *parts; parts++) {
        snprintf(module, sizeof module, "%s.%s", parent, *parts);
        TPV_TRY(need_module(artifact, module));
    }
    return TPV_OK;
}

/* As many experts as the router has rows. */
static tpv_status_t need_experts(const tpv_artifact_t *artifact, const char *block, const char *const *parts) {
    char name[256];
    uint32_t index;
    snprintf(name, sizeof name, "%s.gate.weight", block);
    if (!tpv_spec_find_tensor(artifact, name, &index))
        return tpv_error_set(TPV_ERR_PLAN, "%s: missing in the checkpoint", name);
    const tpv_tensor_t *router = tpv_artifact_tensor(artifact, index);
    uint64_t experts = router->dims > 0 ? router->shape[0] : 0;
    for (uint64_t i = 0; i < experts; i++) {
        snprintf(name, sizeof name, "%s.experts.%llu", block, (unsigned long long)i);
        TPV_TRY(need_parts(artifact, name, parts));
    }
    return TPV_OK;
}

static tpv_status_t need_layer(const tpv_artifact_t *artifact, unsigned family, uint64_t layer) {
    static const char *const attention[] = {"input_layernorm",
                                            "post_attention_layernorm",
                                            "self_attn.q_proj",
                                            "self_attn.k_proj",
                                            "self_attn.v_proj",
                                            "self_attn.o_proj",
                                            NULL};
    static const char *const norms[] = {"self_attn.q_norm", "self_attn.k_norm", NULL};
    static const char *const mlp[] = {"gate_proj", "up_proj", "down_proj", NULL};
    static const char *const mixtral[] = {"w1", "w2", "w3", NULL};
    char parent[128], block[160];
    snprintf(parent, sizeof parent, "model.layers.%llu", (unsigned long long)layer);
    TPV_TRY(need_parts(artifact, parent, attention));
    if (family & (QWEN3 | QWEN3_MOE)) TPV_TRY(need_parts(artifact, parent, norms));
    if (family == MIXTRAL) {
        snprintf(block, sizeof block, "%s.block_sparse_moe", parent);
        return need_experts(artifact, block, mixtral);
    }
    snprintf(block, sizeof block, "%s.mlp.gate", parent);
    bool sparse = family == QWEN3_MOE && has_module(artifact, block); /* some layers of a MoE may be dense */
    snprintf(block, sizeof block, "%s.mlp", parent);
    return sparse ? need_experts(artifact, block, mlp) : need_parts(artifact, block, mlp);
}

tpv_status_t tpv_builtin_check_whole(const tpv_artifact_t *artifact) {
    const tpv_model_config_t *config = tpv_artifact_config(artifact);
    TPV_TRY(need_module(artifact, "model.embed_tokens"));
    TPV_TRY(need_module(artifact, "model.norm"));
    if (!config->tie_word_embeddings) TPV_TRY(need_module(artifact, "lm_head"));
    for (uint64_t layer = 0; layer < config->num_hidden_layers; layer++)
        TPV_TRY(need_layer(artifact, family_of(config), layer));
    return TPV_OK;
}
