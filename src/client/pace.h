/* When the chunks of a fetch were verified: the first one, and how far apart they were. One thread at a time. */
#ifndef CLIENT_PACE_H
#define CLIENT_PACE_H

#include <stdint.h>

/* Gaps are counted in classes, eight to each power of two of ns: a percentile is right to an eighth. */
#define TPV_PACE_CLASSES 496

/* All zero at first. */
typedef struct tpv_pace {
    int64_t first_ns, last_ns; /* of the clock; 0: no chunk yet */
    uint64_t gaps;
    uint32_t classes[TPV_PACE_CLASSES];
} tpv_pace_t;

/* A chunk is verified at `now`, which never falls. */
void tpv_pace_note(tpv_pace_t *pace, int64_t now);

/* The gap, in ns, that 99 of 100 do not exceed; 0 with less than two chunks. */
uint64_t tpv_pace_gap_p99(const tpv_pace_t *pace);

#endif
