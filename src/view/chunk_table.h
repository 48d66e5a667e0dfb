/*
 * Where the chunks of a view lie: made once for a view, in one pass over its program, and read-only then.
 *
 * Chunk i is dense bytes [i * chunk_bytes, (i + 1) * chunk_bytes), the last one shorter. A chunk that lies in one file
 * as one run can be sent from there; a chunk of zeros needs no memory of its own; any other has to be gathered.
 */
#ifndef VIEW_CHUNK_TABLE_H
#define VIEW_CHUNK_TABLE_H

#include "tpview/view.h"

#define TPV_CHUNK_TABLE_MOST (UINT64_C(4) << 20)

typedef enum tpv_chunk_kind {
    TPV_CHUNK_GATHERED, /* put together of several runs */
    TPV_CHUNK_RUN,      /* one run of one file */
    TPV_CHUNK_ZEROS,
} tpv_chunk_kind_t;

typedef struct tpv_chunk_source {
    tpv_chunk_kind_t kind;
    uint32_t file;   /* RUN: index in the artifact's files */
    uint64_t offset; /* RUN: of its first byte in that file; GATHERED: its place among those, counted in chunks */
} tpv_chunk_source_t;

typedef struct tpv_chunk_table {
    uint64_t bytes, count;
    uint32_t chunk_bytes;
    uint64_t gathered, runs;     /* chunks of that kind */
    uint64_t steps;              /* that making it took */
    tpv_chunk_source_t *sources; /* `count` of them; owned */
} tpv_chunk_table_t;

/*
 * Make the table. It takes time in proportion to records, chunks and what the chunks that are one run are made of; a
 * view for which that is more than a fixed number of steps has chunks GATHERED that could be told to be runs, never the
 * other way round. chunk_bytes is 1 to 2^31. TPV_ERR_ARGUMENT for more than TPV_CHUNK_TABLE_MOST chunks or another
 * artifact's view, TPV_ERR_DEADLINE when `deadline` (base/clock.h) passed first, TPV_ERR_NO_MEMORY. The caller ends
 * *table with tpv_chunk_table_clear in any case.
 */
tpv_status_t tpv_chunk_table_make(const tpv_view_t *view, const tpv_artifact_t *artifact, uint32_t chunk_bytes,
                                  int64_t deadline, tpv_chunk_table_t *table);
/* Have chunks that are one run gathered as well. */
void tpv_chunk_table_gather_runs(tpv_chunk_table_t *table);
void tpv_chunk_table_clear(tpv_chunk_table_t *table);

#endif
