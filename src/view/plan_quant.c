#include "view/plan_quant.h"

#include <stdio.h>
#include <string.h>

#include "artifact/config.h"
#include "base/error.h"

typedef unsigned long long ull;

/* ---- what a rule says of the weight ------------------------------------------------------------------------------ */

/* The axis that the words of a kind cut, of a tensor with so many dims. */
static int axis_of(tpv_cut_kind_t kind, uint32_t dims) {
    int last = (int)dims - 1;
    if (dims < 2) return 0;
    if (kind == TPV_CUT_COLWISE || kind == TPV_CUT_PACKED_COLWISE) return last - 1;
    return kind == TPV_CUT_FIRST || kind == TPV_CUT_VOCAB ? 0 : last;
}

/* The kind that cuts `axis` of the weight as `kind` cuts one of a parameter. */
static tpv_cut_kind_t kind_for(const tpv_module_t *module, tpv_cut_kind_t kind, int axis) {
    bool packed = kind == TPV_CUT_PACKED_COLWISE || kind == TPV_CUT_PACKED_ROWWISE;
    if (axis == tpv_module_columns(module)) return packed ? TPV_CUT_PACKED_ROWWISE : TPV_CUT_ROWWISE;
    if (axis == 0 && (kind == TPV_CUT_VOCAB || kind == TPV_CUT_FIRST)) return kind;
    if (axis == tpv_module_rows(module)) return packed ? TPV_CUT_PACKED_COLWISE : TPV_CUT_COLWISE;
    return TPV_CUT_FIRST;
}

/* The rule for the weight that stands for `rule` of a parameter which it names in full. */
static tpv_status_t turn(const tpv_module_t *module, const tpv_parameter_t *parameter, const tpv_rule_t *rule,
                         tpv_rule_t *turned) {
    const tpv_tensor_t *tensor = parameter->tensor;
    int axis = axis_of(rule->kind, tensor->dims);
    *turned = *rule;
    turned->kind = TPV_CUT_REPLICATE;
    /* As of any other bias, these words leave it whole. */
    if (parameter->kind == TPV_PARAMETER_ROWS && tensor->dims == 1 &&
        (rule->kind == TPV_CUT_ROWWISE || rule->kind == TPV_CUT_PACKED_ROWWISE))
        return TPV_OK;
    bool any = false;
    for (int i = 0; i < (int)module->weight.dims; i++) {
        any = any || parameter->along[i].axis >= 0;
        if (parameter->along[i].axis != axis) continue;
        turned->kind = kind_for(module, rule->kind, i);
        return TPV_OK;
    }
    /* What has one number only, and the shape. */
    if (!any) return TPV_OK;
    return tpv_error_set(TPV_ERR_PLAN, "%s: cannot be cut %s: what lies along that axis is not cut with %s",
                         tensor->name, rule->word, module->weight_name);
}

/* Along an axis that cannot be cut there is nothing to divide. */
static tpv_status_t check_axis(const tpv_module_t *module, const tpv_rule_t *rule) {
    int axis = axis_of(rule->kind, module->weight.dims);
    for (uint32_t i = 0; i < module->count && rule->kind != TPV_CUT_REPLICATE; i++) {
        const tpv_parameter_t *parameter = &module->parameter[i];
        if (parameter->along[axis].axis < 0 || parameter->along[axis].weights > 0) continue;
        return tpv_error_set(TPV_ERR_PLAN, "%s: cannot be cut %s: %s", parameter->tensor->name, rule->word,
                             module->opaque);
    }
    return TPV_OK;
}

/* The rule for the weight that `rule` of one of its parameters stands for. Of stacks words speak of the weight. */
static tpv_status_t rule_for_weight(const tpv_cutter_t *cutter, const tpv_module_t *module,
                                    const tpv_parameter_t *parameter, const tpv_rule_t *rule, tpv_rule_t *turned) {
    *turned = *rule;
    if (rule->kind == TPV_CUT_REPLICATE || module->stack ||
        !tpv_rule_names_in_full(cutter->rules, rule, parameter->tensor->name))
        return TPV_OK;
    return turn(module, parameter, rule, turned);
}

/* ---- from the weight to a parameter ------------------------------------------------------------------------------ */

static tpv_status_t edge_inside(const tpv_cutter_t *cutter, const tpv_module_t *module,
                                const tpv_parameter_t *parameter, int axis, ull start, ull end) {
    bool pack = parameter->kind == TPV_PARAMETER_CODES || (parameter->packed && axis == tpv_module_rows(module));
    const char *part = parameter->kind == TPV_PARAMETER_HEADS ? "head" : pack ? "pack" : "quantisation block";
    return tpv_error_set(
        TPV_ERR_PLAN, "%s: the slice [%llu, %llu) of %s has an edge inside of a %s of %llu %s (tp_size %llu)",
        parameter->tensor->name, start, end, module->weight_name, part, (ull)parameter->along[axis].weights,
        tpv_axis_word(&module->weight, axis), (ull)cutter->tp_size);
}

static tpv_status_t map_ranges(const tpv_cutter_t *cutter, const tpv_module_t *module, const tpv_parameter_t *parameter,
                               const tpv_cut_t *weight, tpv_cut_t *cut) {
    const tpv_along_t *along = &parameter->along[weight->axis];
    uint64_t extent = module->weight.shape[weight->axis];
    if (along->weights == 0)
        return tpv_error_set(TPV_ERR_PLAN, "%s: %s cannot be cut by %s: %s", parameter->tensor->name,
                             module->weight_name, tpv_axis_word(&module->weight, weight->axis), module->opaque);
    if (parameter->kind == TPV_PARAMETER_HEADS && weight->range_count > 1)
        return tpv_error_set(TPV_ERR_PLAN,
                             "%s: cannot be cut with %s: that is several projections in one, and whose heads its %llu "
                             "numbers are of is not known",
                             parameter->tensor->name, module->weight_name, (ull)parameter->tensor->shape[along->axis]);
    *cut = (tpv_cut_t){.axis = along->axis};
    for (uint32_t i = 0; i < weight->range_count; i++) {
        uint64_t start = weight->range[i].start, end = start + weight->range[i].count;
        bool last = end == extent && i + 1 == weight->range_count && weight->pad == 0;
        if (start % along->weights != 0 || (end % along->weights != 0 && !last))
            return edge_inside(cutter, module, parameter, weight->axis, start, end);
        uint64_t from = start / along->weights * along->steps;
        uint64_t to = last ? parameter->tensor->shape[along->axis] : end / along->weights * along->steps;
        cut->range[cut->range_count++] = (tpv_range_t){.start = from, .count = to - from};
    }
    if (weight->pad % along->weights != 0)
        return tpv_error_set(TPV_ERR_PLAN, "%s: the %llu padded rows of %s are no whole number of packs or blocks",
                             parameter->tensor->name, (ull)weight->pad, module->weight_name);
    cut->pad = weight->pad / along->weights * along->steps;
    if (parameter->kind == TPV_PARAMETER_ORDER && !module->reordered) {
        /* The rank's groups count from its own first one. */
        cut->range[0] = (tpv_range_t){.start = 0, .count = tpv_cut_extent(cut) - cut->pad};
        cut->range_count = 1;
    }
    return TPV_OK;
}

/* What is cut of a parameter when `weight` is cut of its weight. */
static tpv_status_t follow(const tpv_cutter_t *cutter, const tpv_module_t *module, const tpv_parameter_t *parameter,
                           const tpv_cut_t *weight, tpv_cut_t *cut) {
    *cut = (tpv_cut_t){.axis = -1};
    if (weight->axis >= 0 && parameter->kind == TPV_PARAMETER_SHAPE) {
        cut->told = true;
        cut->told_element = (uint64_t)weight->axis;
        cut->number = tpv_cut_extent(weight);
        return TPV_OK;
    }
    if (weight->axis >= 0 && parameter->along[weight->axis].axis >= 0)
        TPV_TRY(map_ranges(cutter, module, parameter, weight, cut));
    const tpv_along_t *down = &parameter->along[tpv_module_rows(module)];
    uint64_t end = module->weight.shape[tpv_module_rows(module)];
    if (weight->axis == tpv_module_rows(module) && weight->range_count > 0) {
        const tpv_range_t *last = &weight->range[weight->range_count - 1];
        end = last->start + last->count;
    }
    cut->partial_block = down->axis >= 0 && down->weights > 1 && end % down->weights != 0;
    return TPV_OK;
}

/* ---- all of a module --------------------------------------------------------------------------------------------- */

static bool same_ranges(const tpv_cut_t *a, const tpv_cut_t *b) {
    if (a->range_count != b->range_count || a->pad != b->pad) return false;
    return memcmp(a->range, b->range, a->range_count * sizeof *a->range) == 0;
}

/* Do both parameters get the same of what they have of axis `axis` of the weight? */
static bool agree(const tpv_parameter_t *other, int axis, const tpv_cut_t *cut, const tpv_cut_t *others) {
    if (axis < 0 || (other->along[axis].axis < 0 && other->kind != TPV_PARAMETER_SHAPE)) return true;
    return others->axis == axis && same_ranges(cut, others);
}

/* A plan may name parameters in full, but what it cuts of one it must cut of all. */
static tpv_status_t check_others(const tpv_cutter_t *cutter, const tpv_module_t *module,
                                 const tpv_parameter_t *parameter, const tpv_rule_t *rule, const tpv_cut_t *weight) {
    for (uint32_t i = 0; i < module->count; i++) {
        const tpv_parameter_t *other = &module->parameter[i];
        const tpv_rule_t *beside;
        TPV_TRY(tpv_rules_find(cutter->rules, other->tensor->name, &beside));
        if (other == parameter || beside == rule) continue;
        tpv_cut_t cut = {.axis = -1};
        tpv_rule_t turned;
        if (beside) TPV_TRY(rule_for_weight(cutter, module, other, beside, &turned));
        if (beside) TPV_TRY(tpv_cut_weight(cutter, &module->weight, &turned, &cut));
        if (agree(other, weight->axis, weight, &cut) && agree(parameter, cut.axis, &cut, weight)) continue;
        return tpv_error_set(
            TPV_ERR_PLAN, "%s: the plan cuts it %s, but %s %s: parameters of a quantised module are cut together",
            parameter->tensor->name, rule->word, other->tensor->name, beside && cut.axis >= 0 ? "otherwise" : "not");
    }
    return TPV_OK;
}

/* Can all that the rule speaks of be cut so? */
static tpv_status_t check_format(const tpv_cutter_t *cutter, const tpv_module_t *module, const tpv_cut_t *weight) {
    tpv_cut_t cut;
    for (uint32_t i = 0; i < module->count; i++)
        TPV_TRY(follow(cutter, module, &module->parameter[i], weight, &cut));
    return TPV_OK;
}

/* With "default": "replicate" what cannot be cut is whole, as a whole. */
static tpv_status_t leave_whole(const tpv_cutter_t *cutter, const tpv_module_t *module, tpv_status_t status,
                                tpv_cut_t *cut) {
    if (status != TPV_ERR_PLAN || !cutter->rules->replicate_others) return status;
    *cut = (tpv_cut_t){.axis = -1, .left_whole = true};
    if (!cutter->whole || strcmp(cutter->whole->latest, module->name) == 0) return TPV_OK;
    snprintf(cutter->whole->latest, sizeof cutter->whole->latest, "%s", module->name);
    if (cutter->whole->modules++ == 0)
        snprintf(cutter->whole->reason, sizeof cutter->whole->reason, "%s", tpv_error_message());
    return TPV_OK;
}

/* Are there scales of groups or blocks, or might there be? */
static bool has_blocks(const tpv_module_t *module) {
    for (uint32_t i = 0; i < module->count; i++) {
        const tpv_parameter_t *parameter = &module->parameter[i];
        if (parameter->kind != TPV_PARAMETER_GRID) continue;
        if (*module->reason || parameter->along[tpv_module_rows(module)].weights > 1 ||
            parameter->along[tpv_module_columns(module)].weights > 1)
            return true;
    }
    return false;
}

tpv_status_t tpv_quant_cut(const tpv_cutter_t *cutter, const tpv_module_t *module, const tpv_tensor_t *tensor,
                           const tpv_rule_t *rule, tpv_cut_t *cut) {
    const tpv_parameter_t *parameter = tpv_module_find(module, tensor->name);
    tpv_cut_t weight;
    tpv_rule_t turned;
    *cut = (tpv_cut_t){.axis = -1};
    if (cutter->tp_size == 1 && (*module->reason || !parameter)) return TPV_OK;
    if (has_blocks(module)) TPV_TRY(tpv_config_need(cutter->config, TPV_CONFIG_WEIGHT_BLOCK_SIZE));
    if (*module->reason || !parameter) {
        const char *reason = *module->reason ? module->reason : "it is no parameter of its module";
        tpv_error_set(TPV_ERR_PLAN, "%s: cannot be cut %s: %s", tensor->name, rule->word, reason);
        return leave_whole(cutter, module, TPV_ERR_PLAN, cut);
    }
    TPV_TRY(rule_for_weight(cutter, module, parameter, rule, &turned));
    tpv_status_t status = cutter->tp_size > 1 ? check_axis(module, &turned) : TPV_OK;
    if (status != TPV_OK) return leave_whole(cutter, module, status, cut);
    TPV_TRY(tpv_cut_weight(cutter, &module->weight, &turned, &weight));
    TPV_TRY(check_others(cutter, module, parameter, rule, &weight));
    status = check_format(cutter, module, &weight);
    if (status != TPV_OK) return leave_whole(cutter, module, status, cut);
    return follow(cutter, module, parameter, &weight, cut);
}
