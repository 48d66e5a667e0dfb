/*
 * Counting leases on and off their exports: the steps that change a lease's word and its export's word together
 * (words.h says how). Every function may be called by any process at any time for any lease; whoever comes first does
 * the work and the others find it done. So a process that dies half way holds nobody up.
 */
#ifndef LIFECYCLE_COUNT_H
#define LIFECYCLE_COUNT_H

#include "lifecycle/table.h"

/*
 * Take an OPENING lease on: to GRANTED, its export's active one more; or back to FREE when the export is not READY in
 * the lease's generation any more. Take an ENDING lease off: to FREE, active one less. Any other state is left alone.
 */
void tpv_lease_settle(const tpv_table_t *table, uint32_t slot);

/* Let the lease that the step in `word` names follow its count. To be called before a CAS from `word`, a value read
 * from export `slot`, to one with another step; when `word` is out of date by then, that CAS fails and nothing is lost.
 */
void tpv_export_settle_step(const tpv_table_t *table, uint32_t slot, uint64_t word);

/* Copy a lease's record; false when the lease got another generation meanwhile. */
bool tpv_lease_record_read(const tpv_lease_slot_t *lease, uint64_t generation, tpv_lease_record_t *record);

#endif
