/* The JSON form of a spec, "tpview-view-1". docs/views.md has its grammar. */
#ifndef VIEW_SPEC_JSON_H
#define VIEW_SPEC_JSON_H

#include "view/spec.h"

#define TPV_SPEC_FORMAT "tpview-view-1"

/*
 * Read the text of a spec into the empty *spec, which the caller clears in any case. The text is walked piece by piece,
 * so memory grows with the spec, not with the text. What the pieces mean is left to tpv_spec_check. TPV_ERR_FORMAT for
 * what does not follow the grammar or is longer than TPV_MAX_SPEC_BYTES, TPV_ERR_PLAN for a tensor that the artifact
 * does not have or a bound of spec.h, TPV_ERR_NO_MEMORY.
 */
tpv_status_t tpv_spec_read_json(const tpv_artifact_t *artifact, const char *json, size_t length, tpv_spec_t *spec);

/* Write a canonical spec: sorted keys, every default written out, no whitespace. The caller frees *json with free().
 * TPV_ERR_PLAN beyond TPV_MAX_SPEC_BYTES, TPV_ERR_NO_MEMORY. */
tpv_status_t tpv_spec_write_json(const tpv_artifact_t *artifact, const tpv_spec_t *spec, char **json, size_t *length);

#endif
