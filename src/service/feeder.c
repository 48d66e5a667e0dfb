#include "service/feeder.h"

#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "artifact/artifact.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/xxh3.h"
#include "view/gather.h"
#include "view/view.h"

#define STAGING_BYTES ((uint64_t)256 << 20)
#define MOST_AHEAD 4

/* The slot goes round: the mover owns it in EMPTY and PREPARED, a pool thread in PREPARING. */
enum { EMPTY, PREPARING, PREPARED };

typedef struct {
    tpv_job_t job;
    tpv_feeder_t *feeder;
    atomic_int state; /* set PREPARING by the mover, PREPARED (release) by the pool, read (acquire) by the mover */
    uint64_t chunk, offset, length;
    uint8_t *staging;
    const void *data;
    uint64_t digest;
    bool gathered;
    int64_t ns;
    tpv_status_t status;
    char message[TPV_ERROR_MAX];
} slot_t;

struct tpv_feeder {
    tpv_pool_t *pool;
    tpv_metrics_t *metrics;
    tpv_stored_t *stored;
    const tpv_artifact_t *artifact;
    tpv_stream_t stream;
    bool shares; /* the stored export's chunks are this stream's */
    uint32_t window;
    uint8_t *staging;
    size_t staging_bytes;
    tpv_region_t *regions;
    size_t region_count;
    tpv_feeder_counts_t counts; /* mover's */
    slot_t slots[];             /* comms times TPV_STREAM_WINDOW */
};

static uint32_t window_of(const tpv_stream_t *stream) {
    uint64_t ahead = STAGING_BYTES / ((uint64_t)stream->comms * stream->chunk_bytes);
    return ahead < 1 ? 1 : ahead > MOST_AHEAD ? MOST_AHEAD : (uint32_t)ahead;
}

static bool shares_chunks(const tpv_stored_t *stored, const tpv_stream_t *stream) {
    return stored->chunks && stored->chunk_bytes == stream->chunk_bytes;
}

uint64_t tpv_feeder_staging(const tpv_stored_t *stored, const tpv_stream_t *stream) {
    if (shares_chunks(stored, stream)) return 0;
    uint64_t chunks = tpv_stream_chunks(stream), i = 0;
    while (i < chunks && tpv_view_direct(stored->view, stored->entry->artifact, i * stream->chunk_bytes,
                                         tpv_stream_chunk_length(stream, i)))
        i++;
    return i == chunks ? 0 : (uint64_t)stream->comms * window_of(stream) * stream->chunk_bytes;
}

/* ---- in the pool ---- */

static void digest_body(void *user) {
    slot_t *slot = user;
    slot->digest = XXH3_64bits(slot->data, slot->length);
}

static tpv_status_t prepare(slot_t *slot) {
    const tpv_feeder_t *feeder = slot->feeder;
    slot->data = tpv_view_direct(feeder->stored->view, feeder->artifact, slot->offset, slot->length);
    slot->gathered = !slot->data;
    if (!slot->gathered) {
        TPV_TRY(tpv_artifact_guard(feeder->artifact, digest_body, slot));
        /* A rank keeps what fits its digest, also when it never hears how this fetch ends. */
        return tpv_program_check_files(&feeder->stored->view->program, feeder->artifact, slot->offset,
                                       slot->offset + slot->length);
    }
    slot->data = slot->staging;
    return tpv_view_gather_digest(feeder->stored->view, feeder->artifact, slot->offset, slot->length, slot->staging,
                                  &slot->digest);
}

static void run(tpv_job_t *job) {
    slot_t *slot = (slot_t *)((char *)job - offsetof(slot_t, job));
    int64_t begin = tpv_clock_ns();
    slot->status = prepare(slot);
    if (slot->status != TPV_OK) memcpy(slot->message, tpv_error_message(), sizeof slot->message);
    slot->ns = tpv_clock_ns() - begin;
    if (slot->feeder->shares) {
        tpv_stored_chunk_t *chunk = &slot->feeder->stored->chunks[slot->chunk];
        chunk->digest = slot->digest;
        /* A chunk that failed is tried again by whoever wants it next: the cause may be gone, and is told each time. */
        atomic_store_explicit(&chunk->state, slot->status == TPV_OK ? TPV_CHUNK_READY : TPV_CHUNK_EMPTY,
                              memory_order_release);
    }
    atomic_store_explicit(&slot->state, PREPARED, memory_order_release);
}

/* ---- on the mover ---- */

static void submit(tpv_feeder_t *feeder, slot_t *slot) {
    tpv_stored_t *stored = feeder->stored;
    uint32_t place = feeder->shares ? stored->chunks[slot->chunk].place : 0;
    if (feeder->shares && place != TPV_CHUNK_DIRECT)
        slot->staging = stored->memory + (size_t)place * stored->chunk_bytes;
    bool gathers = !feeder->shares || place != TPV_CHUNK_DIRECT;
    if (gathers && !atomic_exchange_explicit(&stored->gathered, true, memory_order_relaxed))
        tpv_metrics_gather_started(feeder->metrics);
    feeder->counts.waited = true;
    atomic_store_explicit(&slot->state, PREPARING, memory_order_relaxed); /* the pool's mutex publishes it */
    tpv_pool_submit(feeder->pool, &slot->job);
}

/* The stored export's chunk when it is ready; otherwise see that somebody prepares it. */
static bool take_shared(tpv_feeder_t *feeder, slot_t *slot) {
    tpv_stored_t *stored = feeder->stored;
    tpv_stored_chunk_t *chunk = &stored->chunks[slot->chunk];
    int state = atomic_load_explicit(&chunk->state, memory_order_acquire);
    if (state == TPV_CHUNK_READY) {
        bool direct = chunk->place == TPV_CHUNK_DIRECT;
        slot->data = direct ? tpv_view_direct(stored->view, feeder->artifact, slot->offset, slot->length)
                            : stored->memory + (size_t)chunk->place * stored->chunk_bytes;
        slot->digest = chunk->digest;
        return true;
    }
    feeder->counts.waited = true;
    if (state == TPV_CHUNK_EMPTY && atomic_compare_exchange_strong_explicit(&chunk->state, &state, TPV_CHUNK_PREPARING,
                                                                            memory_order_acquire, memory_order_relaxed))
        submit(feeder, slot);
    return false;
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
        if (!feeder->shares) {
            submit(feeder, slot);
            return TPV_OK;
        }
        if (!take_shared(feeder, slot)) return TPV_OK;
        feeder->counts.reused_bytes += slot->length;
    } else {
        feeder->counts.gather_seconds += (double)slot->ns / (double)TPV_NS_PER_SECOND;
        if (slot->status != TPV_OK) return tpv_error_set(slot->status, "%s", slot->message);
        *(slot->gathered ? &feeder->counts.gathered_bytes : &feeder->counts.direct_bytes) += slot->length;
    }
    *data = slot->data;
    *digest = slot->digest;
    return TPV_OK;
}

static void release(void *user, uint32_t index) {
    tpv_feeder_t *feeder = user;
    atomic_store_explicit(&feeder->slots[index].state, EMPTY, memory_order_relaxed); /* the mover's own word now */
}

static void add_region(tpv_feeder_t *feeder, const void *base, size_t bytes) {
    if (bytes > 0) feeder->regions[feeder->region_count++] = (tpv_region_t){base, bytes};
}

tpv_status_t tpv_feeder_open(tpv_pool_t *pool, tpv_metrics_t *metrics, tpv_stored_t *stored, const tpv_stream_t *stream,
                             uint64_t staging, tpv_feeder_t **feeder) {
    uint32_t slots = stream->comms * TPV_STREAM_WINDOW;
    tpv_feeder_t *f = calloc(1, sizeof *f + slots * sizeof f->slots[0]);
    if (!f) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the chunks of a fetch");
    f->pool = pool;
    f->metrics = metrics;
    f->stored = stored;
    f->artifact = stored->entry->artifact;
    f->stream = *stream;
    f->shares = shares_chunks(stored, stream);
    f->window = window_of(stream);
    f->regions = calloc((size_t)f->artifact->file_count + 2, sizeof *f->regions);
    if (!f->regions) {
        tpv_feeder_close(f);
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the regions of a fetch");
    }
    if (staging > 0) {
        void *memory = mmap(NULL, staging, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) {
            tpv_feeder_close(f);
            return tpv_error_set_errno(TPV_ERR_NO_MEMORY, errno, "no staging memory for a fetch");
        }
        f->staging = memory;
        f->staging_bytes = staging;
    }
    add_region(f, f->staging, f->staging_bytes);
    add_region(f, f->shares ? stored->memory : NULL, f->shares ? stored->memory_bytes : 0);
    for (uint32_t i = 0; i < f->artifact->file_count; i++)
        add_region(f, f->artifact->files[i].mapping, f->artifact->files[i].state.size);
    for (uint32_t i = 0; i < slots; i++) {
        uint32_t comm = i / TPV_STREAM_WINDOW, place = i % TPV_STREAM_WINDOW;
        f->slots[i].job.run = run;
        f->slots[i].feeder = f;
        /* A comm's slots go round within the window. */
        if (f->staging && place < f->window)
            f->slots[i].staging = f->staging + ((size_t)comm * f->window + place) * stream->chunk_bytes;
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
    free(feeder->regions);
    free(feeder);
}

tpv_chunks_t tpv_feeder_chunks(tpv_feeder_t *feeder) {
    return (tpv_chunks_t){.user = feeder, .get = get, .release = release, .window = feeder->window};
}

const tpv_region_t *tpv_feeder_regions(const tpv_feeder_t *feeder, size_t *count) {
    *count = feeder->region_count;
    return feeder->regions;
}

tpv_feeder_counts_t tpv_feeder_counts(const tpv_feeder_t *feeder) {
    return feeder->counts;
}
