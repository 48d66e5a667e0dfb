#include <string.h>

#include "base/error.h"
#include "view/plan_rules.h"

/*
 * The words of Hugging Face transformers: ParallelInterface in integrations/tensor_parallel.py (versions 4.57.1, 5.0.0,
 * 5.12.0) and ALL_PARALLEL_STYLES in distributed/tensor_parallel.py and distributed/expert_parallel.py (5.24.0).
 * Several words differ only in how activations are laid out; here the weight alone counts. `vocab_parallel` is tpview's
 * own.
 */
static const struct {
    const char *word;
    tpv_cut_kind_t kind;
    bool gathered; /* the module's output or input is whole on every rank: shares may differ, heads do not matter */
} words[] = {
    {"replicate", TPV_CUT_REPLICATE, false},
    {"colwise", TPV_CUT_COLWISE, false},
    {"colwise_rep", TPV_CUT_COLWISE, true},
    {"colwise_gather_output", TPV_CUT_COLWISE, true},
    {"local_colwise", TPV_CUT_COLWISE, false},
    {"rowwise", TPV_CUT_ROWWISE, false},
    {"rowwise_rep", TPV_CUT_ROWWISE, true},
    {"rowwise_split_input", TPV_CUT_ROWWISE, true},
    {"local_rowwise", TPV_CUT_ROWWISE, false},
    {"packed_colwise", TPV_CUT_PACKED_COLWISE, false},
    {"local_packed_colwise", TPV_CUT_PACKED_COLWISE, false},
    {"packed_rowwise", TPV_CUT_PACKED_ROWWISE, false},
    {"local_packed_rowwise", TPV_CUT_PACKED_ROWWISE, false},
    {"embedding_rowwise", TPV_CUT_FIRST, true},
    {"embedding_colwise", TPV_CUT_LAST, true},
    {"grouped_gemm", TPV_CUT_FIRST, false},
    {"local", TPV_CUT_REFUSED, false},
    {"vocab_parallel", TPV_CUT_VOCAB, false},
    /* Words that leave the weights whole and act on activations or gradients. */
    {"sequence_parallel", TPV_CUT_REPLICATE, false},
    {"replicated_with_grad_allreduce", TPV_CUT_REPLICATE, false},
    {"gather", TPV_CUT_REPLICATE, false},
    {"all_reduce", TPV_CUT_REPLICATE, false},
    {"ep_router", TPV_CUT_REPLICATE, false},
    {"ep_dispatch_experts", TPV_CUT_REPLICATE, false},
    {"megamoe_router", TPV_CUT_REPLICATE, false},
    {"megamoe_experts", TPV_CUT_REPLICATE, false},
    {"mla_kv_a_proj", TPV_CUT_REPLICATE, false},
    {"moe_tp_experts", TPV_CUT_REPLICATE, false},
    {"moe_identity_expert", TPV_CUT_REPLICATE, false},
    {"local_params", TPV_CUT_REPLICATE, false},
};

tpv_status_t tpv_rule_set_word(const char *pattern, const char *word, tpv_rule_t *rule) {
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcmp(words[i].word, word) != 0) continue;
        *rule = (tpv_rule_t){
            .pattern = pattern, .given = pattern, .word = word, .kind = words[i].kind, .gathered = words[i].gathered};
        /* The only word of that kind: IsolatedParallel.partition_tensor divides a parameter by the size of the mesh. */
        if (rule->kind == TPV_CUT_REFUSED) rule->refused = "divides the values by tp_size, which is not a slice";
        return TPV_OK;
    }
    return tpv_error_set(TPV_ERR_FORMAT,
                         "rule \"%s\": unknown word \"%.100s\": expected one such as colwise, rowwise, packed_colwise, "
                         "embedding_rowwise, vocab_parallel or replicate",
                         pattern, word);
}
