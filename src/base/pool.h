/*
 * A fixed set of threads that run short jobs. Those of one queue start in the order of their submission; the queues
 * that have any take turns, one job each, so that whoever submits much keeps nobody else waiting.
 */
#ifndef BASE_POOL_H
#define BASE_POOL_H

#include "tpview/status.h"

typedef struct tpv_pool tpv_pool_t;

/* One job. It lives in the caller's memory, from submission until `run` returns; `next` is the pool's. */
typedef struct tpv_job {
    void (*run)(struct tpv_job *job);
    struct tpv_job *next;
} tpv_job_t;

/* Jobs that wait; all zero when it has none. It lives in the caller's memory, until its last job runs; all of it is the
 * pool's. */
typedef struct tpv_job_queue {
    tpv_job_t *first, *last;
    struct tpv_job_queue *next;
} tpv_job_queue_t;

/* `threads` 0 means one for each core. TPV_ERR_SYSTEM, TPV_ERR_NO_MEMORY. */
tpv_status_t tpv_pool_open(unsigned threads, tpv_pool_t **pool);
/* Run what was submitted, then end the threads. NULL is allowed. */
void tpv_pool_close(tpv_pool_t *pool);
/* Put `job` behind those of `queue`; NULL: of a queue that all who have none share. A queue belongs to one pool. Never
 * blocks for long and never fails; any thread. */
void tpv_pool_submit(tpv_pool_t *pool, tpv_job_queue_t *queue, tpv_job_t *job);

#endif
