#include "base/pool.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/error.h"

struct tpv_pool {
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    tpv_job_queue_t *first, *last; /* under mutex: those that have jobs, each once, the next one first */
    tpv_job_queue_t shared;        /* under mutex, as all queues */
    bool closing;                  /* under mutex */
    unsigned threads;
    pthread_t thread[];
};

/* ---- under the mutex ---- */

static void append_queue(tpv_pool_t *pool, tpv_job_queue_t *queue) {
    queue->next = NULL;
    if (pool->first)
        pool->last->next = queue;
    else
        pool->first = queue;
    pool->last = queue;
}

/* The next job, of the queue whose turn it is; that one goes behind the others. NULL when there is none. */
static tpv_job_t *take(tpv_pool_t *pool) {
    tpv_job_queue_t *queue = pool->first;
    if (!queue) return NULL;
    tpv_job_t *job = queue->first;
    pool->first = queue->next;
    queue->first = job->next;
    if (queue->first) append_queue(pool, queue);
    return job;
}

/* ---- the threads ---- */

static void *work(void *argument) {
    tpv_pool_t *pool = argument;
    pthread_mutex_lock(&pool->mutex);
    for (;;) {
        while (!pool->first && !pool->closing)
            pthread_cond_wait(&pool->wake, &pool->mutex);
        tpv_job_t *job = take(pool);
        if (!job) break;
        pthread_mutex_unlock(&pool->mutex);
        job->run(job);
        pthread_mutex_lock(&pool->mutex);
    }
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

tpv_status_t tpv_pool_open(unsigned threads, tpv_pool_t **pool) {
    if (threads == 0) {
        long cores = sysconf(_SC_NPROCESSORS_ONLN);
        threads = cores > 0 ? (unsigned)cores : 1;
    }
    tpv_pool_t *p = calloc(1, sizeof *p + threads * sizeof p->thread[0]);
    if (!p) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a pool of %u threads", threads);
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->wake, NULL);
    for (; p->threads < threads; p->threads++) {
        int error = pthread_create(&p->thread[p->threads], NULL, work, p);
        if (error) {
            tpv_pool_close(p);
            return tpv_error_set_errno(TPV_ERR_SYSTEM, error, "cannot start a thread");
        }
    }
    *pool = p;
    return TPV_OK;
}

void tpv_pool_close(tpv_pool_t *pool) {
    if (!pool) return;
    pthread_mutex_lock(&pool->mutex);
    pool->closing = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (unsigned i = 0; i < pool->threads; i++)
        pthread_join(pool->thread[i], NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

void tpv_pool_submit(tpv_pool_t *pool, tpv_job_queue_t *queue, tpv_job_t *job) {
    job->next = NULL;
    pthread_mutex_lock(&pool->mutex);
    if (!queue) queue = &pool->shared;
    if (queue->first) {
        queue->last->next = job;
    } else {
        queue->first = job;
        append_queue(pool, queue);
    }
    queue->last = job;
    pthread_cond_signal(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
}
