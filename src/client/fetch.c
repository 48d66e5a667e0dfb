#include "tpview/fetch.h"

#include <errno.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/log.h"
#include "client/canonical.h"
#include "client/transfer.h"

#define PIECE_BYTES ((uint64_t)4 << 20)

int64_t tpv_fetch_deadline(const tpv_fetch_options_t *options) {
    return options->deadline_s > 0 ? tpv_deadline_in(options->deadline_s) : TPV_DEADLINE_NEVER;
}

/* Cutting writes here and there: a sink that is no memory is given the view once it is whole. */
static tpv_status_t fetch_canonical(tpv_source_t *source, const tpv_artifact_t *artifact, const tpv_view_t *view,
                                    const tpv_fetch_options_t *options, int64_t begin, int64_t deadline,
                                    tpv_sink_t *sink, tpv_fetch_result_t *result) {
    uint64_t bytes = tpv_view_stats(view).bytes;
    if (sink->memory || bytes == 0)
        return tpv_fetch_canonical(source, artifact, view, options, begin, deadline, sink->memory, result);
    uint8_t *dense = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (dense == MAP_FAILED)
        return tpv_error_set_errno(TPV_ERR_NO_MEMORY, errno, "no memory for a view of %llu bytes",
                                   (unsigned long long)bytes);
    tpv_status_t status = tpv_fetch_canonical(source, artifact, view, options, begin, deadline, dense, result);
    for (uint64_t done = 0; done < bytes && status == TPV_OK; done += PIECE_BYTES)
        status = sink->kind->take(sink, done, dense + done, bytes - done < PIECE_BYTES ? bytes - done : PIECE_BYTES);
    munmap(dense, bytes);
    return status;
}

static tpv_status_t fetch_begun(tpv_source_t *source, const tpv_artifact_t *artifact, const tpv_view_t *view,
                                const tpv_fetch_options_t *options, int64_t deadline, tpv_sink_t *sink,
                                tpv_fetch_result_t *result) {
    bool refused = false;
    int64_t begin = tpv_clock_ns();
    tpv_status_t status = tpv_transfer(source, artifact, view, options, deadline, sink, result, &refused);
    /* Only what the source lacks is worth another way; a deadline never is. */
    if (!refused || options->no_fallback || tpv_deadline_passed(deadline)) return status;
    TPV_WARN("fetching whole tensors to cut them here: %s", tpv_error_message());
    return fetch_canonical(source, artifact, view, options, begin, deadline, sink, result);
}

tpv_status_t tpv_fetch_into(tpv_source_t *source, const tpv_artifact_t *artifact, const tpv_view_t *view,
                            const tpv_fetch_options_t *options, int64_t deadline, tpv_sink_t *sink,
                            tpv_fetch_result_t *result) {
    tpv_status_t status = sink->kind->begin(sink);
    if (status == TPV_OK) status = fetch_begun(source, artifact, view, options, deadline, sink, result);
    if (status == TPV_OK) return sink->kind->finish(sink);
    sink->kind->abandon(sink);
    return status;
}

tpv_status_t tpv_fetch(tpv_source_t *source, const tpv_artifact_t *artifact, const tpv_view_t *view,
                       const tpv_fetch_options_t *options, void *destination, tpv_fetch_result_t *result) {
    tpv_sink_t sink = tpv_sink_memory(destination);
    return tpv_fetch_into(source, artifact, view, options, tpv_fetch_deadline(options), &sink, result);
}

tpv_status_t tpv_fetch_tensors(tpv_source_t *source, const tpv_artifact_t *artifact, const tpv_view_t *view,
                               const tpv_fetch_options_t *options, const tpv_destination_t *destinations,
                               tpv_fetch_result_t *result) {
    tpv_scatter_sink_t sink;
    int64_t deadline = tpv_fetch_deadline(options);
    TPV_TRY(tpv_sink_scatter(view, destinations, &sink));
    return tpv_fetch_into(source, artifact, view, options, deadline, &sink.sink, result);
}
