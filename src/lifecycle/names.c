/* What states and counters are called. */
#include "lifecycle/table.h"
#include "tpview/lease.h"

const char *tpv_export_state_name(tpv_export_state_t state) {
    static const char *const names[TPV_EXPORT_STATE_COUNT] = {
        [TPV_EXPORT_FREE] = "free",         [TPV_EXPORT_PENDING] = "pending", [TPV_EXPORT_READY] = "ready",
        [TPV_EXPORT_DRAINING] = "draining", [TPV_EXPORT_CLOSED] = "closed",   [TPV_EXPORT_FAILED] = "failed",
    };
    return (unsigned)state < TPV_EXPORT_STATE_COUNT ? names[state] : "unknown";
}

const char *tpv_lease_state_name(tpv_lease_state_t state) {
    static const char *const names[TPV_LEASE_STATE_COUNT] = {
        [TPV_LEASE_FREE] = "free",         [TPV_LEASE_OPENING] = "opening", [TPV_LEASE_GRANTED] = "granted",
        [TPV_LEASE_ATTACHED] = "attached", [TPV_LEASE_REVOKED] = "revoked", [TPV_LEASE_ENDING] = "ending",
    };
    return (unsigned)state < TPV_LEASE_STATE_COUNT ? names[state] : "unknown";
}

const char *tpv_counter_name(tpv_counter_t counter) {
    static const char *const names[TPV_COUNT_COUNT] = {
        [TPV_COUNT_EXPORTS_CREATED] = "exports_created",
        [TPV_COUNT_EXPORTS_PUBLISHED] = "exports_published",
        [TPV_COUNT_EXPORTS_FAILED] = "exports_failed",
        [TPV_COUNT_EXPORTS_ABANDONED] = "exports_abandoned",
        [TPV_COUNT_EXPORTS_TAKEN_OVER] = "exports_taken_over",
        [TPV_COUNT_EXPORTS_REUSED] = "exports_reused",
        [TPV_COUNT_EXPORTS_COALESCED] = "exports_coalesced",
        [TPV_COUNT_EXPORTS_WITHDRAWN] = "exports_withdrawn",
        [TPV_COUNT_EXPORTS_EXPIRED] = "exports_expired",
        [TPV_COUNT_EXPORTS_EVICTED] = "exports_evicted",
        [TPV_COUNT_EXPORTS_CLOSED] = "exports_closed",
        [TPV_COUNT_EXPORTS_FREED] = "exports_freed",
        [TPV_COUNT_LEASES_BEGUN] = "leases_begun",
        [TPV_COUNT_LEASES_REFUSED] = "leases_refused",
        [TPV_COUNT_LEASES_ATTACHED] = "leases_attached",
        [TPV_COUNT_LEASES_ENDED] = "leases_ended",
        [TPV_COUNT_LEASES_EXPIRED] = "leases_expired",
        [TPV_COUNT_LEASES_REVOKED] = "leases_revoked",
        [TPV_COUNT_LEASES_ORPHANED] = "leases_orphaned",
        [TPV_COUNT_LEASES_CLOSED] = "leases_closed",
    };
    return (unsigned)counter < TPV_COUNT_COUNT ? names[counter] : "unknown";
}
