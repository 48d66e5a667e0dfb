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

/* `sink` has begun and lives longer. `workers`: how many threads; 0: all is done by the caller's, in
 * tpv_landing_t.arrived. TPV_ERR_NO_MEMORY. */
tpv_status_t tpv_arrivals_open(tpv_sink_t *sink, const tpv_stream_t *stream, unsigned workers, bool check_digests,
                               tpv_arrivals_t **arrivals);
/* What the receiver is given. */
tpv_landing_t tpv_arrivals_landing(tpv_arrivals_t *arrivals);
/* Collect what workers have finished. *done: nothing is with them. The first of their errors: TPV_ERR_DIGEST, those of
 * the sink. */
tpv_status_t tpv_arrivals_advance(tpv_arrivals_t *arrivals, bool *moved, bool *done);
/* When they were verified. Its own memory. */
const tpv_pace_t *tpv_arrivals_pace(const tpv_arrivals_t *arrivals);
/* Bytes that the sink has. */
uint64_t tpv_arrivals_taken(const tpv_arrivals_t *arrivals);
/* Waits for chunks that a worker has in its hands; those that wait for one are dropped. The receiver is closed already.
 * NULL is allowed. */
void tpv_arrivals_close(tpv_arrivals_t *arrivals);

#endif
