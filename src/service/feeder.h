/*
 * The chunks of one fetch: where they come from and who prepares them.
 *
 * A chunk that is one run in the artifact's mapping is sent from there. Any other is gathered: into the stored export
 * when that is cached (all fetches of it share the result), else into a staging place of this fetch. The pool gathers
 * and computes digests, several chunks ahead of the wire. The mover asks and releases; the pool's threads prepare.
 */
#ifndef SERVICE_FEEDER_H
#define SERVICE_FEEDER_H

#include <stdbool.h>

#include "base/pool.h"
#include "channel/stream.h"
#include "service/store.h"

typedef struct tpv_feeder tpv_feeder_t;

/* Staging that a fetch of `stored` with this stream will take: 0 when the export is cached for its chunk size or
 * nothing has to be gathered. */
uint64_t tpv_feeder_staging(const tpv_stored_t *stored, const tpv_stream_t *stream);

/* `stored` is in use by the caller until close; `staging` is what tpv_feeder_staging said. TPV_ERR_NO_MEMORY. */
tpv_status_t tpv_feeder_open(tpv_pool_t *pool, tpv_metrics_t *metrics, tpv_stored_t *stored, const tpv_stream_t *stream,
                             uint64_t staging, tpv_feeder_t **feeder);
/* True when no pool thread works for it any more; nothing may be asked for after the first call. */
bool tpv_feeder_idle(const tpv_feeder_t *feeder);
/* Only when idle. NULL is allowed. */
void tpv_feeder_close(tpv_feeder_t *feeder);

/* What the sender is given. The regions are the feeder's and live as long. */
tpv_chunks_t tpv_feeder_chunks(tpv_feeder_t *feeder);
const tpv_region_t *tpv_feeder_regions(const tpv_feeder_t *feeder, size_t *count);
tpv_feeder_counts_t tpv_feeder_counts(const tpv_feeder_t *feeder);

#endif
