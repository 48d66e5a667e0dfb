/*
 * Plans of Hugging Face transformers as they stand: base_model_tp_plan of a configuration and tp_plan of a model, as
 * JSON. Their patterns name modules of the model; "names" of a plan file tell how these stand on disk.
 */
#ifndef VIEW_PLAN_TRANSFORMERS_H
#define VIEW_PLAN_TRANSFORMERS_H

#include "view/plan_rules.h"

/* Is `names` a list of {"model": [..], "disk": [..]} of which one side has one name? TPV_ERR_FORMAT. */
tpv_status_t tpv_names_check(const json_t *names);

/*
 * Fill rules->rules from `plan`: patterns and words, or an object of such under "base_model_tp_plan" and "tp_plan". The
 * rules' prefixes and names are read before. A rule is added for each way in which a module's name may stand on disk;
 * their texts go into rules->texts. TPV_ERR_FORMAT for an unknown word, TPV_ERR_NO_MEMORY.
 */
tpv_status_t tpv_rules_read_transformers(tpv_rules_t *rules, const json_t *plan);

#endif
