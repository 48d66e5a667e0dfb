/* Expert parallelism: which of a layer's experts a rank holds. */
#ifndef VIEW_PLAN_EXPERTS_H
#define VIEW_PLAN_EXPERTS_H

#include "tpview/view.h"
#include "view/plan_cut.h"

/* What a rank gets of a tensor that belongs to experts. */
typedef struct tpv_expert_part {
    bool expert;  /* false: the tensor is of no expert */
    bool stacked; /* axis 0 is the experts, of which the rank holds `count` from `start` on */
    uint64_t start, count;
    bool here; /* false: the rank has nothing of the tensor */
} tpv_expert_part_t;

/* The groups of ranks that share a layer's experts, and the layer that was looked at last; for one thread. */
typedef struct tpv_experts {
    uint64_t size, rank;                                       /* groups, and the rank's own */
    uint64_t tp_size, tp_rank, expert_tp_size, expert_tp_rank; /* for all else, and inside of an expert */
    bool any;                                                  /* some tensor was an expert's */
    char layer[TPV_MAX_NAME + 1];
    uint64_t count; /* experts of that layer */
} tpv_experts_t;

/* What the options say of experts. */
tpv_experts_t tpv_experts_asked(const tpv_plan_options_t *options);

/*
 * Turn the cutter to the ranks that cut `tensor`, and tell what the rank's group gets of it. Experts are what lies
 * below a module "experts": one by one (experts.7.w1) or stacked along axis 0 (experts.down_proj). As in vLLM's
 * determine_expert_map (layers/fused_moe/layer.py, 0.32), each group has a run of neighbours, the first groups one more
 * when the number does not divide. TPV_ERR_PLAN when a layer lacks experts, or a tensor is not one for each of them.
 */
tpv_status_t tpv_experts_turn(tpv_cutter_t *cutter, const tpv_tensor_t *tensor, tpv_expert_part_t *part);

#endif
