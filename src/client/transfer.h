/*
 * One transfer: a view into a sink, from one service of a source after the other until it has every byte, on the
 * caller's thread. tpview/fetch.h has what is made of transfers.
 */
#ifndef CLIENT_TRANSFER_H
#define CLIENT_TRANSFER_H

#include "client/sink.h"

/* When the caller's deadline_s, counted from now, is over (base/clock.h). */
int64_t tpv_fetch_deadline(const tpv_fetch_options_t *options);

/*
 * Fetch into `sink`, which the caller has begun and ends, until `deadline`; options->deadline_s counts for nothing.
 * *refused: no service gave all, and one of them said that it cannot cut or hold the view (capability or resources), so
 * whole tensors may still be had. Errors as tpv_fetch, and those of the sink.
 */
tpv_status_t tpv_transfer(tpv_source_t *source, const tpv_artifact_t *artifact, const tpv_view_t *view,
                          const tpv_fetch_options_t *options, int64_t deadline, tpv_sink_t *sink,
                          tpv_fetch_result_t *result, bool *refused);

/* tpv_transfer, or whole tensors when the source refuses and options allow it; begins and ends the sink. */
tpv_status_t tpv_fetch_into(tpv_source_t *source, const tpv_artifact_t *artifact, const tpv_view_t *view,
                            const tpv_fetch_options_t *options, int64_t deadline, tpv_sink_t *sink,
                            tpv_fetch_result_t *result);

#endif
