#include "view/spec_check.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"

/* Add (size - 1) * stride to *last. */
static bool reach_fits(uint64_t size, uint64_t stride, uint64_t *last) {
    uint64_t reach;
    return tpv_mul_fits(size - 1, stride, &reach) && tpv_add_fits(*last, reach, last);
}

/* The largest whole number of a dtype; 0 for those that have others. */
static uint64_t largest_of(tpv_dtype_t dtype) {
    switch (dtype) {
    case TPV_DTYPE_I8:
        return INT8_MAX;
    case TPV_DTYPE_U8:
        return UINT8_MAX;
    case TPV_DTYPE_I16:
        return INT16_MAX;
    case TPV_DTYPE_U16:
        return UINT16_MAX;
    case TPV_DTYPE_I32:
        return INT32_MAX;
    case TPV_DTYPE_U32:
        return UINT32_MAX;
    case TPV_DTYPE_I64:
    case TPV_DTYPE_U64:
        return INT64_MAX;
    default:
        return 0;
    }
}

static tpv_status_t check_number(const tpv_spec_output_t *output, const tpv_piece_t *piece) {
    uint64_t largest = largest_of(output->dtype);
    for (uint32_t i = 0; i < piece->dims; i++)
        if (piece->dim[i].size != 1)
            return tpv_error_set(TPV_ERR_PLAN, "output %s: a number is for one element", output->name);
    if (largest > 0 && piece->from <= largest) return TPV_OK;
    return tpv_error_set(TPV_ERR_PLAN, "output %s: the number %llu is none of dtype %s", output->name,
                         (unsigned long long)piece->from, tpv_dtype_name(output->dtype));
}

static tpv_status_t check_piece(const tpv_artifact_t *artifact, const tpv_spec_output_t *output,
                                const tpv_piece_t *piece) {
    const char *source = tpv_piece_source_name(artifact, piece);
    const tpv_tensor_t *tensor = NULL;
    uint64_t tensor_elements = 0;
    if (piece->tensor == TPV_PIECE_NUMBER) TPV_TRY(check_number(output, piece));
    if (tpv_piece_copies(piece->tensor)) {
        tensor = tpv_artifact_tensor(artifact, piece->tensor);
        if (tensor->dtype != output->dtype)
            return tpv_error_set(TPV_ERR_PLAN, "output %s: tensor %s is %s, the output is %s", output->name, source,
                                 tpv_dtype_name(tensor->dtype), tpv_dtype_name(output->dtype));
        tensor_elements = 1;
        for (uint32_t i = 0; i < tensor->dims; i++)
            tensor_elements *= tensor->shape[i];
    }

    uint64_t last_from = piece->from, last_to = piece->to, elements = 1;
    bool fits = true, twice = false;
    for (uint32_t i = 0; i < piece->dims; i++) {
        const tpv_piece_dim_t *dim = &piece->dim[i];
        if (dim->size == 0) return TPV_OK;
        if (dim->size > 1 && dim->to == 0) twice = true;
        fits = fits && reach_fits(dim->size, dim->from, &last_from) && reach_fits(dim->size, dim->to, &last_to) &&
               tpv_mul_fits(elements, dim->size, &elements);
    }
    /* So far below 2^64 that canonical forms can add and multiply without a care. */
    if (!fits || last_from >= UINT64_C(1) << 62)
        return tpv_error_set(TPV_ERR_PLAN, "output %s: the piece of %s overflows 64 bits", output->name, source);
    if (twice)
        return tpv_error_set(TPV_ERR_PLAN,
                             "output %s: the piece of %s has a destination stride of 0, so it writes elements twice",
                             output->name, source);
    if (last_to >= output->elements)
        return tpv_error_set(TPV_ERR_PLAN, "output %s: the piece of %s writes element %llu, the output has %llu",
                             output->name, source, (unsigned long long)last_to, (unsigned long long)output->elements);
    if (tensor && last_from >= tensor_elements)
        return tpv_error_set(TPV_ERR_PLAN, "output %s: the piece reads element %llu of tensor %s, which has %llu",
                             output->name, (unsigned long long)last_from, source, (unsigned long long)tensor_elements);
    if (elements > output->elements)
        return tpv_error_set(TPV_ERR_PLAN,
                             "output %s: the piece of %s writes %llu elements into an output of %llu, some of them "
                             "twice",
                             output->name, source, (unsigned long long)elements, (unsigned long long)output->elements);
    return TPV_OK;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static tpv_status_t check_names(const tpv_spec_t *spec) {
    size_t count = spec->output_count + spec->alias_count;
    if (count == 0) return TPV_OK;
    tpv_status_t status = TPV_OK;
    const char **names = malloc(count * sizeof *names);
    if (!names) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for %zu output names", count);
    for (size_t i = 0; i < spec->output_count; i++)
        names[i] = spec->outputs[i].name;
    qsort(names, spec->output_count, sizeof *names, by_text);

    for (size_t i = 0; i < spec->alias_count; i++) {
        const tpv_spec_alias_t *alias = &spec->aliases[i];
        size_t length = strlen(alias->name);
        if (length == 0 || length > TPV_MAX_NAME || strcmp(alias->name, "__metadata__") == 0) {
            status = tpv_error_set(TPV_ERR_PLAN, "alias %s: not a name for a tensor", alias->name);
            goto done;
        }
        if (!bsearch(&alias->target, names, spec->output_count, sizeof *names, by_text)) {
            status = tpv_error_set(TPV_ERR_PLAN, "alias %s: there is no output %s", alias->name, alias->target);
            goto done;
        }
    }
    for (size_t i = 0; i < spec->alias_count; i++)
        names[spec->output_count + i] = spec->aliases[i].name;
    qsort(names, count, sizeof *names, by_text);
    for (size_t i = 1; i < count; i++) {
        if (strcmp(names[i - 1], names[i]) != 0) continue;
        status = tpv_error_set(TPV_ERR_PLAN, "output %s: two outputs or aliases have this name", names[i]);
        goto done;
    }

done:
    free(names);
    return status;
}

tpv_status_t tpv_spec_check(const tpv_artifact_t *artifact, const tpv_spec_t *spec) {
    TPV_TRY(check_names(spec));
    for (size_t i = 0; i < spec->output_count; i++) {
        const tpv_spec_output_t *output = &spec->outputs[i];
        for (size_t k = 0; k < output->piece_count; k++)
            TPV_TRY(check_piece(artifact, output, &output->pieces[k]));
    }
    return TPV_OK;
}
