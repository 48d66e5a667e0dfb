/* Sets of numbers as ranges: which bytes of a dense form are there, which are wanted. */
#ifndef BASE_RANGES_H
#define BASE_RANGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tpview/status.h"

/* [begin, end), never empty. */
typedef struct tpv_range {
    uint64_t begin, end;
} tpv_range_t;

/* Ascending, with a gap between any two. All zero: the empty set. Belongs to one thread at a time. */
typedef struct tpv_ranges {
    tpv_range_t *list;
    size_t count, capacity;
    uint64_t total; /* how many numbers */
} tpv_ranges_t;

void tpv_ranges_clear(tpv_ranges_t *ranges);

/* Put in or take out [begin, end); begin <= end. TPV_ERR_NO_MEMORY: the set is as it was. */
tpv_status_t tpv_ranges_add(tpv_ranges_t *ranges, uint64_t begin, uint64_t end);
tpv_status_t tpv_ranges_remove(tpv_ranges_t *ranges, uint64_t begin, uint64_t end);

/* Whether all of [begin, end) is in it. */
bool tpv_ranges_hold(const tpv_ranges_t *ranges, uint64_t begin, uint64_t end);

/* What of [0, end) is not in `ranges`, in at most `most` (1 or more) ranges: beyond that the last one also has what is
 * in it. *missing is empty before. TPV_ERR_NO_MEMORY. */
tpv_status_t tpv_ranges_missing(const tpv_ranges_t *ranges, uint64_t end, size_t most, tpv_ranges_t *missing);

#endif
