/*
 * Chunks between wire and sink: which places are free, which chunks have arrived, and the workers that compare their
 * digests and hand them to the sink.
 *
 * A chunk is received into the sink's memory where there is one that the plugin takes; any other into a ring of buffers
 * that the plugin has registered. The thread that receives only moves bytes: a worker does the rest, and tells by the
 * place's state word. Everything but the workers belongs to the thread that fetches.
 */
#ifndef CLIENT_ARRIVALS_H
#define CLIENT_ARRIVALS_H

#include "channel/stream.h"
#include "client/pace.h"
#include "client/sink.h"

typedef struct tpv_arrivals tpv_arrivals_t;

/* `sink` has begun; it, `have` and `pace`, which is told of each verified chunk, live longer. `workers`: how many
 * threads; 0: all is done by the caller's, in tpv_landing_t.arrived. *have is told which dense bytes the sink has:
 * those of a chunk that may be overwritten before it is verified are taken out, those of a verified one put in.
 * TPV_ERR_NO_MEMORY. */
tpv_status_t tpv_arrivals_open(tpv_sink_t *sink, const tpv_stream_t *stream, unsigned workers, bool check_digests,
                               tpv_ranges_t *have, tpv_pace_t *pace, tpv_arrivals_t **arrivals);
/* What the receiver is given. */
tpv_landing_t tpv_arrivals_landing(tpv_arrivals_t *arrivals);
/* Collect what workers have finished. *done: nothing is with them. The first of the sink's errors, TPV_ERR_NO_MEMORY. A
 * chunk with a wrong digest is none: it is not in *have. */
tpv_status_t tpv_arrivals_advance(tpv_arrivals_t *arrivals, bool *moved, bool *done);
/* Wait until the workers are done with all that has arrived; the receiver is closed already, and only mismatch and
 * close are left to call. As tpv_arrivals_advance. */
tpv_status_t tpv_arrivals_finish(tpv_arrivals_t *arrivals);
/* TPV_ERR_DIGEST if a chunk had a wrong digest, with the first one's message. */
tpv_status_t tpv_arrivals_mismatch(const tpv_arrivals_t *arrivals);
/* Waits for chunks that a worker has in its hands; those that wait for one are dropped. The receiver is closed already.
 * NULL is allowed. */
void tpv_arrivals_close(tpv_arrivals_t *arrivals);

#endif
