/*
 * The life-cycle table: one file in /dev/shm for each namespace and user, /dev/shm/tpview-NAME-UID, mapped by every
 * process that takes part. export.h and lease.h work on it, sweep.h cleans up after the dead, check.h proves it.
 *
 * Threads: an open table may be used by all threads of a process and in forked children at the same time; only closing
 * is exclusive. Nothing here takes a lock.
 */
#ifndef LIFECYCLE_TABLE_H
#define LIFECYCLE_TABLE_H

#include "lifecycle/layout.h"
#include "lifecycle/slots.h"
#include "tpview/status.h"

/* What happened since the table was made, by everybody together. For people and metrics: a process that dies between a
 * step and its count leaves a counter one short. */
typedef enum tpv_counter {
    TPV_COUNT_EXPORTS_CREATED,
    TPV_COUNT_EXPORTS_PUBLISHED,
    TPV_COUNT_EXPORTS_FAILED,
    TPV_COUNT_EXPORTS_ABANDONED,  /* preparing was given up */
    TPV_COUNT_EXPORTS_TAKEN_OVER, /* the preparing process died and a waiter went on */
    TPV_COUNT_EXPORTS_REUSED,     /* a request found a ready export */
    TPV_COUNT_EXPORTS_COALESCED,  /* a request found one being prepared */
    TPV_COUNT_EXPORTS_WITHDRAWN,
    TPV_COUNT_EXPORTS_EXPIRED, /* withdrawn: in a file, and its time to live was over */
    TPV_COUNT_EXPORTS_EVICTED, /* withdrawn: in a file, and its room was wanted */
    TPV_COUNT_EXPORTS_CLOSED,
    TPV_COUNT_EXPORTS_FREED,
    TPV_COUNT_LEASES_BEGUN,
    TPV_COUNT_LEASES_REFUSED, /* the export was withdrawn meanwhile */
    TPV_COUNT_LEASES_ATTACHED,
    TPV_COUNT_LEASES_ENDED,    /* by their holders */
    TPV_COUNT_LEASES_EXPIRED,  /* before they were attached */
    TPV_COUNT_LEASES_REVOKED,  /* expired while attached */
    TPV_COUNT_LEASES_ORPHANED, /* the owner died */
    TPV_COUNT_LEASES_CLOSED,   /* not attached when the export was closed */
    TPV_COUNT_COUNT
} tpv_counter_t;

typedef struct tpv_table {
    tpv_table_header_t *header;
    size_t bytes;
    tpv_slots_t exports; /* of tpv_export_slot_t */
    tpv_slots_t leases;  /* of tpv_lease_slot_t */
    /* How time, processes and files are seen: the real ones, unless a test replaces them before anything else runs. */
    int64_t (*now)(void);
    uint64_t (*self)(void);
    bool (*alive)(uint64_t process);
    bool (*erase)(const struct tpv_table *table, uint32_t slot, uint64_t generation); /* tpv_export_file_erase */
    char path[96]; /* "" for a table that is in no file */
    int claim;     /* the file's descriptor: by its lock others know that this process lives (table_file.c); -1 */
} tpv_table_t;

typedef enum tpv_open {
    TPV_OPEN_READ,   /* map read-only; a missing table is TPV_ERR_NOT_FOUND */
    TPV_OPEN_WRITE,  /* likewise, for writing */
    TPV_OPEN_CREATE, /* for writing; made when missing, replaced when abandoned */
} tpv_open_t;

/*
 * Open the table `name` (letters, digits, - and _, at most 32; NULL: TPVIEW_NAMESPACE). A new one gets its name only
 * when it is whole, so two creators at once are fine and nobody sees half a table. The caller owns *table.
 *
 * One that is of an earlier boot or of another pid or time namespace, where its pids and times mean nothing, and that
 * no living process has open for writing, is abandoned: TPV_OPEN_CREATE replaces it, the others say TPV_ERR_STALE.
 *
 * TPV_ERR_ARGUMENT for a bad name; TPV_ERR_NOT_FOUND; TPV_ERR_PERMISSION when the file is not a regular file of this
 * user with mode 0600; TPV_ERR_FORMAT when it was made by a build with another layout (the message names what differs);
 * TPV_ERR_UNSUPPORTED when living processes of another pid or time namespace have it open for writing; TPV_ERR_REFUSED
 * when it is being replaced and that takes a second; TPV_ERR_NO_SPACE when shared memory is full; TPV_ERR_SYSTEM;
 * TPV_ERR_NO_MEMORY.
 */
tpv_status_t tpv_table_open(const char *name, tpv_open_t mode, tpv_table_t **table);

/* Unmap; the file stays. NULL is allowed. Leases and exports are not touched. */
void tpv_table_close(tpv_table_t *table);

/* Take the file's name away; processes that have it open keep their mapping. TPV_OK when there is none. */
tpv_status_t tpv_table_remove(const char *name);

/* How many bytes a table with these capacities takes. */
size_t tpv_table_bytes(uint32_t export_slots, uint32_t lease_slots);

/* Lay an empty table out in `memory`, which is zeroed, aligned to a cache line and tpv_table_bytes long. */
void tpv_table_format(void *memory, uint32_t export_slots, uint32_t lease_slots);

/* Fill in *table for a table that lies in `memory`, with the real clock and processes. */
void tpv_table_attach(tpv_table_t *table, void *memory);

static inline tpv_export_slot_t *tpv_table_export(const tpv_table_t *table, uint32_t slot) {
    return (tpv_export_slot_t *)tpv_slots_at(&table->exports, slot);
}

static inline tpv_lease_slot_t *tpv_table_lease(const tpv_table_t *table, uint32_t slot) {
    return (tpv_lease_slot_t *)tpv_slots_at(&table->leases, slot);
}

static inline void tpv_table_count(const tpv_table_t *table, tpv_counter_t counter) {
    tpv_word_add(&table->header->counters[counter], 1);
}

static inline uint64_t tpv_table_counter(const tpv_table_t *table, tpv_counter_t counter) {
    return atomic_load_explicit(&table->header->counters[counter], memory_order_relaxed);
}

/* Snake case, such as "leases_begun". Static storage. */
const char *tpv_counter_name(tpv_counter_t counter);

#endif
