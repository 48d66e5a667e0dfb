/*
 * Cleaning up after processes that died and time that ran out. Any process may sweep, at any time, and several at once;
 * the result does not depend on the order of slots.
 */
#ifndef LIFECYCLE_SWEEP_H
#define LIFECYCLE_SWEEP_H

#include "lifecycle/table.h"

/* What one sweep did itself. */
typedef struct tpv_sweep_report {
    uint32_t leases_orphaned; /* ended: their owner died */
    uint32_t leases_expired;  /* ended: granted, never attached */
    uint32_t leases_revoked;  /* attached and without progress for too long; their holders have to end them */
    uint32_t leases_closed;   /* ended: not attached when their export was closed */
    uint32_t exports_freed;   /* owner or preparing process died, or the time of a failure or of a file was over */
} tpv_sweep_report_t;

/* Sweep leases: complete what was begun, end those of dead owners, end or revoke expired ones. Adds to *report, which
 * may be NULL. */
void tpv_leases_sweep(const tpv_table_t *table, tpv_sweep_report_t *report);

/* Sweep leases, then exports: retire those whose owner died and those in files whose time is over, free those whose
 * preparing process died (one of its waiters may be faster and take over) and failed ones that may be tried again. Sets
 * *report, which may be NULL. */
void tpv_table_sweep(const tpv_table_t *table, tpv_sweep_report_t *report);

#endif
