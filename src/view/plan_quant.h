/* Cutting a quantised module: all its parameters at the same places of the weight. */
#ifndef VIEW_PLAN_QUANT_H
#define VIEW_PLAN_QUANT_H

#include "view/plan_cut.h"
#include "view/quant_module.h"

/*
 * Cut `tensor`, a parameter of a quantised module, as `rule` says: by its word for the weight when the rule speaks of
 * the module, for the tensor's own axes when it names the parameter in full. TPV_ERR_PLAN tells why the module cannot
 * be cut so, or which parameter beside it the plan cuts otherwise. With "default": "replicate", a module that its
 * format does not let be cut is whole (cut->left_whole).
 */
tpv_status_t tpv_quant_cut(const tpv_cutter_t *cutter, const tpv_module_t *module, const tpv_tensor_t *tensor,
                           const tpv_rule_t *rule, tpv_cut_t *cut);

#endif
