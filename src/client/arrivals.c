#include "client/arrivals.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/pool.h"
#include "base/xxh3.h"

/* The ring stays small, so that it stays in the cache; but a chunk for each comm must fit. */
#define RING_BYTES ((uint64_t)16 << 20)
#define HUGE_PAGE ((size_t)2 << 20)

/* A place goes round: the fetching thread owns it in FREE, PLACED and TAKEN, a worker in TAKING. */
typedef enum { FREE, PLACED, TAKING, TAKEN } state_t;

typedef struct {
    tpv_job_t job;
    tpv_arrivals_t *arrivals;
    atomic_int state; /* TAKEN is stored (release) by the worker and loaded (acquire) by the fetching thread */
    uint64_t chunk, offset, length, digest;
    void *data;
    tpv_status_t status;
    char message[TPV_ERROR_MAX];
} place_t;

struct tpv_arrivals {
    tpv_sink_t *sink;
    tpv_stream_t stream;
    bool check_digests;
    unsigned workers;
    tpv_pool_t *pool;      /* NULL: no workers */
    atomic_bool cancelled; /* relaxed: what was not begun need not be */
    uint8_t *ring;         /* a buffer for each of the first ring_count places; NULL until one is needed */
    size_t ring_bytes;
    bool no_memory; /* for the ring or the ranges */
    tpv_ranges_t *have;
    tpv_pace_t *pace;
    char mismatch[TPV_ERROR_MAX]; /* the message of the first wrong digest */
    uint32_t count, next, busy;   /* places, where to look for a free one, how many are PLACED to TAKEN */
    uint32_t ring_count;          /* of the places, how many have a buffer of the ring */
    place_t *places;
};

/* ---- in a worker ---- */

static tpv_status_t take(place_t *place) {
    const tpv_arrivals_t *arrivals = place->arrivals;
    tpv_sink_t *sink = arrivals->sink;
    if (arrivals->check_digests) {
        uint64_t digest = XXH3_64bits(place->data, place->length);
        if (digest != place->digest)
            return tpv_error_set(
                TPV_ERR_DIGEST,
                "digest mismatch: chunk %llu (dense bytes %llu to %llu) has %016llx, the source sent %016llx",
                (unsigned long long)place->chunk, (unsigned long long)place->offset,
                (unsigned long long)(place->offset + place->length), (unsigned long long)digest,
                (unsigned long long)place->digest);
    }
    bool in_place = sink->memory && place->data == sink->memory + place->offset;
    return in_place ? TPV_OK : sink->kind->take(sink, place->offset, place->data, place->length);
}

static void run(tpv_job_t *job) {
    place_t *place = (place_t *)((char *)job - offsetof(place_t, job));
    if (atomic_load_explicit(&place->arrivals->cancelled, memory_order_relaxed)) return;
    place->status = take(place);
    if (place->status != TPV_OK) memcpy(place->message, tpv_error_message(), sizeof place->message);
    atomic_store_explicit(&place->state, TAKEN, memory_order_release);
}

/* ---- for the receiver ---- */

/* A window for each comm and some more for the workers; of those in the ring no more than fit. */
static void count_places(tpv_arrivals_t *arrivals) {
    uint64_t chunks = tpv_stream_chunks(&arrivals->stream), least = arrivals->stream.comms + 1u;
    uint64_t count = (uint64_t)arrivals->stream.comms * TPV_STREAM_WINDOW + arrivals->workers + 2;
    uint64_t fit = RING_BYTES / arrivals->stream.chunk_bytes;
    if (count > chunks) count = chunks;
    if (fit < least) fit = least;
    arrivals->ring_count = (uint32_t)(count < fit ? count : fit);
    arrivals->count = arrivals->sink->memory ? (uint32_t)count : arrivals->ring_count;
}

static tpv_status_t begin(void *user, uint32_t chunk_bytes) {
    tpv_arrivals_t *arrivals = user;
    arrivals->stream.chunk_bytes = chunk_bytes;
    count_places(arrivals);
    arrivals->places = calloc(arrivals->count + 1u, sizeof *arrivals->places);
    if (!arrivals->places) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the chunks of a fetch");
    for (uint32_t i = 0; i < arrivals->count; i++) {
        arrivals->places[i].arrivals = arrivals;
        arrivals->places[i].job.run = run;
    }
    if (arrivals->workers == 0 || arrivals->count <= 1) return TPV_OK;
    unsigned threads = arrivals->workers < arrivals->count ? arrivals->workers : arrivals->count;
    return tpv_pool_open(threads, &arrivals->pool);
}

static bool map_ring(tpv_arrivals_t *arrivals) {
    if (arrivals->ring) return true;
    arrivals->ring_bytes = (size_t)arrivals->ring_count * arrivals->stream.chunk_bytes;
    void *memory = mmap(NULL, arrivals->ring_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        arrivals->no_memory = true;
        return false;
    }
    if (arrivals->ring_bytes >= HUGE_PAGE) madvise(memory, arrivals->ring_bytes, MADV_HUGEPAGE);
    arrivals->ring = memory;
    return true;
}

/* NULL: every place is in use. */
static place_t *find_free(tpv_arrivals_t *arrivals, bool direct) {
    uint32_t count = direct ? arrivals->count : arrivals->ring_count;
    if (arrivals->busy == arrivals->count) return NULL;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t at = (arrivals->next + i) % count;
        if (atomic_load_explicit(&arrivals->places[at].state, memory_order_relaxed) != FREE) continue;
        arrivals->next = at;
        return &arrivals->places[at];
    }
    return NULL;
}

static void *place_chunk(void *user, uint64_t index, bool direct) {
    tpv_arrivals_t *arrivals = user;
    direct = direct && arrivals->sink->memory;
    uint64_t offset = index * arrivals->stream.chunk_bytes, length = tpv_stream_chunk_length(&arrivals->stream, index);
    if (!direct && !map_ring(arrivals)) return NULL;
    place_t *place = find_free(arrivals, direct);
    if (!place) return NULL;
    if (direct && tpv_ranges_remove(arrivals->have, offset, offset + length) != TPV_OK) {
        arrivals->no_memory = true;
        return NULL;
    }
    arrivals->busy++;
    place->chunk = index;
    place->offset = offset;
    place->length = length;
    place->data = direct ? arrivals->sink->memory + place->offset
                         : arrivals->ring + (size_t)arrivals->next * arrivals->stream.chunk_bytes;
    atomic_store_explicit(&place->state, PLACED, memory_order_relaxed);
    return place->data;
}

static tpv_status_t arrived(void *user, uint64_t index, void *data, uint64_t digest) {
    tpv_arrivals_t *arrivals = user;
    place_t *place = arrivals->places;
    while (place->data != data || place->chunk != index ||
           atomic_load_explicit(&place->state, memory_order_relaxed) != PLACED)
        place++;
    place->digest = digest;
    atomic_store_explicit(&place->state, TAKING, memory_order_relaxed); /* the pool's mutex publishes it */
    if (arrivals->pool)
        tpv_pool_submit(arrivals->pool, NULL, &place->job);
    else
        run(&place->job);
    return TPV_OK;
}

static tpv_region_t ring(void *user) {
    const tpv_arrivals_t *arrivals = user;
    return (tpv_region_t){arrivals->ring, arrivals->ring_bytes};
}

/* ---- for the fetch ---- */

tpv_status_t tpv_arrivals_open(tpv_sink_t *sink, const tpv_stream_t *stream, unsigned workers, bool check_digests,
                               tpv_ranges_t *have, tpv_pace_t *pace, tpv_arrivals_t **arrivals) {
    tpv_arrivals_t *a = calloc(1, sizeof *a);
    if (!a) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the chunks of a fetch");
    a->sink = sink;
    a->stream = *stream;
    a->workers = check_digests || !sink->memory ? workers : 0;
    a->check_digests = check_digests;
    a->have = have;
    a->pace = pace;
    *arrivals = a;
    return TPV_OK;
}

tpv_landing_t tpv_arrivals_landing(tpv_arrivals_t *arrivals) {
    return (tpv_landing_t){.user = arrivals,
                           .begin = begin,
                           .place = place_chunk,
                           .arrived = arrived,
                           .ring = ring,
                           .direct = {arrivals->sink->memory, arrivals->sink->memory ? arrivals->stream.bytes : 0}};
}

static tpv_status_t collect(tpv_arrivals_t *arrivals, place_t *place) {
    if (place->status == TPV_ERR_DIGEST) {
        if (!*arrivals->mismatch) memcpy(arrivals->mismatch, place->message, sizeof place->message);
    } else if (place->status != TPV_OK) {
        return tpv_error_set(place->status, "%s", place->message);
    } else {
        TPV_TRY(tpv_ranges_add(arrivals->have, place->offset, place->offset + place->length));
        tpv_pace_note(arrivals->pace, tpv_clock_ns());
    }
    arrivals->busy--;
    atomic_store_explicit(&place->state, FREE, memory_order_relaxed);
    return TPV_OK;
}

tpv_status_t tpv_arrivals_advance(tpv_arrivals_t *arrivals, bool *moved, bool *done) {
    for (uint32_t i = 0; arrivals->busy > 0 && i < arrivals->count; i++) {
        place_t *place = &arrivals->places[i];
        if (atomic_load_explicit(&place->state, memory_order_acquire) != TAKEN) continue;
        TPV_TRY(collect(arrivals, place));
        *moved = true;
    }
    *done = arrivals->busy == 0;
    if (!arrivals->no_memory) return TPV_OK;
    return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a ring of %zu bytes", arrivals->ring_bytes);
}

tpv_status_t tpv_arrivals_finish(tpv_arrivals_t *arrivals) {
    bool moved, done;
    tpv_pool_close(arrivals->pool);
    arrivals->pool = NULL;
    return tpv_arrivals_advance(arrivals, &moved, &done);
}

tpv_status_t tpv_arrivals_mismatch(const tpv_arrivals_t *arrivals) {
    return *arrivals->mismatch ? tpv_error_set(TPV_ERR_DIGEST, "%s", arrivals->mismatch) : TPV_OK;
}

void tpv_arrivals_close(tpv_arrivals_t *arrivals) {
    if (!arrivals) return;
    atomic_store_explicit(&arrivals->cancelled, true, memory_order_relaxed);
    tpv_pool_close(arrivals->pool);
    if (arrivals->ring) munmap(arrivals->ring, arrivals->ring_bytes);
    free(arrivals->places);
    free(arrivals);
}
