/*
 * The life-cycle table: which exports a host has and who holds leases on them, in one shared-memory file for each
 * namespace (TPVIEW_NAMESPACE) and user. It is used by the service and by the ranks of a host and outlives each of
 * them.
 *
 * This header is the read-only side, for tools. docs/lifecycle.md has the states and their transitions.
 */
#ifndef TPVIEW_LEASE_H
#define TPVIEW_LEASE_H

#include <stddef.h>
#include <stdint.h>

#include "tpview/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tpv_export_state {
    TPV_EXPORT_FREE,
    TPV_EXPORT_PENDING,  /* being prepared */
    TPV_EXPORT_READY,    /* leases may begin */
    TPV_EXPORT_DRAINING, /* no longer offered; leases already granted may still attach */
    TPV_EXPORT_CLOSED,   /* draining, and nobody may attach any more */
    TPV_EXPORT_FAILED,   /* preparing it failed; kept for a short time so that waiters learn why */
    TPV_EXPORT_STATE_COUNT
} tpv_export_state_t;

typedef enum tpv_lease_state {
    TPV_LEASE_FREE,
    TPV_LEASE_OPENING,  /* being begun: not held by anybody yet */
    TPV_LEASE_GRANTED,  /* held, nothing moves yet; ends when its time is over */
    TPV_LEASE_ATTACHED, /* bytes move; every progress renews it */
    TPV_LEASE_REVOKED,  /* its time was over while attached: the export stays until the holder has let go */
    TPV_LEASE_ENDING,   /* given back or reaped, being counted off */
    TPV_LEASE_STATE_COUNT
} tpv_lease_state_t;

/* Lower case, such as "ready". Static storage; any value is accepted. */
TPV_API const char *tpv_export_state_name(tpv_export_state_t state);
TPV_API const char *tpv_lease_state_name(tpv_lease_state_t state);

/* One live lease, with the export that it reads. A copy: nothing in it changes. */
typedef struct tpv_lease_info {
    char lease_id[33];  /* 32 hex digits */
    char artifact[128]; /* NAME@VERSION */
    char artifact_id[33];
    char view_id[33];
    char device[48];          /* where the source holds the view, such as "host" */
    tpv_export_state_t state; /* of the export */
    tpv_lease_state_t lease_state;
    uint64_t generation; /* of the export's slot */
    int32_t pid;         /* of the process that holds the lease on this host */
    int32_t alive;       /* 1 when that process still lives */
    char host[72];       /* where the reading rank runs; "" for this host */
    int32_t rank_pid;    /* its process there */
    uint32_t tp_rank;
    uint32_t tp_size;
    double age_s;
    double expires_in_s; /* negative when it is over */
    uint64_t bytes_done;
    uint64_t bytes_total;
} tpv_lease_info_t;

/*
 * Copy the live leases (granted, attached, revoked) of the table of `name` (NULL: TPVIEW_NAMESPACE), in slot order.
 * Each copy is consistent in itself; writers are never held up, so leases that begin or end meanwhile may be in or out.
 * A host without a table has none. The caller frees *leases with free(); it is NULL when there are none.
 * TPV_ERR_ARGUMENT for a bad name, TPV_ERR_PERMISSION for a file that is not this user's alone, TPV_ERR_FORMAT for a
 * table of another layout, TPV_ERR_UNSUPPORTED for one that processes of another pid or time namespace use,
 * TPV_ERR_SYSTEM, TPV_ERR_NO_MEMORY.
 */
TPV_API tpv_status_t tpv_leases_read(const char *name, tpv_lease_info_t **leases, size_t *count);

#ifdef __cplusplus
}
#endif
#endif
