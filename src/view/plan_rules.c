#include "view/plan_rules.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

/*
 * The words of Hugging Face transformers: ParallelInterface in integrations/tensor_parallel.py (versions 4.57.1, 5.0.0,
 * 5.12.0) and ALL_PARALLEL_STYLES in distributed/tensor_parallel.py and distributed/expert_parallel.py (5.23.0).
 * Several words differ only in how activations are laid out; here the weight alone counts. `vocab_parallel` is tpview's
 * own.
 */
static const struct {
    const char *word;
    tpv_cut_kind_t kind;
} words[] = {
    {"replicate", TPV_CUT_REPLICATE},
    {"colwise", TPV_CUT_COLWISE},
    {"colwise_rep", TPV_CUT_COLWISE},
    {"colwise_gather_output", TPV_CUT_COLWISE},
    {"local_colwise", TPV_CUT_COLWISE},
    {"rowwise", TPV_CUT_ROWWISE},
    {"rowwise_rep", TPV_CUT_ROWWISE},
    {"rowwise_split_input", TPV_CUT_ROWWISE},
    {"local_rowwise", TPV_CUT_ROWWISE},
    {"packed_colwise", TPV_CUT_PACKED_COLWISE},
    {"local_packed_colwise", TPV_CUT_PACKED_COLWISE},
    {"packed_rowwise", TPV_CUT_PACKED_ROWWISE},
    {"local_packed_rowwise", TPV_CUT_PACKED_ROWWISE},
    {"embedding_rowwise", TPV_CUT_FIRST},
    {"embedding_colwise", TPV_CUT_LAST},
    {"grouped_gemm", TPV_CUT_FIRST},
    {"vocab_parallel", TPV_CUT_VOCAB},
    /* Words that leave the weights whole and act on activations or gradients. */
    {"sequence_parallel", TPV_CUT_REPLICATE},
    {"replicated_with_grad_allreduce", TPV_CUT_REPLICATE},
    {"gather", TPV_CUT_REPLICATE},
    {"all_reduce", TPV_CUT_REPLICATE},
    {"ep_router", TPV_CUT_REPLICATE},
    {"ep_dispatch_experts", TPV_CUT_REPLICATE},
    {"megamoe_router", TPV_CUT_REPLICATE},
    {"mla_kv_a_proj", TPV_CUT_REPLICATE},
    {"moe_tp_experts", TPV_CUT_REPLICATE},
    {"moe_identity_expert", TPV_CUT_REPLICATE},
    {"local_params", TPV_CUT_REPLICATE},
};

tpv_status_t tpv_cut_kind_from_word(const char *pattern, const char *word, tpv_cut_kind_t *kind) {
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcmp(words[i].word, word) != 0) continue;
        *kind = words[i].kind;
        return TPV_OK;
    }
    /* IsolatedParallel.partition_tensor divides the parameter by the size of the mesh. */
    if (strcmp(word, "local") == 0)
        return tpv_error_set(TPV_ERR_PLAN,
                             "rule \"%s\": \"local\" divides the values by tp_size, which is not a slice: expected a "
                             "word that cuts or replicates",
                             pattern);
    return tpv_error_set(TPV_ERR_FORMAT,
                         "rule \"%s\": unknown word \"%.100s\": expected one such as colwise, rowwise, packed_colwise, "
                         "embedding_rowwise, vocab_parallel or replicate",
                         pattern, word);
}

void tpv_rules_clear(tpv_rules_t *rules) {
    free(rules->rules);
    free(rules->heads);
    json_decref(rules->texts);
    *rules = (tpv_rules_t){0};
}

/*
 * Glob matching with two kinds of star. After a mismatch the latest `*` takes one character more, unless that is a dot;
 * then the latest `**` does. Going back further is never needed: what follows a `**` is matched as early as possible,
 * and a `*` cannot leave its part of the name.
 */
static bool glob(const char *pattern, const char *name) {
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
        } else if (star && *star_name && *star_name != '.') {
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
    return glob(pattern, name) || (strncmp(name, "model.", 6) == 0 && glob(pattern, name + 6));
}

/* The name without its last part; false when it has only one. */
static bool module_of(const char *tensor, char module[TPV_MAX_NAME + 1]) {
    const char *dot = strrchr(tensor, '.');
    if (!dot) return false;
    memcpy(module, tensor, (size_t)(dot - tensor));
    module[dot - tensor] = '\0';
    return true;
}

tpv_status_t tpv_rules_find(const tpv_rules_t *rules, const char *tensor, const tpv_rule_t **rule) {
    char module[TPV_MAX_NAME + 1];
    const char *names[2] = {tensor, module_of(tensor, module) ? module : NULL};
    *rule = NULL;
    for (int n = 0; n < 2 && names[n] && !*rule; n++) {
        for (size_t i = 0; i < rules->rule_count; i++) {
            const tpv_rule_t *candidate = &rules->rules[i];
            if (!tpv_pattern_matches(candidate->pattern, names[n])) continue;
            if (*rule && (*rule)->kind != candidate->kind)
                return tpv_error_set(TPV_ERR_PLAN, "%s: the rules \"%s\": %s and \"%s\": %s both match it", tensor,
                                     (*rule)->pattern, (*rule)->word, candidate->pattern, candidate->word);
            if (!*rule) *rule = candidate;
        }
    }
    return TPV_OK;
}

const tpv_head_rule_t *tpv_rules_heads(const tpv_rules_t *rules, const char *tensor) {
    char module[TPV_MAX_NAME + 1];
    bool has_module = module_of(tensor, module);
    for (size_t i = 0; i < rules->head_count; i++) {
        const tpv_head_rule_t *rule = &rules->heads[i];
        if (tpv_pattern_matches(rule->pattern, tensor) || (has_module && tpv_pattern_matches(rule->pattern, module)))
            return rule;
    }
    return NULL;
}
