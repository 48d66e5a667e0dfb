#include "service/store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/id.h"
#include "base/log.h"
#include "lifecycle/sweep.h"
#include "view/view.h"

#define HUGE_PAGE ((size_t)2 << 20)
#define STAGING_SHARE (UINT64_C(256) << 20)

struct tpv_store {
    tpv_store_options_t options;
    char device[48]; /* in the table: memory of this very store. Process ids are not enough, as containers that share a
                        table have the same ones */
    pthread_mutex_t mutex;
    tpv_stored_t *first; /* under mutex */
    uint64_t used;       /* of the budget; under mutex */
    uint64_t cached;     /* of that, by exports; under mutex */
    atomic_bool copies;  /* see tpv_store_copy_runs; relaxed, set once */
};

/*
 * What exports may not take of the budget. A fetch that waits for staging holds its export meanwhile; this share is
 * only ever taken by fetches that are moving, so whoever waits for it gets it.
 */
static uint64_t staging_share(const tpv_store_t *store) {
    uint64_t half = store->options.budget / 2;
    return half < STAGING_SHARE ? half : STAGING_SHARE;
}

tpv_status_t tpv_store_open(const tpv_store_options_t *options, tpv_store_t **store) {
    uint8_t id[TPV_ID_BYTES];
    char text[TPV_ID_TEXT];
    TPV_TRY(tpv_id_random(id));
    tpv_store_t *s = calloc(1, sizeof *s);
    if (!s) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the export cache");
    s->options = *options;
    tpv_hex_encode(id, TPV_ID_BYTES, text);
    snprintf(s->device, sizeof s->device, "host/%s", text);
    pthread_mutex_init(&s->mutex, NULL);
    *store = s;
    return TPV_OK;
}

/* ---- one export ---- */

static void note_used(tpv_store_t *store, uint64_t used) {
    store->used = used;
    tpv_metrics_budget(store->options.metrics, used);
}

static void unreserve_export(tpv_store_t *store, const tpv_stored_t *stored) {
    store->cached -= stored->reserved;
    note_used(store, store->used - stored->reserved);
}

static void stored_free(tpv_stored_t *stored) {
    if (stored->memory) munmap(stored->memory, stored->memory_bytes);
    if (stored->zeros) munmap(stored->zeros, stored->table.chunk_bytes);
    for (unsigned i = 0; i <= TPV_STORE_PARTS; i++)
        free((void *)(uintptr_t)stored->parts[i]);
    free(stored->chunks);
    tpv_chunk_table_clear(&stored->table);
    tpv_view_free(stored->view);
    tpv_entry_release(stored->entry);
    free(stored);
}

/* Huge pages from the pool, then transparent ones, then what there is. */
static tpv_status_t map_memory(tpv_stored_t *stored) {
    static const char *const kinds[] = {"hugetlb", "madvise", "plain"};
    int kind = 0;
    void *memory =
        mmap(NULL, stored->memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
    if (memory == MAP_FAILED) {
        memory = mmap(NULL, stored->memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED)
            return tpv_error_set_errno(TPV_ERR_NO_MEMORY, errno, "no memory for an export of %zu bytes",
                                       stored->memory_bytes);
        kind = madvise(memory, stored->memory_bytes, MADV_HUGEPAGE) == 0 ? 1 : 2;
    }
    stored->memory = memory;
    TPV_INFO("export of %zu bytes: %s pages", stored->memory_bytes, kinds[kind]);
    return TPV_OK;
}

/* What is read there is zero: pages that nobody writes to are one page. */
static tpv_status_t map_zeros(tpv_stored_t *stored) {
    void *zeros = mmap(NULL, stored->table.chunk_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (zeros == MAP_FAILED) return tpv_error_set_errno(TPV_ERR_NO_MEMORY, errno, "no memory for a chunk of zeros");
    stored->zeros = zeros;
    return TPV_OK;
}

static tpv_status_t prepare(const tpv_store_t *store, tpv_stored_t *stored, int64_t deadline) {
    uint64_t bytes = tpv_view_stats(stored->view).bytes;
    uint32_t chunk_bytes = store->options.chunk_bytes;
    while (bytes / chunk_bytes >= TPV_CHUNK_TABLE_MOST)
        chunk_bytes *= 2;
    TPV_TRY(tpv_chunk_table_make(stored->view, stored->entry->artifact, chunk_bytes, deadline, &stored->table));
    if (tpv_store_copies_runs(store)) tpv_chunk_table_gather_runs(&stored->table);
    stored->chunks = calloc(stored->table.count + 1, sizeof *stored->chunks);
    if (!stored->chunks) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the chunks of an export");
    bool zeros = false;
    for (uint64_t i = 0; i < stored->table.count; i++)
        zeros = zeros || stored->table.sources[i].kind == TPV_CHUNK_ZEROS;
    return zeros ? map_zeros(stored) : TPV_OK;
}

static tpv_status_t stored_create(const tpv_store_t *store, tpv_entry_t *entry, tpv_view_t *view, int64_t deadline,
                                  tpv_stored_t **stored) {
    tpv_stored_t *s = calloc(1, sizeof *s);
    if (!s) {
        tpv_view_free(view);
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for an export");
    }
    s->entry = tpv_entry_hold(entry);
    s->view = view;
    tpv_status_t status = prepare(store, s, deadline);
    if (status == TPV_OK)
        *stored = s;
    else
        stored_free(s);
    return status;
}

/* Take it out of the table in the order of its states, then free it. False while a lease is left. */
static bool stored_retire(tpv_store_t *store, tpv_stored_t *stored) {
    const tpv_table_t *table = store->options.table;
    tpv_status_t status = tpv_export_withdraw(table, stored->export);
    if (status == TPV_OK) status = tpv_export_close(table, stored->export);
    if (status == TPV_OK) status = tpv_export_free(table, stored->export);
    if (status != TPV_OK && status != TPV_ERR_STALE) return false;
    unreserve_export(store, stored);
    stored_free(stored);
    return true;
}

/* ---- making room; all under the mutex ---- */

static int64_t last_moved(const tpv_store_t *store, const tpv_stored_t *stored) {
    tpv_export_info_t info;
    return tpv_export_read(store->options.table, stored->export, &info) == TPV_OK ? info.moved_ns : 0;
}

static tpv_eviction_t reason_of(const tpv_store_t *store, const tpv_stored_t *stored, int64_t moved, int64_t now) {
    if (stored->withdrawn) return TPV_EVICTED_WITHDRAWN;
    if (now - moved >= store->options.ttl_ns) return TPV_EVICTED_EXPIRED;
    return stored->superseded ? TPV_EVICTED_SUPERSEDED : TPV_EVICTED_ROOM;
}

typedef struct {
    tpv_stored_t *stored;
    tpv_eviction_t reason;
    int64_t moved;
    bool chosen;
} victim_t;

static int compare_victims(const void *a, const void *b) {
    const victim_t *x = a, *y = b;
    if (x->reason != y->reason) return x->reason < y->reason ? -1 : 1;
    return (x->moved > y->moved) - (x->moved < y->moved);
}

static void unlink_stored(tpv_store_t *store, const tpv_stored_t *stored) {
    tpv_stored_t **link = &store->first;
    while (*link != stored)
        link = &(*link)->next;
    *link = stored->next;
}

static void evict(tpv_store_t *store, tpv_stored_t *stored, tpv_eviction_t reason) {
    int64_t withdrawn = stored->withdrawn_ns;
    unlink_stored(store, stored);
    if (stored_retire(store, stored)) {
        tpv_metrics_evicted(store->options.metrics, reason, withdrawn ? tpv_clock_ns() - withdrawn : 0);
        return;
    }
    /* Somebody else holds a lease in the table: it stays, withdrawn, until that has ended. */
    stored->withdrawn = true;
    stored->next = store->first;
    store->first = stored;
}

/* In the order of victims until it suffices; then those that turn out not to be needed are spared. */
static bool choose(victim_t *victims, size_t count, uint64_t needed) {
    uint64_t sum = 0;
    size_t end = 0;
    for (; end < count && sum < needed; end++) {
        victims[end].chosen = true;
        sum += victims[end].stored->reserved;
    }
    if (sum < needed) return false;
    for (size_t i = end; i-- > 0;) {
        if (sum - victims[i].stored->reserved < needed) continue;
        victims[i].chosen = false;
        sum -= victims[i].stored->reserved;
    }
    return true;
}

static bool make_room(tpv_store_t *store, uint64_t needed) {
    size_t count = 0;
    for (tpv_stored_t *s = store->first; s; s = s->next)
        count += s->users == 0;
    victim_t *victims = calloc(count + 1, sizeof *victims);
    if (!victims) return false;
    int64_t now = tpv_clock_ns();
    count = 0;
    for (tpv_stored_t *s = store->first; s; s = s->next) {
        if (s->users > 0) continue;
        int64_t moved = last_moved(store, s);
        victims[count++] = (victim_t){.stored = s, .moved = moved, .reason = reason_of(store, s, moved, now)};
    }
    qsort(victims, count, sizeof *victims, compare_victims);
    bool enough = choose(victims, count, needed);
    for (size_t i = 0; enough && i < count; i++)
        if (victims[i].chosen) evict(store, victims[i].stored, victims[i].reason);
    free(victims);
    return enough;
}

static uint64_t missing(uint64_t used, uint64_t bytes, uint64_t limit) {
    return bytes > limit - used ? bytes - (limit - used) : 0;
}

/* `bytes` of the budget, evicting what it takes. An export has to leave the staging share alone. */
static bool reserve(tpv_store_t *store, uint64_t bytes, bool for_export) {
    uint64_t budget = store->options.budget, limit = budget - staging_share(store);
    if (bytes > (for_export ? limit : budget)) return false;
    uint64_t needed = missing(store->used, bytes, budget);
    if (for_export && missing(store->cached, bytes, limit) > needed) needed = missing(store->cached, bytes, limit);
    if (needed > 0 && !make_room(store, needed)) return false;
    /* A victim may have had a lease left. */
    if (missing(store->used, bytes, budget) > 0 || (for_export && missing(store->cached, bytes, limit) > 0))
        return false;
    if (for_export) store->cached += bytes;
    note_used(store, store->used + bytes);
    return true;
}

/* ---- using exports ---- */

/* Two labels may name one artifact; the table has one export for both. */
static bool same_content(const tpv_entry_t *a, const tpv_entry_t *b) {
    return a == b || strcmp(tpv_artifact_id(a->artifact), tpv_artifact_id(b->artifact)) == 0;
}

static tpv_stored_t *find(tpv_store_t *store, const tpv_entry_t *entry, const char *view_id) {
    for (tpv_stored_t *s = store->first; s; s = s->next)
        if (!s->withdrawn && same_content(s->entry, entry) && strcmp(tpv_view_id(s->view), view_id) == 0) return s;
    return NULL;
}

static bool evict_one_idle(tpv_store_t *store) {
    for (tpv_stored_t *s = store->first; s; s = s->next) {
        if (s->users > 0) continue;
        evict(store, s, TPV_EVICTED_ROOM);
        return true;
    }
    return false;
}

static tpv_status_t enter_table(tpv_store_t *store, tpv_stored_t *stored, int64_t deadline) {
    tpv_export_key_t key = {.artifact_id = tpv_artifact_id(stored->entry->artifact),
                            .view_id = tpv_view_id(stored->view),
                            .device = store->device,
                            .label = stored->entry->label};
    tpv_export_role_t role;
    tpv_status_t status = tpv_export_acquire(store->options.table, &key, deadline, &stored->export, &role);
    if (status == TPV_ERR_NO_SPACE && evict_one_idle(store))
        status = tpv_export_acquire(store->options.table, &key, deadline, &stored->export, &role);
    if (status != TPV_OK) return status;
    if (role != TPV_EXPORT_PREPARE)
        return tpv_error_set(TPV_ERR_INTERNAL, "the life-cycle table has an export of ours that we do not hold");
    return tpv_export_publish(store->options.table, stored->export, stored->reserved, store->options.ttl_ns);
}

/* The budget's share for it: with the memory of gathered chunks, or without. */
static tpv_status_t reserve_export(tpv_store_t *store, tpv_stored_t *stored) {
    const tpv_chunk_table_t *table = &stored->table;
    uint64_t fixed = tpv_view_memory(stored->view) + table->count * (sizeof *table->sources + sizeof *stored->chunks);
    uint64_t gathered = table->gathered * table->chunk_bytes;
    stored->memory_bytes = (gathered + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
    stored->reserved = stored->memory_bytes + fixed;
    if (reserve(store, stored->reserved, true)) return TPV_OK;
    stored->memory_bytes = 0;
    stored->reserved = fixed > TPV_STORE_SMALL ? fixed : 0;
    if (stored->reserved == 0 || reserve(store, stored->reserved, true)) return TPV_OK;
    return tpv_error_set(TPV_ERR_NO_MEMORY, "the view takes %llu bytes of memory: the budget has no room for it",
                         (unsigned long long)fixed);
}

static tpv_status_t add(tpv_store_t *store, tpv_stored_t *stored, int64_t deadline) {
    TPV_TRY(reserve_export(store, stored));
    tpv_status_t status = stored->memory_bytes > 0 ? map_memory(stored) : TPV_OK;
    if (status == TPV_OK) status = enter_table(store, stored, deadline);
    if (status != TPV_OK) {
        unreserve_export(store, stored);
        return status;
    }
    stored->users = 1;
    stored->next = store->first;
    store->first = stored;
    return TPV_OK;
}

tpv_status_t tpv_store_acquire(tpv_store_t *store, tpv_entry_t *entry, tpv_view_t *view, int64_t deadline,
                               tpv_stored_t **stored, bool *reused) {
    tpv_stored_t *made = NULL;
    *reused = true;
    pthread_mutex_lock(&store->mutex);
    *stored = find(store, entry, tpv_view_id(view));
    if (*stored) (*stored)->users++;
    pthread_mutex_unlock(&store->mutex);
    if (*stored) {
        tpv_view_free(view);
        tpv_metrics_reused(store->options.metrics);
        return TPV_OK;
    }
    /* Prepared outside of the mutex; if an equal request was faster, its export is the one. */
    TPV_TRY(stored_create(store, entry, view, deadline, &made));
    tpv_status_t status = TPV_OK;
    pthread_mutex_lock(&store->mutex);
    *stored = find(store, entry, tpv_view_id(view));
    *reused = *stored != NULL;
    if (*reused) {
        (*stored)->users++;
    } else {
        status = add(store, made, deadline);
        *stored = made;
    }
    pthread_mutex_unlock(&store->mutex);
    if (*reused || status != TPV_OK) stored_free(made);
    if (*reused) tpv_metrics_reused(store->options.metrics);
    return status;
}

void tpv_store_release(tpv_store_t *store, tpv_stored_t *stored) {
    pthread_mutex_lock(&store->mutex);
    stored->users--;
    /* Nothing is kept of an export whose gathered chunks are not. */
    bool cached = stored->memory || stored->table.gathered == 0;
    if (stored->users == 0 && (!cached || stored->withdrawn || stored->superseded))
        evict(store, stored,
              stored->withdrawn    ? TPV_EVICTED_WITHDRAWN
              : stored->superseded ? TPV_EVICTED_SUPERSEDED
                                   : TPV_EVICTED_UNCACHED);
    pthread_mutex_unlock(&store->mutex);
}

_Atomic uint64_t *tpv_store_part_digests(tpv_store_t *store, tpv_stored_t *stored, unsigned halvings) {
    uint64_t count = stored->table.count << halvings, bytes = count * sizeof *stored->parts[0];
    pthread_mutex_lock(&store->mutex);
    if (!stored->parts[halvings] && reserve(store, bytes, true)) {
        stored->parts[halvings] = calloc(count, sizeof *stored->parts[0]);
        if (stored->parts[halvings]) {
            stored->reserved += bytes;
        } else {
            store->cached -= bytes;
            note_used(store, store->used - bytes);
        }
    }
    _Atomic uint64_t *digests = stored->parts[halvings];
    pthread_mutex_unlock(&store->mutex);
    return digests;
}

tpv_status_t tpv_store_reserve(tpv_store_t *store, uint64_t bytes, bool *got) {
    if (bytes > staging_share(store))
        return tpv_error_set(TPV_ERR_NO_MEMORY, "gathering needs %llu bytes of staging: the budget has %llu for that",
                             (unsigned long long)bytes, (unsigned long long)staging_share(store));
    pthread_mutex_lock(&store->mutex);
    *got = reserve(store, bytes, false);
    pthread_mutex_unlock(&store->mutex);
    return TPV_OK;
}

bool tpv_store_reserve_request(tpv_store_t *store, uint64_t bytes) {
    pthread_mutex_lock(&store->mutex);
    bool got = reserve(store, bytes, false);
    pthread_mutex_unlock(&store->mutex);
    return got;
}

void tpv_store_unreserve(tpv_store_t *store, uint64_t bytes) {
    pthread_mutex_lock(&store->mutex);
    note_used(store, store->used - bytes);
    pthread_mutex_unlock(&store->mutex);
}

void tpv_store_copy_runs(tpv_store_t *store) {
    atomic_store_explicit(&store->copies, true, memory_order_relaxed);
}

bool tpv_store_copies_runs(const tpv_store_t *store) {
    return atomic_load_explicit(&store->copies, memory_order_relaxed);
}

void tpv_store_supersede(tpv_store_t *store, const tpv_entry_t *entry) {
    pthread_mutex_lock(&store->mutex);
    for (tpv_stored_t *s = store->first; s; s = s->next)
        if (tpv_entry_is_older(s->entry, entry)) s->superseded = true;
    pthread_mutex_unlock(&store->mutex);
}

void tpv_store_withdraw(tpv_store_t *store, const tpv_entry_t *entry) {
    pthread_mutex_lock(&store->mutex);
    for (tpv_stored_t *s = store->first; s; s = s->next) {
        if (s->entry != entry || s->withdrawn) continue;
        s->withdrawn = true;
        s->withdrawn_ns = tpv_clock_ns();
        tpv_export_withdraw(store->options.table, s->export);
    }
    pthread_mutex_unlock(&store->mutex);
}

bool tpv_store_sweep(tpv_store_t *store) {
    pthread_mutex_lock(&store->mutex);
    tpv_table_sweep(store->options.table, NULL);
    int64_t now = tpv_clock_ns();
    for (tpv_stored_t *s = store->first, *next; s; s = next) {
        next = s->next;
        if (s->users > 0) continue;
        tpv_eviction_t reason = reason_of(store, s, last_moved(store, s), now);
        if (reason != TPV_EVICTED_ROOM) evict(store, s, reason);
    }
    bool left = store->first != NULL;
    pthread_mutex_unlock(&store->mutex);
    return left;
}

void tpv_store_close(tpv_store_t *store) {
    if (!store) return;
    while (store->first) {
        tpv_stored_t *stored = store->first;
        store->first = stored->next;
        if (stored_retire(store, stored)) continue;
        TPV_WARN("an export of %s still has a lease: left to the next sweep", stored->entry->label);
        stored_free(stored);
    }
    pthread_mutex_destroy(&store->mutex);
    free(store);
}
