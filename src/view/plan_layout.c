/* Cutting an axis that is made up of parts: heads that stay whole, projections of unequal size behind one another. */
#include <stdio.h>

#include "base/checked.h"
#include "base/error.h"
#include "view/plan_cut.h"

typedef unsigned long long ull;

/* The numbers of a part for one tensor; 0: not known. */
typedef struct {
    uint64_t size, count, head_dim;
} numbers_t;

static tpv_status_t unknown(const tpv_tensor_t *tensor, const json_t *value) {
    return tpv_error_set(TPV_ERR_PLAN,
                         "%s: config.json does not tell its number of heads (%s), which are not to be cut through: "
                         "give it under \"heads\" or \"packs\" in a plan file",
                         tensor->name, json_is_string(value) ? json_string_value(value) : "a number");
}

static tpv_status_t read_numbers(const tpv_scope_t *scope, const tpv_tensor_t *tensor, const tpv_part_t *part,
                                 numbers_t *numbers) {
    *numbers = (numbers_t){0};
    if (part->count && (!tpv_value_of(part->count, scope, &numbers->count) || numbers->count == 0))
        return unknown(tensor, part->count);
    if (part->head_dim && !tpv_value_of(part->head_dim, scope, &numbers->head_dim)) numbers->head_dim = 0;
    if (part->size && (!tpv_value_of(part->size, scope, &numbers->size) || numbers->size == 0))
        return tpv_error_set(TPV_ERR_PLAN,
                             "%s: config.json does not tell the size of a part (%s): give it under \"packs\" in a plan "
                             "file",
                             tensor->name, json_is_string(part->size) ? json_string_value(part->size) : "a number");
    if (!part->size && numbers->count > 0 && numbers->head_dim > 0 &&
        !tpv_mul_fits(numbers->count, numbers->head_dim, &numbers->size))
        return tpv_error_set(TPV_ERR_PLAN, "%s: %llu heads of %llu overflow", tensor->name, (ull)numbers->count,
                             (ull)numbers->head_dim);
    return TPV_OK;
}

/* Sizes that the plan does not tell: one part may take what the others leave. */
static tpv_status_t fit_sizes(const tpv_tensor_t *tensor, int axis, const tpv_layout_t *layout, numbers_t *numbers) {
    uint64_t extent = tensor->shape[axis], sum = 0;
    uint32_t open = 0, last = 0;
    for (uint32_t i = 0; i < layout->part_count; i++) {
        if (numbers[i].size == 0) open++, last = i;
        if (!tpv_add_fits(sum, numbers[i].size, &sum)) sum = UINT64_MAX;
    }
    if (open == 1 && sum < extent) {
        numbers[last].size = extent - sum;
        return TPV_OK;
    }
    if (open == 0 && sum == extent) return TPV_OK;
    /* Some models have more in a head than head_dim says, such as a gate beside the query. */
    if (open == 0 && layout->from_defaults && layout->part_count == 1 && extent > 0 && extent % sum == 0) {
        numbers[0].size = extent;
        return TPV_OK;
    }
    if (layout->part_count == 1 && numbers[0].count > 0)
        return tpv_error_set(TPV_ERR_PLAN, "%s: %llu %s are not %llu heads of %llu", tensor->name, (ull)extent,
                             tpv_axis_word(tensor, axis), (ull)numbers[0].count,
                             (ull)(numbers[0].head_dim ? numbers[0].head_dim : numbers[0].size / numbers[0].count));
    return tpv_error_set(TPV_ERR_PLAN,
                         "%s: %llu %s are not its %u parts, of which %u of no known size and the others "
                         "%llu",
                         tensor->name, (ull)extent, tpv_axis_word(tensor, axis), layout->part_count, open, (ull)sum);
}

/* The rank's share of one part, which begins at `start`. */
static tpv_status_t cut_part(const tpv_cutter_t *cutter, const tpv_tensor_t *tensor, int axis, const tpv_part_t *part,
                             const numbers_t *numbers, uint64_t start, tpv_cut_t *cut) {
    uint64_t size = numbers->size, count = numbers->count, ranks = cutter->tp_size, rank = cutter->tp_rank;
    tpv_range_t *range = &cut->range[cut->range_count];
    if (part->whole) {
        *range = (tpv_range_t){.start = start, .count = size};
    } else if (count == 0) {
        if (size % ranks != 0)
            return tpv_error_set(TPV_ERR_PLAN, "%s: a part of %llu %s does not divide by tp_size %llu", tensor->name,
                                 (ull)size, tpv_axis_word(tensor, axis), (ull)ranks);
        *range = (tpv_range_t){.start = start + rank * (size / ranks), .count = size / ranks};
    } else {
        if (size % count != 0)
            return tpv_error_set(TPV_ERR_PLAN, "%s: %llu %s do not divide into %llu heads", tensor->name, (ull)size,
                                 tpv_axis_word(tensor, axis), (ull)count);
        uint64_t head = size / count;
        if (part->replicate && ranks > count) {
            if (ranks % count != 0)
                return tpv_error_set(TPV_ERR_PLAN, "%s: %llu heads cannot be replicated evenly over tp_size %llu",
                                     tensor->name, (ull)count, (ull)ranks);
            *range = (tpv_range_t){.start = start + rank / (ranks / count) * head, .count = head};
        } else if (count % ranks != 0) {
            return tpv_error_set(TPV_ERR_PLAN, "%s: %llu heads do not divide by tp_size %llu", tensor->name, (ull)count,
                                 (ull)ranks);
        } else {
            *range = (tpv_range_t){.start = start + rank * (count / ranks) * head, .count = count / ranks * head};
        }
    }
    cut->range_count++;
    return TPV_OK;
}

tpv_status_t tpv_layout_cut(const tpv_cutter_t *cutter, const tpv_tensor_t *tensor, int axis,
                            const tpv_layout_t *layout, tpv_cut_t *cut) {
    numbers_t numbers[TPV_MAX_PARTS];
    tpv_scope_t scope = tpv_rules_scope(cutter->rules, layout->section, tensor->name);
    for (uint32_t i = 0; i < layout->part_count; i++)
        TPV_TRY(read_numbers(&scope, tensor, &layout->part[i], &numbers[i]));
    TPV_TRY(fit_sizes(tensor, axis, layout, numbers));
    *cut = (tpv_cut_t){.axis = axis, .layout = layout};
    uint64_t start = 0;
    for (uint32_t i = 0; i < layout->part_count; i++) {
        TPV_TRY(cut_part(cutter, tensor, axis, &layout->part[i], &numbers[i], start, cut));
        start += numbers[i].size;
    }
    return TPV_OK;
}
