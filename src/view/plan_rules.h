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
#include "view/plan_value.h"

#define TPV_MAX_PLAN_BYTES (8u << 20)
#define TPV_MAX_RULES 4096u
#define TPV_MAX_PARTS 8u     /* of a packed axis */
#define TPV_MAX_PREFIXES 16u /* of the names in a checkpoint */

/* What a word means for a weight. Axes are counted from the end, so that stacked experts [E, out, in] are cut like a
 * matrix [out, in]. */
typedef enum tpv_cut_kind {
    TPV_CUT_REPLICATE,
    TPV_CUT_COLWISE,        /* axis -2; the only one of a vector */
    TPV_CUT_ROWWISE,        /* axis -1; a bias is replicated */
    TPV_CUT_PACKED_COLWISE, /* as colwise, each half of the axis on its own (gate and up in one tensor) */
    TPV_CUT_PACKED_ROWWISE,
    TPV_CUT_FIRST,   /* axis 0: rows of an embedding, experts of a stack */
    TPV_CUT_LAST,    /* axis -1, also of a vector */
    TPV_CUT_VOCAB,   /* axis 0, padded to a multiple of 64 first if it does not divide */
    TPV_CUT_REFUSED, /* an error when it matches a tensor; rule->refused says why. Harmless on a container of modules */
} tpv_cut_kind_t;

typedef struct tpv_rule {
    const char *pattern;
    const char *given;   /* the pattern as the plan has it; several rules may stand for one of the plan */
    const char *word;    /* as the plan has it, for messages */
    const char *refused; /* why there is no such slice; NULL but for TPV_CUT_REFUSED */
    tpv_cut_kind_t kind;
    bool gathered;       /* the word says that every rank has the module's whole output, or input: shares may differ */
    bool matched;        /* some tensor */
    const json_t *when;  /* fields of config.json and what they must be; NULL: always */
    const json_t *shape; /* how long the last axes must be, null for any length; NULL: whatever it is */
} tpv_rule_t;

/* Make `rule` of a pattern and a word, which it borrows. TPV_ERR_FORMAT for an unknown word. */
tpv_status_t tpv_rule_set_word(const char *pattern, const char *word, tpv_rule_t *rule);

/* One part of an axis. Numbers are values (plan_value.h); NULL: not told. */
typedef struct tpv_part {
    const json_t *size;     /* steps of the axis; NULL: count * head_dim, or what is left */
    const json_t *count;    /* heads, which are not cut; NULL: cut evenly */
    const json_t *head_dim; /* steps of one; NULL: whatever the size gives */
    bool replicate;         /* with more ranks than heads, each head goes to several ranks */
    bool whole;             /* every rank gets all of it */
} tpv_part_t;

/* How the axis along which a tensor is cut is made up. */
typedef struct tpv_layout {
    const char *pattern;
    const json_t *when;
    const char *section; /* of config.json, where the numbers are looked up alone; NULL: the plan's */
    tpv_part_t part[TPV_MAX_PARTS];
    uint32_t part_count; /* 0: evenly, whatever other layouts say */
    bool unknown;        /* several projections in one, and how they lie in it must be told */
    bool from_defaults;  /* not the plan's own */
} tpv_layout_t;

typedef struct tpv_rules {
    const char *family; /* name of the embedded plan that is in use; NULL: none */
    tpv_rule_t *rules;  /* owned; their texts belong to `texts` */
    size_t rule_count;
    tpv_layout_t *layouts; /* owned; the first that matches counts */
    size_t layout_count;
    const char *prefixes[TPV_MAX_PREFIXES]; /* of names, which patterns may leave out; "" is always among them */
    size_t prefix_count;
    const char *sections[TPV_MAX_SECTIONS]; /* of config.json, "" is the top */
    size_t section_count;
    const json_t *needs;          /* what a whole checkpoint has (plan_whole.h); NULL: not told */
    const json_t *names;          /* how modules of transformers stand on disk (plan_transformers.h); NULL: not told */
    const char *head, *embedding; /* modules that may be tied, without a prefix */
    bool tied_default;            /* what counts when config.json does not tell tie_word_embeddings */
    bool replicate_others;        /* no rule: replicate, instead of an error */
    bool transformers;            /* rules as transformers reads them: `*` is a number, heads do not matter */
    const json_t *facts;          /* of config.json; borrowed */
    const tpv_artifact_t *artifact; /* whose tensors tell which belong together; borrowed, NULL: none */
    json_t *texts[3];               /* the JSON trees that texts and values lie in; owned */
} tpv_rules_t;

void tpv_rules_clear(tpv_rules_t *rules);

/*
 * Does `pattern` match all of `name`? `*` stands for any characters but dots, `**` for any characters, `?` for one that
 * is not a dot.
 */
bool tpv_pattern_matches(const char *pattern, const char *name);

/* Does `pattern` match `name`, or what is behind one of the plan's prefixes? In transformers' plans `*` is a number. */
bool tpv_rules_match(const tpv_rules_t *rules, const char *pattern, const char *name);

/* Where the numbers of a tensor are looked up; `section` NULL for the plan's. */
tpv_scope_t tpv_rules_scope(const tpv_rules_t *rules, const char *section, const char *tensor);

/* Is config.json as `when` says, seen from the tensor's layer? */
bool tpv_rules_when(const tpv_rules_t *rules, const json_t *when, const char *section, const char *tensor);

/*
 * The rule of a tensor: one that matches its full name, else one that matches the stack of experts that it is a
 * parameter of (the name without "_blocks" and its kin), else one that matches its module (the name without all
 * from ".weight." on, else without its last part). *rule is NULL when none does. Whatever matches is marked as such.
 * TPV_ERR_PLAN when two that match want different cuts.
 */
tpv_status_t tpv_rules_find(tpv_rules_t *rules, const char *tensor, const tpv_rule_t **rule);

/* Are head and embeddings one? As transformers 5 reads config.json: its top level, then the text model's section, then
 * the family's default. */
bool tpv_rules_tied(const tpv_rules_t *rules);

/* The layout of a tensor's cut axis, by full name or module; NULL when there is none. */
const tpv_layout_t *tpv_rules_layout(const tpv_rules_t *rules, const char *tensor);

/*
 * Fill empty rules with the embedded plan of the family that config.json's model_type names. TPV_ERR_PLAN when there is
 * none for it, TPV_ERR_NO_MEMORY. `facts` must outlive the rules.
 */
tpv_status_t tpv_rules_of_family(const json_t *facts, tpv_rules_t *rules);

/* Fill empty rules with none: what plan files start from. TPV_ERR_NO_MEMORY. */
tpv_status_t tpv_rules_default(const json_t *facts, tpv_rules_t *rules);

/*
 * Fill empty rules from a plan file of format "tpview-plan-1". Without "tp_plan" it changes the family's plan.
 * TPV_ERR_FORMAT names a fault of the file; errors of tpv_rules_of_family.
 */
tpv_status_t tpv_rules_read_json(const json_t *facts, const char *json, size_t length, tpv_rules_t *rules);

#endif
