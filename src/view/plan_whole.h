/* Is the checkpoint whole? What a plan's "needs" list must be there. */
#ifndef VIEW_PLAN_WHOLE_H
#define VIEW_PLAN_WHOLE_H

#include "view/plan_rules.h"

/* Is `needs` a list that can be read? TPV_ERR_FORMAT. */
tpv_status_t tpv_whole_read(const json_t *needs);

/* Does the checkpoint have all that the rules need? `tied`: lm_head may be missing. TPV_ERR_PLAN names the first tensor
 * that is missing, or the number that config.json does not tell. */
tpv_status_t tpv_whole_check(const tpv_artifact_t *artifact, const tpv_rules_t *rules, bool tied);

/* Read what a JSON object says under "when"; NULL when there is nothing. TPV_ERR_FORMAT; `what` names the object. */
tpv_status_t tpv_plan_read_when(const char *what, const json_t *object, const json_t **when);

#endif
