#include "client/pace.h"

#define SUB_BITS 3
#define SUBS (1u << SUB_BITS)

/* Up to 7 ns a class each; from there on the highest bit and the three behind it. */
static unsigned class_of(uint64_t gap) {
    if (gap < SUBS) return (unsigned)gap;
    unsigned high = 63 - (unsigned)__builtin_clzll(gap);
    return (high - SUB_BITS + 1) * SUBS + (unsigned)(gap >> (high - SUB_BITS) & (SUBS - 1));
}

/* The largest gap of a class. */
static uint64_t largest_of(unsigned index) {
    if (index < SUBS) return index;
    unsigned shift = index / SUBS - 1;
    return ((uint64_t)(SUBS + index % SUBS + 1) << shift) - 1;
}

void tpv_pace_note(tpv_pace_t *pace, int64_t now) {
    if (pace->first_ns == 0) {
        pace->first_ns = now;
    } else {
        pace->classes[class_of((uint64_t)(now - pace->last_ns))]++;
        pace->gaps++;
    }
    pace->last_ns = now;
}

uint64_t tpv_pace_gap_p99(const tpv_pace_t *pace) {
    uint64_t seen = 0;
    for (unsigned i = 0; i < TPV_PACE_CLASSES && pace->gaps > 0; i++) {
        seen += pace->classes[i];
        /* Without rounding: seen / gaps >= 99 / 100. */
        if (seen >= pace->gaps - pace->gaps / 100) return largest_of(i);
    }
    return 0;
}
