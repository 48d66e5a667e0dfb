/*
 * Exports: views that a host holds, keyed (artifact_id, view_id, device). At most one for each key is being prepared,
 * ready or recently failed. docs/lifecycle.md has the states and every transition.
 *
 * The order of a life: tpv_export_acquire says "you prepare" to exactly one of those who ask at the same time; that one
 * gets the bytes ready and publishes (or fails, or abandons); the others wait and share. In the end somebody withdraws
 * the export, closes it, waits until no lease is left, releases the memory, and frees the slot.
 *
 * A handle names one use of one slot. It is a plain value, good in every process that has the same table; when the slot
 * has another use by now, every call refuses it with TPV_ERR_STALE.
 */
#ifndef LIFECYCLE_EXPORT_H
#define LIFECYCLE_EXPORT_H

#include "lifecycle/table.h"
#include "tpview/lease.h"

/* How long at most a waiter sleeps before it looks whether the preparing process still lives. */
#define TPV_LIVENESS_NS (INT64_C(100) * 1000000)

typedef struct tpv_export {
    uint32_t slot;
    uint64_t generation;
} tpv_export_t;

typedef struct tpv_export_key {
    const char *artifact_id; /* 32 lower-case hex digits */
    const char *view_id;     /* likewise */
    const char *device;      /* where the bytes are, such as "host"; at most 47 bytes */
    const char *label;       /* NAME@VERSION, at most 127 bytes; describes and is no part of the key */
} tpv_export_key_t;

typedef enum tpv_export_role {
    TPV_EXPORT_USE,     /* it is ready: begin a lease */
    TPV_EXPORT_PREPARE, /* the caller prepares it, then publishes, fails or abandons it */
    TPV_EXPORT_WAIT,    /* somebody else prepares it (tpv_export_find only) */
} tpv_export_role_t;

/*
 * Find the export of `key` or create one, without waiting. A ready one whose owner has died is withdrawn and does not
 * count. While one that failed is kept, its cause is this call's status, with a message that says until when.
 * TPV_ERR_ARGUMENT for a key out of bounds, TPV_ERR_NO_SPACE when every slot is in use, TPV_ERR_SYSTEM.
 */
tpv_status_t tpv_export_find(const tpv_table_t *table, const tpv_export_key_t *key, tpv_export_t *export,
                             tpv_export_role_t *role);

/*
 * Wait until `export` is not being prepared any more: *role is USE, or PREPARE when the preparing process died and this
 * one has taken over. Its cause when it failed; TPV_ERR_STALE when it is gone (ask tpv_export_find again);
 * TPV_ERR_DEADLINE when `deadline_ns` (base/clock.h) passed first.
 */
tpv_status_t tpv_export_wait(const tpv_table_t *table, tpv_export_t export, int64_t deadline_ns,
                             tpv_export_role_t *role);

/* tpv_export_find and tpv_export_wait until the role is USE or PREPARE. Errors as theirs, but never TPV_ERR_STALE. */
tpv_status_t tpv_export_acquire(const tpv_table_t *table, const tpv_export_key_t *key, int64_t deadline_ns,
                                tpv_export_t *export, tpv_export_role_t *role);

/* PENDING to READY: leases may begin. The calling process becomes the owner: when it dies, the export is void. `bytes`
 * is the memory it takes; it may be dropped `ttl_ns` after the last data movement. Only for the preparing process:
 * TPV_ERR_PERMISSION otherwise. TPV_ERR_STALE; TPV_ERR_REFUSED in any other state. */
tpv_status_t tpv_export_publish(const tpv_table_t *table, tpv_export_t export, uint64_t bytes, int64_t ttl_ns);

/* The same for an export whose bytes are in its file (file.h, whose tpv_export_file_publish is the one to call): it has
 * no owning process and lives until `ttl_ns` after the last data movement, whoever dies. */
tpv_status_t tpv_export_publish_file(const tpv_table_t *table, tpv_export_t export, uint64_t bytes, int64_t ttl_ns);

/* PENDING to FAILED: waiters and those who ask within the next `retry_after_ns` get `cause`. Errors as
 * tpv_export_publish; TPV_ERR_ARGUMENT for TPV_OK as a cause. */
tpv_status_t tpv_export_fail(const tpv_table_t *table, tpv_export_t export, tpv_status_t cause, int64_t retry_after_ns);

/* PENDING to FREE: nothing is wrong, but the caller does not go on. A waiter prepares it instead. Errors as
 * tpv_export_publish. */
tpv_status_t tpv_export_abandon(const tpv_table_t *table, tpv_export_t export);

/* READY to DRAINING: no longer found, no new leases; granted ones may still attach. Never undone. No effect on one that
 * is withdrawn or closed already. TPV_ERR_STALE; TPV_ERR_REFUSED in any other state. */
tpv_status_t tpv_export_withdraw(const tpv_table_t *table, tpv_export_t export);

/* DRAINING to CLOSED: nobody may attach any more; leases that are granted but not attached end. No effect on one that
 * is closed. TPV_ERR_STALE; TPV_ERR_REFUSED in any other state. */
tpv_status_t tpv_export_close(const tpv_table_t *table, tpv_export_t export);

/* Why an export in a file is withdrawn though nothing is wrong with it. */
typedef enum tpv_export_reason {
    TPV_EXPORT_EXPIRED, /* its time to live is over */
    TPV_EXPORT_EVICTED, /* its room is wanted */
} tpv_export_reason_t;

/* READY to DRAINING, of an export in a file that has no lease and, for TPV_EXPORT_EXPIRED, whose time is over; all of
 * that at the one instant of the change. True when this call did it. */
bool tpv_export_withdraw_idle(const tpv_table_t *table, tpv_export_t export, tpv_export_reason_t reason);

/* Wait until the export, which has been withdrawn, has no lease left; leases of processes that die meanwhile are
 * reaped. TPV_ERR_DEADLINE, TPV_ERR_STALE; TPV_ERR_REFUSED when it is not withdrawn. */
tpv_status_t tpv_export_wait_idle(const tpv_table_t *table, tpv_export_t export, int64_t deadline_ns);

/* CLOSED to FREE. The caller, its owner, has released the memory; of an export in a file, anybody may call, and the
 * file's name is taken away before. TPV_ERR_REFUSED while a lease is left or when it is not closed; TPV_ERR_STALE;
 * TPV_ERR_SYSTEM when the file cannot be removed. */
tpv_status_t tpv_export_free(const tpv_table_t *table, tpv_export_t export);

/* A copy of what the table knows of an export. */
typedef struct tpv_export_info {
    tpv_export_state_t state;
    uint32_t active;
    uint64_t owner; /* 0 before it is ready, and TPV_OWNER_FILE */
    uint64_t bytes;
    int64_t created_ns;
    int64_t moved_ns; /* last data movement */
    int64_t ttl_ns;
    tpv_export_record_t record;
} tpv_export_info_t;

/* TPV_ERR_STALE when the slot is free or has another use by now. */
tpv_status_t tpv_export_read(const tpv_table_t *table, tpv_export_t export, tpv_export_info_t *info);

#endif
