/* Which tensors an engine keeps in one: q, k, v in qkv_proj; gate, up in gate_up_proj. */
#ifndef VIEW_PLAN_FUSE_H
#define VIEW_PLAN_FUSE_H

#include <stdbool.h>

#include "view/plan_cut.h"

#define TPV_MAX_FUSE_PARTS 3

typedef struct tpv_fuse {
    unsigned parts;
    unsigned place;                                   /* of the tensor asked for among the parts */
    char part[TPV_MAX_FUSE_PARTS][TPV_MAX_NAME + 16]; /* names of the tensors, in the order of their rows */
    char name[TPV_MAX_NAME + 16];                     /* of the output */
} tpv_fuse_t;

/* Does this tensor (a weight, bias or scale of such a projection) belong into a fused one? */
bool tpv_fuse_of(const char *tensor, tpv_fuse_t *fuse);

/*
 * Can the projections of `fuse` be one module? *reason is NULL, or why they stay apart, all of them: a projection is
 * not there, is not cut by rows, has parameters that a fused one does not have (zero points, SCB), or ends inside of a
 * block whose scale the next would share. Static storage. Errors of tpv_rules_find and tpv_cut_tensor.
 */
tpv_status_t tpv_fuse_possible(const tpv_cutter_t *cutter, const tpv_fuse_t *fuse, const char **reason);

#endif
