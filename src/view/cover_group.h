/* The two ways to prove a group of pieces whose destinations are intertwined; see cover.h. */
#ifndef VIEW_COVER_GROUP_H
#define VIEW_COVER_GROUP_H

#include "view/spec.h"

/* The destination of a piece: `levels` of strides, from the smallest to the largest, merged as far as possible. */
typedef struct tpv_place {
    uint64_t low, high; /* the first element, and one behind the last */
    uint64_t elements;
    uint32_t levels;
    struct tpv_place_level {
        uint64_t stride, count;
    } level[TPV_MAX_DIMS];
} tpv_place_t;

void tpv_place_of(const tpv_piece_t *piece, tpv_place_t *place);

typedef enum tpv_cover_verdict {
    TPV_COVER_PROVEN,
    TPV_COVER_HOLE,  /* nobody writes [first, last] */
    TPV_COVER_TWICE, /* pieces a and b (which may be one) write [first, last] */
    TPV_COVER_UNDECIDED,
    TPV_COVER_NO_MEMORY,
} tpv_cover_verdict_t;

typedef struct tpv_cover_fault {
    uint64_t first, last; /* elements of the output */
    size_t a, b;          /* indices of pieces */
} tpv_cover_fault_t;

/* Work that is left, counted down. */
typedef struct tpv_cover_budget {
    uint64_t steps;    /* of sweeps: boxes in segments */
    uint64_t elements; /* of bitmaps */
} tpv_cover_budget_t;

/* Do the `count` pieces write each element of [low, high) exactly once? UNDECIDED when their strides do not divide one
 * another or the budget does not suffice. */
tpv_cover_verdict_t tpv_cover_sweep(const tpv_piece_t *pieces, size_t count, uint64_t low, uint64_t high,
                                    tpv_cover_budget_t *budget, tpv_cover_fault_t *fault);

/* The same, run by run. UNDECIDED when the budget does not suffice. */
tpv_cover_verdict_t tpv_cover_bitmap(const tpv_piece_t *pieces, size_t count, uint64_t low, uint64_t high,
                                     tpv_cover_budget_t *budget, tpv_cover_fault_t *fault);

#endif
