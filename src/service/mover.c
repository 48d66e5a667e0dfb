#include "service/mover.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "artifact/artifact.h"
#include "base/clock.h"
#include "base/log.h"
#include "channel/idle.h"

/* However soon it is clear that a third host cannot be connected to, and however late: it is told after this time. */
#define SILENCE_NS (10 * TPV_NS_PER_SECOND)
#define LOOK_PERIOD_NS (50 * TPV_NS_PER_MS)
#define RENEWAL_PERIOD_NS (100 * TPV_NS_PER_MS)
#define QUIET_PERIOD_NS (100 * TPV_NS_PER_MS)
#define SWEEP_PERIOD_NS (200 * TPV_NS_PER_MS)
#define IDLE_SWEEP_NS TPV_NS_PER_SECOND

struct tpv_mover {
    tpv_mover_options_t options;
    pthread_t thread;
    int wake; /* eventfd */
    pthread_mutex_t mutex;
    pthread_cond_t changed;       /* active became 0, or refusing was set */
    tpv_served_fetch_t *incoming; /* under mutex */
    tpv_served_fetch_t *jobs;     /* the thread's */
    atomic_uint active;           /* admitted, in a list or about to be; changed under mutex, read relaxed without */
    atomic_bool refusing;         /* relaxed: seen at the next round, which a wake brings */
    atomic_bool closing;          /* likewise */
    bool stopped;                 /* under mutex: the thread looks at incoming no more */
};

void tpv_served_fetch_release(tpv_served_fetch_t *job) {
    if (atomic_fetch_sub_explicit(&job->references, 1, memory_order_acq_rel) != 1) return;
    tpv_entry_release(job->entry);
    tpv_request_clear(&job->request);
    free(job);
}

/* ---- one fetch ---- */

static void answer(tpv_mover_t *mover, tpv_served_fetch_t *job, tpv_status_t status) {
    job->outcome = status;
    if (status != TPV_OK) memcpy(job->message, tpv_error_message(), sizeof job->message);
    if (job->sender) job->sent = tpv_sender_counts(job->sender);
    if (job->feeder) job->fed = tpv_feeder_counts(job->feeder);
    tpv_metrics_fetch_finished(mover->options.metrics, status, &job->sent, &job->fed,
                               (double)(tpv_clock_ns() - job->begin) / (double)TPV_NS_PER_SECOND);
    if (status != TPV_OK)
        TPV_WARN("fetch %s of %s by rank %u of %u on %s: %s", job->request.fetch_id_text, job->entry->label,
                 job->request.tp_rank, job->request.tp_size, job->request.host, job->message);
    else
        TPV_INFO("fetch %s of %s by rank %u of %u on %s: sent %llu bytes", job->request.fetch_id_text,
                 job->entry->label, job->request.tp_rank, job->request.tp_size, job->request.host,
                 (unsigned long long)job->sent.bytes);
    atomic_store_explicit(&job->answered, true, memory_order_release);
    job->answer(job);
}

static void stop(tpv_served_fetch_t *job) {
    tpv_sender_close(job->sender);
    job->sender = NULL;
    job->state = TPV_FETCH_STOPPING;
}

static void fail(tpv_mover_t *mover, tpv_served_fetch_t *job, tpv_status_t status) {
    answer(mover, job, status);
    stop(job);
}

/* HTTP does not watch a suspended connection, so the mover does. */
static bool control_is_gone(const tpv_served_fetch_t *job) {
    struct pollfd descriptor = {.fd = job->descriptor, .events = POLLRDHUP};
    return poll(&descriptor, 1, 0) > 0 && (descriptor.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL));
}

tpv_status_t tpv_mover_look(const tpv_mover_t *mover, tpv_served_fetch_t *job) {
    int64_t now = tpv_clock_ns();
    if (job->deadline != TPV_DEADLINE_NEVER && now >= job->deadline)
        return tpv_error_set(TPV_ERR_DEADLINE, "the fetch's deadline passed at the source after %llu bytes",
                             (unsigned long long)(job->sender ? tpv_sender_counts(job->sender).bytes : 0));
    if (atomic_load_explicit(&mover->refusing, memory_order_relaxed))
        return tpv_error_set(TPV_ERR_REFUSED, "the service is shutting down");
    if (now >= job->expires)
        return tpv_error_set(TPV_ERR_STALE, "no byte moved for %g s: the lease is over",
                             (double)mover->options.lease_ttl_ns / (double)TPV_NS_PER_SECOND);
    if (now < job->next_look) return TPV_OK;
    job->next_look = now + LOOK_PERIOD_NS;
    if (atomic_load_explicit(&job->ended, memory_order_acquire))
        return tpv_error_set(TPV_ERR_CANCELLED, "the receiver ended the lease");
    if (control_is_gone(job)) return tpv_error_set(TPV_ERR_PEER, "the receiver's control connection is gone");
    return TPV_OK;
}

/*
 * A lease lives by the movement of its bytes alone: for the caller's own deadline, or for a fixed time without one. A
 * receiver that has taken no byte yet has shown nothing, so its deadline cannot make the fixed time longer.
 */
static int64_t expiry(const tpv_mover_t *mover, const tpv_served_fetch_t *job) {
    int64_t now = tpv_clock_ns(), ttl = mover->options.lease_ttl_ns;
    if (job->deadline != TPV_DEADLINE_NEVER && job->sender && tpv_sender_counts(job->sender).bytes > 0)
        return job->deadline;
    return ttl < TPV_DEADLINE_NEVER - now ? now + ttl : TPV_DEADLINE_NEVER;
}

/* Staging of the budget, or nothing: the fetch then waits its turn, within its deadline. */
static tpv_status_t start(tpv_mover_t *mover, tpv_served_fetch_t *job) {
    uint64_t staging = tpv_feeder_staging(job->store, job->stored, &job->stream);
    bool got = true;
    TPV_TRY(tpv_mover_look(mover, job));
    if (staging > 0) TPV_TRY(tpv_store_reserve(job->store, staging, &got));
    if (!got) return TPV_OK;
    job->staging = staging;
    TPV_TRY(tpv_lease_attach(mover->options.table, job->lease));
    TPV_TRY(tpv_feeder_open(mover->options.pool, job->store, mover->options.metrics, job->stored, &job->stream, staging,
                            &job->feeder));
    size_t count = 0;
    const tpv_region_t *regions = tpv_feeder_regions(job->feeder, &count);
    tpv_chunks_t chunks = tpv_feeder_chunks(job->feeder);
    job->expires = expiry(mover, job);
    job->silence = tpv_clock_ns() + SILENCE_NS;
    TPV_TRY(
        tpv_sender_open(mover->options.net, &job->stream, job->request.handles, regions, count, &chunks, &job->sender));
    job->state = TPV_FETCH_SENDING;
    return TPV_OK;
}

static tpv_status_t renew(tpv_mover_t *mover, tpv_served_fetch_t *job) {
    int64_t now = tpv_clock_ns();
    job->expires = expiry(mover, job);
    if (now < job->next_renewal) return TPV_OK;
    job->next_renewal = now + RENEWAL_PERIOD_NS;
    return tpv_lease_progress(mover->options.table, job->lease, tpv_sender_counts(job->sender).bytes);
}

static tpv_status_t send_some(tpv_mover_t *mover, tpv_served_fetch_t *job, bool *moved) {
    bool done = false;
    TPV_TRY(tpv_mover_look(mover, job));
    TPV_TRY(tpv_sender_advance(job->sender, moved, &done));
    if (*moved) TPV_TRY(renew(mover, job));
    if (!done) return TPV_OK;
    job->next_renewal = 0;
    TPV_TRY(renew(mover, job));
    /* What was sent is only right if nobody wrote to the files meanwhile: those of the export, which may be another
     * label's with the same content. */
    TPV_TRY(tpv_artifact_check(job->stored->entry->artifact));
    job->state = TPV_FETCH_SENT;
    answer(mover, job, TPV_OK);
    return TPV_OK;
}

/*
 * A client may name the address of a third host. What becomes of connecting there must not tell the client which of its
 * ports are open: refused, silent, or taken by something else, it gets the same answer at the same time.
 */
static bool is_hidden(const tpv_served_fetch_t *job) {
    return job->elsewhere && (!job->sender || !tpv_sender_connected(job->sender));
}

static tpv_status_t hidden_failure(void) {
    return tpv_error_set(TPV_ERR_PEER,
                         "the rank cannot be connected to at the address that it gave, which is not that of "
                         "its control connection; the service's log has the reason, and NCCL_SOCKET_IFNAME at the rank "
                         "chooses where it listens");
}

static void fail_to_send(tpv_mover_t *mover, tpv_served_fetch_t *job, tpv_status_t status) {
    if (!is_hidden(job) || (status != TPV_ERR_PEER && status != TPV_ERR_NET)) {
        fail(mover, job, status);
        return;
    }
    TPV_WARN("fetch %s: %s", job->request.fetch_id_text, tpv_error_message());
    tpv_sender_close(job->sender);
    job->sender = NULL;
    job->state = TPV_FETCH_SILENT;
}

static tpv_status_t keep_silence(tpv_mover_t *mover, tpv_served_fetch_t *job) {
    TPV_TRY(tpv_mover_look(mover, job));
    return tpv_clock_ns() < job->silence ? TPV_OK : hidden_failure();
}

/* True while the job has to be kept. */
static bool advance(tpv_mover_t *mover, tpv_served_fetch_t *job, bool *moved) {
    tpv_status_t status = TPV_OK;
    switch (job->state) {
    case TPV_FETCH_QUEUED:
        status = start(mover, job);
        if (status != TPV_OK) fail(mover, job, status);
        *moved = *moved || job->state != TPV_FETCH_QUEUED;
        return true;
    case TPV_FETCH_SENDING: {
        bool sent = false;
        status = send_some(mover, job, &sent);
        if (sent) *moved = true;
        if (status != TPV_OK)
            fail_to_send(mover, job, status);
        else if (is_hidden(job) && tpv_clock_ns() >= job->silence)
            fail(mover, job, hidden_failure());
        return true;
    }
    case TPV_FETCH_SILENT:
        status = keep_silence(mover, job);
        if (status != TPV_OK) fail(mover, job, status);
        return true;
    case TPV_FETCH_SENT:
        if (atomic_load_explicit(&job->ended, memory_order_acquire) || tpv_clock_ns() >= job->expires ||
            atomic_load_explicit(&mover->closing, memory_order_relaxed))
            stop(job);
        return true;
    case TPV_FETCH_STOPPING:
        if (job->feeder && !tpv_feeder_idle(job->feeder)) return true;
        tpv_feeder_close(job->feeder);
        job->feeder = NULL;
        if (job->staging > 0) tpv_store_unreserve(job->store, job->staging);
        tpv_lease_end(mover->options.table, job->lease);
        tpv_store_release(job->store, job->stored);
        return false;
    }
    return false;
}

/* ---- the thread ---- */

static void take_incoming(tpv_mover_t *mover) {
    pthread_mutex_lock(&mover->mutex);
    while (mover->incoming) {
        tpv_served_fetch_t *job = mover->incoming;
        mover->incoming = job->next;
        job->next = mover->jobs;
        mover->jobs = job;
    }
    pthread_mutex_unlock(&mover->mutex);
}

bool tpv_mover_admit(tpv_mover_t *mover, unsigned most) {
    pthread_mutex_lock(&mover->mutex);
    bool admitted = tpv_mover_active(mover) < most;
    if (admitted) atomic_fetch_add_explicit(&mover->active, 1, memory_order_relaxed);
    pthread_mutex_unlock(&mover->mutex);
    return admitted;
}

void tpv_mover_leave(tpv_mover_t *mover) {
    pthread_mutex_lock(&mover->mutex);
    if (atomic_fetch_sub_explicit(&mover->active, 1, memory_order_relaxed) == 1)
        pthread_cond_broadcast(&mover->changed);
    pthread_mutex_unlock(&mover->mutex);
}

static void drop(tpv_mover_t *mover, tpv_served_fetch_t *job) {
    tpv_served_fetch_release(job);
    tpv_mover_leave(mover);
}

static void clear_wake(tpv_mover_t *mover) {
    uint64_t count = 0;
    ssize_t got = read(mover->wake, &count, sizeof count); /* non-blocking; empty is fine */
    (void)got;
}

static void sleep_until_woken(tpv_mover_t *mover, int64_t longest) {
    struct pollfd descriptor = {.fd = mover->wake, .events = POLLIN};
    poll(&descriptor, 1, (int)(longest / TPV_NS_PER_MS));
}

static bool finished(tpv_mover_t *mover) {
    if (!atomic_load_explicit(&mover->closing, memory_order_relaxed) || mover->jobs) return false;
    pthread_mutex_lock(&mover->mutex);
    mover->stopped = !mover->incoming;
    pthread_mutex_unlock(&mover->mutex);
    return mover->stopped;
}

/* True while exports are left that may expire. */
static bool sweep(tpv_mover_t *mover, int64_t *next) {
    int64_t now = tpv_clock_ns();
    if (now < *next) return true;
    *next = now + SWEEP_PERIOD_NS;
    return tpv_store_sweep(mover->options.store);
}

static void *work(void *argument) {
    tpv_mover_t *mover = argument;
    tpv_idle_t idle = {0};
    int64_t next_sweep = 0;
    prctl(PR_SET_NAME, "tpview mover");
    prctl(PR_SET_TIMERSLACK, 1000UL); /* short sleeps should be as short as asked */
    while (!finished(mover)) {
        bool moved = false, sending = false;
        take_incoming(mover);
        if (mover->jobs) sweep(mover, &next_sweep);
        for (tpv_served_fetch_t **link = &mover->jobs; *link;) {
            tpv_served_fetch_t *job = *link;
            if (advance(mover, job, &moved)) {
                sending = sending || job->state != TPV_FETCH_SENT;
                link = &job->next;
                continue;
            }
            *link = job->next;
            drop(mover, job);
        }
        if (sending || atomic_load_explicit(&mover->closing, memory_order_relaxed)) {
            if (tpv_idle_wait(&idle, moved, mover->wake, TPV_DEADLINE_NEVER)) clear_wake(mover);
        } else {
            bool exports_left = sweep(mover, &next_sweep);
            /* Without work of our own, leases and views of others on this host still expire. */
            sleep_until_woken(mover, mover->jobs || exports_left ? QUIET_PERIOD_NS : IDLE_SWEEP_NS);
            clear_wake(mover);
        }
    }
    return NULL;
}

tpv_status_t tpv_mover_open(const tpv_mover_options_t *options, tpv_mover_t **mover) {
    tpv_mover_t *m = calloc(1, sizeof *m);
    if (!m) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the mover");
    m->options = *options;
    m->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int error = m->wake < 0 ? errno : 0;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&m->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&m->mutex, NULL);
    if (!error) error = pthread_create(&m->thread, NULL, work, m);
    if (error) {
        if (m->wake >= 0) close(m->wake);
        pthread_cond_destroy(&m->changed);
        pthread_mutex_destroy(&m->mutex);
        free(m);
        return tpv_error_set_errno(TPV_ERR_SYSTEM, error, "cannot start the mover");
    }
    *mover = m;
    return TPV_OK;
}

void tpv_mover_wake(tpv_mover_t *mover) {
    uint64_t one = 1;
    ssize_t put = write(mover->wake, &one, sizeof one); /* fails only when full, and then it is awake */
    (void)put;
}

void tpv_mover_add(tpv_mover_t *mover, tpv_served_fetch_t *job) {
    job->begin = tpv_clock_ns();
    tpv_metrics_fetch_started(mover->options.metrics);
    pthread_mutex_lock(&mover->mutex);
    bool stopped = mover->stopped;
    if (!stopped) {
        job->next = mover->incoming;
        mover->incoming = job;
    }
    pthread_mutex_unlock(&mover->mutex);
    if (!stopped) {
        tpv_mover_wake(mover);
        return;
    }
    /* Nothing was started, and this thread is the only one that knows the job: one step ends it. */
    bool moved = false;
    fail(mover, job, tpv_error_set(TPV_ERR_REFUSED, "the service is shutting down"));
    advance(mover, job, &moved);
    drop(mover, job);
}

void tpv_mover_refuse_all(tpv_mover_t *mover) {
    pthread_mutex_lock(&mover->mutex);
    atomic_store_explicit(&mover->refusing, true, memory_order_relaxed);
    pthread_cond_broadcast(&mover->changed);
    pthread_mutex_unlock(&mover->mutex);
    tpv_mover_wake(mover);
}

unsigned tpv_mover_active(const tpv_mover_t *mover) {
    return atomic_load_explicit(&mover->active, memory_order_relaxed);
}

static bool wait_idle(tpv_mover_t *mover, int64_t deadline, bool until_refusing) {
    struct timespec until = {.tv_sec = deadline / TPV_NS_PER_SECOND, .tv_nsec = deadline % TPV_NS_PER_SECOND};
    int error = 0;
    pthread_mutex_lock(&mover->mutex);
    while (tpv_mover_active(mover) > 0 && error == 0 &&
           !(until_refusing && atomic_load_explicit(&mover->refusing, memory_order_relaxed)))
        error = pthread_cond_timedwait(&mover->changed, &mover->mutex, &until);
    bool idle = tpv_mover_active(mover) == 0;
    pthread_mutex_unlock(&mover->mutex);
    return idle;
}

bool tpv_mover_wait_idle(tpv_mover_t *mover, int64_t deadline) {
    return wait_idle(mover, deadline, false);
}

bool tpv_mover_wait_drained(tpv_mover_t *mover, int64_t deadline) {
    return wait_idle(mover, deadline, true);
}

void tpv_mover_stop(tpv_mover_t *mover) {
    if (!mover) return;
    tpv_mover_refuse_all(mover);
    atomic_store_explicit(&mover->closing, true, memory_order_relaxed);
    tpv_mover_wake(mover);
    pthread_join(mover->thread, NULL);
}

void tpv_mover_close(tpv_mover_t *mover) {
    if (!mover) return;
    close(mover->wake);
    pthread_cond_destroy(&mover->changed);
    pthread_mutex_destroy(&mover->mutex);
    free(mover);
}
