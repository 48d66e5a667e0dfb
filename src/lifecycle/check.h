/*
 * Proving the table: every invariant that holds at every instant, whoever died and wherever (docs/lifecycle.md lists
 * them). A finding means that somebody wrote over the table or that tpview has a fault.
 */
#ifndef LIFECYCLE_CHECK_H
#define LIFECYCLE_CHECK_H

#include "lifecycle/table.h"

/* One line for people; valid during the call. */
typedef void (*tpv_finding_t)(void *user, const char *text);

/*
 * Check the table while others work on it. *findings is how many invariants are broken, each told to `tell` (NULL:
 * nobody). With `repair` each is put right: the counts of exports are set to the leases that are there, slots without
 * sense are freed, one of two exports of the same key is withdrawn. TPV_ERR_NO_MEMORY; TPV_ERR_REFUSED when an export
 * changed so fast that it could not be looked at in one state.
 */
tpv_status_t tpv_table_check(const tpv_table_t *table, bool repair, tpv_finding_t tell, void *user, uint32_t *findings);

#endif
