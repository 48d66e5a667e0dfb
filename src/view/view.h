/* The inside of a view. It is filled by tpv_view_make and read-only from then on. */
#ifndef VIEW_VIEW_H
#define VIEW_VIEW_H

#include "tpview/view.h"
#include "view/program.h"
#include "view/spec.h"

struct tpv_view {
    tpv_output_t *outputs; /* their names are owned */
    const char **apart;    /* for each, why it was not fused, static; NULL: it was, or was not meant to be */
    size_t output_count;
    tpv_spec_alias_t *aliases; /* owned, with their texts */
    size_t alias_count;
    uint64_t bytes;
    tpv_program_t program;
    char *json;
    char id[TPV_ID_CHARS];
    char index_digest[TPV_ID_CHARS];
};

/* The memory that a view takes, in bytes, without what the allocator adds. */
uint64_t tpv_view_memory(const tpv_view_t *view);

/*
 * Check, order, prove and compile `spec` and make a view of it; the spec is left empty or for the caller to clear.
 * TPV_ERR_PLAN and TPV_ERR_NO_MEMORY as tpv_view_plan. The caller owns *view.
 */
tpv_status_t tpv_view_make(const tpv_artifact_t *artifact, tpv_spec_t *spec, tpv_view_t **view);

/* tpv_view_gather, and *digest is the XXH3-64 of what was gathered, computed while it is in the cache. */
tpv_status_t tpv_view_gather_digest(const tpv_view_t *view, const tpv_artifact_t *artifact, uint64_t offset,
                                    uint64_t length, void *destination, uint64_t *digest);

#endif
