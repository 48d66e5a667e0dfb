#include "view/cover.h"

#include "base/error.h"
#include "view/cover_group.h"

void tpv_place_of(const tpv_piece_t *piece, tpv_place_t *place) {
    *place = (tpv_place_t){.low = piece->to, .high = piece->to + 1, .elements = 1};
    for (uint32_t i = piece->dims; i-- > 0;) {
        const tpv_piece_dim_t *dim = &piece->dim[i];
        place->high += (dim->size - 1) * dim->to;
        place->elements *= dim->size;
        struct tpv_place_level *inner = place->levels ? &place->level[place->levels - 1] : NULL;
        if (inner && dim->to == inner->stride * inner->count)
            inner->count *= dim->size;
        else
            place->level[place->levels++] = (struct tpv_place_level){.stride = dim->to, .count = dim->size};
    }
}

static tpv_status_t hole(const tpv_spec_output_t *output, uint64_t first, uint64_t last) {
    return tpv_error_set(TPV_ERR_PLAN, "output %s: no piece writes elements %llu to %llu of %llu", output->name,
                         (unsigned long long)first, (unsigned long long)last, (unsigned long long)output->elements);
}

static tpv_status_t twice(const tpv_artifact_t *artifact, const tpv_spec_output_t *output,
                          const tpv_cover_fault_t *fault) {
    const char *a = tpv_piece_source_name(artifact, &output->pieces[fault->a]);
    const char *b = tpv_piece_source_name(artifact, &output->pieces[fault->b]);
    if (fault->a == fault->b)
        return tpv_error_set(TPV_ERR_PLAN, "output %s: the piece of %s writes elements %llu to %llu more than once",
                             output->name, a, (unsigned long long)fault->first, (unsigned long long)fault->last);
    return tpv_error_set(TPV_ERR_PLAN, "output %s: elements %llu to %llu are written by a piece of %s and by one of %s",
                         output->name, (unsigned long long)fault->first, (unsigned long long)fault->last, a, b);
}

/* Pieces [begin, end) write within [low, high), and no other piece does. */
static tpv_status_t check_group(const tpv_artifact_t *artifact, const tpv_spec_output_t *output, size_t begin,
                                size_t end, uint64_t low, uint64_t high, tpv_cover_budget_t *budget) {
    const tpv_piece_t *pieces = &output->pieces[begin];
    size_t count = end - begin;
    if (count == 1) {
        tpv_place_t place;
        tpv_place_of(pieces, &place);
        if (place.levels == 0 || (place.levels == 1 && place.level[0].stride == 1)) return TPV_OK;
    }
    tpv_cover_fault_t fault = {0};
    tpv_cover_verdict_t verdict = tpv_cover_sweep(pieces, count, low, high, budget, &fault);
    if (verdict == TPV_COVER_UNDECIDED) verdict = tpv_cover_bitmap(pieces, count, low, high, budget, &fault);
    fault.a += begin;
    fault.b += begin;
    switch (verdict) {
    case TPV_COVER_PROVEN:
        return TPV_OK;
    case TPV_COVER_HOLE:
        return hole(output, fault.first, fault.last);
    case TPV_COVER_TWICE:
        return twice(artifact, output, &fault);
    case TPV_COVER_NO_MEMORY:
        return tpv_error_set(TPV_ERR_NO_MEMORY, "output %s: no memory to check %zu pieces", output->name, count);
    case TPV_COVER_UNDECIDED:
        break;
    }
    return tpv_error_set(TPV_ERR_PLAN,
                         "output %s: %zu pieces from that of %s on are too intertwined to prove that elements %llu to "
                         "%llu are written once: expected destination strides that divide one another",
                         output->name, count, tpv_piece_source_name(artifact, pieces), (unsigned long long)low,
                         (unsigned long long)(high - 1));
}

static tpv_status_t check_output(const tpv_artifact_t *artifact, const tpv_spec_output_t *output,
                                 tpv_cover_budget_t *budget) {
    uint64_t position = 0;
    size_t begin = 0;
    while (begin < output->piece_count) {
        tpv_place_t place;
        tpv_place_of(&output->pieces[begin], &place);
        uint64_t low = place.low, high = place.high;
        if (low > position) return hole(output, position, low - 1);
        size_t end = begin + 1;
        for (; end < output->piece_count && output->pieces[end].to < high; end++) {
            tpv_place_of(&output->pieces[end], &place);
            if (place.high > high) high = place.high;
        }
        TPV_TRY(check_group(artifact, output, begin, end, low, high, budget));
        position = high;
        begin = end;
    }
    if (position < output->elements) return hole(output, position, output->elements - 1);
    return TPV_OK;
}

tpv_status_t tpv_cover_check(const tpv_artifact_t *artifact, const tpv_spec_t *spec) {
    tpv_cover_budget_t budget = {.steps = TPV_COVER_SWEEP_STEPS, .elements = TPV_COVER_BITMAP_ELEMENTS};
    for (size_t i = 0; i < spec->output_count; i++)
        TPV_TRY(check_output(artifact, &spec->outputs[i], &budget));
    return TPV_OK;
}
