#include "view/program.h"

#include <stdlib.h>

#include "base/error.h"

void tpv_program_clear(tpv_program_t *program) {
    free(program->records);
    free(program->reach);
    free(program->levels);
    *program = (tpv_program_t){0};
}

/* Elements to bytes. The check bounded everything far below an overflow. */
static bool to_bytes(uint64_t elements, unsigned bits, uint64_t *bytes) {
    *bytes = bits >= 8 ? elements * (bits / 8) : elements * bits / 8;
    return bits >= 8 || elements * bits % 8 == 0;
}

static tpv_status_t compile_piece(const tpv_artifact_t *artifact, const tpv_spec_output_t *output,
                                  const tpv_piece_t *piece, tpv_program_t *program, size_t *level_count) {
    unsigned bits = tpv_dtype_bits(output->dtype);
    tpv_record_t *record = &program->records[program->count];
    *record = (tpv_record_t){.tensor = piece->tensor, .first_level = *level_count};
    uint64_t run = 1, elements = 1, last = piece->to, runs = 1;
    bool fill = !tpv_piece_copies(piece->tensor);
    bool whole = to_bytes(piece->from, bits, &record->from) && to_bytes(piece->to, bits, &record->start);
    for (uint32_t i = 0; i < piece->dims; i++) {
        const tpv_piece_dim_t *dim = &piece->dim[i];
        last += (dim->size - 1) * dim->to;
        elements *= dim->size;
        if (i + 1 == piece->dims && dim->to == 1 && (fill || dim->from == 1)) {
            run = dim->size;
            break;
        }
        tpv_level_t *level = &program->levels[(*level_count)++];
        level->count = dim->size;
        whole = to_bytes(dim->from, bits, &level->from) && to_bytes(dim->to, bits, &level->to) && whole;
        record->levels++;
        runs *= dim->size;
    }
    uint64_t bytes;
    whole = to_bytes(run, bits, &record->run) && to_bytes(last + 1, bits, &record->end) && whole;
    if (!whole)
        return tpv_error_set(
            TPV_ERR_PLAN,
            "output %s: the piece of %s does not begin and end at byte boundaries: elements of %s have "
            "%u bits",
            output->name, tpv_piece_source_name(artifact, piece), tpv_dtype_name(output->dtype), bits);
    to_bytes(elements, bits, &bytes);
    record->start += output->offset;
    record->end += output->offset;
    program->runs += runs;
    if (fill) program->zero_bytes += bytes;
    if (piece->tensor == TPV_PIECE_NUMBER) record->from = piece->from;
    uint64_t before = program->count ? program->reach[program->count - 1] : 0;
    program->reach[program->count++] = record->end > before ? record->end : before;
    return TPV_OK;
}

tpv_status_t tpv_program_compile(const tpv_artifact_t *artifact, const tpv_spec_t *spec, tpv_program_t *program) {
    *program = (tpv_program_t){0};
    size_t levels = 0;
    for (size_t i = 0; i < spec->output_count; i++)
        for (size_t k = 0; k < spec->outputs[i].piece_count; k++)
            levels += spec->outputs[i].pieces[k].dims;

    program->records = malloc((spec->piece_count + 1) * sizeof *program->records);
    program->reach = malloc((spec->piece_count + 1) * sizeof *program->reach);
    program->levels = malloc((levels + 1) * sizeof *program->levels);
    if (!program->records || !program->reach || !program->levels)
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a program of %zu records", spec->piece_count);
    size_t level_count = 0;
    for (size_t i = 0; i < spec->output_count; i++)
        for (size_t k = 0; k < spec->outputs[i].piece_count; k++)
            TPV_TRY(compile_piece(artifact, &spec->outputs[i], &spec->outputs[i].pieces[k], program, &level_count));
    return TPV_OK;
}

size_t tpv_program_seek(const tpv_program_t *program, uint64_t offset) {
    size_t low = 0, high = program->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (program->reach[middle] > offset)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

size_t tpv_program_meets(const tpv_program_t *program, uint64_t low, uint64_t high, size_t most) {
    size_t first = tpv_program_seek(program, low), i = first;
    while (i < program->count && i - first < most && program->records[i].start < high)
        i++;
    return i - first;
}
