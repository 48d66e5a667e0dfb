/*
 * TP rules: which cut each tensor gets, in the words of Hugging Face's tp_plan, and which projections are cut by whole
 * heads. docs/views.md has the table of words.
 */
#ifndef VIEW_PLAN_RULES_H
#define VIEW_PLAN_RULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tpview/artifact.h"

#define TPV_MAX_PLAN_BYTES (8u << 20)
#define TPV_MAX_RULES 4096u

/* What a word means for a weight. Axes are counted from the end, so that stacked experts [E, out, in] are cut like a
 * matrix [out, in]. */
typedef enum tpv_cut_kind {
    TPV_CUT_REPLICATE,
    TPV_CUT_COLWISE,        /* axis -2; the only one of a vector */
    TPV_CUT_ROWWISE,        /* axis -1; a vector is replicated */
    TPV_CUT_PACKED_COLWISE, /* as colwise, each half of the axis on its own (gate and up in one tensor) */
    TPV_CUT_PACKED_ROWWISE,
    TPV_CUT_FIRST, /* axis 0: rows of an embedding, experts of a stack */
    TPV_CUT_LAST,  /* axis -1, also of a vector */
    TPV_CUT_VOCAB, /* axis 0, padded to a multiple of 64 first */
} tpv_cut_kind_t;

/* The kind that a word stands for. TPV_ERR_FORMAT for an unknown word, TPV_ERR_PLAN for one that cannot be carried out
 * as a slice; `pattern` is for the message. */
tpv_status_t tpv_cut_kind_from_word(const char *pattern, const char *word, tpv_cut_kind_t *kind);

typedef struct tpv_rule {
    const char *pattern;
    const char *word; /* as the plan has it, for messages */
    tpv_cut_kind_t kind;
} tpv_rule_t;

/* Cut the modules of `pattern` by whole heads. */
typedef struct tpv_head_rule {
    const char *pattern;
    uint64_t count;
    uint64_t head_dim; /* rows of a head; 0: whatever the tensor's size gives */
    bool replicate;    /* with more ranks than heads, each head goes to several ranks */
} tpv_head_rule_t;

#define TPV_BUILTIN_HEAD_RULES 4 /* q, k, v and o */

typedef struct tpv_rules {
    tpv_rule_t *rules; /* owned; their texts belong to `texts` or are static */
    size_t rule_count;
    tpv_head_rule_t *heads; /* owned; the first that matches counts */
    size_t head_count;
    bool replicate_others; /* no rule: replicate, instead of an error */
    void *texts;           /* the JSON tree that the patterns lie in, or NULL */
} tpv_rules_t;

void tpv_rules_clear(tpv_rules_t *rules);

/*
 * Does `pattern` match all of `name`? `*` stands for any characters but dots, `**` for any characters, `?` for one that
 * is not a dot. As in Hugging Face's plans, which leave the base model's prefix out, a pattern may also match what is
 * behind a leading "model.".
 */
bool tpv_pattern_matches(const char *pattern, const char *name);

/*
 * The rule of a tensor: one that matches its full name, else one that matches its module (the name without its last
 * part). *rule is NULL when none does. TPV_ERR_PLAN when two that match want different cuts.
 */
tpv_status_t tpv_rules_find(const tpv_rules_t *rules, const char *tensor, const tpv_rule_t **rule);

/* The head rule of a tensor, by full name or module; NULL when there is none. */
const tpv_head_rule_t *tpv_rules_heads(const tpv_rules_t *rules, const char *tensor);

/*
 * Fill empty rules with the built-in plan of the config's model_type. TPV_ERR_PLAN when there is none for it, or when
 * the config lacks what the plan needs; TPV_ERR_NO_MEMORY.
 */
tpv_status_t tpv_rules_builtin(const tpv_model_config_t *config, tpv_rules_t *rules);

/* Heads of q_proj, k_proj, v_proj and o_proj as config.json tells them, into `heads`, which has room for
 * TPV_BUILTIN_HEAD_RULES. Returns how many. */
size_t tpv_rules_builtin_heads(const tpv_model_config_t *config, tpv_head_rule_t *heads);

/* Does the checkpoint have all that a model of a built-in plan consists of? TPV_ERR_PLAN names the first tensor that is
 * missing. */
tpv_status_t tpv_builtin_check_whole(const tpv_artifact_t *artifact);

/*
 * Fill empty rules from a plan file of format "tpview-plan-1". Without "tp_plan" it changes the built-in plan.
 * *builtin tells whether that is in use. TPV_ERR_FORMAT names a fault of the file; errors of tpv_rules_builtin.
 */
tpv_status_t tpv_rules_read_json(const tpv_model_config_t *config, const char *json, size_t length, tpv_rules_t *rules,
                                 bool *builtin);

#endif
