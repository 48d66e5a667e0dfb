#include "client/sink.h"

#include <string.h>

static tpv_status_t nothing(tpv_sink_t *sink) {
    (void)sink;
    return TPV_OK;
}

static tpv_status_t take(tpv_sink_t *sink, uint64_t offset, const void *data, size_t length) {
    memcpy(sink->memory + offset, data, length);
    return TPV_OK;
}

static void abandon(tpv_sink_t *sink) {
    (void)sink;
}

tpv_sink_t tpv_sink_memory(void *destination) {
    static const tpv_sink_kind_t kind = {.begin = nothing, .take = take, .finish = nothing, .abandon = abandon};
    return (tpv_sink_t){.kind = &kind, .memory = destination};
}
