#include "client/canonical.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "client/source.h"
#include "client/transfer.h"
#include "view/scatter.h"

/* What the caller's progress sees: the bytes of all tensors together. */
typedef struct {
    const tpv_fetch_options_t *options;
    uint64_t before, total;
} sum_t;

static bool sum_progress(void *user, uint64_t done, uint64_t total) {
    (void)total;
    const sum_t *sum = user;
    return sum->options->progress(sum->options->progress_user, sum->before + done, sum->total);
}

/* The view that is this tensor as it is: always one run in the source's mapping, so nothing has to be gathered there.
 */
static tpv_status_t whole_tensor(const tpv_artifact_t *artifact, const tpv_tensor_t *tensor, tpv_view_t **view) {
    json_t *shape = json_array();
    for (uint32_t i = 0; i < tensor->dims; i++)
        json_array_append_new(shape, json_integer((json_int_t)tensor->shape[i]));
    json_t *root = json_pack("{s:s, s:[{s:s, s:s, s:O, s:[{s:s, s:O}]}]}", "format", "tpview-view-1", "outputs", "name",
                             tensor->name, "dtype", tpv_dtype_name(tensor->dtype), "shape", shape, "pieces", "tensor",
                             tensor->name, "sizes", shape);
    char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    json_decref(shape);
    if (!text) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the view of %s", tensor->name);
    tpv_status_t status = tpv_view_from_json(artifact, text, strlen(text), view);
    free(text);
    return status;
}

static tpv_status_t fetch_tensor(tpv_source_t *source, const tpv_artifact_t *artifact, const tpv_tensor_t *tensor,
                                 const tpv_fetch_options_t *options, int64_t begin, int64_t deadline, void *buffer,
                                 tpv_fetch_result_t *sum) {
    tpv_view_t *whole = NULL;
    tpv_fetch_result_t result = {0};
    bool refused = false;
    double before = (double)(tpv_clock_ns() - begin) / (double)TPV_NS_PER_SECOND;
    TPV_TRY(whole_tensor(artifact, tensor, &whole));
    tpv_sink_t sink = tpv_sink_memory(buffer);
    tpv_status_t status = tpv_transfer(source, artifact, whole, options, deadline, &sink, &result, &refused);
    tpv_view_free(whole);
    if (sum->first_seconds <= 0 && result.first_seconds > 0) sum->first_seconds = before + result.first_seconds;
    for (uint32_t i = 0; i < result.source_count; i++) {
        sum->sources[i].bytes += result.sources[i].bytes;
        sum->sources[i].wire_bytes += result.sources[i].wire_bytes;
        sum->sources[i].attempts += result.sources[i].attempts;
    }
    sum->wire_bytes += result.wire_bytes;
    sum->chunks += result.chunks;
    memcpy(sum->fetch_id, result.fetch_id, sizeof sum->fetch_id);
    memcpy(sum->artifact, result.artifact, sizeof sum->artifact);
    return status == TPV_OK ? TPV_OK : tpv_error_prefix(status, "whole tensor %s", tensor->name);
}

tpv_status_t tpv_fetch_canonical(tpv_source_t *source, const tpv_artifact_t *artifact, const tpv_view_t *view,
                                 const tpv_fetch_options_t *options, int64_t begin, int64_t deadline, void *destination,
                                 tpv_fetch_result_t *result) {
    size_t count = tpv_artifact_tensor_count(artifact);
    uint64_t largest = 0;
    sum_t sum = {.options = options};
    for (size_t i = 0; i < count; i++) {
        const tpv_tensor_t *tensor = tpv_artifact_tensor(artifact, i);
        if (!tpv_view_uses(view, i)) continue;
        sum.total += tensor->bytes;
        if (tensor->bytes > largest) largest = tensor->bytes;
    }
    void *buffer = malloc(largest + 1);
    if (!buffer)
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a whole tensor of %llu bytes",
                             (unsigned long long)largest);
    tpv_fetch_options_t inner = *options;
    inner.progress = options->progress ? sum_progress : NULL;
    inner.progress_user = &sum;
    result->needed_bytes = tpv_view_stats(view).bytes;
    result->digests_checked = !options->no_digests;
    result->source_count = source->count;
    result->canonical = true;
    result->gap_p99_seconds = 0;
    memcpy(result->export_kind, "whole", sizeof "whole");
    tpv_status_t status = TPV_OK;
    for (size_t i = 0; i < count && status == TPV_OK; i++) {
        const tpv_tensor_t *tensor = tpv_artifact_tensor(artifact, i);
        if (!tpv_view_uses(view, i)) continue;
        status = fetch_tensor(source, artifact, tensor, &inner, begin, deadline, buffer, result);
        if (status == TPV_OK) tpv_view_scatter(view, i, buffer, destination);
        sum.before += tensor->bytes;
    }
    if (status == TPV_OK) tpv_view_scatter_fills(view, destination);
    result->seconds = (double)(tpv_clock_ns() - begin) / (double)TPV_NS_PER_SECOND;
    free(buffer);
    return status;
}
