#include "service/feeder.h"

#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <xxhash.h>

#include "artifact/artifact.h"
#include "base/clock.h"
#include "base/error.h"

#define STAGING_BYTES ((uint64_t)256 << 20)
#define MOST_AHEAD 4

/* The slot goes round: the mover owns it in EMPTY and PREPARED, a pool thread in PREPARING. */
enum { EMPTY, PREPARING, PREPARED };

typedef struct {
    tpv_job_t job;
    tpv_feeder_t *feeder;
    uint8_t *staging;
    atomic_int state; /* set PREPARING by the mover, PREPARED (release) by the pool, read (acquire) by the mover */
    uint64_t offset, length;
    const void *data;
    uint64_t digest;
    bool gathered;
    int64_t ns;
    tpv_status_t status;
    char message[TPV_ERROR_MAX];
} slot_t;

struct tpv_feeder {
    tpv_pool_t *pool;
    const tpv_view_t *view;
    const tpv_artifact_t *artifact;
    tpv_stream_t stream;
    uint32_t window;
    uint8_t *staging;
    size_t staging_bytes;
    tpv_region_t *regions;
    size_t region_count;
    tpv_feeder_counts_t counts; /* mover's */
    slot_t slots[];             /* comms times TPV_STREAM_WINDOW */
};

static void digest_body(void *user) {
    slot_t *slot = user;
    slot->digest = XXH3_64bits(slot->data, slot->length);
}

static tpv_status_t prepare(slot_t *slot) {
    const tpv_feeder_t *feeder = slot->feeder;
    slot->data = tpv_view_direct(feeder->view, feeder->artifact, slot->offset, slot->length);
    slot->gathered = !slot->data;
    if (!slot->gathered) return tpv_artifact_guard(feeder->artifact, digest_body, slot);
    slot->data = slot->staging;
    TPV_TRY(tpv_view_gather(feeder->view, feeder->artifact, slot->offset, slot->length, slot->staging));
    slot->digest = XXH3_64bits(slot->staging, slot->length);
    return TPV_OK;
}

static void run(tpv_job_t *job) {
    slot_t *slot = (slot_t *)((char *)job - offsetof(slot_t, job));
    int64_t begin = tpv_clock_ns();
    slot->status = prepare(slot);
    if (slot->status != TPV_OK) memcpy(slot->message, tpv_error_message(), sizeof slot->message);
    slot->ns = tpv_clock_ns() - begin;
    atomic_store_explicit(&slot->state, PREPARED, memory_order_release);
}

static tpv_status_t get(void *user, uint32_t index, uint64_t chunk, const void **data, uint64_t *digest) {
    tpv_feeder_t *feeder = user;
    slot_t *slot = &feeder->slots[index];
    *data = NULL;
    int state = atomic_load_explicit(&slot->state, memory_order_acquire);
    if (state == EMPTY) {
        slot->offset = chunk * feeder->stream.chunk_bytes;
        slot->length = tpv_stream_chunk_length(&feeder->stream, chunk);
        atomic_store_explicit(&slot->state, PREPARING, memory_order_relaxed); /* the pool's mutex publishes it */
        tpv_pool_submit(feeder->pool, &slot->job);
    }
    if (state != PREPARED) return TPV_OK;
    feeder->counts.gather_seconds += (double)slot->ns / (double)TPV_NS_PER_SECOND;
    if (slot->status != TPV_OK) return tpv_error_set(slot->status, "%s", slot->message);
    *(slot->gathered ? &feeder->counts.gathered_bytes : &feeder->counts.direct_bytes) += slot->length;
    *data = slot->data;
    *digest = slot->digest;
    return TPV_OK;
}

static void release(void *user, uint32_t index) {
    tpv_feeder_t *feeder = user;
    atomic_store_explicit(&feeder->slots[index].state, EMPTY, memory_order_relaxed); /* the mover's own word now */
}

tpv_status_t tpv_feeder_open(tpv_pool_t *pool, const tpv_view_t *view, const tpv_artifact_t *artifact,
                             const tpv_stream_t *stream, tpv_feeder_t **feeder) {
    uint32_t slots = stream->comms * TPV_STREAM_WINDOW;
    tpv_feeder_t *f = calloc(1, sizeof *f + slots * sizeof f->slots[0]);
    if (!f) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the chunks of a fetch");
    f->pool = pool;
    f->view = view;
    f->artifact = artifact;
    f->stream = *stream;
    uint64_t step = (uint64_t)stream->comms * stream->chunk_bytes;
    uint64_t ahead = STAGING_BYTES / step;
    f->window = ahead < 1 ? 1 : ahead > MOST_AHEAD ? MOST_AHEAD : (uint32_t)ahead;

    /* Address space for every slot; only what a gathered chunk touches becomes memory. */
    f->staging_bytes = (size_t)slots * stream->chunk_bytes;
    f->staging =
        mmap(NULL, f->staging_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (f->staging == MAP_FAILED) {
        tpv_status_t status = tpv_error_set_errno(TPV_ERR_NO_MEMORY, errno, "no staging memory for a fetch");
        free(f);
        return status;
    }
    f->regions = calloc((size_t)artifact->file_count + 1, sizeof *f->regions);
    if (!f->regions) {
        tpv_feeder_close(f);
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the regions of a fetch");
    }
    f->regions[f->region_count++] = (tpv_region_t){f->staging, f->staging_bytes};
    for (uint32_t i = 0; i < artifact->file_count; i++)
        f->regions[f->region_count++] = (tpv_region_t){artifact->files[i].mapping, artifact->files[i].state.size};
    for (uint32_t i = 0; i < slots; i++) {
        f->slots[i].job.run = run;
        f->slots[i].feeder = f;
        f->slots[i].staging = f->staging + (size_t)i * stream->chunk_bytes;
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
    munmap(feeder->staging, feeder->staging_bytes);
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
