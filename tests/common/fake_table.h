/* A life-cycle table in private memory, with a clock and processes that a test moves by hand. */
#ifndef COMMON_FAKE_TABLE_H
#define COMMON_FAKE_TABLE_H

#include "lifecycle/check.h"
#include "lifecycle/export.h"
#include "lifecycle/lease.h"
#include "lifecycle/sweep.h"

#define FAKE_SECOND INT64_C(1000000000)

extern int64_t fake_now;
extern uint64_t fake_self; /* who calls */

/* A new empty table; also resets the clock, makes process 1 the caller and everybody alive. */
tpv_table_t *fake_table_new(uint32_t export_slots, uint32_t lease_slots);
void fake_table_free(tpv_table_t *table);

/* From now on `process` (below 64) is dead. */
void fake_kill(uint64_t process);

/* The key of view number `view`. The strings are static and good until the next call but seven. */
tpv_export_key_t fake_key(unsigned view);
/* A request with lease id number `lease`, of the calling process. Likewise. */
tpv_lease_request_t fake_request(unsigned lease, int64_t ttl_ns);

/* Create and publish an export; fails the test when it cannot. */
tpv_export_t fake_ready(const tpv_table_t *table, unsigned view);

/* How many invariants are broken. */
uint32_t fake_findings(const tpv_table_t *table, bool repair);

tpv_export_state_t fake_export_state(const tpv_table_t *table, tpv_export_t export);
uint32_t fake_active(const tpv_table_t *table, tpv_export_t export);
tpv_lease_state_t fake_lease_state(const tpv_table_t *table, tpv_lease_t lease);

#endif
