/* From TP rules to a spec: one output for each tensor, or for each group of tensors that an engine keeps in one. */
#include <stdio.h>
#include <string.h>

#include "artifact/artifact.h"
#include "artifact/config.h"
#include "artifact/json.h"
#include "base/error.h"
#include "base/log.h"
#include "view/families.h"
#include "view/plan_cut.h"
#include "view/plan_experts.h"
#include "view/plan_explain.h"
#include "view/plan_fuse.h"
#include "view/plan_whole.h"
#include "view/spec_check.h"
#include "view/spec_json.h"
#include "view/view.h"

/* What is to be explained besides, and what came of it. */
typedef struct {
    const char *name;
    json_t *explanation;
} question_t;

typedef struct {
    tpv_cutter_t cutter;    /* for the ranks that cut the latest tensor */
    tpv_expert_part_t part; /* of that tensor */
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
    uint64_t first = 0;
    if (planner->part.stacked) {
        first = planner->part.start * from[0];
        piece.dim[0].size = planner->part.count;
    }

    for (uint64_t i = 0; cut->told && i < output->elements; i++) {
        piece = i == cut->told_element ? (tpv_piece_t){.tensor = TPV_PIECE_NUMBER, .from = cut->number, .to = i}
                                       : (tpv_piece_t){.tensor = index, .from = i, .to = i};
        TPV_TRY(tpv_spec_add_piece(planner->spec, &piece));
    }
    if (cut->told) return TPV_OK;
    if (cut->axis < 0) {
        /* A scalar takes one step of a fused output. */
        uint64_t steps = tensor->dims > 0 ? tensor->shape[axis] : 1;
        piece.from = first;
        piece.to = output->dims > 0 ? *position * to[axis] : 0;
        *position += steps;
        return tpv_spec_add_piece(planner->spec, &piece);
    }
    for (uint32_t i = 0; i < cut->range_count; i++) {
        piece.dim[axis].size = cut->range[i].count;
        piece.from = first + cut->range[i].start * from[axis];
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
    if (planner->part.stacked && cut.axis == 0)
        return tpv_error_set(TPV_ERR_PLAN, "%s: rule \"%s\": %s cuts along the experts, which ep_size divides",
                             tensor->name, rule->given, rule->word);
    if (planner->part.stacked) shape[0] = planner->part.count;
    TPV_TRY(tpv_spec_add_output(planner->spec, tensor->name, tensor->dtype, tensor->dims, shape));
    return add_slice(planner, index, &cut, cut.axis < 0 ? 0 : cut.axis, &position);
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
        TPV_TRY(tpv_cut_tensor(&planner->cutter, tensor, rule, &cut[p]));
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

/* Where the embeddings are, behind whichever prefix this checkpoint has; NULL when there are none. */
static const tpv_tensor_t *find_embedding(const planner_t *planner) {
    const tpv_rules_t *rules = planner->cutter.rules;
    char name[2 * TPV_MAX_NAME + 16];
    for (size_t i = 0; i <= rules->prefix_count; i++) {
        const char *prefix = i < rules->prefix_count ? rules->prefixes[i] : "";
        snprintf(name, sizeof name, "%s%s.weight", prefix, rules->embedding);
        const tpv_tensor_t *found = tpv_artifact_find(planner->cutter.artifact, name);
        if (found) return found;
    }
    return NULL;
}

static const tpv_rule_t others = {.pattern = "default", .word = "replicate", .kind = TPV_CUT_REPLICATE};

/*
 * With tied embeddings a head that the file does not have is another name of the embeddings. One that it has is sent:
 * it may differ, and then transformers does not tie it either.
 */
static tpv_status_t plan_tied(planner_t *planner, bool tied) {
    tpv_rules_t *rules = planner->cutter.rules;
    const tpv_tensor_t *embedding = tied ? find_embedding(planner) : NULL;
    if (!embedding) return TPV_OK;
    char head[TPV_MAX_NAME + 32];
    bool inner = strncmp(embedding->name, "language_model.model.", 21) == 0;
    snprintf(head, sizeof head, "%s%s.weight", inner ? "language_model." : "", rules->head);
    if (strlen(head) > TPV_MAX_NAME || tpv_artifact_find(planner->cutter.artifact, head)) return TPV_OK;
    const tpv_rule_t *embedding_rule, *head_rule;
    TPV_TRY(tpv_rules_find(rules, embedding->name, &embedding_rule));
    TPV_TRY(tpv_rules_find(rules, head, &head_rule));
    /* What is said of the head holds, be it another name or not; in transformers' plans it is of no effect then. */
    if (!embedding_rule && rules->replicate_others && !rules->transformers) embedding_rule = &others;
    if (head_rule && embedding_rule) {
        tpv_cut_t embedding_cut, head_cut;
        TPV_TRY(tpv_cut_tensor(&planner->cutter, embedding, embedding_rule, &embedding_cut));
        tpv_tensor_t as_head = *embedding;
        as_head.name = head;
        TPV_TRY(tpv_cut_tensor(&planner->cutter, &as_head, head_rule, &head_cut));
        if (!same_cut(&embedding_cut, &head_cut))
            return tpv_error_set(TPV_ERR_PLAN,
                                 "%s: config.json ties it to %s, but the plan cuts it %s and the embedding %s", head,
                                 embedding->name, head_rule->word, embedding_rule->word);
    }
    return tpv_spec_add_alias(planner->spec, head, embedding->name);
}

static tpv_status_t plan_tensor(planner_t *planner, uint32_t index) {
    const tpv_tensor_t *tensor = tpv_artifact_tensor(planner->cutter.artifact, index);
    tpv_fuse_t fuse;
    const tpv_rule_t *rule;
    const char *apart;
    TPV_TRY(tpv_rules_find(planner->cutter.rules, tensor->name, &rule));
    TPV_TRY(tpv_experts_turn(&planner->cutter, tensor, &planner->part));
    if (!planner->part.here) return TPV_OK;
    if (planner->part.stacked && rule && rule->kind == TPV_CUT_FIRST) rule = &others;
    if (!rule && (planner->cutter.rules->replicate_others || planner->cutter.tp_size == 1 || tpv_is_lone_scale(tensor)))
        rule = &others;
    if (!rule)
        return tpv_error_set(TPV_ERR_PLAN, "%s: no rule of the plan matches it, and \"default\" is not \"replicate\"",
                             tensor->name);
    if (!planner->fuse || rule == &others || !tpv_fuse_of(tensor->name, &fuse)) return add_single(planner, index, rule);
    TPV_TRY(tpv_fuse_possible(&planner->cutter, &fuse, &apart));
    if (apart) {
        TPV_TRY(add_single(planner, index, rule));
        planner->spec->outputs[planner->spec->output_count - 1].apart = apart;
        return TPV_OK;
    }
    if (fuse.place == 0) return add_fused(planner, index, &fuse);
    /* The first part brings it along. */
    if (tpv_artifact_find(planner->cutter.artifact, fuse.part[0])) return TPV_OK;
    return tpv_error_set(TPV_ERR_PLAN, "%s: missing in the checkpoint, %s needs it", fuse.part[0], fuse.name);
}

/* Rules that stand for one of the plan (for other names on disk, other layers) are told by its pattern. */
static bool given_matched(const tpv_rules_t *rules, const char *given) {
    for (size_t i = 0; i < rules->rule_count; i++)
        if (rules->rules[i].given == given && rules->rules[i].matched) return true;
    return false;
}

static bool is_first_of_given(const tpv_rules_t *rules, size_t index) {
    for (size_t i = 0; i < index; i++)
        if (rules->rules[i].given == rules->rules[index].given) return false;
    return true;
}

/* A rule of a plan file that matches nothing is a mistake of whoever wrote it, or the plan of another model. */
static tpv_status_t check_unmatched(const planner_t *planner) {
    const tpv_rules_t *rules = planner->cutter.rules;
    if (rules->family || (planner->cutter.experts->tp_size == 1 && planner->cutter.experts->expert_tp_size == 1))
        return TPV_OK;
    size_t cutting = 0, idle = 0;
    for (size_t i = 0; i < rules->rule_count; i++) {
        const tpv_rule_t *rule = &rules->rules[i];
        if (rule->kind == TPV_CUT_REPLICATE || rule->kind == TPV_CUT_REFUSED || !is_first_of_given(rules, i)) continue;
        cutting++;
        if (given_matched(rules, rule->given)) continue;
        idle++;
        if (!rules->replicate_others)
            return tpv_error_set(TPV_ERR_PLAN, "rule \"%s\": %s matches no tensor of the checkpoint", rule->given,
                                 rule->word);
        TPV_WARN("plan file: rule \"%s\": %s matches no tensor of the checkpoint", rule->given, rule->word);
    }
    if (rules->transformers && cutting > 0 && idle == cutting)
        return tpv_error_set(TPV_ERR_PLAN, "transformers' plan matches no tensor of the checkpoint: the names on disk "
                                           "are not those of the model; give \"names\" and \"prefixes\" in a plan "
                                           "file");
    return TPV_OK;
}

static tpv_status_t plan_rules(planner_t *planner) {
    bool tied = tpv_rules_tied(planner->cutter.rules);
    const tpv_experts_t *experts = planner->cutter.experts;
    if (experts->tp_size > 1 || experts->expert_tp_size > 1)
        TPV_TRY(tpv_whole_check(planner->cutter.artifact, planner->cutter.rules, tied));
    TPV_TRY(plan_tied(planner, tied));
    size_t count = tpv_artifact_tensor_count(planner->cutter.artifact);
    for (size_t i = 0; i < count; i++)
        TPV_TRY(plan_tensor(planner, (uint32_t)i));
    static const char none[] = "the checkpoint has no experts (tensors below a module \"experts\")";
    if (experts->size > 1 && !experts->any)
        return tpv_error_set(TPV_ERR_PLAN, "ep_size %llu: %s to divide", (unsigned long long)experts->size, none);
    bool alike = experts->expert_tp_size == experts->tp_size && experts->expert_tp_rank == experts->tp_rank;
    if (!alike && !experts->any)
        return tpv_error_set(TPV_ERR_PLAN, "expert_tp_size %llu: %s to cut",
                             (unsigned long long)experts->expert_tp_size, none);
    const tpv_left_whole_t *whole = planner->cutter.whole;
    if (whole->modules > 0)
        TPV_WARN(
            "quantised modules that cannot be cut are whole, as \"default\": \"replicate\" says: %zu, the first: %s",
            whole->modules, whole->reason);
    return check_unmatched(planner);
}

static tpv_status_t find_format(void *user, const char *name, tpv_json_text_t value) {
    bool *is_spec = user;
    if (strcmp(name, "format") == 0)
        *is_spec = value.length == sizeof TPV_SPEC_FORMAT + 1 &&
                   memcmp(value.start, "\"" TPV_SPEC_FORMAT "\"", value.length) == 0;
    return TPV_OK;
}

/* Whole tensors need no plan. */
static tpv_status_t read_rules(const json_t *facts, const tpv_plan_options_t *options, tpv_rules_t *rules) {
    if (options->plan) return tpv_rules_read_json(facts, options->plan, options->plan_length, rules);
    tpv_status_t status = tpv_rules_of_family(facts, rules);
    if (status != TPV_ERR_PLAN || options->tp_size > 1 || options->expert_tp_size > 1) return status;
    tpv_rules_clear(rules);
    return tpv_rules_default(facts, rules);
}

/* Fields that every plan with heads looks at must be of the right kind, whether or not they would be used. */
static tpv_status_t check_config(const tpv_model_config_t *config, const tpv_rules_t *rules) {
    TPV_TRY(tpv_config_need(config, TPV_CONFIG_ATTENTION_HEADS | TPV_CONFIG_KEY_VALUE_HEADS));
    if (!rules->family) return TPV_OK;
    TPV_TRY(tpv_config_need(config, TPV_CONFIG_HIDDEN_LAYERS | TPV_CONFIG_HEAD_DIM | TPV_CONFIG_TIE_WORD_EMBEDDINGS));
    return config->head_dim == 0 ? tpv_config_need(config, TPV_CONFIG_HIDDEN_SIZE) : TPV_OK;
}

static tpv_status_t plan_by_rules(const tpv_artifact_t *artifact, const tpv_plan_options_t *options,
                                  question_t *question, tpv_view_t **view) {
    tpv_rules_t rules = {0};
    tpv_spec_t spec = {0};
    json_t *facts = tpv_artifact_facts(artifact);
    if (!facts) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a plan");
    const tpv_model_config_t *config = tpv_artifact_config(artifact);
    bool whole = options->tp_size == 1 && options->expert_tp_size <= 1;
    tpv_status_t status = options->plan || whole ? TPV_OK : tpv_config_need(config, TPV_CONFIG_MODEL_TYPE);
    if (status == TPV_OK) status = read_rules(facts, options, &rules);
    if (status == TPV_OK && !whole) status = check_config(config, &rules);
    if (status == TPV_OK) {
        tpv_experts_t experts = tpv_experts_asked(options);
        tpv_quant_config_t quant = tpv_quant_config_read(facts);
        tpv_left_whole_t left_whole = {0};
        rules.artifact = artifact;
        planner_t planner = {.cutter = {.artifact = artifact,
                                        .config = config,
                                        .rules = &rules,
                                        .quant = &quant,
                                        .whole = &left_whole,
                                        .experts = &experts,
                                        .tp_size = options->tp_size,
                                        .tp_rank = options->tp_rank},
                             .fuse = options->fuse,
                             .spec = &spec};
        status = plan_rules(&planner);
        if (status == TPV_OK && question)
            status = tpv_explain(artifact, &planner.cutter, &spec, question->name, &question->explanation);
    }
    if (status == TPV_OK) status = tpv_view_make(artifact, &spec, view);
    tpv_spec_clear(&spec);
    tpv_rules_clear(&rules);
    json_decref(facts);
    return status;
}

const char *tpv_plan_family(size_t index, const char **text) {
    const tpv_family_t *family = tpv_family_at(index);
    if (family && text) *text = family->text;
    return family ? family->name : NULL;
}

static tpv_status_t plan_by_spec(const tpv_artifact_t *artifact, const tpv_plan_options_t *options,
                                 question_t *question, tpv_view_t **view) {
    tpv_spec_t spec = {0};
    if (options->ep_size > 1 || options->expert_tp_size > 0)
        return tpv_error_set(TPV_ERR_ARGUMENT, "the plan file is an explicit view, which says itself which experts are "
                                               "in it: expected neither ep_size nor expert_tp_size");
    if (options->fuse)
        return tpv_error_set(TPV_ERR_ARGUMENT, "the plan file is an explicit view, which says itself what is fused: "
                                               "expected no request to fuse");
    tpv_status_t status = tpv_spec_read_json(artifact, options->plan, options->plan_length, &spec);
    if (status == TPV_OK) status = tpv_spec_check(artifact, &spec);
    if (status == TPV_OK && question)
        status = tpv_explain(artifact, NULL, &spec, question->name, &question->explanation);
    if (status == TPV_OK) status = tpv_view_make(artifact, &spec, view);
    tpv_spec_clear(&spec);
    return status;
}

static tpv_status_t check_rank(const char *what, uint32_t rank, uint32_t size) {
    if (size > TPV_MAX_TP_SIZE)
        return tpv_error_set(TPV_ERR_ARGUMENT, "%s_size %u is out of range: expected at most %u", what, size,
                             TPV_MAX_TP_SIZE);
    if (rank == 0 || rank < size) return TPV_OK;
    return tpv_error_set(TPV_ERR_ARGUMENT, "%s_rank %u is out of range: expected less than %s_size %u", what, rank,
                         what, size);
}

static tpv_status_t check_experts(const tpv_plan_options_t *options) {
    TPV_TRY(check_rank("ep", options->ep_rank, options->ep_size));
    return check_rank("expert_tp", options->expert_tp_rank, options->expert_tp_size);
}

static tpv_status_t plan(const tpv_artifact_t *artifact, const tpv_plan_options_t *options, question_t *question,
                         tpv_view_t **view) {
    *view = NULL;
    if (options->tp_size < 1 || options->tp_size > TPV_MAX_TP_SIZE)
        return tpv_error_set(TPV_ERR_ARGUMENT, "tp_size %u is out of range: expected 1 to %u", options->tp_size,
                             TPV_MAX_TP_SIZE);
    if (options->tp_rank >= options->tp_size)
        return tpv_error_set(TPV_ERR_ARGUMENT, "tp_rank %u is out of range: expected less than tp_size %u",
                             options->tp_rank, options->tp_size);
    TPV_TRY(check_experts(options));
    bool is_spec = false;
    if (options->plan) {
        tpv_json_text_t text = {options->plan, options->plan_length};
        tpv_status_t status = tpv_json_members(text, find_format, &is_spec);
        if (status != TPV_OK) return tpv_error_prefix(status, "plan file");
    }
    return (is_spec ? plan_by_spec : plan_by_rules)(artifact, options, question, view);
}

tpv_status_t tpv_view_plan(const tpv_artifact_t *artifact, const tpv_plan_options_t *options, tpv_view_t **view) {
    return plan(artifact, options, NULL, view);
}

tpv_status_t tpv_plan_explain(const tpv_artifact_t *artifact, const tpv_plan_options_t *options, const char *name,
                              char **json) {
    question_t question = {.name = name};
    tpv_view_t *view = NULL;
    *json = NULL;
    tpv_status_t status = plan(artifact, options, &question, &view);
    if (status == TPV_OK) *json = json_dumps(question.explanation, JSON_COMPACT);
    json_decref(question.explanation);
    tpv_view_free(view);
    return status != TPV_OK || *json ? status : tpv_error_set(TPV_ERR_NO_MEMORY, "no memory to explain %s", name);
}
