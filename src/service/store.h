/*
 * The export cache: views as this service holds them, within a budget of bytes.
 *
 * A stored export has an entry in the life-cycle table, a chunk table, the digests of chunks as they become known and,
 * while the budget allows, memory for those chunks that have to be gathered. Fetches of the same view share it, however
 * long the chunks are that their ranks take: whoever asks for a chunk first has it prepared, everybody else finds it
 * ready or waits for it.
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
#include "view/chunk_table.h"

typedef struct tpv_store tpv_store_t;

#define TPV_STORE_SMALL (UINT64_C(64) << 10)

/* The life of one chunk of a stored export. Whoever moves it from EMPTY to PREPARING prepares it. */
typedef enum tpv_chunk_state { TPV_CHUNK_EMPTY, TPV_CHUNK_PREPARING, TPV_CHUNK_READY } tpv_chunk_state_t;

typedef struct tpv_stored_chunk {
    atomic_int
        state; /* EMPTY to PREPARING by CAS; then READY, or EMPTY again, stored with release, loaded with acquire */
    uint64_t digest; /* of a ready chunk */
} tpv_stored_chunk_t;

/* Ranks that take no chunks as long as the export's get them in halves, quarters and so on: how often it is halved. */
#define TPV_STORE_PARTS 14

typedef struct tpv_stored {
    /* Set before anybody else sees it, read-only after. */
    tpv_entry_t *entry;
    tpv_view_t *view;
    tpv_export_t export;
    tpv_chunk_table_t table;    /* chunk_bytes is a power of two, 1 << TPV_STORE_PARTS times TPV_MIN_CHUNK at most */
    tpv_stored_chunk_t *chunks; /* table.count of them */
    uint8_t *memory; /* of the chunks that are gathered; NULL: none are kept, each fetch gathers for itself */
    size_t memory_bytes;
    uint8_t *zeros; /* as long as a chunk; NULL when no chunk is zeros */

    atomic_bool gathered; /* some fetch began to gather: relaxed exchange, for the count */

    /* Under the store's mutex. */
    uint64_t reserved; /* of the budget */
    _Atomic uint64_t *parts[TPV_STORE_PARTS + 1];
    unsigned users;
    bool superseded; /* a newer version is offered: goes as soon as nobody reads it */
    bool withdrawn;  /* offered no more, likewise */
    int64_t withdrawn_ns;
    struct tpv_stored *next;
} tpv_stored_t;

typedef struct tpv_store_options {
    tpv_table_t *table;
    tpv_metrics_t *metrics;
    uint32_t chunk_bytes; /* of exports: a power of two from TPV_MIN_CHUNK to TPV_MAX_CHUNK; longer for huge views */
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
 * TPV_ERR_NO_MEMORY, TPV_ERR_DEADLINE. It may take some tens of milliseconds.
 */
tpv_status_t tpv_store_acquire(tpv_store_t *store, tpv_entry_t *entry, tpv_view_t *view, int64_t deadline,
                               tpv_stored_t **stored, bool *reused);
void tpv_store_release(tpv_store_t *store, tpv_stored_t *stored);

/*
 * The digests of the export's chunks cut into 1 << halvings parts each, in the order of the parts: 0 where one is not
 * known yet; relaxed. They live as long as the export. NULL when the budget has no room for them.
 */
_Atomic uint64_t *tpv_store_part_digests(tpv_store_t *store, tpv_stored_t *stored, unsigned halvings);

/* Take `bytes` of the budget for staging. TPV_ERR_NO_MEMORY when they are more than the share that is kept for it;
 * *got false when others have it now. */
tpv_status_t tpv_store_reserve(tpv_store_t *store, uint64_t bytes, bool *got);
void tpv_store_unreserve(tpv_store_t *store, uint64_t bytes);
/* Take `bytes` of the budget for a request that is being read. False when they are not to be had. */
bool tpv_store_reserve_request(tpv_store_t *store, uint64_t bytes);

/* The net plugin does not take memory of files: from now on all chunks are held, or staged, as gathered ones are. Any
 * thread. */
void tpv_store_copy_runs(tpv_store_t *store);
bool tpv_store_copies_runs(const tpv_store_t *store);

/* `entry` is offered from now on: exports of older versions of its model are the first to go. */
void tpv_store_supersede(tpv_store_t *store, const tpv_entry_t *entry);
/* `entry` is not offered any more: its exports take no new fetch and go when their last one ends. */
void tpv_store_withdraw(tpv_store_t *store, const tpv_entry_t *entry);

/* Retire what nobody reads and is expired, superseded or withdrawn. True when exports are left. */
bool tpv_store_sweep(tpv_store_t *store);

#endif
