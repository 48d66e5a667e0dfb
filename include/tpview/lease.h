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

/* Lower case, such as "ready". Static storage; any value is accepted. */
TPV_API const char *tpv_export_state_name(tpv_export_state_t state);

/* One live lease, with the export that it reads. A copy: nothing in it changes. */
typedef struct tpv_lease_info {
    char lease_id[33];  /* 32 hex digits */
    char artifact[128]; /* NAME@VERSION */
    char artifact_id[33];
    char view_id[33];
    tpv_export_state_t state;
    uint32_t generation;
    int32_t pid;      /* of the process that holds the lease on this host */
    int32_t alive;    /* 1 when that process still lives */
    char host[64];    /* where the reading rank runs; "" for this host */
    int32_t rank_pid; /* its process there */
    uint32_t tp_rank;
    uint32_t tp_size;
    double age_s;
    double expires_in_s; /* negative when it is over */
    uint64_t bytes_done;
    uint64_t bytes_total;
} tpv_lease_info_t;

/*
 * Copy the live leases of the table of `name` (NULL: TPVIEW_NAMESPACE). A host without a table has none. The caller
 * frees *leases with free(). TPV_ERR_PERMISSION, TPV_ERR_FORMAT for a table of another layout, TPV_ERR_NO_MEMORY.
 */
TPV_API tpv_status_t tpv_leases_read(const char *name, tpv_lease_info_t **leases, size_t *count);

#ifdef __cplusplus
}
#endif
#endif
