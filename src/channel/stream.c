#include "channel/stream.h"

uint64_t tpv_stream_chunks(const tpv_stream_t *stream) {
    return stream->bytes / stream->chunk_bytes + (stream->bytes % stream->chunk_bytes != 0);
}

uint64_t tpv_stream_chunk_length(const tpv_stream_t *stream, uint64_t index) {
    uint64_t offset = index * stream->chunk_bytes;
    uint64_t left = stream->bytes - offset;
    return left < stream->chunk_bytes ? left : stream->chunk_bytes;
}
