#include "service/feeder.h"

#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "artifact/artifact.h"
#include "artifact/file.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/xxh3.h"
#include "tpview/fetch.h"
#include "view/view.h"

#define STAGING_BYTES ((uint64_t)256 << 20)
#define MOST_AHEAD 4

/* The slot goes round: the mover owns it in EMPTY and PREPARED, a pool thread in PREPARING. */
enum { EMPTY, PREPARING, PREPARED };

/* What chunks may lie in: files from FILES on, one region each. */
enum { STAGING, MEMORY, ZEROS, FILES };

/* What the pool is asked for. */
typedef enum {
    SHARED, /* the export's chunk, and its state */
    STAGED, /* gather into staging */
    PART,   /* the digest of a part of the export's chunk, which is ready */
} task_t;

typedef struct {
    tpv_job_t job;
    tpv_feeder_t *feeder;
    atomic_int state; /* set PREPARING by the mover, PREPARED (release) by the pool, read (acquire) by the mover */
    task_t task;
    uint64_t chunk, offset, length; /* of the stream */
    uint64_t from;                  /* the export's chunk that it is or lies in */
    uint64_t prepared;              /* bytes that were gathered for it: all of that chunk when that was not ready */
    uint8_t *staging;
    const uint8_t *data;
    uint64_t digest;
    int64_t ns;
    tpv_status_t status;
    char message[TPV_ERROR_MAX];
} slot_t;

struct tpv_feeder {
    tpv_pool_t *pool;
    tpv_job_queue_t queue; /* of its own: fetches take turns in the pool */
    tpv_store_t *store;
    tpv_metrics_t *metrics;
    tpv_stored_t *stored;
    const tpv_artifact_t *artifact;
    tpv_stream_t stream;
    unsigned halvings;              /* of the export's chunks, which gives the stream's */
    _Atomic uint64_t *part_digests; /* the store's; NULL: not kept, or not halved */
    uint32_t window;
    bool copies; /* the net plugin does not take memory of files: chunks that are one run are staged */
    uint8_t *staging;
    size_t staging_bytes;
    uint64_t reserved; /* of the budget, for staging that was not known of before */
    tpv_region_t *regions;
    size_t region_count;
    tpv_feeder_counts_t counts; /* mover's */
    slot_t slots[];             /* comms times TPV_STREAM_WINDOW */
};

static uint32_t window_of(const tpv_stream_t *stream) {
    uint64_t ahead = STAGING_BYTES / ((uint64_t)stream->comms * stream->chunk_bytes);
    return ahead < 1 ? 1 : ahead > MOST_AHEAD ? MOST_AHEAD : (uint32_t)ahead;
}

uint32_t tpv_feeder_chunk_bytes(const tpv_stored_t *stored, uint32_t most, uint32_t comms) {
    uint32_t bytes = stored->table.chunk_bytes;
    while (bytes > TPV_MIN_CHUNK && (bytes > most || (uint64_t)bytes * comms > STAGING_BYTES))
        bytes /= 2;
    return bytes;
}

static uint64_t staging_bytes(const tpv_stream_t *stream) {
    return (uint64_t)stream->comms * window_of(stream) * stream->chunk_bytes;
}

uint64_t tpv_feeder_staging(const tpv_store_t *store, const tpv_stored_t *stored, const tpv_stream_t *stream) {
    bool gathers = !stored->memory && stored->table.gathered > 0;
    bool copies = stored->table.runs > 0 && tpv_store_copies_runs(store);
    return gathers || copies ? staging_bytes(stream) : 0;
}

static const tpv_chunk_source_t *source_of(const tpv_feeder_t *feeder, const slot_t *slot) {
    return &feeder->stored->table.sources[slot->from];
}

static bool is_staged(const tpv_feeder_t *feeder, const slot_t *slot) {
    switch (source_of(feeder, slot)->kind) {
    case TPV_CHUNK_GATHERED:
        return !feeder->stored->memory;
    case TPV_CHUNK_RUN:
        return feeder->copies;
    case TPV_CHUNK_ZEROS:
        break;
    }
    return false;
}

/* Where the export's chunk is, or will be. */
static const uint8_t *place_of(const tpv_feeder_t *feeder, const slot_t *slot) {
    const tpv_stored_t *stored = feeder->stored;
    const tpv_chunk_source_t *source = source_of(feeder, slot);
    switch (source->kind) {
    case TPV_CHUNK_RUN:
        return feeder->artifact->files[source->file].mapping + source->offset;
    case TPV_CHUNK_ZEROS:
        return stored->zeros;
    case TPV_CHUNK_GATHERED:
        break;
    }
    return stored->memory + source->offset * stored->table.chunk_bytes;
}

/* ---- in the pool ---- */

typedef struct {
    const uint8_t *data;
    uint64_t length, digest;
} digest_t;

static void digest_body(void *user) {
    digest_t *digest = user;
    digest->digest = XXH3_64bits(digest->data, digest->length);
}

/* Of bytes that are not gathered now: of `source`, or of a chunk of it. */
static tpv_status_t digest_of(const tpv_feeder_t *feeder, const tpv_chunk_source_t *source, const uint8_t *data,
                              uint64_t length, uint64_t *digest) {
    digest_t job = {.data = data, .length = length};
    TPV_TRY(tpv_artifact_guard(feeder->artifact, digest_body, &job));
    *digest = job.digest;
    /* A rank keeps what fits its digest, also when it never hears how this fetch ends. */
    return source->kind == TPV_CHUNK_RUN ? tpv_artifact_file_check(&feeder->artifact->files[source->file]) : TPV_OK;
}

static tpv_status_t digest_part(slot_t *slot) {
    tpv_feeder_t *feeder = slot->feeder;
    TPV_TRY(digest_of(feeder, source_of(feeder, slot), slot->data, slot->length, &slot->digest));
    if (feeder->part_digests)
        atomic_store_explicit(&feeder->part_digests[slot->chunk], slot->digest, memory_order_relaxed);
    return TPV_OK;
}

static tpv_status_t prepare_shared(slot_t *slot) {
    const tpv_feeder_t *feeder = slot->feeder;
    const tpv_chunk_table_t *table = &feeder->stored->table;
    tpv_stored_chunk_t *chunk = &feeder->stored->chunks[slot->from];
    uint8_t *place = (uint8_t *)(uintptr_t)place_of(feeder, slot);
    uint64_t offset = slot->from * table->chunk_bytes, left = table->bytes - offset;
    uint64_t length = left < table->chunk_bytes ? left : table->chunk_bytes;
    slot->prepared = length;
    tpv_status_t status;
    if (source_of(feeder, slot)->kind == TPV_CHUNK_GATHERED)
        status = tpv_view_gather_digest(feeder->stored->view, feeder->artifact, offset, length, place, &slot->digest);
    else
        status = digest_of(feeder, source_of(feeder, slot), place, length, &slot->digest);
    chunk->digest = slot->digest;
    /* A chunk that failed is tried again by whoever wants it next: the cause may be gone, and is told each time. */
    atomic_store_explicit(&chunk->state, status == TPV_OK ? TPV_CHUNK_READY : TPV_CHUNK_EMPTY, memory_order_release);
    return status == TPV_OK && feeder->halvings > 0 ? digest_part(slot) : status;
}

static tpv_status_t prepare(slot_t *slot) {
    switch (slot->task) {
    case SHARED:
        return prepare_shared(slot);
    case PART:
        return digest_part(slot);
    case STAGED:
        break;
    }
    slot->prepared = slot->length;
    return tpv_view_gather_digest(slot->feeder->stored->view, slot->feeder->artifact, slot->offset, slot->length,
                                  slot->staging, &slot->digest);
}

static void run(tpv_job_t *job) {
    slot_t *slot = (slot_t *)((char *)job - offsetof(slot_t, job));
    int64_t begin = tpv_clock_ns();
    slot->status = prepare(slot);
    if (slot->status != TPV_OK) memcpy(slot->message, tpv_error_message(), sizeof slot->message);
    slot->ns = tpv_clock_ns() - begin;
    atomic_store_explicit(&slot->state, PREPARED, memory_order_release);
}

/* ---- on the mover ---- */

static void submit(tpv_feeder_t *feeder, slot_t *slot, task_t task) {
    slot->task = task;
    if (source_of(feeder, slot)->kind == TPV_CHUNK_GATHERED && task != PART &&
        !atomic_exchange_explicit(&feeder->stored->gathered, true, memory_order_relaxed))
        tpv_metrics_gather_started(feeder->metrics);
    feeder->counts.waited = true;
    atomic_store_explicit(&slot->state, PREPARING, memory_order_relaxed); /* the pool's mutex publishes it */
    tpv_pool_submit(feeder->pool, &feeder->queue, &slot->job);
}

/* True when the export's chunk is ready; otherwise see that somebody prepares it. */
static bool is_ready(tpv_feeder_t *feeder, slot_t *slot) {
    tpv_stored_chunk_t *chunk = &feeder->stored->chunks[slot->from];
    int state = atomic_load_explicit(&chunk->state, memory_order_acquire);
    if (state == TPV_CHUNK_READY) return true;
    feeder->counts.waited = true;
    if (state == TPV_CHUNK_EMPTY && atomic_compare_exchange_strong_explicit(&chunk->state, &state, TPV_CHUNK_PREPARING,
                                                                            memory_order_acquire, memory_order_relaxed))
        submit(feeder, slot, SHARED);
    return false;
}

/* The slot's data and digest when both are there; otherwise see that somebody prepares them. */
static bool find(tpv_feeder_t *feeder, slot_t *slot) {
    if (is_staged(feeder, slot)) {
        slot->data = slot->staging;
        submit(feeder, slot, STAGED);
        return false;
    }
    slot->data = place_of(feeder, slot) + (slot->offset - slot->from * feeder->stored->table.chunk_bytes);
    bool whole = feeder->halvings == 0, gathered = source_of(feeder, slot)->kind == TPV_CHUNK_GATHERED;
    if ((whole || gathered) && !is_ready(feeder, slot)) return false;
    if (whole) {
        slot->digest = feeder->stored->chunks[slot->from].digest;
        return true;
    }
    uint64_t known =
        feeder->part_digests ? atomic_load_explicit(&feeder->part_digests[slot->chunk], memory_order_relaxed) : 0;
    if (known == 0) {
        submit(feeder, slot, PART); /* the slot is the pool's from here on */
        return false;
    }
    slot->digest = known;
    return true;
}

static void count_prepared(tpv_feeder_t *feeder, const slot_t *slot) {
    bool gathered = source_of(feeder, slot)->kind == TPV_CHUNK_GATHERED;
    feeder->counts.gather_seconds += (double)slot->ns / (double)TPV_NS_PER_SECOND;
    if (!gathered)
        feeder->counts.direct_bytes += slot->length;
    else if (slot->task == PART)
        feeder->counts.reused_bytes += slot->length;
    else
        feeder->counts.gathered_bytes += slot->prepared;
}

static tpv_status_t map_staging(tpv_feeder_t *feeder, uint64_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return tpv_error_set_errno(TPV_ERR_NO_MEMORY, errno, "no staging memory for a fetch");
    feeder->staging = memory;
    feeder->staging_bytes = bytes;
    feeder->regions[STAGING] = (tpv_region_t){memory, bytes};
    for (uint32_t i = 0; i < feeder->stream.comms * TPV_STREAM_WINDOW; i++) {
        uint32_t comm = i / TPV_STREAM_WINDOW, place = i % TPV_STREAM_WINDOW;
        /* A comm's slots go round within the window. */
        if (place < feeder->window)
            feeder->slots[i].staging =
                feeder->staging + ((size_t)comm * feeder->window + place) * feeder->stream.chunk_bytes;
    }
    return TPV_OK;
}

/* Staging that turned out to be needed; none yet when others have all of it. */
static tpv_status_t take_staging(tpv_feeder_t *feeder) {
    uint64_t bytes = staging_bytes(&feeder->stream);
    bool got = false;
    TPV_TRY(tpv_store_reserve(feeder->store, bytes, &got));
    if (!got) return TPV_OK;
    tpv_status_t status = map_staging(feeder, bytes);
    if (status == TPV_OK)
        feeder->reserved = bytes;
    else
        tpv_store_unreserve(feeder->store, bytes);
    return status;
}

static tpv_status_t get(void *user, uint32_t index, uint64_t chunk, const void **data, uint64_t *digest) {
    tpv_feeder_t *feeder = user;
    slot_t *slot = &feeder->slots[index];
    *data = NULL;
    int state = atomic_load_explicit(&slot->state, memory_order_acquire);
    if (state == PREPARING) return TPV_OK;
    if (state == EMPTY) {
        slot->chunk = chunk;
        slot->offset = chunk * feeder->stream.chunk_bytes;
        slot->length = tpv_stream_chunk_length(&feeder->stream, chunk);
        slot->from = chunk >> feeder->halvings;
        if (is_staged(feeder, slot) && !feeder->staging) {
            TPV_TRY(take_staging(feeder));
            if (!feeder->staging) return TPV_OK; /* others have it now */
        }
        if (!find(feeder, slot)) return TPV_OK;
        feeder->counts.reused_bytes += slot->length;
    } else {
        if (slot->status != TPV_OK) return tpv_error_set(slot->status, "%s", slot->message);
        count_prepared(feeder, slot);
    }
    *data = slot->data;
    *digest = slot->digest;
    return TPV_OK;
}

static void release(void *user, uint32_t index) {
    tpv_feeder_t *feeder = user;
    atomic_store_explicit(&feeder->slots[index].state, EMPTY, memory_order_relaxed); /* the mover's own word now */
}

/* A plugin that pins what it registers does not get memory that may only be read, as a checkpoint's mapping is. */
static tpv_status_t refused(void *user, uint32_t index, size_t region) {
    tpv_feeder_t *feeder = user;
    if (region < FILES)
        return tpv_error_prefix(TPV_ERR_NET, "the net plugin does not take %zu bytes of memory",
                                feeder->regions[region].bytes);
    if (!tpv_store_copies_runs(feeder->store))
        TPV_WARN("chunks are copied from now on, as the memory of files is not taken: %s", tpv_error_message());
    tpv_store_copy_runs(feeder->store);
    feeder->copies = true;
    release(feeder, index);
    return TPV_OK;
}

tpv_status_t tpv_feeder_open(tpv_pool_t *pool, tpv_store_t *store, tpv_metrics_t *metrics, tpv_stored_t *stored,
                             const tpv_stream_t *stream, uint64_t staging, tpv_feeder_t **feeder) {
    uint32_t slots = stream->comms * TPV_STREAM_WINDOW;
    tpv_feeder_t *f = calloc(1, sizeof *f + slots * sizeof f->slots[0]);
    if (!f) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the chunks of a fetch");
    f->pool = pool;
    f->store = store;
    f->metrics = metrics;
    f->stored = stored;
    f->artifact = stored->entry->artifact;
    f->stream = *stream;
    f->copies = tpv_store_copies_runs(store);
    while (stream->chunk_bytes << f->halvings < stored->table.chunk_bytes)
        f->halvings++;
    bool keeps = stored->memory || stored->table.gathered == 0;
    if (f->halvings > 0 && keeps) f->part_digests = tpv_store_part_digests(store, stored, f->halvings);
    f->window = window_of(stream);
    f->region_count = FILES + f->artifact->file_count;
    f->regions = calloc(f->region_count, sizeof *f->regions);
    if (!f->regions) {
        tpv_feeder_close(f);
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the regions of a fetch");
    }
    f->regions[MEMORY] = (tpv_region_t){stored->memory, stored->memory_bytes};
    f->regions[ZEROS] = (tpv_region_t){stored->zeros, stored->zeros ? stored->table.chunk_bytes : 0};
    for (uint32_t i = 0; i < f->artifact->file_count; i++)
        f->regions[FILES + i] = (tpv_region_t){f->artifact->files[i].mapping, f->artifact->files[i].state.size};
    for (uint32_t i = 0; i < slots; i++) {
        f->slots[i].job.run = run;
        f->slots[i].feeder = f;
    }
    tpv_status_t status = staging > 0 ? map_staging(f, staging) : TPV_OK;
    if (status != TPV_OK) {
        tpv_feeder_close(f);
        return status;
    }
    *feeder = f;
    return TPV_OK;
}

bool tpv_feeder_idle(const tpv_feeder_t *feeder) {
    for (uint32_t i = 0; i < feeder->stream.comms * TPV_STREAM_WINDOW; i++)
        if (atomic_load_explicit(&feeder->slots[i].state, memory_order_acquire) == PREPARING) return false;
    return true;
}

void tpv_feeder_close(tpv_feeder_t *feeder) {
    if (!feeder) return;
    if (feeder->staging) munmap(feeder->staging, feeder->staging_bytes);
    if (feeder->reserved > 0) tpv_store_unreserve(feeder->store, feeder->reserved);
    free(feeder->regions);
    free(feeder);
}

tpv_chunks_t tpv_feeder_chunks(tpv_feeder_t *feeder) {
    return (tpv_chunks_t){.user = feeder, .get = get, .release = release, .refused = refused, .window = feeder->window};
}

const tpv_region_t *tpv_feeder_regions(const tpv_feeder_t *feeder, size_t *count) {
    *count = feeder->region_count;
    return feeder->regions;
}

tpv_feeder_counts_t tpv_feeder_counts(const tpv_feeder_t *feeder) {
    return feeder->counts;
}
