#include "view/gather.h"

#include "artifact/artifact.h"
#include "base/error.h"
#include "view/copy.h"

/* The wanted part of the dense form. `destination` is where dense byte `low` goes. */
typedef struct {
    uint64_t low, high;
    char *destination;
} window_t;

static void copy_whole(const window_t *window, uint64_t at, const char *from, const tpv_level_t *level, uint32_t levels,
                       uint64_t count, uint64_t run) {
    char *to = window->destination + (at - window->low);
    if (from)
        tpv_copy_box(to, from, level, levels, count, run);
    else
        tpv_zero_box(to, level, levels, count, run);
}

/*
 * Copy what a box has inside of the window. The box begins at dense byte `at`, extends over `extent` bytes and meets
 * the window. `from` is its first byte in memory, NULL for zeros. Along each level, steps are outside, cut or inside of
 * the window; those inside are one range, which is copied as a box of its own, and no step outside is looked at.
 */
static void copy_clipped(const window_t *window, uint64_t at, uint64_t extent, const char *from,
                         const tpv_level_t *level, uint32_t levels, uint64_t run) {
    if (at >= window->low && at + extent <= window->high) {
        copy_whole(window, at, from, level, levels, levels ? level->count : 0, run);
        return;
    }
    if (levels == 0) {
        uint64_t skip = at < window->low ? window->low - at : 0;
        uint64_t end = at + extent < window->high ? at + extent : window->high;
        copy_whole(window, at + skip, from ? from + skip : NULL, level, 0, 0, end - at - skip);
        return;
    }
    uint64_t inner = extent - (level->count - 1) * level->to;
    /* The first step that reaches into the window, and one behind the last that begins in it. */
    uint64_t first = at + inner > window->low ? 0 : (window->low - at - inner) / level->to + 1;
    uint64_t end = (window->high - at - 1) / level->to + 1;
    if (end > level->count) end = level->count;
    /* The first step that begins in the window, and one behind the last that ends in it. */
    uint64_t whole = at >= window->low ? 0 : (window->low - at - 1) / level->to + 1;
    uint64_t whole_end = at + inner <= window->high ? (window->high - at - inner) / level->to + 1 : 0;
    if (whole_end > end) whole_end = end;

    for (uint64_t i = first; i < end; i++) {
        if (i == whole && whole_end > whole) {
            copy_whole(window, at + i * level->to, from ? from + i * level->from : NULL, level, levels,
                       whole_end - whole, run);
            i = whole_end - 1;
            continue;
        }
        copy_clipped(window, at + i * level->to, inner, from ? from + i * level->from : NULL, level + 1, levels - 1,
                     run);
    }
}

void tpv_program_gather(const tpv_program_t *program, const tpv_artifact_t *artifact, uint64_t low, uint64_t high,
                        char *destination) {
    window_t window = {.low = low, .high = high, .destination = destination};
    for (size_t i = tpv_program_seek(program, low); i < program->count; i++) {
        const tpv_record_t *record = &program->records[i];
        if (record->start >= high) break;
        if (record->end <= low) continue;
        const char *from = NULL;
        /* Numbers are little-endian in a file, as they are in memory on the processors that we know. */
        if (record->tensor == TPV_PIECE_NUMBER) from = (const char *)&record->from;
        if (tpv_piece_copies(record->tensor)) {
            from = tpv_artifact_data(artifact, tpv_artifact_tensor(artifact, record->tensor));
            from += record->from;
        }
        copy_clipped(&window, record->start, record->end - record->start, from, &program->levels[record->first_level],
                     record->levels, record->run);
    }
}

tpv_status_t tpv_program_check_files(const tpv_program_t *program, const tpv_artifact_t *artifact, uint64_t low,
                                     uint64_t high) {
    bool any = false;
    uint32_t shard = 0;
    for (size_t i = tpv_program_seek(program, low); i < program->count && program->records[i].start < high; i++) {
        const tpv_record_t *record = &program->records[i];
        if (record->end <= low || !tpv_piece_copies(record->tensor)) continue;
        const tpv_tensor_t *tensor = tpv_artifact_tensor(artifact, record->tensor);
        if (any && tensor->shard == shard) continue;
        any = true;
        shard = tensor->shard;
        TPV_TRY(tpv_artifact_check_tensor(artifact, tensor));
    }
    return TPV_OK;
}

/* Does a run of this record hold dense byte `at`? Then *skip is its distance in the tensor from the record's first byte
 * and *left how far the run goes on. Levels whose steps are intertwined may be missed. */
static bool find_run(const tpv_program_t *program, const tpv_record_t *record, uint64_t at, uint64_t *skip,
                     uint64_t *left) {
    uint64_t rest = at - record->start;
    *skip = 0;
    for (uint32_t i = 0; i < record->levels; i++) {
        const tpv_level_t *level = &program->levels[record->first_level + i];
        uint64_t step = rest / level->to;
        if (step >= level->count) step = level->count - 1;
        rest -= step * level->to;
        *skip += step * level->from;
    }
    if (rest >= record->run) return false;
    *skip += rest;
    *left = record->run - rest;
    return true;
}

const void *tpv_program_direct(const tpv_program_t *program, const tpv_artifact_t *artifact, uint64_t low,
                               uint64_t high) {
    const char *first = NULL;
    uint32_t shard = 0;
    uint64_t at = low;
    while (at < high) {
        const char *here = NULL;
        uint64_t skip, left = 0;
        for (size_t i = tpv_program_seek(program, at); i < program->count; i++) {
            const tpv_record_t *record = &program->records[i];
            if (record->start > at) break;
            if (record->end <= at || !tpv_piece_copies(record->tensor) || !find_run(program, record, at, &skip, &left))
                continue;
            const tpv_tensor_t *tensor = tpv_artifact_tensor(artifact, record->tensor);
            if (first && tensor->shard != shard) return NULL;
            shard = tensor->shard;
            here = (const char *)tpv_artifact_data(artifact, tensor) + record->from + skip;
            break;
        }
        if (!here || (first && here != first + (at - low))) return NULL;
        if (!first) first = here;
        at += left < high - at ? left : high - at;
    }
    return first;
}
