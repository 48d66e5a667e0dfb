#include <string.h>

#include "client/sink.h"

/* An output as runs that are contiguous on both sides: the dims [0, outer) count them, from the outermost. */
typedef struct {
    uint32_t outer;
    uint64_t run; /* bytes */
} runs_t;

static runs_t runs_of(const tpv_output_t *output, const tpv_destination_t *destination) {
    uint64_t elements = 1;
    uint32_t outer = output->dims;
    while (outer > 0 && (output->shape[outer - 1] == 1 || destination->strides[outer - 1] == (int64_t)elements))
        elements *= output->shape[--outer];
    return (runs_t){.outer = outer, .run = elements * tpv_dtype_bits(output->dtype) / 8};
}

/* The place of run `index`, in bytes from the destination's first element. */
static int64_t place_of(const tpv_output_t *output, const tpv_destination_t *destination, uint32_t outer,
                        uint64_t index) {
    int64_t elements = 0;
    for (uint32_t i = outer; i-- > 0; index /= output->shape[i])
        elements += (int64_t)(index % output->shape[i]) * destination->strides[i];
    return elements * (int64_t)tpv_dtype_bits(output->dtype) / 8;
}

/* Bytes [low, high) of an output. */
static void scatter(const tpv_output_t *output, const tpv_destination_t *destination, uint64_t low, uint64_t high,
                    const uint8_t *data) {
    runs_t runs = runs_of(output, destination);
    while (low < high) {
        uint64_t skip = low % runs.run, left = runs.run - skip;
        if (left > high - low) left = high - low;
        int64_t place = place_of(output, destination, runs.outer, low / runs.run);
        memcpy((uint8_t *)destination->data + place + (int64_t)skip, data, left);
        data += left;
        low += left;
    }
}

/* The first output that ends behind `offset`. */
static size_t seek(const tpv_view_t *view, uint64_t offset) {
    size_t low = 0, high = tpv_view_output_count(view);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const tpv_output_t *output = tpv_view_output(view, middle);
        if (output->offset + output->bytes > offset)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static tpv_status_t take(tpv_sink_t *sink, uint64_t offset, const void *data, size_t length) {
    const tpv_scatter_sink_t *into = (const tpv_scatter_sink_t *)sink;
    const uint8_t *bytes = data;
    uint64_t end = offset + length;
    size_t count = tpv_view_output_count(into->view);
    for (size_t i = seek(into->view, offset); i < count; i++) {
        const tpv_output_t *output = tpv_view_output(into->view, i);
        if (output->offset >= end) break;
        if (output->bytes == 0) continue;
        uint64_t low = output->offset > offset ? output->offset : offset;
        uint64_t high = output->offset + output->bytes < end ? output->offset + output->bytes : end;
        scatter(output, &into->destinations[i], low - output->offset, high - output->offset, bytes + (low - offset));
    }
    return TPV_OK;
}

static tpv_status_t nothing(tpv_sink_t *sink) {
    (void)sink;
    return TPV_OK;
}

static void abandon(tpv_sink_t *sink) {
    (void)sink;
}

static tpv_status_t check(const tpv_output_t *output, const tpv_destination_t *destination) {
    unsigned bits = tpv_dtype_bits(output->dtype);
    if (!destination->data) return tpv_error_set(TPV_ERR_ARGUMENT, "output %s has no destination", output->name);
    if (bits % 8 != 0 && runs_of(output, destination).outer > 0)
        return tpv_error_set(TPV_ERR_ARGUMENT, "output %s: elements of %u bits need a dense destination", output->name,
                             bits);
    for (uint32_t i = 0; i < output->dims; i++) {
        int64_t stride = destination->strides[i];
        if (output->shape[i] < 2) continue;
        if (stride == 0)
            return tpv_error_set(TPV_ERR_ARGUMENT, "output %s: stride 0 in dim %u would write elements over each other",
                                 output->name, i);
        if (stride > INT64_MAX / 8 / TPV_MAX_DIMS / (int64_t)output->shape[i] ||
            stride < INT64_MIN / 8 / TPV_MAX_DIMS / (int64_t)output->shape[i])
            return tpv_error_set(TPV_ERR_ARGUMENT, "output %s: stride %lld in dim %u is too large", output->name,
                                 (long long)stride, i);
    }
    return TPV_OK;
}

tpv_status_t tpv_sink_scatter(const tpv_view_t *view, const tpv_destination_t *destinations, tpv_scatter_sink_t *sink) {
    static const tpv_sink_kind_t kind = {.begin = nothing, .take = take, .finish = nothing, .abandon = abandon};
    size_t count = tpv_view_output_count(view);
    for (size_t i = 0; i < count; i++) {
        const tpv_output_t *output = tpv_view_output(view, i);
        if (output->bytes > 0) TPV_TRY(check(output, &destinations[i]));
    }
    *sink = (tpv_scatter_sink_t){.sink = {.kind = &kind}, .view = view, .destinations = destinations};
    return TPV_OK;
}
