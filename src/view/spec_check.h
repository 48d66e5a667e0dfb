/* What must hold for each part of a spec on its own; that the parts fit together is proven in cover.h. */
#ifndef VIEW_SPEC_CHECK_H
#define VIEW_SPEC_CHECK_H

#include "view/spec.h"

/*
 * Check that every piece lies inside of its tensor and its output, that it writes no element twice by a stride of 0 and
 * has the output's dtype, that output names are unique, and that each alias stands for an output. Pieces without
 * elements pass. TPV_ERR_PLAN names the output, the tensor and the reason; TPV_ERR_NO_MEMORY.
 */
tpv_status_t tpv_spec_check(const tpv_artifact_t *artifact, const tpv_spec_t *spec);

#endif
