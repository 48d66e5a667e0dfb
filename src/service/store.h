/*
 * The export cache: views as this service holds them, within a budget of bytes.
 *
 * A stored export has an entry in the life-cycle table and, while the budget allows, memory for those chunks that are
 * no single run in the artifact's mapping, and the digests of all chunks. Fetches of the same view share it: whoever
 * asks for a chunk first has it prepared, everybody else finds it ready or waits for it.
 *
 * The budget covers that memory, the views themselves, requests while they are read, and the staging of fetches that
 * have no cached export, for which a share is kept free: half of the budget, 256 MiB at most. What takes no more than
 * TPV_STORE_SMALL and is gone when its fetch is counts for nothing: the number of fetches bounds it. Room is made by
 * retiring exports that nobody reads: expired ones first, then those of superseded versions, then the longest unmoved;
 * the smallest set that suffices, and none when it would not. A retired export never comes back.
 */
#ifndef SERVICE_STORE_H
#define SERVICE_STORE_H

#include "lifecycle/lease.h"
#include "service/catalog.h"
#include "service/metrics.h"
#include "tpview/view.h"

typedef struct tpv_store tpv_store_t;

#define TPV_STORE_SMALL (UINT64_C(64) << 10)

/* The life of one chunk of a stored export. Whoever moves it from EMPTY to PREPARING prepares it. */
typedef enum tpv_chunk_state { TPV_CHUNK_EMPTY, TPV_CHUNK_PREPARING, TPV_CHUNK_READY } tpv_chunk_state_t;

typedef struct tpv_stored_chunk {
    atomic_int
        state; /* EMPTY to PREPARING by CAS; then READY, or EMPTY again, stored with release, loaded with acquire */
    uint32_t place;  /* in memory, counted in chunks; TPV_CHUNK_DIRECT: in the artifact's mapping */
    uint64_t digest; /* of a ready chunk */
} tpv_stored_chunk_t;
#define TPV_CHUNK_DIRECT UINT32_MAX

typedef struct tpv_stored {
    /* Set before anybody else sees it, read-only after. */
    tpv_entry_t *entry;
    tpv_view_t *view;
    tpv_export_t export;
    uint32_t chunk_bytes;
    uint64_t chunk_count;
    tpv_stored_chunk_t *chunks; /* NULL: not cached, each fetch gathers for itself */
    uint8_t *memory;
    size_t memory_bytes;
    uint64_t view_bytes; /* that the view itself takes */
    uint64_t reserved;   /* of the budget */

    atomic_bool gathered; /* some fetch began to gather: relaxed exchange, for the count */

    /* Under the store's mutex. */
    unsigned users;
    bool superseded; /* a newer version is offered: goes as soon as nobody reads it */
    bool withdrawn;  /* offered no more, likewise */
    int64_t withdrawn_ns;
    struct tpv_stored *next;
} tpv_stored_t;

typedef struct tpv_store_options {
    tpv_table_t *table;
    tpv_metrics_t *metrics;
    uint64_t budget;
    int64_t ttl_ns; /* from the last data movement */
} tpv_store_options_t;

/* What `options` names outlives the store. TPV_ERR_NO_MEMORY. */
tpv_status_t tpv_store_open(const tpv_store_options_t *options, tpv_store_t **store);
/* Retire everything; no export may be in use. NULL is allowed. */
void tpv_store_close(tpv_store_t *store);

/*
 * Use the export of `view` (which becomes the store's, also after an error), made when it is not there; *reused says
 * that it was. Cached when the budget has room. TPV_ERR_NO_SPACE when the table is full of exports in use,
 * TPV_ERR_NO_MEMORY, TPV_ERR_DEADLINE.
 */
tpv_status_t tpv_store_acquire(tpv_store_t *store, tpv_entry_t *entry, tpv_view_t *view, uint32_t chunk_bytes,
                               int64_t deadline, tpv_stored_t **stored, bool *reused);
void tpv_store_release(tpv_store_t *store, tpv_stored_t *stored);

/* Take `bytes` of the budget for staging. TPV_ERR_NO_MEMORY when they are more than the share that is kept for it;
 * *got false when others have it now. */
tpv_status_t tpv_store_reserve(tpv_store_t *store, uint64_t bytes, bool *got);
void tpv_store_unreserve(tpv_store_t *store, uint64_t bytes);
/* Take `bytes` of the budget for a request that is being read. False when they are not to be had. */
bool tpv_store_reserve_request(tpv_store_t *store, uint64_t bytes);

/* `entry` is offered from now on: exports of older versions of its model are the first to go. */
void tpv_store_supersede(tpv_store_t *store, const tpv_entry_t *entry);
/* `entry` is not offered any more: its exports take no new fetch and go when their last one ends. */
void tpv_store_withdraw(tpv_store_t *store, const tpv_entry_t *entry);

/* Retire what nobody reads and is expired, superseded or withdrawn. True when exports are left. */
bool tpv_store_sweep(tpv_store_t *store);

#endif
