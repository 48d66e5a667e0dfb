#include "tpview/fetch_job.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "client/transfer.h"

#define MAX_WAIT_S (365.0 * 24 * 3600)

struct tpv_fetch_job {
    /* Set by the starting thread before the job's thread begins, read-only then. */
    tpv_source_t *source;
    const tpv_artifact_t *artifact;
    const tpv_view_t *view;
    tpv_fetch_options_t options;
    char *net;
    tpv_sink_t memory; /* one of these two is the sink */
    tpv_scatter_sink_t scatter;
    tpv_destination_t *destinations; /* NULL: `memory` is */
    int64_t deadline;
    uint64_t bytes_total;
    pthread_t thread;

    _Atomic bool cancelled;      /* by any thread; relaxed: it orders nothing */
    _Atomic uint64_t bytes_done; /* by the job's thread; relaxed */

    pthread_mutex_t lock;
    pthread_cond_t ended;
    bool done; /* under the lock; what follows is written before it and read-only after it */
    tpv_status_t status;
    tpv_fetch_result_t result;
    char message[TPV_ERROR_MAX];
};

static bool note_progress(void *user, uint64_t bytes_done, uint64_t bytes_total) {
    tpv_fetch_job_t *job = user;
    (void)bytes_total;
    /* A second way (whole tensors) counts from zero again: what was told stays. */
    if (bytes_done > atomic_load_explicit(&job->bytes_done, memory_order_relaxed))
        atomic_store_explicit(&job->bytes_done, bytes_done, memory_order_relaxed);
    return !atomic_load_explicit(&job->cancelled, memory_order_relaxed);
}

static void *run(void *argument) {
    tpv_fetch_job_t *job = argument;
    tpv_fetch_result_t result = {0};
    tpv_sink_t *sink = job->destinations ? &job->scatter.sink : &job->memory;
    tpv_status_t status =
        tpv_fetch_into(job->source, job->artifact, job->view, &job->options, job->deadline, sink, &result);
    pthread_mutex_lock(&job->lock);
    job->status = status;
    job->result = result;
    if (status != TPV_OK) memcpy(job->message, tpv_error_message(), strlen(tpv_error_message()) + 1);
    job->done = true;
    pthread_cond_broadcast(&job->ended);
    pthread_mutex_unlock(&job->lock);
    return NULL;
}

static tpv_status_t make_locks(tpv_fetch_job_t *job) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    int error = pthread_cond_init(&job->ended, &attributes);
    pthread_condattr_destroy(&attributes);
    if (error) return tpv_error_set_errno(TPV_ERR_SYSTEM, error, "cannot make a condition for a fetch");
    pthread_mutex_init(&job->lock, NULL);
    return TPV_OK;
}

static void free_job(tpv_fetch_job_t *job) {
    if (!job) return;
    free(job->destinations);
    free(job->net);
    free(job);
}

/* A job that has all but its sink and its thread. */
static tpv_status_t make_job(tpv_source_t *source, const tpv_artifact_t *artifact, const tpv_view_t *view,
                             const tpv_fetch_options_t *options, tpv_fetch_job_t **job) {
    *job = NULL;
    if (options->progress)
        return tpv_error_set(TPV_ERR_ARGUMENT, "a job has no progress callback: ask tpv_fetch_job_progress");
    tpv_fetch_job_t *made = calloc(1, sizeof *made);
    char *net = options->net ? strdup(options->net) : NULL;
    if (!made || (options->net && !net)) {
        free(made);
        free(net);
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a fetch");
    }
    made->source = source;
    made->artifact = artifact;
    made->view = view;
    made->options = *options;
    made->options.net = made->net = net;
    made->options.progress = note_progress;
    made->options.progress_user = made;
    made->deadline = tpv_fetch_deadline(options);
    made->bytes_total = tpv_view_stats(view).bytes;
    *job = made;
    return TPV_OK;
}

/* Begin what make_job and a sink have made ready; frees it on an error. */
static tpv_status_t begin(tpv_fetch_job_t *made, tpv_fetch_job_t **job) {
    tpv_status_t status = make_locks(made);
    if (status == TPV_OK) {
        int error = pthread_create(&made->thread, NULL, run, made);
        if (error) {
            status = tpv_error_set_errno(TPV_ERR_SYSTEM, error, "cannot start a thread for a fetch");
            pthread_cond_destroy(&made->ended);
            pthread_mutex_destroy(&made->lock);
        }
    }
    if (status == TPV_OK)
        *job = made;
    else
        free_job(made);
    return status;
}

tpv_status_t tpv_fetch_job_start(tpv_source_t *source, const tpv_artifact_t *artifact, const tpv_view_t *view,
                                 const tpv_fetch_options_t *options, void *destination, tpv_fetch_job_t **job) {
    tpv_fetch_job_t *made = NULL;
    *job = NULL;
    TPV_TRY(make_job(source, artifact, view, options, &made));
    made->memory = tpv_sink_memory(destination);
    return begin(made, job);
}

tpv_status_t tpv_fetch_job_start_tensors(tpv_source_t *source, const tpv_artifact_t *artifact, const tpv_view_t *view,
                                         const tpv_fetch_options_t *options, const tpv_destination_t *destinations,
                                         tpv_fetch_job_t **job) {
    tpv_fetch_job_t *made = NULL;
    *job = NULL;
    TPV_TRY(make_job(source, artifact, view, options, &made));
    size_t count = tpv_view_output_count(view);
    made->destinations = calloc(count + 1, sizeof *destinations);
    tpv_status_t status = TPV_OK;
    if (!made->destinations)
        status = tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the destinations of %zu tensors", count);
    if (status == TPV_OK && count > 0) memcpy(made->destinations, destinations, count * sizeof *destinations);
    if (status == TPV_OK) status = tpv_sink_scatter(view, made->destinations, &made->scatter);
    if (status == TPV_OK) return begin(made, job);
    free_job(made);
    return status;
}

bool tpv_fetch_job_wait(tpv_fetch_job_t *job, double timeout_s) {
    /* Written so that NaN waits as well. */
    if (!(timeout_s >= 0 && timeout_s <= MAX_WAIT_S)) timeout_s = MAX_WAIT_S;
    int64_t until = tpv_clock_ns() + (int64_t)(timeout_s * (double)TPV_NS_PER_SECOND);
    struct timespec end = {.tv_sec = until / TPV_NS_PER_SECOND, .tv_nsec = until % TPV_NS_PER_SECOND};
    pthread_mutex_lock(&job->lock);
    int error = 0;
    while (!job->done && error == 0)
        error = pthread_cond_timedwait(&job->ended, &job->lock, &end);
    bool done = job->done;
    pthread_mutex_unlock(&job->lock);
    return done;
}

void tpv_fetch_job_progress(const tpv_fetch_job_t *job, uint64_t *bytes_done, uint64_t *bytes_total) {
    *bytes_done = atomic_load_explicit(&job->bytes_done, memory_order_relaxed);
    *bytes_total = job->bytes_total;
}

void tpv_fetch_job_cancel(tpv_fetch_job_t *job) {
    atomic_store_explicit(&job->cancelled, true, memory_order_relaxed);
}

tpv_status_t tpv_fetch_job_result(const tpv_fetch_job_t *job, tpv_fetch_result_t *result) {
    if (!tpv_fetch_job_wait((tpv_fetch_job_t *)job, 0))
        return tpv_error_set(TPV_ERR_ARGUMENT, "the fetch is not done yet");
    if (job->status != TPV_OK) return tpv_error_set(job->status, "%s", job->message);
    *result = job->result;
    return TPV_OK;
}

void tpv_fetch_job_free(tpv_fetch_job_t *job) {
    if (!job) return;
    tpv_fetch_job_cancel(job);
    pthread_join(job->thread, NULL);
    pthread_cond_destroy(&job->ended);
    pthread_mutex_destroy(&job->lock);
    free_job(job);
}
