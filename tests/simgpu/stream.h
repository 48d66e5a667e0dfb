/* A CUDA stream: a queue of tasks that one worker thread runs in order. */
#ifndef SIMGPU_STREAM_H
#define SIMGPU_STREAM_H

#include <stdbool.h>

typedef struct sim_stream sim_stream_t;

typedef void sim_task_t(void *argument);

/* Starts a stream. The caller ends it with sim_stream_destroy. Thread-safe. */
sim_stream_t *sim_stream_create(void);

/* Runs what is queued, ends the worker and frees the stream. Not from a task of the stream itself. */
void sim_stream_destroy(sim_stream_t *stream);

/* The stream behind a cudaStream_t. The null, legacy and per-thread handles (0, 1, 2) are one default stream.
 * Thread-safe. */
sim_stream_t *sim_stream_of(void *handle);

/* Appends a task. It owns `argument`. Never waits. Thread-safe. */
void sim_stream_enqueue(sim_stream_t *stream, sim_task_t *task, void *argument);

/* Waits until everything that was enqueued before this call has run. Thread-safe. */
void sim_stream_synchronize(sim_stream_t *stream);

/* Whether nothing is queued or running. Thread-safe. */
bool sim_stream_is_idle(sim_stream_t *stream);

#endif
