/*
 * A fetch that runs on a thread of its own, for callers that have other things to do meanwhile or cannot be called
 * back: an interpreter, an event loop. Everything here is an opaque handle, a fixed-width number or a text.
 *
 * Threads: all functions but tpv_fetch_job_free may be called from any thread at the same time.
 */
#ifndef TPVIEW_FETCH_JOB_H
#define TPVIEW_FETCH_JOB_H

#include "tpview/fetch.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tpv_fetch_job tpv_fetch_job_t;

/*
 * Begin tpv_fetch on a new thread. Until the job is done, `source`, `artifact`, `view` and `destination` belong to it:
 * they must stay valid, nobody else may use `source`, and nobody may read or write the destination. Of *options
 * everything is copied (also the text of `net`); `progress` must be NULL: ask tpv_fetch_job_progress instead. The
 * deadline runs from this call on. TPV_ERR_ARGUMENT, TPV_ERR_NO_MEMORY, TPV_ERR_SYSTEM: nothing was begun. The caller
 * owns *job.
 */
TPV_API tpv_status_t tpv_fetch_job_start(tpv_source_t *source, const tpv_artifact_t *artifact, const tpv_view_t *view,
                                         const tpv_fetch_options_t *options, void *destination, tpv_fetch_job_t **job);

/*
 * As tpv_fetch_job_start, for tpv_fetch_tensors: into tensors as an engine has laid them out. The destinations are
 * copied; the memory that they name belongs to the job until it is done. TPV_ERR_ARGUMENT as tpv_fetch_tensors.
 */
TPV_API tpv_status_t tpv_fetch_job_start_tensors(tpv_source_t *source, const tpv_artifact_t *artifact,
                                                 const tpv_view_t *view, const tpv_fetch_options_t *options,
                                                 const tpv_destination_t *destinations, tpv_fetch_job_t **job);

/* Wait until the job is done, `timeout_s` seconds at most (0: only look; negative or beyond a year: a year). Returns
 * whether it is done. */
TPV_API bool tpv_fetch_job_wait(tpv_fetch_job_t *job, double timeout_s);

/* Bytes that have arrived and that the view has. Both only grow. */
TPV_API void tpv_fetch_job_progress(const tpv_fetch_job_t *job, uint64_t *bytes_done, uint64_t *bytes_total);

/* Ask for the end. The job ends with TPV_ERR_CANCELLED soon after, unless it was about to end anyway. */
TPV_API void tpv_fetch_job_cancel(tpv_fetch_job_t *job);

/*
 * How the done job has ended: what tpv_fetch returned, also as this thread's tpv_error_message. *result is set on
 * TPV_OK. TPV_ERR_ARGUMENT while it is not done.
 */
TPV_API tpv_status_t tpv_fetch_job_result(const tpv_fetch_job_t *job, tpv_fetch_result_t *result);

/* Cancel what is not done, wait for its end and free the job. NULL is allowed. No other thread may use it any more. */
TPV_API void tpv_fetch_job_free(tpv_fetch_job_t *job);

#ifdef __cplusplus
}
#endif
#endif
