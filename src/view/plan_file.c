/* Plan files of format "tpview-plan-1", the embedded plans of families among them. */
#include <stdlib.h>
#include <string.h>

#include "artifact/config.h"
#include "artifact/json.h"
#include "base/error.h"
#include "view/families.h"
#include "view/fields.h"
#include "view/plan_rules.h"
#include "view/plan_transformers.h"
#include "view/plan_whole.h"

#define PLAN_FORMAT "tpview-plan-1"

static tpv_status_t check_pattern(const char *pattern) {
    size_t length = strlen(pattern);
    if (length > 0 && length <= TPV_MAX_NAME) return TPV_OK;
    return tpv_error_set(TPV_ERR_FORMAT, "a pattern has %zu bytes, expected 1 to %d", length, TPV_MAX_NAME);
}

static bool is_scalar(const json_t *value) {
    return json_is_string(value) || json_is_integer(value) || json_is_boolean(value) || json_is_null(value);
}

tpv_status_t tpv_plan_read_when(const char *what, const json_t *object, const json_t **when) {
    const char *path;
    json_t *wanted, *item;
    size_t index;
    *when = json_object_get(object, "when");
    if (*when && !json_is_object(*when))
        return tpv_error_set(TPV_ERR_FORMAT, "%s: \"when\" must be an object of fields and what they must be", what);
    json_object_foreach((json_t *)(uintptr_t)*when, path, wanted) {
        bool good = is_scalar(wanted) || json_is_array(wanted);
        json_array_foreach(wanted, index, item) good = good && is_scalar(item);
        if (!good)
            return tpv_error_set(TPV_ERR_FORMAT,
                                 "%s: \"when\" of \"%.100s\" must be a word, a number, a truth, null, or a list of "
                                 "such",
                                 what, path);
    }
    return TPV_OK;
}

/* A value for each pattern, or a list of several of which the first whose "when" holds counts. */
typedef tpv_status_t (*read_entry_t)(tpv_rules_t *rules, const char *pattern, json_t *value);

static tpv_status_t read_entries(tpv_rules_t *rules, json_t *root, const char *key, read_entry_t read) {
    json_t *object = json_object_get(root, key), *value, *item;
    const char *pattern;
    size_t index;
    json_object_foreach(object, pattern, value) {
        TPV_TRY(check_pattern(pattern));
        if (!json_is_array(value)) TPV_TRY(read(rules, pattern, value));
        json_array_foreach(value, index, item) TPV_TRY(read(rules, pattern, item));
    }
    return TPV_OK;
}

/* How many entries there are; TPV_ERR_FORMAT when there are too many. */
static tpv_status_t count_entries(json_t *root, const char *key, const char *kind, size_t *count) {
    json_t *object = json_object_get(root, key), *value;
    const char *pattern;
    size_t found = 0;
    json_object_foreach(object, pattern, value) found += json_is_array(value) ? json_array_size(value) : 1;
    if (object && (!json_is_object(object) || found > TPV_MAX_RULES))
        return tpv_error_set(TPV_ERR_FORMAT, "\"%s\" must be an object of at most %u %s", key, TPV_MAX_RULES, kind);
    *count += found;
    return TPV_OK;
}

static tpv_status_t read_shape(const char *pattern, const json_t *value, const json_t **shape) {
    size_t index;
    json_t *length;
    *shape = json_object_get(value, "shape");
    if (*shape && (!json_is_array(*shape) || json_array_size(*shape) > TPV_MAX_DIMS))
        return tpv_error_set(TPV_ERR_FORMAT, "%s: \"shape\" must be a list of at most %d lengths, null for any",
                             pattern, TPV_MAX_DIMS);
    json_array_foreach((json_t *)(uintptr_t)*shape, index, length) {
        if (!json_is_null(length)) TPV_TRY(tpv_value_check(pattern, length));
    }
    return TPV_OK;
}

static tpv_status_t read_rule(tpv_rules_t *rules, const char *pattern, json_t *value) {
    static const char *const keys[] = {"word", "when", "shape", NULL};
    const json_t *word = value, *when = NULL, *shape = NULL;
    if (json_is_object(value)) {
        TPV_TRY(tpv_fields_known(pattern, value, keys));
        TPV_TRY(tpv_plan_read_when(pattern, value, &when));
        TPV_TRY(read_shape(pattern, value, &shape));
        word = json_object_get(value, "word");
    }
    if (!json_is_string(word)) return tpv_error_set(TPV_ERR_FORMAT, "rule \"%s\": expected a word", pattern);
    tpv_rule_t *rule = &rules->rules[rules->rule_count++];
    TPV_TRY(tpv_rule_set_word(pattern, json_string_value(word), rule));
    rule->when = when;
    rule->shape = shape;
    return TPV_OK;
}

static tpv_status_t read_value(const char *what, json_t *object, const char *key, const json_t **value) {
    *value = json_object_get(object, key);
    return *value ? tpv_value_check(what, *value) : TPV_OK;
}

static tpv_status_t read_part(const char *pattern, json_t *value, tpv_part_t *part) {
    TPV_TRY(read_value(pattern, value, "size", &part->size));
    TPV_TRY(read_value(pattern, value, "count", &part->count));
    TPV_TRY(read_value(pattern, value, "head_dim", &part->head_dim));
    TPV_TRY(tpv_field_truth(pattern, value, "replicate", false, &part->replicate));
    return tpv_field_truth(pattern, value, "whole", false, &part->whole);
}

static tpv_status_t read_section(const char *what, json_t *object, const char **section) {
    json_t *value = json_object_get(object, "section");
    *section = json_string_value(value);
    if (!value || *section) return TPV_OK;
    return tpv_error_set(TPV_ERR_FORMAT, "%s: \"section\" must be the name of an object in config.json", what);
}

static tpv_status_t read_heads(tpv_rules_t *rules, const char *pattern, json_t *value) {
    static const char *const keys[] = {"count", "head_dim", "replicate", "section", "when", NULL};
    tpv_layout_t *layout = &rules->layouts[rules->layout_count];
    *layout = (tpv_layout_t){.pattern = pattern, .part_count = 1};
    if (json_is_null(value)) {
        layout->unknown = true;
        layout->part_count = 0;
        rules->layout_count++;
        return TPV_OK;
    }
    TPV_TRY(tpv_fields_known(pattern, value, keys));
    if (!json_object_get(value, "count"))
        return tpv_error_set(TPV_ERR_FORMAT, "heads of \"%s\": \"count\" is missing", pattern);
    TPV_TRY(read_part(pattern, value, &layout->part[0]));
    TPV_TRY(read_section(pattern, value, &layout->section));
    TPV_TRY(tpv_plan_read_when(pattern, value, &layout->when));
    if (json_is_integer(layout->part[0].count) && json_integer_value(layout->part[0].count) == 0)
        layout->part_count = 0;
    rules->layout_count++;
    return TPV_OK;
}

static tpv_status_t read_pack(tpv_rules_t *rules, const char *pattern, json_t *value) {
    static const char *const keys[] = {"parts", "section", "when", NULL};
    static const char *const part_keys[] = {"size", "count", "head_dim", "replicate", "whole", NULL};
    tpv_layout_t *layout = &rules->layouts[rules->layout_count];
    *layout = (tpv_layout_t){.pattern = pattern};
    TPV_TRY(tpv_fields_known(pattern, value, keys));
    json_t *parts = json_object_get(value, "parts"), *part;
    size_t index, count = json_array_size(parts);
    if (count < 1 || count > TPV_MAX_PARTS)
        return tpv_error_set(TPV_ERR_FORMAT, "pack \"%s\": \"parts\" must be a list of 1 to %u parts", pattern,
                             TPV_MAX_PARTS);
    json_array_foreach(parts, index, part) {
        TPV_TRY(tpv_fields_known(pattern, part, part_keys));
        TPV_TRY(read_part(pattern, part, &layout->part[index]));
    }
    layout->part_count = (uint32_t)count;
    TPV_TRY(read_section(pattern, value, &layout->section));
    TPV_TRY(tpv_plan_read_when(pattern, value, &layout->when));
    rules->layout_count++;
    return TPV_OK;
}

/* A list of at most `limit` short texts. */
static tpv_status_t read_texts(json_t *root, const char *key, size_t limit, const char **texts, size_t *count) {
    json_t *list = json_object_get(root, key), *item;
    size_t index;
    if (!list) return TPV_OK;
    bool good = json_is_array(list) && json_array_size(list) <= limit;
    json_array_foreach(list, index, item) good =
        good && json_is_string(item) && json_string_length(item) <= TPV_MAX_NAME;
    if (!good) return tpv_error_set(TPV_ERR_FORMAT, "\"%s\" must be a list of at most %zu texts", key, limit);
    *count = json_array_size(list);
    json_array_foreach(list, index, item) texts[index] = json_string_value(item);
    return TPV_OK;
}

static tpv_status_t read_default(json_t *root, tpv_rules_t *rules) {
    const char *fallback;
    if (!json_object_get(root, "default")) return TPV_OK;
    TPV_TRY(tpv_field_name("plan", root, "default", &fallback));
    rules->replicate_others = strcmp(fallback, "replicate") == 0;
    if (rules->replicate_others || strcmp(fallback, "error") == 0) return TPV_OK;
    return tpv_error_set(TPV_ERR_FORMAT, "\"default\" is \"%.100s\", expected \"error\" or \"replicate\"", fallback);
}

/* The file is for some model types only. */
static tpv_status_t check_model_types(json_t *root, const json_t *facts) {
    json_t *types = json_object_get(root, "model_types"), *type;
    if (!types) return TPV_OK;
    const char *wanted = json_string_value(json_object_get(facts, "model_type"));
    size_t index;
    if (!json_is_array(types)) return tpv_error_set(TPV_ERR_FORMAT, "\"model_types\" must be a list of names");
    json_array_foreach(types, index, type) {
        if (!json_is_string(type)) return tpv_error_set(TPV_ERR_FORMAT, "\"model_types\" must be a list of names");
        if (wanted && strcmp(json_string_value(type), wanted) == 0) return TPV_OK;
    }
    return tpv_error_set(TPV_ERR_PLAN, "the plan is not for model_type \"%.100s\": its \"model_types\" do not name it",
                         wanted ? wanted : "");
}

static tpv_status_t check_fields(json_t *root) {
    static const char *const keys[] = {"format",
                                       "about",
                                       "model_types",
                                       "prefixes",
                                       "sections",
                                       "tp_plan",
                                       "heads",
                                       "packs",
                                       "needs",
                                       "tied",
                                       "default",
                                       "names",
                                       "transformers_tp_plan",
                                       NULL};
    const char *format;
    TPV_TRY(tpv_fields_known("plan", root, keys));
    if (!json_object_get(root, "format"))
        return tpv_error_set(TPV_ERR_FORMAT, "\"format\" is missing: expected \"%s\", or \"tpview-view-1\" for a view",
                             PLAN_FORMAT);
    TPV_TRY(tpv_field_name("plan", root, "format", &format));
    if (strcmp(format, PLAN_FORMAT) == 0) return TPV_OK;
    return tpv_error_set(TPV_ERR_FORMAT, "format \"%.100s\", expected \"%s\" or \"tpview-view-1\"", format,
                         PLAN_FORMAT);
}

/* Layouts of the first tree go before those of the second: the first that matches counts. */
static tpv_status_t read_layouts(tpv_rules_t *rules) {
    size_t count = 0;
    for (int i = 0; i < 2; i++) {
        TPV_TRY(count_entries(rules->texts[i], "heads", "patterns", &count));
        TPV_TRY(count_entries(rules->texts[i], "packs", "patterns", &count));
    }
    rules->layouts = calloc(count + 1, sizeof *rules->layouts);
    if (!rules->layouts) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for %zu layouts", count);
    size_t own = 0;
    for (int i = 0; i < 2; i++) {
        TPV_TRY(read_entries(rules, rules->texts[i], "heads", read_heads));
        TPV_TRY(read_entries(rules, rules->texts[i], "packs", read_pack));
        if (i == 0) own = rules->layout_count;
    }
    for (size_t i = own; !rules->family && i < rules->layout_count; i++)
        rules->layouts[i].from_defaults = true;
    return TPV_OK;
}

static tpv_status_t read_tp_plan(tpv_rules_t *rules, json_t *root) {
    size_t count = 0;
    TPV_TRY(count_entries(root, "tp_plan", "rules", &count));
    rules->rules = calloc(count + 1, sizeof *rules->rules);
    if (!rules->rules) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for %zu rules", count);
    return read_entries(rules, root, "tp_plan", read_rule);
}

static tpv_status_t read_tied(json_t *tied, tpv_rules_t *rules) {
    static const char *const keys[] = {"head", "embedding", "default", NULL};
    TPV_TRY(tpv_fields_known("tied", tied, keys));
    TPV_TRY(tpv_field_name("tied", tied, "head", &rules->head));
    TPV_TRY(tpv_field_name("tied", tied, "embedding", &rules->embedding));
    return tpv_field_truth("tied", tied, "default", false, &rules->tied_default);
}

/* What a tree says beside rules and layouts, over what was said before. */
static tpv_status_t read_rest(tpv_rules_t *rules, json_t *root) {
    TPV_TRY(read_texts(root, "prefixes", TPV_MAX_PREFIXES, rules->prefixes, &rules->prefix_count));
    TPV_TRY(read_texts(root, "sections", TPV_MAX_SECTIONS, rules->sections, &rules->section_count));
    TPV_TRY(read_default(root, rules));
    json_t *needs = json_object_get(root, "needs"), *tied = json_object_get(root, "tied");
    if (needs) TPV_TRY(tpv_whole_read(needs));
    if (needs) rules->needs = needs;
    json_t *names = json_object_get(root, "names");
    if (names) TPV_TRY(tpv_names_check(names));
    if (names) rules->names = names;
    return tied ? read_tied(tied, rules) : TPV_OK;
}

static tpv_status_t load(const char *text, size_t length, json_t **root) {
    TPV_TRY(tpv_json_parse((tpv_json_text_t){text, length}, TPV_MAX_PLAN_BYTES, root));
    return check_fields(*root);
}

/* texts[1] has the family's plan (or the defaults), texts[0] what a file says over it. */
static tpv_status_t read_trees(tpv_rules_t *rules) {
    json_t *file = rules->texts[0], *base = rules->texts[1];
    rules->head = "lm_head";
    rules->embedding = "embed_tokens";
    TPV_TRY(read_rest(rules, base));
    if (file) TPV_TRY(read_rest(rules, file));
    const json_t *transformers = json_object_get(file, "transformers_tp_plan");
    if (transformers) return tpv_rules_read_transformers(rules, transformers);
    TPV_TRY(read_tp_plan(rules, json_object_get(file, "tp_plan") ? file : base));
    return read_layouts(rules);
}

static tpv_status_t load_family(tpv_rules_t *rules) {
    const tpv_family_t *family;
    if (json_object_size(rules->facts) == 0)
        return tpv_error_set(TPV_ERR_PLAN, "the checkpoint has no config.json that tells its model_type: give a plan "
                                           "file");
    const char *type = json_string_value(json_object_get(rules->facts, "model_type"));
    TPV_TRY(tpv_family_find(type ? type : "", &family));
    rules->family = family->name;
    return load(family->text, strlen(family->text), &rules->texts[1]);
}

tpv_status_t tpv_rules_of_family(const json_t *facts, tpv_rules_t *rules) {
    rules->facts = facts;
    TPV_TRY(load_family(rules));
    tpv_status_t status = read_trees(rules);
    return status == TPV_OK ? TPV_OK : tpv_error_prefix(status, "the plan of family %s", rules->family);
}

/* What plan files with rules of their own start from: "defaults", or "transformers" for transformers' rules. */
static tpv_status_t load_base(tpv_rules_t *rules, const char *name) {
    const char *text = tpv_family_base(name);
    return load(text, strlen(text), &rules->texts[1]);
}

/* transformers' plan says all that there is to say: it knows nothing of heads and parts. */
static tpv_status_t check_transformers(json_t *root) {
    static const char *const others[] = {"tp_plan", "heads", "packs"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (json_object_get(root, others[i]))
            return tpv_error_set(TPV_ERR_FORMAT,
                                 "\"transformers_tp_plan\" does not go with \"%s\": expected one of them", others[i]);
    return TPV_OK;
}

tpv_status_t tpv_rules_default(const json_t *facts, tpv_rules_t *rules) {
    rules->facts = facts;
    TPV_TRY(load_base(rules, "defaults"));
    return read_trees(rules);
}

static tpv_status_t read_file(tpv_rules_t *rules, const char *json, size_t length) {
    TPV_TRY(load(json, length, &rules->texts[0]));
    TPV_TRY(check_model_types(rules->texts[0], rules->facts));
    if (json_object_get(rules->texts[0], "transformers_tp_plan")) {
        TPV_TRY(check_transformers(rules->texts[0]));
        TPV_TRY(load_base(rules, "transformers"));
    } else if (json_object_get(rules->texts[0], "tp_plan")) {
        TPV_TRY(load_base(rules, "defaults"));
    } else {
        TPV_TRY(load_family(rules));
    }
    return read_trees(rules);
}

tpv_status_t tpv_rules_read_json(const json_t *facts, const char *json, size_t length, tpv_rules_t *rules) {
    rules->facts = facts;
    tpv_status_t status = read_file(rules, json, length);
    return status == TPV_OK ? TPV_OK : tpv_error_prefix(status, "plan file");
}
