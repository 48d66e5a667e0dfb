#include "channel/selection.h"

#include <stdlib.h>

#include "base/error.h"

struct tpv_chunk_run {
    uint64_t position, chunk; /* of its first chunk */
};

/* The chunks [first, end) of range `index`, without the one that it shares with the range before it. */
static void chunks_of(const tpv_stream_t *stream, size_t index, uint64_t *first, uint64_t *end) {
    tpv_range_t range = stream->ranges ? stream->ranges[index] : (tpv_range_t){0, stream->bytes};
    *first = range.begin / stream->chunk_bytes;
    *end = range.end > range.begin ? (range.end - 1) / stream->chunk_bytes + 1 : *first;
    if (index == 0) return;
    uint64_t before = (stream->ranges[index - 1].end - 1) / stream->chunk_bytes + 1;
    if (before > *first) *first = before;
}

tpv_status_t tpv_selection_make(const tpv_stream_t *stream, tpv_selection_t *selection) {
    size_t ranges = stream->ranges ? stream->range_count : 1;
    *selection = (tpv_selection_t){.runs = calloc(ranges, sizeof *selection->runs)};
    if (!selection->runs) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for %zu ranges of chunks", ranges);
    for (size_t i = 0; i < ranges; i++) {
        uint64_t first, end;
        chunks_of(stream, i, &first, &end);
        if (first >= end) continue;
        selection->runs[selection->count++] = (struct tpv_chunk_run){selection->chunks, first};
        selection->chunks += end - first;
        selection->bytes += (end - 1 - first) * stream->chunk_bytes + tpv_stream_chunk_length(stream, end - 1);
    }
    return TPV_OK;
}

void tpv_selection_clear(tpv_selection_t *selection) {
    free(selection->runs);
    *selection = (tpv_selection_t){0};
}

uint64_t tpv_selection_chunk(const tpv_selection_t *selection, uint64_t position) {
    size_t low = 0, high = selection->count - 1;
    while (low < high) {
        size_t middle = low + (high - low + 1) / 2;
        if (selection->runs[middle].position <= position)
            low = middle;
        else
            high = middle - 1;
    }
    return selection->runs[low].chunk + (position - selection->runs[low].position);
}
