/* Which chunks of a stream are sent: those that have a wanted byte, in ascending order. Both ends work it out alike. */
#ifndef CHANNEL_SELECTION_H
#define CHANNEL_SELECTION_H

#include "channel/stream.h"

typedef struct tpv_selection {
    struct tpv_chunk_run *runs; /* chunks without a gap */
    size_t count;
    uint64_t chunks; /* how many are sent */
    uint64_t bytes;  /* and their bytes */
} tpv_selection_t;

/* For the stream's present chunk_bytes. TPV_ERR_NO_MEMORY. The caller clears *selection. */
tpv_status_t tpv_selection_make(const tpv_stream_t *stream, tpv_selection_t *selection);
void tpv_selection_clear(tpv_selection_t *selection);

/* The chunk that is sent as number `position`, which is below selection->chunks. */
uint64_t tpv_selection_chunk(const tpv_selection_t *selection, uint64_t position);

#endif
