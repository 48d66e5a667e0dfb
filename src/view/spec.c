#include "view/spec.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "tpview/view.h"

void tpv_spec_clear(tpv_spec_t *spec) {
    for (size_t i = 0; i < spec->output_count; i++) {
        free(spec->outputs[i].name);
        free(spec->outputs[i].pieces);
    }
    for (size_t i = 0; i < spec->alias_count; i++) {
        free(spec->aliases[i].name);
        free(spec->aliases[i].target);
    }
    free(spec->outputs);
    free(spec->aliases);
    *spec = (tpv_spec_t){0};
}

/* Room for one more element of `size` bytes behind `count`. The callers bound `count`. */
static bool grow(void **array, size_t *room, size_t count, size_t size) {
    if (count < *room) return true;
    size_t wanted = *room ? *room * 2 : 1;
    void *larger = reallocarray(*array, wanted, size);
    if (!larger) return false;
    *array = larger;
    *room = wanted;
    return true;
}

static tpv_status_t output_size(tpv_spec_output_t *output) {
    output->elements = 1;
    uint64_t product = 1;
    for (uint32_t i = 0; i < output->dims; i++) {
        if (output->shape[i] == 0)
            output->elements = 0;
        else if (!tpv_mul_fits(product, output->shape[i], &product))
            return tpv_error_set(TPV_ERR_PLAN, "output %s: its shape overflows 64 bits", output->name);
    }
    if (output->elements) output->elements = product;
    uint64_t bits;
    if (!tpv_mul_fits(output->elements, tpv_dtype_bits(output->dtype), &bits))
        return tpv_error_set(TPV_ERR_PLAN, "output %s: its size overflows 64 bits", output->name);
    if (bits % 8 != 0)
        return tpv_error_set(TPV_ERR_PLAN, "output %s: %llu elements of %s are not a whole number of bytes",
                             output->name, (unsigned long long)output->elements, tpv_dtype_name(output->dtype));
    output->bytes = bits / 8;
    return TPV_OK;
}

tpv_status_t tpv_spec_add_output(tpv_spec_t *spec, const char *name, tpv_dtype_t dtype, uint32_t dims,
                                 const uint64_t *shape) {
    size_t length = strlen(name);
    if (length == 0 || length > TPV_MAX_NAME)
        return tpv_error_set(TPV_ERR_PLAN, "output %zu: its name has %zu bytes, expected 1 to %d", spec->output_count,
                             length, TPV_MAX_NAME);
    if (strcmp(name, "__metadata__") == 0)
        return tpv_error_set(TPV_ERR_PLAN, "output %s: the safetensors format reserves this name", name);
    if (spec->output_count >= TPV_MAX_OUTPUTS)
        return tpv_error_set(TPV_ERR_PLAN, "output %s: more than %u outputs", name, TPV_MAX_OUTPUTS);
    if (dims > TPV_MAX_DIMS)
        return tpv_error_set(TPV_ERR_PLAN, "output %s: %u dims, at most %d are supported", name, dims, TPV_MAX_DIMS);
    if (!grow((void **)&spec->outputs, &spec->output_room, spec->output_count, sizeof *spec->outputs))
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for output %s", name);

    tpv_spec_output_t *output = &spec->outputs[spec->output_count];
    *output = (tpv_spec_output_t){.dtype = dtype, .dims = dims, .offset = spec->bytes};
    for (uint32_t i = 0; i < dims; i++)
        output->shape[i] = shape[i];
    output->name = strdup(name);
    if (!output->name) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for output %s", name);
    spec->output_count++;

    TPV_TRY(output_size(output));
    if (!tpv_add_fits(spec->bytes, output->bytes, &spec->bytes) || spec->bytes > TPV_MAX_VIEW_BYTES)
        return tpv_error_set(TPV_ERR_PLAN, "output %s: the dense form grows beyond %llu bytes", name,
                             (unsigned long long)TPV_MAX_VIEW_BYTES);
    return TPV_OK;
}

tpv_status_t tpv_spec_add_piece(tpv_spec_t *spec, const tpv_piece_t *piece) {
    tpv_spec_output_t *output = &spec->outputs[spec->output_count - 1];
    if (spec->piece_count >= TPV_MAX_PIECES)
        return tpv_error_set(TPV_ERR_PLAN, "output %s: the view has more than %u pieces", output->name, TPV_MAX_PIECES);
    if (!grow((void **)&output->pieces, &output->piece_room, output->piece_count, sizeof *output->pieces))
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the pieces of output %s", output->name);
    output->pieces[output->piece_count++] = *piece;
    spec->piece_count++;
    return TPV_OK;
}

tpv_status_t tpv_spec_add_alias(tpv_spec_t *spec, const char *name, const char *target) {
    if (spec->alias_count >= TPV_MAX_OUTPUTS)
        return tpv_error_set(TPV_ERR_PLAN, "alias %s: more than %u aliases", name, TPV_MAX_OUTPUTS);
    if (!grow((void **)&spec->aliases, &spec->alias_room, spec->alias_count, sizeof *spec->aliases))
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for alias %s", name);
    tpv_spec_alias_t alias = {.name = strdup(name), .target = strdup(target)};
    if (!alias.name || !alias.target) {
        free(alias.name);
        free(alias.target);
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for alias %s", name);
    }
    spec->aliases[spec->alias_count++] = alias;
    return TPV_OK;
}

bool tpv_spec_find_tensor(const tpv_artifact_t *artifact, const char *name, uint32_t *index) {
    size_t low = 0, high = tpv_artifact_tensor_count(artifact);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, tpv_artifact_tensor(artifact, middle)->name);
        if (order == 0) {
            *index = (uint32_t)middle;
            return true;
        }
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return false;
}

void tpv_spec_row_major(uint32_t dims, const uint64_t *shape, uint64_t *strides) {
    uint64_t stride = 1;
    for (uint32_t i = dims; i-- > 0;) {
        strides[i] = stride;
        stride *= shape[i];
    }
}

const char *tpv_piece_source_name(const tpv_artifact_t *artifact, const tpv_piece_t *piece) {
    if (piece->tensor == TPV_PIECE_NUMBER) return "a number";
    return piece->tensor == TPV_PIECE_ZERO ? "zeros" : tpv_artifact_tensor(artifact, piece->tensor)->name;
}
