#include "view/copy.h"

#include <string.h>

/* Runs of one element are loaded and stored in line: a call of memcpy costs more than they do. A copy of constant size
 * is how C spells an unaligned load or store. */
#define ELEMENT_LOOP(size)                                                                                             \
    for (uint64_t i = 0; i < count; i++)                                                                               \
    memcpy(to + i * to_stride, from + i * from_stride, size)

static void copy_runs(char *restrict to, uint64_t to_stride, const char *restrict from, uint64_t from_stride,
                      uint64_t count, uint64_t run) {
    switch (run) {
    case 1:
        ELEMENT_LOOP(1);
        break;
    case 2:
        ELEMENT_LOOP(2);
        break;
    case 4:
        ELEMENT_LOOP(4);
        break;
    case 8:
        ELEMENT_LOOP(8);
        break;
    case 16:
        ELEMENT_LOOP(16);
        break;
    default:
        ELEMENT_LOOP(run);
    }
}

/* Elements of a transposed box: tiles keep the lines of both sides in the first cache. */
#define TILE 64

static void copy_transposed(char *to, const char *from, const tpv_level_t *outer, uint64_t outer_count,
                            const tpv_level_t *inner, uint64_t run) {
    for (uint64_t o = 0; o < outer_count; o += TILE) {
        uint64_t o_end = outer_count - o < TILE ? outer_count : o + TILE;
        for (uint64_t i = 0; i < inner->count; i += TILE) {
            uint64_t i_count = inner->count - i < TILE ? inner->count - i : TILE;
            for (uint64_t k = o; k < o_end; k++)
                copy_runs(to + k * outer->to + i * inner->to, inner->to, from + k * outer->from + i * inner->from,
                          inner->from, i_count, run);
        }
    }
}

void tpv_copy_box(char *to, const char *from, const tpv_level_t *level, uint32_t levels, uint64_t count, uint64_t run) {
    if (levels == 0) {
        memcpy(to, from, run);
    } else if (levels == 1) {
        copy_runs(to, level->to, from, level->from, count, run);
    } else if (levels == 2 && run <= 16 && level[0].from < level[1].from) {
        copy_transposed(to, from, &level[0], count, &level[1], run);
    } else {
        for (uint64_t i = 0; i < count; i++)
            tpv_copy_box(to + i * level->to, from + i * level->from, level + 1, levels - 1, level[1].count, run);
    }
}

void tpv_zero_box(char *to, const tpv_level_t *level, uint32_t levels, uint64_t count, uint64_t run) {
    static const char zeros[16];
    if (levels == 0)
        memset(to, 0, run);
    else if (levels == 1 && run <= sizeof zeros)
        copy_runs(to, level->to, zeros, 0, count, run);
    else
        for (uint64_t i = 0; i < count; i++)
            tpv_zero_box(to + i * level->to, level + 1, levels - 1, levels > 1 ? level[1].count : 0, run);
}
