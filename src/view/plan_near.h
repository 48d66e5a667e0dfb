/* Names that somebody may have meant. */
#ifndef VIEW_PLAN_NEAR_H
#define VIEW_PLAN_NEAR_H

#include "view/spec.h"

/* Set TPV_ERR_NOT_FOUND for `name`, which is neither tensor nor output, with up to three that come near. */
tpv_status_t tpv_near_error(const tpv_artifact_t *artifact, const tpv_spec_t *spec, const char *name);

#endif
