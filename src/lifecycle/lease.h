/*
 * Leases: the right of one rank to read one export. A lease is begun before the first byte is read, attached when bytes
 * begin to move, renewed by every progress, and ended. While an export has leases its slot and its memory stay.
 *
 * When a lease's time is over: one that is only granted ends; one that is attached is revoked, and its holder learns
 * that by TPV_ERR_STALE from the next tpv_lease_progress or tpv_lease_check, lets go of the memory, and ends it. It
 * goes on being counted until then, or until the holder dies: memory is never taken away under a transfer.
 *
 * A handle names one use of one lease slot, like tpv_export_t.
 */
#ifndef LIFECYCLE_LEASE_H
#define LIFECYCLE_LEASE_H

#include "lifecycle/export.h"

#define TPV_MAX_LEASE_BYTES ((UINT64_C(1) << 48) - 1)

typedef struct tpv_lease {
    uint32_t slot;
    uint64_t generation;
} tpv_lease_t;

typedef struct tpv_lease_request {
    const char *lease_id; /* 32 hex digits, drawn by whoever asks; a repeated begin with it is the same lease */
    uint64_t owner;       /* base/process.h: whose death ends the lease; 0: the calling process */
    int64_t ttl_ns; /* how long it lives from now, and from every later sign of life; TPV_DEADLINE_NEVER: for ever */
    uint64_t bytes_total;    /* to be moved; at most TPV_MAX_LEASE_BYTES */
    const char *remote_host; /* where the reading rank runs, at most 71 bytes; NULL or "": on this host */
    int32_t remote_pid;
    uint32_t tp_rank;
    uint32_t tp_size;
} tpv_lease_request_t;

/*
 * Begin a lease. With the id of a lease that is live on the same export: that one, unchanged. TPV_ERR_STALE when the
 * export is gone or a lease of this id was revoked; TPV_ERR_REFUSED when the export is not READY; TPV_ERR_ARGUMENT for
 * a request out of bounds or an id in use on another export; TPV_ERR_NO_SPACE when every lease slot is in use (after a
 * sweep); TPV_ERR_SYSTEM. On an error no lease is held and no byte may be read.
 */
tpv_status_t tpv_lease_begin(const tpv_table_t *table, tpv_export_t export, const tpv_lease_request_t *request,
                             tpv_lease_t *lease);

/*
 * Say that bytes are about to be read, and renew. No effect on the state when attached already. TPV_ERR_STALE when the
 * lease has ended (expired, reaped, its export closed) or was revoked: nothing may be read.
 */
tpv_status_t tpv_lease_attach(const tpv_table_t *table, tpv_lease_t lease);

/*
 * Say that `bytes_done` of the lease's bytes have been moved, renew it, and renew the export's time. TPV_ERR_STALE as
 * tpv_lease_attach: stop reading, then tpv_lease_end. TPV_ERR_REFUSED when it was never attached; TPV_ERR_ARGUMENT for
 * more bytes than TPV_MAX_LEASE_BYTES. Costs one or two CAS: call it as often as you like.
 */
tpv_status_t tpv_lease_progress(const tpv_table_t *table, tpv_lease_t lease, uint64_t bytes_done);

/* Whether the lease still holds, without renewing it: TPV_OK or TPV_ERR_STALE. For a transfer that stands still. */
tpv_status_t tpv_lease_check(const tpv_table_t *table, tpv_lease_t lease);

/* End a lease. The caller does not touch the export's memory any more. Harmless for one that is not there; true when
 * this call ended it. */
bool tpv_lease_end(const tpv_table_t *table, tpv_lease_t lease);

/* Find a live lease by its id. TPV_ERR_NOT_FOUND; TPV_ERR_ARGUMENT when it is not 32 hex digits. */
tpv_status_t tpv_lease_find(const tpv_table_t *table, const char *lease_id, tpv_lease_t *lease);

#endif
