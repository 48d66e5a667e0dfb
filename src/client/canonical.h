/* The fallback: fetch whole ("canonical") tensors and cut them here. */
#ifndef CLIENT_CANONICAL_H
#define CLIENT_CANONICAL_H

#include "tpview/fetch.h"

/* As tpv_transfer, one fetch after the other for each tensor that the view uses. Takes memory for the largest of
 * them. Since `begin` (base/clock.h) the view itself may have been asked for in vain, of which *result tells (else it
 * is all zero); it then sums all. TPV_ERR_NO_MEMORY. */
tpv_status_t tpv_fetch_canonical(tpv_source_t *source, const tpv_artifact_t *artifact, const tpv_view_t *view,
                                 const tpv_fetch_options_t *options, int64_t begin, int64_t deadline, void *destination,
                                 tpv_fetch_result_t *result);

#endif
