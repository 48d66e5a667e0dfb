/* Views to be measured: a part of a rank's planned view, by how its tensors are cut and up to a size. */
#ifndef TOOLS_PERF_SIZED_VIEW_H
#define TOOLS_PERF_SIZED_VIEW_H

#include "tpview/tpview.h"

typedef enum {
    TPV_CUT_MIXED,  /* all that the rank needs */
    TPV_CUT_COLUMN, /* outputs that are one run of a tensor, and not all of it */
    TPV_CUT_ROW     /* outputs whose bytes lie apart in a tensor */
} tpv_cut_t;

/* "column", "row", "mixed". Static storage. */
const char *tpv_cut_name(tpv_cut_t cut);

/*
 * Of `planned`, the outputs of this cut in their order, as many as fit into `size` bytes; of the next one as many first
 * rows as still fit, if it comes from one piece, and one row at least of the first one. `size` 0: all of them. `mark`,
 * unless it is empty, is put behind the first name: a view of its own, with the same bytes. TPV_ERR_ARGUMENT when there
 * is no such output, TPV_ERR_NO_MEMORY. The caller owns *view.
 */
tpv_status_t tpv_sized_view(const tpv_artifact_t *artifact, const tpv_view_t *planned, tpv_cut_t cut, uint64_t size,
                            const char *mark, tpv_view_t **view);

#endif
