#include "view/plan_transformers.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "view/fields.h"

#define MAX_ENTRIES 256
#define MAX_PARTS 4 /* of one tensor that are several on the other side */

/* ---- what "names" says --------------------------------------------------------------------------------------------
 */

static bool is_name_list(const json_t *list) {
    size_t index;
    json_t *name;
    bool good = json_array_size(list) >= 1 && json_array_size(list) <= MAX_PARTS;
    json_array_foreach(list, index, name) good =
        good && json_string_length(name) >= 1 && json_string_length(name) <= TPV_MAX_NAME;
    return good;
}

tpv_status_t tpv_names_check(const json_t *names) {
    static const char *const keys[] = {"model", "disk", NULL};
    size_t index;
    json_t *entry;
    if (!json_is_array(names) || json_array_size(names) > MAX_ENTRIES)
        return tpv_error_set(TPV_ERR_FORMAT, "\"names\" must be a list of at most %d objects", MAX_ENTRIES);
    json_array_foreach(names, index, entry) {
        const json_t *model = json_object_get(entry, "model"), *disk = json_object_get(entry, "disk");
        TPV_TRY(tpv_fields_known("names", entry, keys));
        if (!is_name_list(model) || !is_name_list(disk) || (json_array_size(model) > 1 && json_array_size(disk) > 1))
            return tpv_error_set(
                TPV_ERR_FORMAT, "names[%zu]: \"model\" and \"disk\" must be lists of 1 to %d names, one of them of one",
                index, MAX_PARTS);
    }
    return TPV_OK;
}

static const char *name_at(const json_t *list, size_t index) {
    return json_string_value(json_array_get(list, index));
}

/* Where whole parts of `pattern` are `name`; NULL when nowhere. */
static const char *find_parts(const char *pattern, const char *name) {
    size_t length = strlen(name);
    for (const char *at = strstr(pattern, name); at; at = strstr(at + 1, name))
        if ((at == pattern || at[-1] == '.') && (at[length] == '\0' || at[length] == '.')) return at;
    return NULL;
}

/* `pattern` with `to` in the place of `from`, which must be in it; false when that is too long. */
static bool replace(const char *pattern, const char *from, const char *to, char result[TPV_MAX_NAME + 1]) {
    const char *at = find_parts(pattern, from), *rest = at + strlen(from);
    size_t before = (size_t)(at - pattern), middle = strlen(to), after = strlen(rest);
    if (before + middle + after > TPV_MAX_NAME) return false;
    memcpy(result, pattern, before);
    memcpy(result + before, to, middle);
    memcpy(result + before + middle, rest, after + 1);
    return true;
}

/* ---- rules --------------------------------------------------------------------------------------------------------
 */

/* Add a rule for `pattern`, of which it keeps a copy, like `model` in all else. Those from `first` on are of one rule
 * of the plan: one of them is enough for a pattern. */
static tpv_status_t add_rule(tpv_rules_t *rules, const tpv_rule_t *model, const char *pattern, size_t first) {
    for (size_t i = first; i < rules->rule_count; i++)
        if (strcmp(rules->rules[i].pattern, pattern) == 0 && rules->rules[i].kind == model->kind) return TPV_OK;
    if (rules->rule_count == TPV_MAX_RULES)
        return tpv_error_set(TPV_ERR_FORMAT, "the plan has more than %u rules, with those for other names on disk",
                             TPV_MAX_RULES);
    json_t *text = json_string(pattern);
    if (!text || json_array_append_new(rules->texts[2], text) != 0)
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a rule");
    tpv_rule_t *rule = &rules->rules[rules->rule_count++];
    *rule = *model;
    rule->pattern = json_string_value(text);
    return TPV_OK;
}

/* Patterns may or may not begin with what the model puts before its layers: names on disk are compared without. */
static const char *without_prefix(const tpv_rules_t *rules, const char *pattern) {
    size_t longest = 0;
    for (size_t i = 0; i < rules->prefix_count; i++) {
        size_t length = strlen(rules->prefixes[i]);
        if (length > longest && strncmp(pattern, rules->prefixes[i], length) == 0 && pattern[length]) longest = length;
    }
    return pattern + longest;
}

static tpv_status_t read_words(tpv_rules_t *rules, const json_t *plan) {
    const char *pattern;
    json_t *word;
    if (!json_is_object(plan)) return tpv_error_set(TPV_ERR_FORMAT, "transformers' plan must be an object of rules");
    json_object_foreach((json_t *)(uintptr_t)plan, pattern, word) {
        size_t length = strlen(pattern);
        tpv_rule_t rule;
        if (length < 1 || length > TPV_MAX_NAME)
            return tpv_error_set(TPV_ERR_FORMAT, "a pattern has %zu bytes, expected 1 to %d", length, TPV_MAX_NAME);
        if (!json_is_string(word)) return tpv_error_set(TPV_ERR_FORMAT, "rule \"%s\": expected a word", pattern);
        TPV_TRY(tpv_rule_set_word(pattern, json_string_value(word), &rule));
        /* Linear layers may be uneven in transformers: DTensor's Shard, as torch.chunk. Experts may not. */
        if (rule.kind == TPV_CUT_COLWISE || rule.kind == TPV_CUT_ROWWISE) rule.gathered = true;
        TPV_TRY(add_rule(rules, &rule, without_prefix(rules, pattern), rules->rule_count));
    }
    return TPV_OK;
}

static void refuse(tpv_rule_t *rule, const char *reason) {
    rule->kind = TPV_CUT_REFUSED;
    rule->refused = reason;
}

/* What a rule for one tensor of the model means for the `parts` that stand for it on disk. */
static void split_word(tpv_rule_t *rule, size_t parts, bool apart) {
    if (rule->kind == TPV_CUT_REPLICATE || rule->kind == TPV_CUT_REFUSED) return;
    if (apart && rule->kind == TPV_CUT_FIRST) {
        refuse(rule, "cuts a stack of experts, which are tensors of their own on disk");
    } else if (parts > 1 && rule->kind == TPV_CUT_PACKED_COLWISE) {
        rule->kind = TPV_CUT_COLWISE;
    } else if (parts > 1 && rule->kind != TPV_CUT_ROWWISE) {
        refuse(rule, "does not tell how those tensors are cut that are one in the model");
    }
}

/* What rules alike for several tensors of the model mean for the one that they are on disk. */
static void join_word(tpv_rule_t *rule) {
    if (rule->kind == TPV_CUT_COLWISE) {
        rule->kind = TPV_CUT_PACKED_COLWISE;
    } else if (rule->kind != TPV_CUT_ROWWISE && rule->kind != TPV_CUT_REPLICATE) {
        refuse(rule, "does not tell how a tensor is cut that is several in the model");
    }
}

static size_t stars_of(const char *pattern) {
    size_t count = 0;
    for (; *pattern; pattern++)
        count += *pattern == '*';
    return count;
}

static const tpv_rule_t *find_given(const tpv_rules_t *rules, size_t given, const char *pattern) {
    for (size_t i = 0; i < given; i++)
        if (strcmp(rules->rules[i].pattern, pattern) == 0) return &rules->rules[i];
    return NULL;
}

/* Add what one tensor of the model is on disk. */
static tpv_status_t add_split(tpv_rules_t *rules, const tpv_rule_t *rule, const json_t *entry, size_t first) {
    const json_t *disk = json_object_get(entry, "disk");
    const char *model = name_at(json_object_get(entry, "model"), 0);
    char text[TPV_MAX_NAME + 1];
    if (!find_parts(rule->pattern, model)) return TPV_OK;
    for (size_t i = 0; i < json_array_size(disk); i++) {
        const char *name = name_at(disk, i);
        tpv_rule_t part = *rule;
        split_word(&part, json_array_size(disk), stars_of(name) > stars_of(model));
        if (replace(rule->pattern, model, name, text)) TPV_TRY(add_rule(rules, &part, text, first));
    }
    return TPV_OK;
}

/* Add the one tensor on disk that the rule's is a part of, if the plan says the same of the others. */
static tpv_status_t add_joined(tpv_rules_t *rules, const tpv_rule_t *rule, const json_t *entry, size_t given) {
    const json_t *models = json_object_get(entry, "model");
    const char *disk = name_at(json_object_get(entry, "disk"), 0);
    char text[TPV_MAX_NAME + 1];
    for (size_t i = 0; i < json_array_size(models); i++) {
        const char *own = name_at(models, i);
        tpv_rule_t joined = *rule;
        if (!find_parts(rule->pattern, own)) continue;
        join_word(&joined);
        for (size_t k = 0; k < json_array_size(models); k++) {
            if (!replace(rule->pattern, own, name_at(models, k), text)) return TPV_OK;
            const tpv_rule_t *other = find_given(rules, given, text);
            if (!other || other->kind != rule->kind)
                refuse(&joined, "is not said of all the tensors that are one on disk");
        }
        if (replace(rule->pattern, own, disk, text)) TPV_TRY(add_rule(rules, &joined, text, rules->rule_count));
    }
    return TPV_OK;
}

/* Add rules for every other name of what rule `index` speaks of; a name may be changed by several entries in turn. */
static tpv_status_t add_names(tpv_rules_t *rules, size_t index, size_t given) {
    size_t first = rules->rule_count, at;
    json_t *entry;
    json_array_foreach((json_t *)(uintptr_t)rules->names, at, entry) {
        bool joins = json_array_size(json_object_get(entry, "model")) > 1;
        size_t end = rules->rule_count;
        tpv_rule_t own = rules->rules[index];
        TPV_TRY(joins ? add_joined(rules, &own, entry, given) : add_split(rules, &own, entry, first));
        for (size_t i = first; i < end && !joins; i++) {
            tpv_rule_t alternative = rules->rules[i];
            TPV_TRY(add_split(rules, &alternative, entry, first));
        }
    }
    return TPV_OK;
}

tpv_status_t tpv_rules_read_transformers(tpv_rules_t *rules, const json_t *plan) {
    static const char *const keys[] = {"base_model_tp_plan", "tp_plan", NULL};
    rules->transformers = true;
    rules->texts[2] = json_array();
    rules->rules = calloc(TPV_MAX_RULES, sizeof *rules->rules);
    if (!rules->texts[2] || !rules->rules) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a plan's rules");
    bool whole = json_object_get(plan, keys[0]) || json_object_get(plan, keys[1]);
    if (whole) TPV_TRY(tpv_fields_known("transformers' plan", (json_t *)(uintptr_t)plan, keys));
    for (size_t i = 0; whole && keys[i]; i++)
        if (json_object_get(plan, keys[i])) TPV_TRY(read_words(rules, json_object_get(plan, keys[i])));
    if (!whole) TPV_TRY(read_words(rules, plan));
    size_t given = rules->rule_count;
    for (size_t i = 0; i < given; i++)
        TPV_TRY(add_names(rules, i, given));
    return TPV_OK;
}
