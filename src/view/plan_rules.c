#include "view/plan_rules.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "view/quant_module.h"

void tpv_rules_clear(tpv_rules_t *rules) {
    free(rules->rules);
    free(rules->layouts);
    for (size_t i = 0; i < sizeof rules->texts / sizeof *rules->texts; i++)
        json_decref(rules->texts[i]);
    *rules = (tpv_rules_t){0};
}

/*
 * Glob matching with two kinds of star. After a mismatch the latest `*` takes one character more, unless that is a dot;
 * then the latest `**` does. Going back further is never needed: what follows a `**` is matched as early as possible,
 * and a `*` cannot leave its part of the name. With `numbers`, a `*` takes digits only.
 */
static bool glob(const char *pattern, const char *name, bool numbers) {
    const char *star = NULL, *star_name = NULL;   /* behind the latest `*`, and what it left to match */
    const char *stars = NULL, *stars_name = NULL; /* the same of `**` */
    for (;;) {
        if (pattern[0] == '*' && pattern[1] == '*') {
            pattern += 2;
            stars = pattern;
            stars_name = name;
            star = NULL;
        } else if (*pattern == '*') {
            star = ++pattern;
            star_name = name;
        } else if (*name && (*pattern == *name || (*pattern == '?' && *name != '.'))) {
            pattern++;
            name++;
        } else if (!*name && !*pattern) {
            return true;
        } else if (star && *star_name && (numbers ? isdigit((unsigned char)*star_name) : *star_name != '.')) {
            pattern = star;
            name = ++star_name;
        } else if (stars && *stars_name) {
            pattern = stars;
            name = ++stars_name;
            star = NULL;
        } else {
            return false;
        }
    }
}

bool tpv_pattern_matches(const char *pattern, const char *name) {
    return glob(pattern, name, false);
}

bool tpv_rules_match(const tpv_rules_t *rules, const char *pattern, const char *name) {
    if (glob(pattern, name, rules->transformers)) return true;
    for (size_t i = 0; i < rules->prefix_count; i++) {
        size_t length = strlen(rules->prefixes[i]);
        if (length > 0 && strncmp(name, rules->prefixes[i], length) == 0 &&
            glob(pattern, name + length, rules->transformers))
            return true;
    }
    return false;
}

/* An object of config.json by its path, which has dots to go down; "" is the top. */
static const json_t *section_of(const json_t *facts, const char *path) {
    tpv_scope_t top = {.sections = {facts}, .layer = UINT64_MAX};
    const json_t *section = *path ? tpv_scope_find(&top, path) : facts;
    return json_is_object(section) ? section : NULL;
}

tpv_scope_t tpv_rules_scope(const tpv_rules_t *rules, const char *section, const char *tensor) {
    tpv_scope_t scope = {.layer = tpv_layer_of(tensor)};
    if (section) scope.sections[0] = section_of(rules->facts, section);
    for (size_t i = 0; !section && i < rules->section_count; i++)
        scope.sections[i] = section_of(rules->facts, rules->sections[i]);
    return scope;
}

/* null in a plan stands for a field that config.json does not have. */
static bool is_one_of(const json_t *found, const json_t *wanted) {
    if (!json_is_array(wanted)) return found ? json_equal(found, wanted) : json_is_null(wanted);
    size_t index;
    json_t *item;
    json_array_foreach(wanted, index, item) {
        if (is_one_of(found, item)) return true;
    }
    return false;
}

bool tpv_rules_when(const tpv_rules_t *rules, const json_t *when, const char *section, const char *tensor) {
    const char *path;
    json_t *wanted;
    if (!when) return true;
    tpv_scope_t scope = tpv_rules_scope(rules, section, tensor);
    json_object_foreach((json_t *)(uintptr_t)when, path, wanted) {
        if (!is_one_of(tpv_scope_find(&scope, path), wanted)) return false;
    }
    return true;
}

/* The first `length` bytes of a name; NULL when there are none. */
static const char *start_of(const char *tensor, size_t length, char start[TPV_MAX_NAME + 1]) {
    if (length == 0) return NULL;
    memcpy(start, tensor, length);
    start[length] = '\0';
    return start;
}

static const char *module_of(const char *tensor, char module[TPV_MAX_NAME + 1]) {
    return start_of(tensor, tpv_module_length(tensor), module);
}

/*
 * Has what the rule speaks of its shape? That is the tensor, or if its pattern matched no more than `part` of the name,
 * the weight of that module or stack: as if it were not quantised, as words speak of it. One that is not in the
 * checkpoint has none. Of a quantised weight that is not understood the shape is not known: any rule that cuts fits,
 * for it is refused with the reason whatever the word.
 */
static bool has_shape(const tpv_rules_t *rules, const tpv_rule_t *rule, const char *tensor, const char *part) {
    const json_t *shape = rule->shape;
    size_t count = json_array_size(shape);
    if (!shape) return true;
    if (!rules->artifact) return false;
    tpv_module_t module;
    tpv_quant_config_t quant = tpv_quant_config_read(rules->facts);
    tpv_module_of(rules->artifact, &quant, tensor, &module);
    const tpv_tensor_t *asked = tpv_artifact_find(rules->artifact, tensor);
    bool of_module = strcmp(part, tensor) != 0 || (module.stack && strcmp(part, module.name) == 0);
    if (of_module && module.quantised) {
        if (*module.reason) return rule->kind != TPV_CUT_REPLICATE;
        asked = &module.weight;
    } else if (of_module) {
        const tpv_tensor_t *weight = tpv_artifact_find(rules->artifact, module.weight_name);
        if (weight) asked = weight;
    }
    if (!asked || asked->dims < count) return false;
    tpv_scope_t scope = tpv_rules_scope(rules, NULL, tensor);
    for (size_t i = 0; i < count; i++) {
        const json_t *wanted = json_array_get(shape, i);
        uint64_t length;
        if (json_is_null(wanted)) continue;
        if (!tpv_value_of(wanted, &scope, &length) || length != asked->shape[asked->dims - count + i]) return false;
    }
    return true;
}

tpv_status_t tpv_rules_find(tpv_rules_t *rules, const char *tensor, const tpv_rule_t **rule) {
    char stack[TPV_MAX_NAME + 1], module[TPV_MAX_NAME + 1], inner[TPV_MAX_NAME + 1];
    size_t length = 0;
    if (rules->artifact) tpv_stack_length(rules->artifact, tensor, &length);
    const char *dot = strrchr(tensor, '.'),
               *names[] = {tensor, start_of(tensor, length, stack), module_of(tensor, module),
                           start_of(tensor, dot ? (size_t)(dot - tensor) : 0, inner)};
    *rule = NULL;
    for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
        const tpv_rule_t *found = NULL;
        for (size_t i = 0; names[n] && i < rules->rule_count; i++) {
            tpv_rule_t *candidate = &rules->rules[i];
            if (!tpv_rules_match(rules, candidate->pattern, names[n])) continue;
            candidate->matched = true;
            /* Of the variants of one pattern the first that holds counts. */
            if (*rule || (found && found->pattern == candidate->pattern)) continue;
            if (!tpv_rules_when(rules, candidate->when, NULL, tensor) || !has_shape(rules, candidate, tensor, names[n]))
                continue;
            bool alike = !found || (found->kind == candidate->kind &&
                                    (rules->transformers || found->gathered == candidate->gathered));
            if (!alike)
                return tpv_error_set(TPV_ERR_PLAN, "%s: the rules \"%s\": %s and \"%s\": %s both match it", tensor,
                                     found->given, found->word, candidate->given, candidate->word);
            if (!found) found = candidate;
        }
        if (!*rule) *rule = found;
    }
    return TPV_OK;
}

bool tpv_rules_tied(const tpv_rules_t *rules) {
    const json_t *tied = json_object_get(rules->facts, "tie_word_embeddings");
    tpv_scope_t scope = tpv_rules_scope(rules, NULL, "");
    if (!json_is_boolean(tied)) tied = tpv_scope_find(&scope, "tie_word_embeddings");
    return json_is_boolean(tied) ? json_is_true(tied) : rules->tied_default;
}

const tpv_layout_t *tpv_rules_layout(const tpv_rules_t *rules, const char *tensor) {
    char module[TPV_MAX_NAME + 1];
    bool has_module = module_of(tensor, module) != NULL;
    for (size_t i = 0; i < rules->layout_count; i++) {
        const tpv_layout_t *layout = &rules->layouts[i];
        if ((tpv_rules_match(rules, layout->pattern, tensor) ||
             (has_module && tpv_rules_match(rules, layout->pattern, module))) &&
            tpv_rules_when(rules, layout->when, layout->section, tensor))
            return layout;
    }
    return NULL;
}
