/*
 * A number of threads take pieces of tensors in the order in which they lie in the files, and write a digest for each.
 * The calling thread waits, reports progress and asks for the end. Files are read, not mapped: a read of a truncated
 * file is an error, not a signal.
 */
#include "artifact/digest.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "artifact/file.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/xxh3.h"

#define READ_BYTES ((size_t)256 << 10) /* stays in the cache between the copy and the hash */
#define PROGRESS_NS (TPV_NS_PER_SECOND / 10)
#define MAX_THREADS 1024u

_Static_assert(sizeof(XXH128_canonical_t) == TPV_VALUE_DIGEST_BYTES, "a value digest is an XXH3-128");

typedef struct {
    uint32_t tensor; /* index in the artifact */
    uint64_t first;  /* number of its first piece among all pieces */
} place_t;

typedef struct {
    const tpv_artifact_t *artifact;
    place_t *order;             /* tensors in file order; read-only while threads run */
    XXH128_canonical_t *pieces; /* each written by the thread that took the piece */
    atomic_uint_fast64_t done;  /* bytes; relaxed: for progress only */
    atomic_bool end;            /* asks the threads to stop; relaxed: nothing else is told by it */

    pthread_mutex_t lock; /* of everything below */
    pthread_cond_t finished;
    size_t next;         /* place in order of the tensor that is being dealt out */
    uint64_t next_piece; /* within that tensor */
    unsigned running;    /* threads */
    tpv_status_t status; /* of the first thread that failed */
    char message[TPV_ERROR_MAX];
} job_t;

static uint64_t pieces_of(const tpv_tensor_t *tensor) {
    return tensor->bytes / TPV_DIGEST_PIECE_BYTES + (tensor->bytes % TPV_DIGEST_PIECE_BYTES != 0);
}

/* The next piece that nobody took; false when there is none. */
static bool take_piece(job_t *job, const place_t **place, uint64_t *piece) {
    bool found = false;
    pthread_mutex_lock(&job->lock);
    while (!found && job->next < job->artifact->count) {
        *place = &job->order[job->next];
        *piece = job->next_piece;
        found = *piece < pieces_of(&job->artifact->tensors[(*place)->tensor]);
        if (found) {
            job->next_piece++;
        } else {
            job->next++;
            job->next_piece = 0;
        }
    }
    pthread_mutex_unlock(&job->lock);
    return found;
}

static tpv_status_t digest_piece(job_t *job, const place_t *place, uint64_t piece, XXH3_state_t *hash, void *buffer) {
    const tpv_tensor_t *tensor = &job->artifact->tensors[place->tensor];
    uint64_t begin = piece * TPV_DIGEST_PIECE_BYTES;
    uint64_t left = tensor->bytes - begin;
    if (left > TPV_DIGEST_PIECE_BYTES) left = TPV_DIGEST_PIECE_BYTES;
    uint64_t offset = tensor->offset + begin;
    XXH3_128bits_reset(hash);
    while (left > 0) {
        if (atomic_load_explicit(&job->end, memory_order_relaxed)) return TPV_OK; /* the result will not be used */
        size_t length = left < READ_BYTES ? (size_t)left : READ_BYTES;
        tpv_status_t status = tpv_artifact_file_read(&job->artifact->files[tensor->shard], offset, length, buffer);
        if (status != TPV_OK) return tpv_error_prefix(status, "tensor \"%.200s\"", tensor->name);
        XXH3_128bits_update(hash, buffer, length);
        offset += length;
        left -= length;
        atomic_fetch_add_explicit(&job->done, length, memory_order_relaxed);
    }
    XXH128_canonicalFromHash(&job->pieces[place->first + piece], XXH3_128bits_digest(hash));
    return TPV_OK;
}

static void leave(job_t *job, tpv_status_t status) {
    pthread_mutex_lock(&job->lock);
    if (status != TPV_OK && job->status == TPV_OK) {
        job->status = status;
        memcpy(job->message, tpv_error_message(), strlen(tpv_error_message()) + 1);
        atomic_store_explicit(&job->end, true, memory_order_relaxed);
    }
    job->running--;
    pthread_cond_signal(&job->finished);
    pthread_mutex_unlock(&job->lock);
}

static void *work(void *user) {
    job_t *job = user;
    void *buffer = malloc(READ_BYTES);
    XXH3_state_t *hash = XXH3_createState();
    tpv_status_t status = TPV_OK;
    if (!buffer || !hash) status = tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a digest thread");
    const place_t *place = NULL;
    uint64_t piece = 0;
    while (status == TPV_OK && !atomic_load_explicit(&job->end, memory_order_relaxed) &&
           take_piece(job, &place, &piece))
        status = digest_piece(job, place, piece, hash, buffer);
    XXH3_freeState(hash);
    free(buffer);
    leave(job, status);
    return NULL;
}

static unsigned count_cores(void) {
    cpu_set_t cores;
    if (sched_getaffinity(0, sizeof cores, &cores) != 0) return 1; /* more than CPU_SETSIZE of them */
    return (unsigned)CPU_COUNT(&cores);
}

/* Start up to `wanted` threads that no signal handler of the program will run on; returns how many there are. */
static unsigned start_threads(job_t *job, unsigned wanted, pthread_t *threads) {
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, SIGBUS); /* raised by the thread itself, if at all */
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGILL);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    unsigned started = 0;
    int error = 0;
    job->running = wanted;
    while (started < wanted && error == 0) {
        error = pthread_create(&threads[started], NULL, work, job);
        if (error == 0) started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_mutex_lock(&job->lock);
    job->running -= wanted - started;
    pthread_mutex_unlock(&job->lock);
    if (started == 0) tpv_error_set_errno(TPV_ERR_SYSTEM, error, "cannot start a digest thread");
    return started;
}

/* Wait for the threads; false when the caller asked for the end. */
static bool wait_for_threads(job_t *job, tpv_progress_t progress, void *user) {
    uint64_t total = job->artifact->bytes;
    bool wanted = true;
    pthread_mutex_lock(&job->lock);
    while (job->running > 0) {
        if (!progress || !wanted) {
            pthread_cond_wait(&job->finished, &job->lock);
            continue;
        }
        int64_t until = tpv_clock_ns() + PROGRESS_NS;
        struct timespec time = {.tv_sec = until / TPV_NS_PER_SECOND, .tv_nsec = until % TPV_NS_PER_SECOND};
        while (job->running > 0 && pthread_cond_timedwait(&job->finished, &job->lock, &time) != ETIMEDOUT) {
        }
        pthread_mutex_unlock(&job->lock);
        wanted = progress(user, atomic_load_explicit(&job->done, memory_order_relaxed), total);
        if (!wanted) atomic_store_explicit(&job->end, true, memory_order_relaxed);
        pthread_mutex_lock(&job->lock);
    }
    pthread_mutex_unlock(&job->lock);
    return wanted;
}

static tpv_status_t run(job_t *job, unsigned wanted, tpv_progress_t progress, void *user) {
    pthread_t *threads = malloc(wanted * sizeof *threads);
    if (!threads) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for %u digest threads", wanted);
    unsigned started = start_threads(job, wanted, threads);
    bool completed = started > 0 && wait_for_threads(job, progress, user);
    for (unsigned i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    free(threads);
    if (started == 0) return TPV_ERR_SYSTEM;
    if (job->status != TPV_OK) return tpv_error_set(job->status, "%s", job->message);
    if (!completed) return tpv_error_set(TPV_ERR_CANCELLED, "the digest was cancelled");
    return TPV_OK;
}

static int by_place(const void *left, const void *right, void *user) {
    const tpv_tensor_t *tensors = user;
    const tpv_tensor_t *a = &tensors[((const place_t *)left)->tensor], *b = &tensors[((const place_t *)right)->tensor];
    if (a->shard != b->shard) return a->shard < b->shard ? -1 : 1;
    return (a->offset > b->offset) - (a->offset < b->offset);
}

/* Lay out the work: file order, so that a disk is read forwards. Sets *count to the number of pieces. */
static tpv_status_t lay_out(job_t *job, uint64_t *count) {
    const tpv_artifact_t *artifact = job->artifact;
    job->order = malloc((artifact->count + 1) * sizeof *job->order);
    *count = 0;
    for (size_t i = 0; job->order && i < artifact->count; i++) {
        job->order[i] = (place_t){(uint32_t)i, *count};
        *count += pieces_of(&artifact->tensors[i]);
    }
    job->pieces = malloc((size_t)(*count + 1) * sizeof *job->pieces);
    if (!job->order || !job->pieces) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory to digest an artifact");
    if (artifact->count > 1) qsort_r(job->order, artifact->count, sizeof *job->order, by_place, artifact->tensors);
    return TPV_OK;
}

static void combine(const job_t *job, uint8_t *digests) {
    for (size_t i = 0; i < job->artifact->count; i++) {
        const place_t *place = &job->order[i];
        uint64_t pieces = pieces_of(&job->artifact->tensors[place->tensor]);
        XXH128_canonical_t value;
        XXH128_canonicalFromHash(&value,
                                 XXH3_128bits(&job->pieces[place->first], (size_t)pieces * sizeof(XXH128_canonical_t)));
        memcpy(digests + (size_t)place->tensor * TPV_VALUE_DIGEST_BYTES, &value, sizeof value);
    }
}

tpv_status_t tpv_digest_values(const tpv_artifact_t *artifact, unsigned threads, tpv_progress_t progress, void *user,
                               uint8_t *digests) {
    job_t job = {.artifact = artifact};
    atomic_init(&job.done, 0);
    atomic_init(&job.end, false);
    uint64_t pieces = 0;
    tpv_status_t status = lay_out(&job, &pieces);
    if (status != TPV_OK) goto out;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&job.finished, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&job.lock, NULL);
    if (threads == 0) threads = count_cores();
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads > pieces) threads = pieces > 0 ? (unsigned)pieces : 1;
    status = run(&job, threads, progress, user);
    if (status == TPV_OK) combine(&job, digests);
    pthread_mutex_destroy(&job.lock);
    pthread_cond_destroy(&job.finished);
out:
    free(job.pieces);
    free(job.order);
    return status;
}
