/*
 * The chunks of one fetch: where they come from and who prepares them.
 *
 * A chunk that is one run in the artifact's mapping is sent from there; any other is gathered into a staging place.
 * Either way the pool computes its digest, several chunks ahead of the wire. The mover asks and releases; the pool's
 * threads prepare.
 */
#ifndef SERVICE_FEEDER_H
#define SERVICE_FEEDER_H

#include <stdbool.h>

#include "base/pool.h"
#include "channel/stream.h"
#include "tpview/view.h"

typedef struct tpv_feeder tpv_feeder_t;

typedef struct tpv_feeder_counts {
    uint64_t gathered_bytes, direct_bytes;
    double gather_seconds; /* thread time, digests included */
} tpv_feeder_counts_t;

/* `view` and `artifact` stay valid until close. TPV_ERR_NO_MEMORY, TPV_ERR_SYSTEM. */
tpv_status_t tpv_feeder_open(tpv_pool_t *pool, const tpv_view_t *view, const tpv_artifact_t *artifact,
                             const tpv_stream_t *stream, tpv_feeder_t **feeder);
/* True when no pool thread works for it any more; nothing may be asked for after the first call. */
bool tpv_feeder_idle(const tpv_feeder_t *feeder);
/* Only when idle. NULL is allowed. */
void tpv_feeder_close(tpv_feeder_t *feeder);

/* What the sender is given. The regions are the feeder's and live as long. */
tpv_chunks_t tpv_feeder_chunks(tpv_feeder_t *feeder);
const tpv_region_t *tpv_feeder_regions(const tpv_feeder_t *feeder, size_t *count);
tpv_feeder_counts_t tpv_feeder_counts(const tpv_feeder_t *feeder);

#endif
