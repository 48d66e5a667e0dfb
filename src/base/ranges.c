#include "base/ranges.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

void tpv_ranges_clear(tpv_ranges_t *ranges) {
    free(ranges->list);
    *ranges = (tpv_ranges_t){0};
}

/* The first range that ends at `at` or behind it; count if none does. */
static size_t seek(const tpv_ranges_t *ranges, uint64_t at) {
    size_t low = 0, high = ranges->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (ranges->list[middle].end >= at)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* Put `count` ranges (2 at most) in the place of [first, last). */
static tpv_status_t replace(tpv_ranges_t *ranges, size_t first, size_t last, const tpv_range_t *with, size_t count) {
    size_t after = ranges->count - (last - first) + count;
    if (after > ranges->capacity) {
        size_t capacity = 2 * after + 14;
        tpv_range_t *list = realloc(ranges->list, capacity * sizeof *list);
        if (!list) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for %zu ranges of bytes", capacity);
        ranges->list = list;
        ranges->capacity = capacity;
    }
    if (ranges->list)
        memmove(ranges->list + first + count, ranges->list + last, (ranges->count - last) * sizeof *ranges->list);
    for (size_t i = 0; i < count; i++)
        ranges->list[first + i] = with[i];
    ranges->count = after;
    return TPV_OK;
}

tpv_status_t tpv_ranges_add(tpv_ranges_t *ranges, uint64_t begin, uint64_t end) {
    if (begin >= end) return TPV_OK;
    tpv_range_t sum = {begin, end};
    uint64_t covered = 0;
    size_t first = seek(ranges, begin), last = first;
    for (; last < ranges->count && ranges->list[last].begin <= end; last++) {
        const tpv_range_t *range = &ranges->list[last];
        covered += range->end - range->begin;
        if (range->begin < sum.begin) sum.begin = range->begin;
        if (range->end > sum.end) sum.end = range->end;
    }
    TPV_TRY(replace(ranges, first, last, &sum, 1));
    ranges->total += sum.end - sum.begin - covered;
    return TPV_OK;
}

tpv_status_t tpv_ranges_remove(tpv_ranges_t *ranges, uint64_t begin, uint64_t end) {
    if (begin >= end) return TPV_OK;
    tpv_range_t rest[2];
    size_t count = 0, first = seek(ranges, begin + 1), last = first;
    uint64_t before = 0, after = 0;
    for (; last < ranges->count && ranges->list[last].begin < end; last++) {
        const tpv_range_t *range = &ranges->list[last];
        before += range->end - range->begin;
        if (range->begin < begin) rest[count++] = (tpv_range_t){range->begin, begin};
        if (range->end > end) rest[count++] = (tpv_range_t){end, range->end};
    }
    for (size_t i = 0; i < count; i++)
        after += rest[i].end - rest[i].begin;
    TPV_TRY(replace(ranges, first, last, rest, count));
    ranges->total -= before - after;
    return TPV_OK;
}

bool tpv_ranges_hold(const tpv_ranges_t *ranges, uint64_t begin, uint64_t end) {
    size_t at = seek(ranges, end);
    return begin >= end || (at < ranges->count && ranges->list[at].begin <= begin);
}

tpv_status_t tpv_ranges_missing(const tpv_ranges_t *ranges, uint64_t end, size_t most, tpv_ranges_t *missing) {
    uint64_t at = 0;
    for (size_t i = 0; i < ranges->count && at < end; i++) {
        const tpv_range_t *range = &ranges->list[i];
        if (missing->count + 1 == most && range->begin > at) break;
        TPV_TRY(tpv_ranges_add(missing, at, range->begin < end ? range->begin : end));
        at = range->end;
    }
    return tpv_ranges_add(missing, at, end);
}
