/* Which part of a tensor a rank gets. */
#ifndef VIEW_PLAN_CUT_H
#define VIEW_PLAN_CUT_H

#include "view/plan_rules.h"
#include "view/quant_config.h"

#define TPV_VOCAB_PADDING 64 /* DEFAULT_VOCAB_PADDING_SIZE in vLLM's vocab_parallel_embedding.py, 0.32 */

typedef struct tpv_range {
    uint64_t start, count;
} tpv_range_t;

typedef struct tpv_cut {
    int axis;             /* of the tensor; -1: the rank gets all of it */
    uint32_t range_count; /* of ranges along the axis, put one behind the other */
    tpv_range_t range[TPV_MAX_PARTS];
    uint64_t pad;               /* zeros behind them, in steps of the axis */
    const tpv_layout_t *layout; /* by whose parts it was cut; NULL: by none */
    bool partial_block;         /* of a block scale: its last row stands for less than a whole block */
    bool told; /* the shape of the rank's part of a weight: one element is `number`, the others are whole */
    uint64_t told_element, number;
    bool left_whole; /* the rule cuts it, but its format cannot be cut so, and the plan lets it be whole */
} tpv_cut_t;

/* Quantised modules that are whole though a rule cuts them. */
typedef struct tpv_left_whole {
    size_t modules;
    char latest[TPV_MAX_NAME + 16];
    char reason[TPV_MAX_NAME + 256]; /* of the first */
} tpv_left_whole_t;

typedef struct tpv_cutter {
    const tpv_artifact_t *artifact;
    const tpv_model_config_t *config;
    tpv_rules_t *rules;
    const tpv_quant_config_t *quant;
    tpv_left_whole_t *whole;     /* counted here; NULL: not */
    struct tpv_experts *experts; /* which of them the rank has, and for how many ranks they are cut */
    uint64_t tp_size, tp_rank;
} tpv_cutter_t;

/*
 * Cut `tensor` as `rule` says. A bias or scale follows the weight of its module. TPV_ERR_PLAN names the tensor, the
 * numbers that do not divide, or why it cannot follow.
 */
tpv_status_t tpv_cut_tensor(const tpv_cutter_t *cutter, const tpv_tensor_t *tensor, const tpv_rule_t *rule,
                            tpv_cut_t *cut);

/* Cut a weight [.., out, in] by its own axes, with heads and packs, whatever else its module has. Errors as above. */
tpv_status_t tpv_cut_weight(const tpv_cutter_t *cutter, const tpv_tensor_t *tensor, const tpv_rule_t *rule,
                            tpv_cut_t *cut);

/* Does the rule name the parameter itself, and not just whatever a module has? A name without a dot has no module. */
bool tpv_rule_names_in_full(const tpv_rules_t *rules, const tpv_rule_t *rule, const char *tensor);

/* A scale of one element, such as a layer's k_scale: it is whole, also where no rule speaks of it. */
bool tpv_is_lone_scale(const tpv_tensor_t *tensor);

/* How many steps along the axis the rank gets, padding included. */
uint64_t tpv_cut_extent(const tpv_cut_t *cut);

/* "rows" or "columns", for messages. */
const char *tpv_axis_word(const tpv_tensor_t *tensor, int axis);

/* Cut the parts of an axis, each on its own (plan_layout.c). TPV_ERR_PLAN when the numbers are not known or do not fit.
 */
tpv_status_t tpv_layout_cut(const tpv_cutter_t *cutter, const tpv_tensor_t *tensor, int axis,
                            const tpv_layout_t *layout, tpv_cut_t *cut);

#endif
