/*
 * A look at the whole table for people: how many slots are in which state, and which processes hold them. What dead
 * processes hold is no broken invariant (check.h): it waits for the next sweep.
 */
#ifndef LIFECYCLE_SURVEY_H
#define LIFECYCLE_SURVEY_H

#include "lifecycle/table.h"
#include "tpview/lease.h"

/* What one process holds. */
typedef struct tpv_holder {
    uint64_t process; /* base/process.h */
    bool alive;
    uint32_t exports; /* that it prepares or whose bytes it holds */
    uint32_t leases;
    uint32_t slots; /* free ones that it has taken and not used yet */
} tpv_holder_t;

typedef struct tpv_survey {
    uint32_t exports[TPV_EXPORT_STATE_COUNT]; /* by state; of FREE, those that were in use once */
    uint32_t leases[TPV_LEASE_STATE_COUNT];   /* likewise */
    uint64_t bytes;                           /* of the exports that are READY, DRAINING or CLOSED */
    tpv_holder_t *holders;                    /* by pid */
    size_t holder_count;
} tpv_survey_t;

/*
 * Look at every slot while others work on the table, which may be mapped read-only. A slot that changed after it was
 * looked at is not held against a dead process. The caller frees with tpv_survey_clear. TPV_ERR_NO_MEMORY.
 */
tpv_status_t tpv_table_survey(const tpv_table_t *table, tpv_survey_t *survey);
void tpv_survey_clear(tpv_survey_t *survey);

#endif
