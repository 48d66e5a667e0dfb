/* From TP rules to a spec: one output for each tensor, or for each group of tensors that an engine keeps in one. */
#include <string.h>

#include "artifact/config.h"
#include "artifact/json.h"
#include "base/error.h"
#include "view/plan_cut.h"
#include "view/plan_fuse.h"
#include "view/spec_json.h"
#include "view/view.h"

typedef struct {
    tpv_cutter_t cutter;
    bool fuse;
    tpv_spec_t *spec;
} planner_t;

/* Append what the rank gets of a tensor to the latest output, from step *position of `axis` on; the other axes of the
 * output are as long as the tensor's. */
static tpv_status_t add_slice(planner_t *planner, uint32_t index, const tpv_cut_t *cut, int axis, uint64_t *position) {
    const tpv_tensor_t *tensor = tpv_artifact_tensor(planner->cutter.artifact, index);
    const tpv_spec_output_t *output = &planner->spec->outputs[planner->spec->output_count - 1];
    uint64_t from[TPV_MAX_DIMS], to[TPV_MAX_DIMS];
    tpv_spec_row_major(tensor->dims, tensor->shape, from);
    tpv_spec_row_major(output->dims, output->shape, to);
    tpv_piece_t piece = {.tensor = index, .dims = tensor->dims};
    for (uint32_t i = 0; i < tensor->dims; i++)
        piece.dim[i] = (tpv_piece_dim_t){.size = tensor->shape[i], .from = from[i], .to = to[i]};

    if (cut->axis < 0) {
        /* A scalar takes one step of a fused output. */
        uint64_t steps = tensor->dims > 0 ? tensor->shape[axis] : 1;
        piece.to = output->dims > 0 ? *position * to[axis] : 0;
        *position += steps;
        return tpv_spec_add_piece(planner->spec, &piece);
    }
    for (uint32_t i = 0; i < cut->range_count; i++) {
        piece.dim[axis].size = cut->range[i].count;
        piece.from = cut->range[i].start * from[axis];
        piece.to = *position * to[axis];
        *position += cut->range[i].count;
        TPV_TRY(tpv_spec_add_piece(planner->spec, &piece));
    }
    if (cut->pad == 0) return TPV_OK;
    piece.tensor = TPV_PIECE_ZERO;
    piece.dim[axis].size = cut->pad;
    piece.from = 0;
    piece.to = *position * to[axis];
    *position += cut->pad;
    return tpv_spec_add_piece(planner->spec, &piece);
}

static tpv_status_t add_single(planner_t *planner, uint32_t index, const tpv_rule_t *rule) {
    const tpv_tensor_t *tensor = tpv_artifact_tensor(planner->cutter.artifact, index);
    tpv_cut_t cut;
    TPV_TRY(tpv_cut_tensor(&planner->cutter, tensor, rule, &cut));
    uint64_t shape[TPV_MAX_DIMS] = {0}, position = 0;
    memcpy(shape, tensor->shape, sizeof shape);
    if (cut.axis >= 0) shape[cut.axis] = tpv_cut_extent(&cut);
    TPV_TRY(tpv_spec_add_output(planner->spec, tensor->name, tensor->dtype, tensor->dims, shape));
    return add_slice(planner, index, &cut, cut.axis < 0 ? 0 : cut.axis, &position);
}

/* Can this part stand below the first one? */
static tpv_status_t check_part(const tpv_fuse_t *fuse, const tpv_tensor_t *first, const tpv_tensor_t *part,
                               const tpv_rule_t *rule, const tpv_cut_t *cut) {
    if (!rule || rule->kind != TPV_CUT_COLWISE)
        return tpv_error_set(TPV_ERR_PLAN, "%s: cannot be fused into %s: its rule is %s, expected colwise", part->name,
                             fuse->name, rule ? rule->word : "missing");
    if (part->dtype != first->dtype)
        return tpv_error_set(TPV_ERR_PLAN, "%s: cannot be fused into %s: it is %s, %s is %s", part->name, fuse->name,
                             tpv_dtype_name(part->dtype), first->name, tpv_dtype_name(first->dtype));
    bool same = part->dims == first->dims;
    for (uint32_t i = 1; same && i < part->dims; i++)
        same = part->shape[i] == first->shape[i];
    if (!same || cut->axis > 0 || cut->pad > 0)
        return tpv_error_set(TPV_ERR_PLAN, "%s: cannot be fused into %s: its rows do not go with those of %s",
                             part->name, fuse->name, first->name);
    return TPV_OK;
}

static tpv_status_t add_fused(planner_t *planner, uint32_t first_index, const tpv_fuse_t *fuse) {
    const tpv_artifact_t *artifact = planner->cutter.artifact;
    uint32_t index[TPV_MAX_FUSE_PARTS] = {first_index};
    tpv_cut_t cut[TPV_MAX_FUSE_PARTS] = {0};
    uint64_t rows = 0;
    const tpv_tensor_t *first = tpv_artifact_tensor(artifact, first_index);
    for (unsigned p = 0; p < fuse->parts; p++) {
        if (!tpv_spec_find_tensor(artifact, fuse->part[p], &index[p]))
            return tpv_error_set(TPV_ERR_PLAN, "%s: missing in the checkpoint, %s needs it", fuse->part[p], fuse->name);
        const tpv_tensor_t *tensor = tpv_artifact_tensor(artifact, index[p]);
        const tpv_rule_t *rule;
        TPV_TRY(tpv_rules_find(planner->cutter.rules, tensor->name, &rule));
        if (rule) TPV_TRY(tpv_cut_tensor(&planner->cutter, tensor, rule, &cut[p]));
        TPV_TRY(check_part(fuse, first, tensor, rule, &cut[p]));
        if (p + 1 < fuse->parts && cut[p].partial_block)
            return tpv_error_set(
                TPV_ERR_PLAN, "%s: cannot be fused into %s: its rows end inside of a quantisation block of %llu",
                tensor->name, fuse->name, (unsigned long long)planner->cutter.config->weight_block_size[0]);
        rows += cut[p].axis == 0 ? tpv_cut_extent(&cut[p]) : tensor->dims > 0 ? tensor->shape[0] : 1;
    }
    uint64_t shape[TPV_MAX_DIMS] = {0}, position = 0;
    memcpy(shape, first->shape, sizeof shape);
    shape[0] = rows;
    TPV_TRY(tpv_spec_add_output(planner->spec, fuse->name, first->dtype, first->dims > 0 ? first->dims : 1, shape));
    for (unsigned p = 0; p < fuse->parts; p++)
        TPV_TRY(add_slice(planner, index[p], &cut[p], 0, &position));
    return TPV_OK;
}

/* Does the rank get the same rows or columns of both? Padding counts. */
static bool same_cut(const tpv_cut_t *a, const tpv_cut_t *b) {
    if (a->axis != b->axis || a->range_count != b->range_count || a->pad != b->pad) return false;
    for (uint32_t i = 0; i < a->range_count; i++)
        if (a->range[i].start != b->range[i].start || a->range[i].count != b->range[i].count) return false;
    return true;
}

#define EMBEDDING "model.embed_tokens.weight"
#define HEAD "lm_head.weight"

/* With tied embeddings lm_head is another name of embed_tokens and is not sent, whether the file has it or not. */
static tpv_status_t plan_tied(planner_t *planner, bool *tied) {
    const tpv_artifact_t *artifact = planner->cutter.artifact;
    const tpv_tensor_t *embedding = tpv_artifact_find(artifact, EMBEDDING);
    const tpv_tensor_t *head = tpv_artifact_find(artifact, HEAD);
    if (embedding) TPV_TRY(tpv_config_need(planner->cutter.config, TPV_CONFIG_TIE_WORD_EMBEDDINGS));
    *tied = planner->cutter.config->tie_word_embeddings && embedding;
    if (!*tied) return TPV_OK;
    if (head && (head->dtype != embedding->dtype || head->dims != embedding->dims ||
                 memcmp(head->shape, embedding->shape, head->dims * sizeof *head->shape) != 0))
        return tpv_error_set(TPV_ERR_PLAN, "%s: config.json ties it to %s, which has another dtype or shape", HEAD,
                             EMBEDDING);
    const tpv_rule_t *embedding_rule, *head_rule;
    TPV_TRY(tpv_rules_find(planner->cutter.rules, EMBEDDING, &embedding_rule));
    TPV_TRY(tpv_rules_find(planner->cutter.rules, HEAD, &head_rule));
    if (head_rule && embedding_rule) {
        tpv_cut_t embedding_cut, head_cut;
        TPV_TRY(tpv_cut_tensor(&planner->cutter, embedding, embedding_rule, &embedding_cut));
        TPV_TRY(tpv_cut_tensor(&planner->cutter, embedding, head_rule, &head_cut));
        if (!same_cut(&embedding_cut, &head_cut))
            return tpv_error_set(TPV_ERR_PLAN,
                                 "%s: config.json ties it to %s, but the plan cuts it %s and the embedding %s", HEAD,
                                 EMBEDDING, head_rule->word, embedding_rule->word);
    }
    return tpv_spec_add_alias(planner->spec, HEAD, EMBEDDING);
}

static tpv_status_t plan_tensor(planner_t *planner, uint32_t index) {
    static const tpv_rule_t others = {.pattern = "default", .word = "replicate", .kind = TPV_CUT_REPLICATE};
    const tpv_tensor_t *tensor = tpv_artifact_tensor(planner->cutter.artifact, index);
    tpv_fuse_t fuse;
    const tpv_rule_t *rule;
    TPV_TRY(tpv_rules_find(planner->cutter.rules, tensor->name, &rule));
    if (!rule && planner->cutter.rules->replicate_others) rule = &others;
    if (!rule)
        return tpv_error_set(TPV_ERR_PLAN, "%s: no rule of the plan matches it, and \"default\" is not \"replicate\"",
                             tensor->name);
    if (!planner->fuse || rule == &others || !tpv_fuse_of(tensor->name, &fuse)) return add_single(planner, index, rule);
    if (fuse.place == 0) return add_fused(planner, index, &fuse);
    /* The first part brings it along, if there is one and a rule for it. */
    if (!tpv_artifact_find(planner->cutter.artifact, fuse.part[0]))
        return tpv_error_set(TPV_ERR_PLAN, "%s: missing in the checkpoint, %s needs it", fuse.part[0], fuse.name);
    const tpv_rule_t *first_rule;
    TPV_TRY(tpv_rules_find(planner->cutter.rules, fuse.part[0], &first_rule));
    if (!first_rule)
        return tpv_error_set(TPV_ERR_PLAN, "%s: no rule of the plan matches it, %s needs one", fuse.part[0], fuse.name);
    return TPV_OK;
}

static tpv_status_t plan_rules(planner_t *planner) {
    bool tied;
    TPV_TRY(plan_tied(planner, &tied));
    size_t count = tpv_artifact_tensor_count(planner->cutter.artifact);
    for (size_t i = 0; i < count; i++) {
        const char *name = tpv_artifact_tensor(planner->cutter.artifact, i)->name;
        if (tied && strcmp(name, HEAD) == 0) continue;
        TPV_TRY(plan_tensor(planner, (uint32_t)i));
    }
    return TPV_OK;
}

static tpv_status_t find_format(void *user, const char *name, tpv_json_text_t value) {
    bool *is_spec = user;
    if (strcmp(name, "format") == 0)
        *is_spec = value.length == sizeof TPV_SPEC_FORMAT + 1 &&
                   memcmp(value.start, "\"" TPV_SPEC_FORMAT "\"", value.length) == 0;
    return TPV_OK;
}

static tpv_status_t plan_by_rules(const tpv_artifact_t *artifact, const tpv_plan_options_t *options,
                                  tpv_view_t **view) {
    const tpv_model_config_t *config = tpv_artifact_config(artifact);
    tpv_rules_t rules = {0};
    tpv_spec_t spec = {0};
    bool builtin = true;
    tpv_status_t status = options->plan
                              ? tpv_rules_read_json(config, options->plan, options->plan_length, &rules, &builtin)
                              : tpv_rules_builtin(config, &rules);
    if (status == TPV_OK && builtin) status = tpv_builtin_check_whole(artifact);
    if (status == TPV_OK) {
        planner_t planner = {.cutter = {.artifact = artifact,
                                        .config = config,
                                        .rules = &rules,
                                        .tp_size = options->tp_size,
                                        .tp_rank = options->tp_rank},
                             .fuse = options->fuse,
                             .spec = &spec};
        status = plan_rules(&planner);
    }
    if (status == TPV_OK) status = tpv_view_make(artifact, &spec, view);
    tpv_spec_clear(&spec);
    tpv_rules_clear(&rules);
    return status;
}

tpv_status_t tpv_view_plan(const tpv_artifact_t *artifact, const tpv_plan_options_t *options, tpv_view_t **view) {
    *view = NULL;
    if (options->tp_size < 1 || options->tp_size > TPV_MAX_TP_SIZE)
        return tpv_error_set(TPV_ERR_ARGUMENT, "tp_size %u is out of range: expected 1 to %u", options->tp_size,
                             TPV_MAX_TP_SIZE);
    if (options->tp_rank >= options->tp_size)
        return tpv_error_set(TPV_ERR_ARGUMENT, "tp_rank %u is out of range: expected less than tp_size %u",
                             options->tp_rank, options->tp_size);
    bool is_spec = false;
    if (options->plan) {
        tpv_json_text_t text = {options->plan, options->plan_length};
        tpv_status_t status = tpv_json_members(text, find_format, &is_spec);
        if (status != TPV_OK) return tpv_error_prefix(status, "plan file");
    }
    if (!is_spec) return plan_by_rules(artifact, options, view);
    if (options->fuse)
        return tpv_error_set(TPV_ERR_ARGUMENT, "the plan file is an explicit view, which says itself what is fused: "
                                               "expected no request to fuse");
    return tpv_view_from_json(artifact, options->plan, options->plan_length, view);
}
