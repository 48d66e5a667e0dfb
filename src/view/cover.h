/*
 * The proof that a view is whole: every element of every output is written exactly once.
 *
 * The pieces of an output are sorted by destination and grouped where their ranges overlap. A group of one piece must
 * be one dense run. The pieces of a larger group are boxes in a space of digits whose weights are the pieces' strides
 * (for columns of a matrix: row and column); a sweep over the bounds of the outermost digit, then of the next one
 * within each segment, tells holes and overlaps without looking at single runs. Strides that do not divide one another
 * leave that space: then runs are marked in a bitmap, bounded by TPV_COVER_BITMAP_ELEMENTS.
 */
#ifndef VIEW_COVER_H
#define VIEW_COVER_H

#include "view/spec.h"

/* Work for a whole view: some seconds at most, and two bits of memory for each element of a bitmap, 128 MiB. */
#define TPV_COVER_SWEEP_STEPS (UINT64_C(1) << 25)
#define TPV_COVER_BITMAP_ELEMENTS (UINT64_C(1) << 29)

/* Prove a checked and canonical spec. TPV_ERR_PLAN names the output, the tensor, and the first range of elements that
 * is not written or written twice, or says that the pieces are too intertwined to be proven; TPV_ERR_NO_MEMORY. */
tpv_status_t tpv_cover_check(const tpv_artifact_t *artifact, const tpv_spec_t *spec);

#endif
