#include <stdlib.h>

#include "view/cover_group.h"

typedef struct {
    uint64_t low, length; /* of the group, in elements */
    uint64_t *once, *twice;
} bitmap_t;

typedef struct {
    uint64_t element; /* whom to look for */
    unsigned found;
    size_t pieces[2];
} search_t;

/* Set the bits of [first, first + count) in `once`; those that were set already, in `twice`. */
static void mark(bitmap_t *map, uint64_t first, uint64_t count) {
    uint64_t end = first + count;
    while (first < end) {
        uint64_t word = first / 64, shift = first % 64;
        uint64_t bits = end - first < 64 - shift ? end - first : 64 - shift;
        uint64_t mask = (bits == 64 ? ~UINT64_C(0) : (UINT64_C(1) << bits) - 1) << shift;
        map->twice[word] |= map->once[word] & mask;
        map->once[word] |= mask;
        first += bits;
    }
}

/*
 * Go through all pieces run by run: mark them, or (with `search`) note who writes one element. Ends when more elements
 * were written than there are: then one of them was written twice. Returns whether it came to the last run.
 */
static bool walk(const tpv_piece_t *pieces, size_t count, bitmap_t *map, search_t *search) {
    uint64_t written = 0;
    for (size_t p = 0; p < count; p++) {
        tpv_place_t place;
        tpv_place_of(&pieces[p], &place);
        uint32_t outer = 0;
        uint64_t run = 1;
        if (place.levels > 0 && place.level[0].stride == 1) run = place.level[outer++].count;
        uint64_t index[TPV_MAX_DIMS] = {0};
        uint64_t first = place.low - map->low;
        for (;;) {
            if (!search)
                mark(map, first, run);
            else if (search->found < 2 && first <= search->element && search->element - first < run)
                search->pieces[search->found++] = p;
            written += run;
            if (written > map->length) return false;
            uint32_t level = outer;
            for (; level < place.levels; level++) {
                first += place.level[level].stride;
                if (++index[level] < place.level[level].count) break;
                first -= place.level[level].stride * place.level[level].count;
                index[level] = 0;
            }
            if (level == place.levels) break;
        }
    }
    return true;
}

static bool bit(const uint64_t *words, uint64_t index) {
    return words[index / 64] >> index % 64 & 1;
}

/* The first range of elements that is wrong in one way. Without `holes`, only elements written twice are wrong. */
static tpv_cover_verdict_t first_fault(const bitmap_t *map, bool holes, tpv_cover_fault_t *fault) {
    uint64_t i = 0;
    while (i < map->length) {
        uint64_t word = i / 64;
        if (i % 64 == 0 && map->twice[word] == 0 && (!holes || map->once[word] == ~UINT64_C(0))) {
            i += 64;
            continue;
        }
        if (bit(map->twice, i) || (holes && !bit(map->once, i))) break;
        i++;
    }
    if (i >= map->length) return TPV_COVER_PROVEN;
    bool is_hole = !bit(map->once, i);
    fault->first = map->low + i;
    while (i < map->length && (is_hole ? !bit(map->once, i) : bit(map->twice, i)))
        i++;
    fault->last = map->low + i - 1;
    return is_hole ? TPV_COVER_HOLE : TPV_COVER_TWICE;
}

tpv_cover_verdict_t tpv_cover_bitmap(const tpv_piece_t *pieces, size_t count, uint64_t low, uint64_t high,
                                     tpv_cover_budget_t *budget, tpv_cover_fault_t *fault) {
    bitmap_t map = {.low = low, .length = high - low};
    if (map.length > budget->elements) return TPV_COVER_UNDECIDED;
    budget->elements -= map.length;

    tpv_cover_verdict_t verdict = TPV_COVER_NO_MEMORY;
    size_t words = (size_t)(map.length / 64 + 1);
    map.once = calloc(words, sizeof *map.once);
    map.twice = calloc(words, sizeof *map.twice);
    if (!map.once || !map.twice) goto done;
    bool complete = walk(pieces, count, &map, NULL);
    verdict = first_fault(&map, complete, fault);
    if (verdict == TPV_COVER_TWICE) {
        search_t search = {.element = fault->first - low};
        walk(pieces, count, &map, &search);
        fault->a = search.pieces[0];
        fault->b = search.pieces[1];
    }

done:
    free(map.once);
    free(map.twice);
    return verdict;
}
