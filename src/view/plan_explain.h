/* Why a rank gets what it gets of a tensor. */
#ifndef VIEW_PLAN_EXPLAIN_H
#define VIEW_PLAN_EXPLAIN_H

#include "view/plan_cut.h"
#include "view/spec.h"

/*
 * Explain what became of `name` in `spec`: a tensor of the checkpoint, or an output or alias, of which all tensors are
 * explained. `cutter` made the spec; NULL when it is an explicit one. The caller decrefs *explanation, of the form that
 * tpv_plan_explain tells. TPV_ERR_NOT_FOUND names those that come near; TPV_ERR_NO_MEMORY, errors of tpv_cut_tensor.
 */
tpv_status_t tpv_explain(const tpv_artifact_t *artifact, const tpv_cutter_t *cutter, const tpv_spec_t *spec,
                         const char *name, json_t **explanation);

#endif
