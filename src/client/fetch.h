/* A fetch with a deadline that began to run before it. */
#ifndef CLIENT_FETCH_H
#define CLIENT_FETCH_H

#include "tpview/fetch.h"

/* When the caller's deadline_s, counted from now, is over (base/clock.h). */
int64_t tpv_fetch_deadline(const tpv_fetch_options_t *options);

/* tpv_fetch, but until `deadline`; options->deadline_s is quoted in messages only. */
tpv_status_t tpv_fetch_until(tpv_source_t *source, const tpv_artifact_t *artifact, const tpv_view_t *view,
                             const tpv_fetch_options_t *options, int64_t deadline, void *destination,
                             tpv_fetch_result_t *result);

#endif
