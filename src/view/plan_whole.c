#include "view/plan_whole.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "view/fields.h"

#define MAX_NEEDS 256
#define MAX_MODULES 64
#define MAX_EACH 100000 /* layers or experts */

static tpv_status_t read_need(const char *what, json_t *need) {
    static const char *const keys[] = {"modules", "each", "experts", "router", "if", "unless", "when", "head", NULL};
    static const char *const values[] = {"each", "experts"};
    static const char *const names[] = {"if", "unless", "router"};
    const json_t *when;
    const char *name;
    bool truth;
    TPV_TRY(tpv_fields_known(what, need, keys));
    json_t *modules = json_object_get(need, "modules"), *module;
    size_t index, count = json_array_size(modules);
    bool good = count >= 1 && count <= MAX_MODULES;
    json_array_foreach(modules, index, module) good =
        good && json_string_length(module) > 0 && json_string_length(module) <= TPV_MAX_NAME;
    if (!good)
        return tpv_error_set(TPV_ERR_FORMAT, "%s: \"modules\" must be a list of 1 to %d names", what, MAX_MODULES);
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        if (json_object_get(need, values[i])) TPV_TRY(tpv_value_check(what, json_object_get(need, values[i])));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (json_object_get(need, names[i])) TPV_TRY(tpv_field_name(what, need, names[i], &name));
    TPV_TRY(tpv_field_truth(what, need, "head", false, &truth));
    return tpv_plan_read_when(what, need, &when);
}

tpv_status_t tpv_whole_read(const json_t *needs) {
    if (!json_is_array(needs) || json_array_size(needs) > MAX_NEEDS)
        return tpv_error_set(TPV_ERR_FORMAT, "\"needs\" must be a list of at most %d objects", MAX_NEEDS);
    size_t index;
    json_t *need;
    json_array_foreach(needs, index, need) {
        char what[32];
        snprintf(what, sizeof what, "needs[%zu]", index);
        TPV_TRY(read_need(what, need));
    }
    return TPV_OK;
}

/* ---- the check --------------------------------------------------------------------------------------------------- */

typedef struct {
    const tpv_artifact_t *artifact;
    const tpv_rules_t *rules;
    const json_t *need;
} check_t;

#define NO_NUMBER UINT64_MAX

/* Is there a tensor of that name, or one below it? */
static bool has(const tpv_artifact_t *artifact, const char *start) {
    size_t length = strlen(start), low = 0, high = tpv_artifact_tensor_count(artifact);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const char *name = tpv_artifact_tensor(artifact, middle)->name;
        int order = strncmp(name, start, length);
        if (order == 0 && (name[length] == '.' || name[length] == '\0')) return true;
        if (order < 0 || (order == 0 && (unsigned char)name[length] < '.'))
            low = middle + 1;
        else
            high = middle;
    }
    return false;
}

/* A parameter of that name, or any of the module: a quantised one may have no "weight". */
static bool has_module(const check_t *check, const char *module) {
    char name[TPV_MAX_NAME * 2 + 1];
    if (has(check->artifact, module)) return true;
    for (size_t i = 0; i < check->rules->prefix_count; i++) {
        snprintf(name, sizeof name, "%.*s%s", TPV_MAX_NAME, check->rules->prefixes[i], module);
        if (has(check->artifact, name)) return true;
    }
    return false;
}

/* The name with the layer's number for `*` and the expert's for `@`, up to a `|`. Returns what is behind that. */
static const char *fill(const char *pattern, uint64_t layer, uint64_t expert, char name[TPV_MAX_NAME + 1]) {
    size_t at = 0;
    for (; *pattern && *pattern != '|'; pattern++) {
        uint64_t number = *pattern == '*' ? layer : *pattern == '@' ? expert : NO_NUMBER;
        char text[24] = {*pattern};
        if (number != NO_NUMBER) snprintf(text, sizeof text, "%llu", (unsigned long long)number);
        for (const char *from = text; *from && at < TPV_MAX_NAME; from++)
            name[at++] = *from;
    }
    name[at] = '\0';
    return *pattern == '|' ? pattern + 1 : pattern;
}

/* The name as this checkpoint would have it: behind the first prefix that others of the kind have. */
static tpv_status_t report(const check_t *check, const char *module) {
    char start[TPV_MAX_NAME * 2 + 1];
    int part = (int)strcspn(module, ".");
    for (size_t i = 0; i < check->rules->prefix_count; i++) {
        const char *prefix = check->rules->prefixes[i];
        snprintf(start, sizeof start, "%.*s%.*s", TPV_MAX_NAME, prefix, part, module);
        if (!has(check->artifact, start)) continue;
        return tpv_error_set(TPV_ERR_PLAN, "%s%s.weight: missing in the checkpoint", prefix, module);
    }
    return tpv_error_set(TPV_ERR_PLAN, "%s.weight: missing in the checkpoint", module);
}

/* As many experts as the router has rows. */
static tpv_status_t count_router(const check_t *check, const char *pattern, uint64_t layer, uint64_t *count) {
    char module[TPV_MAX_NAME + 1], name[TPV_MAX_NAME * 2 + 8];
    fill(pattern, layer, NO_NUMBER, module);
    for (size_t i = 0; i <= check->rules->prefix_count; i++) {
        const char *prefix = i < check->rules->prefix_count ? check->rules->prefixes[i] : "";
        snprintf(name, sizeof name, "%.*s%s.weight", TPV_MAX_NAME, prefix, module);
        const tpv_tensor_t *router = tpv_artifact_find(check->artifact, name);
        if (!router) continue;
        *count = router->dims > 0 ? router->shape[0] : 0;
        return TPV_OK;
    }
    return report(check, module);
}

static bool has_one_of(const check_t *check, const char *alternatives, uint64_t layer, uint64_t expert) {
    char name[TPV_MAX_NAME + 1];
    while (*alternatives) {
        alternatives = fill(alternatives, layer, expert, name);
        if (has_module(check, name)) return true;
    }
    return false;
}

static tpv_status_t need_modules(const check_t *check, uint64_t layer, uint64_t expert) {
    size_t index;
    json_t *module;
    char name[TPV_MAX_NAME + 1];
    json_array_foreach(json_object_get(check->need, "modules"), index, module) {
        if (has_one_of(check, json_string_value(module), layer, expert)) continue;
        fill(json_string_value(module), layer, expert, name);
        return report(check, name);
    }
    return TPV_OK;
}

static tpv_status_t count_of(const check_t *check, const char *key, uint64_t layer, uint64_t *count) {
    const json_t *value = json_object_get(check->need, key);
    tpv_scope_t scope = tpv_rules_scope(check->rules, NULL, "");
    scope.layer = layer;
    if (!tpv_value_of(value, &scope, count) || *count > MAX_EACH)
        return tpv_error_set(TPV_ERR_PLAN,
                             "config.json does not tell \"%s\", which the plan needs (at most %d): give a plan file",
                             json_is_string(value) ? json_string_value(value) : key, MAX_EACH);
    return TPV_OK;
}

/* Does the entry speak of this layer? */
static bool applies(const check_t *check, uint64_t layer) {
    const char *present = json_string_value(json_object_get(check->need, "if"));
    const char *absent = json_string_value(json_object_get(check->need, "unless"));
    char name[32] = "";
    if (layer != NO_NUMBER) snprintf(name, sizeof name, "%llu", (unsigned long long)layer);
    if (!tpv_rules_when(check->rules, json_object_get(check->need, "when"), NULL, name)) return false;
    if (present && !has_one_of(check, present, layer, NO_NUMBER)) return false;
    return !absent || !has_one_of(check, absent, layer, NO_NUMBER);
}

static tpv_status_t check_layer(const check_t *check, uint64_t layer) {
    uint64_t experts;
    if (!applies(check, layer)) return TPV_OK;
    const char *router = json_string_value(json_object_get(check->need, "router"));
    if (!router && !json_object_get(check->need, "experts")) return need_modules(check, layer, NO_NUMBER);
    TPV_TRY(router ? count_router(check, router, layer, &experts) : count_of(check, "experts", layer, &experts));
    for (uint64_t expert = 0; expert < experts; expert++)
        TPV_TRY(need_modules(check, layer, expert));
    return TPV_OK;
}

/* A model with another head (a classifier, an embedding model) has no lm_head. */
static bool is_for_text(const tpv_rules_t *rules) {
    size_t index;
    json_t *name, *names = json_object_get(rules->facts, "architectures");
    if (json_array_size(names) == 0) return true;
    json_array_foreach(names, index, name) {
        const char *text = json_is_string(name) ? json_string_value(name) : "";
        if (strstr(text, "ForCausalLM") || strstr(text, "ForConditionalGeneration") || strstr(text, "LMHead"))
            return true;
    }
    return false;
}

tpv_status_t tpv_whole_check(const tpv_artifact_t *artifact, const tpv_rules_t *rules, bool tied) {
    size_t index;
    json_t *need;
    json_array_foreach(rules->needs, index, need) {
        check_t check = {.artifact = artifact, .rules = rules, .need = need};
        if (json_is_true(json_object_get(need, "head")) && (tied || !is_for_text(rules))) continue;
        if (!json_object_get(need, "each")) {
            TPV_TRY(check_layer(&check, NO_NUMBER));
            continue;
        }
        uint64_t layers;
        TPV_TRY(count_of(&check, "each", NO_NUMBER, &layers));
        for (uint64_t layer = 0; layer < layers; layer++)
            TPV_TRY(check_layer(&check, layer));
    }
    return TPV_OK;
}
