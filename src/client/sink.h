/*
 * A sink takes the verified chunks of one view: into memory, a file, the tensors of an engine. Whatever else shall
 * receive views (memory of a device) is one more kind of it.
 *
 * The order of calls: begin once; then place (on the thread that fetches) and take (on any thread, several at once,
 * each for other bytes), in any order of chunks; then finish or abandon, once, also after an error of begin. A range of
 * bytes may be taken again; only its last bytes count.
 */
#ifndef CLIENT_SINK_H
#define CLIENT_SINK_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "tpview/fetch.h"

typedef struct tpv_sink tpv_sink_t;

typedef struct tpv_sink_kind {
    /* Make room for all. */
    tpv_status_t (*begin)(tpv_sink_t *sink);
    /* Dense bytes [offset, offset + length) are at `data`, verified. Not called for bytes that came to `memory`. */
    tpv_status_t (*take)(tpv_sink_t *sink, uint64_t offset, const void *data, size_t length);
    /* Every byte was taken: make it last. */
    tpv_status_t (*finish)(tpv_sink_t *sink);
    /* Leave nothing behind. The message of the error stays. */
    void (*abandon)(tpv_sink_t *sink);
} tpv_sink_kind_t;

/* The first member of each kind. */
struct tpv_sink {
    const tpv_sink_kind_t *kind;
    uint8_t *memory; /* the dense form as one run that may be received into; NULL: there is none */
};

/* ---- memory: the dense form as one run ---- */

tpv_sink_t tpv_sink_memory(void *destination);

/* ---- scatter: the tensors of an engine ---- */

typedef struct tpv_scatter_sink {
    tpv_sink_t sink;
    const tpv_view_t *view;
    const tpv_destination_t *destinations;
} tpv_scatter_sink_t;

/* Both live as long as the sink. TPV_ERR_ARGUMENT for strides that cannot be: see tpv_fetch_tensors. */
tpv_status_t tpv_sink_scatter(const tpv_view_t *view, const tpv_destination_t *destinations, tpv_scatter_sink_t *sink);

#endif
