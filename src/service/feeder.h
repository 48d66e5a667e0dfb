/*
 * The chunks of one fetch: where they come from and who prepares them.
 *
 * The export's chunk table tells where each chunk lies. One run of a file is sent from there. What is gathered goes
 * into the export's memory, where all fetches of it share the result, or into a staging place of this fetch when the
 * export has none. A fetch whose rank takes no chunks as long as the export's sends parts of them. The pool gathers and
 * computes digests, several chunks ahead of the wire. The mover asks and releases; the pool's threads prepare.
 */
#ifndef SERVICE_FEEDER_H
#define SERVICE_FEEDER_H

#include <stdbool.h>

#include "base/pool.h"
#include "channel/stream.h"
#include "service/store.h"

typedef struct tpv_feeder tpv_feeder_t;

/*
 * How long the chunks of a fetch of `stored` are that takes at most `most` (TPV_MIN_CHUNK at least) over `comms` comms:
 * the export's, halved until they suit the rank and staging of one for each comm is bounded.
 */
uint32_t tpv_feeder_chunk_bytes(const tpv_stored_t *stored, uint32_t most, uint32_t comms);

/* Staging that a fetch of `stored` with this stream will take, as far as is known: 0 when all chunks lie where they can
 * be sent from. */
uint64_t tpv_feeder_staging(const tpv_store_t *store, const tpv_stored_t *stored, const tpv_stream_t *stream);

/* `stored` is of `store` and in use by the caller until close; stream->chunk_bytes and `staging` are what
 * tpv_feeder_chunk_bytes and tpv_feeder_staging said. TPV_ERR_NO_MEMORY. */
tpv_status_t tpv_feeder_open(tpv_pool_t *pool, tpv_store_t *store, tpv_metrics_t *metrics, tpv_stored_t *stored,
                             const tpv_stream_t *stream, uint64_t staging, tpv_feeder_t **feeder);
/* True when no pool thread works for it any more; nothing may be asked for after the first call. */
bool tpv_feeder_idle(const tpv_feeder_t *feeder);
/* Only when idle. NULL is allowed. */
void tpv_feeder_close(tpv_feeder_t *feeder);

/* What the sender is given. The regions are the feeder's and live as long. */
tpv_chunks_t tpv_feeder_chunks(tpv_feeder_t *feeder);
const tpv_region_t *tpv_feeder_regions(const tpv_feeder_t *feeder, size_t *count);
tpv_feeder_counts_t tpv_feeder_counts(const tpv_feeder_t *feeder);

#endif
