/* Plan files of format "tpview-plan-1". */
#include <stdlib.h>
#include <string.h>

#include "artifact/config.h"
#include "artifact/json.h"
#include "base/error.h"
#include "view/fields.h"
#include "view/plan_rules.h"

#define PLAN_FORMAT "tpview-plan-1"

static tpv_status_t check_pattern(const char *pattern) {
    size_t length = strlen(pattern);
    if (length > 0 && length <= TPV_MAX_NAME) return TPV_OK;
    return tpv_error_set(TPV_ERR_FORMAT, "a pattern has %zu bytes, expected 1 to %d", length, TPV_MAX_NAME);
}

static tpv_status_t read_rules(json_t *plan, tpv_rules_t *rules) {
    if (!json_is_object(plan) || json_object_size(plan) > TPV_MAX_RULES)
        return tpv_error_set(TPV_ERR_FORMAT, "\"tp_plan\" must be an object of at most %u rules", TPV_MAX_RULES);
    rules->rules = calloc(json_object_size(plan) + 1, sizeof *rules->rules);
    if (!rules->rules) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for %zu rules", json_object_size(plan));
    const char *pattern;
    json_t *word;
    json_object_foreach(plan, pattern, word) {
        TPV_TRY(check_pattern(pattern));
        if (!json_is_string(word)) return tpv_error_set(TPV_ERR_FORMAT, "rule \"%s\": expected a word", pattern);
        tpv_rule_t *rule = &rules->rules[rules->rule_count++];
        *rule = (tpv_rule_t){.pattern = pattern, .word = json_string_value(word)};
        TPV_TRY(tpv_cut_kind_from_word(pattern, rule->word, &rule->kind));
    }
    return TPV_OK;
}

/* Heads of the file go before those of config.json: the first that matches counts. */
static tpv_status_t read_heads(json_t *file_heads, const tpv_model_config_t *config, bool builtin, tpv_rules_t *rules) {
    static const char *const keys[] = {"count", "replicate", NULL};
    size_t given = json_object_size(file_heads);
    if (file_heads && (!json_is_object(file_heads) || given > TPV_MAX_RULES))
        return tpv_error_set(TPV_ERR_FORMAT, "\"heads\" must be an object of at most %u patterns", TPV_MAX_RULES);
    free(rules->heads);
    rules->head_count = 0;
    rules->heads = calloc(given + TPV_BUILTIN_HEAD_RULES, sizeof *rules->heads);
    if (!rules->heads) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for %zu head rules", given);
    const char *pattern;
    json_t *value;
    json_object_foreach(file_heads, pattern, value) {
        tpv_head_rule_t *rule = &rules->heads[rules->head_count++];
        rule->pattern = pattern;
        TPV_TRY(check_pattern(pattern));
        TPV_TRY(tpv_fields_known(pattern, value, keys));
        if (!json_object_get(value, "count"))
            return tpv_error_set(TPV_ERR_FORMAT, "heads of \"%s\": \"count\" is missing", pattern);
        TPV_TRY(tpv_field_whole(pattern, value, "count", 0, &rule->count));
        TPV_TRY(tpv_field_truth(pattern, value, "replicate", false, &rule->replicate));
    }
    tpv_head_rule_t *others = &rules->heads[rules->head_count];
    size_t count = tpv_rules_builtin_heads(config, others);
    /* Models without a built-in plan may have heads of other sizes than head_dim says. */
    for (size_t i = 0; !builtin && i < count; i++)
        others[i].head_dim = 0;
    rules->head_count += count;
    return TPV_OK;
}

static tpv_status_t read_plan(const tpv_model_config_t *config, json_t *root, tpv_rules_t *rules, bool *builtin) {
    static const char *const keys[] = {"format", "tp_plan", "default", "heads", NULL};
    const char *format, *fallback = "error";
    TPV_TRY(tpv_fields_known("plan", root, keys));
    TPV_TRY(tpv_field_name("plan", root, "format", &format));
    if (strcmp(format, PLAN_FORMAT) != 0)
        return tpv_error_set(TPV_ERR_FORMAT, "format \"%.100s\", expected \"%s\" or \"tpview-view-1\"", format,
                             PLAN_FORMAT);
    if (json_object_get(root, "default")) TPV_TRY(tpv_field_name("plan", root, "default", &fallback));
    if (strcmp(fallback, "error") != 0 && strcmp(fallback, "replicate") != 0)
        return tpv_error_set(TPV_ERR_FORMAT, "\"default\" is \"%.100s\", expected \"error\" or \"replicate\"",
                             fallback);
    rules->replicate_others = strcmp(fallback, "replicate") == 0;
    json_t *plan = json_object_get(root, "tp_plan");
    *builtin = plan == NULL;
    TPV_TRY(plan ? read_rules(plan, rules) : tpv_rules_builtin(config, rules));
    return read_heads(json_object_get(root, "heads"), config, *builtin, rules);
}

tpv_status_t tpv_rules_read_json(const tpv_model_config_t *config, const char *json, size_t length, tpv_rules_t *rules,
                                 bool *builtin) {
    json_t *root = NULL;
    tpv_status_t status = tpv_json_parse((tpv_json_text_t){json, length}, TPV_MAX_PLAN_BYTES, &root);
    if (status == TPV_OK) {
        rules->texts = root;
        status = read_plan(config, root, rules, builtin);
    }
    if (status != TPV_OK) return tpv_error_prefix(status, "plan file");
    return tpv_config_need(config, TPV_CONFIG_ATTENTION_HEADS | TPV_CONFIG_KEY_VALUE_HEADS);
}
