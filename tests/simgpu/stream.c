#include "simgpu/stream.h"

#include "simgpu/fatal.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

struct task {
    sim_task_t *run;
    void *argument;
    struct task *next;
};

struct sim_stream {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct task *first, **last;   /* under lock */
    uint64_t enqueued, completed; /* under lock */
    bool ending;                  /* under lock */
    pthread_t worker;
};

static void *stream_main(void *argument) {
    sim_stream_t *stream = argument;
    pthread_mutex_lock(&stream->lock);
    for (;;) {
        while (!stream->first && !stream->ending)
            pthread_cond_wait(&stream->changed, &stream->lock);
        struct task *task = stream->first;
        if (!task) break;
        stream->first = task->next;
        if (!stream->first) stream->last = &stream->first;
        pthread_mutex_unlock(&stream->lock);
        task->run(task->argument);
        free(task);
        pthread_mutex_lock(&stream->lock);
        stream->completed++;
        pthread_cond_broadcast(&stream->changed);
    }
    pthread_mutex_unlock(&stream->lock);
    return NULL;
}

sim_stream_t *sim_stream_create(void) {
    sim_stream_t *stream = sim_allocate(sizeof *stream);
    pthread_mutex_init(&stream->lock, NULL);
    pthread_cond_init(&stream->changed, NULL);
    stream->last = &stream->first;
    if (pthread_create(&stream->worker, NULL, stream_main, stream)) sim_fatal("cannot start a thread for a stream");
    return stream;
}

void sim_stream_destroy(sim_stream_t *stream) {
    pthread_mutex_lock(&stream->lock);
    stream->ending = true;
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
    pthread_join(stream->worker, NULL);
    pthread_cond_destroy(&stream->changed);
    pthread_mutex_destroy(&stream->lock);
    free(stream);
}

static sim_stream_t *default_stream;
static pthread_once_t default_stream_once = PTHREAD_ONCE_INIT;

static void create_default_stream(void) {
    default_stream = sim_stream_create();
}

sim_stream_t *sim_stream_of(void *handle) {
    if ((uintptr_t)handle > 2) return handle;
    pthread_once(&default_stream_once, create_default_stream);
    return default_stream;
}

void sim_stream_enqueue(sim_stream_t *stream, sim_task_t *run, void *argument) {
    struct task *task = sim_allocate(sizeof *task);
    *task = (struct task){run, argument, NULL};
    pthread_mutex_lock(&stream->lock);
    *stream->last = task;
    stream->last = &task->next;
    stream->enqueued++;
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
}

void sim_stream_synchronize(sim_stream_t *stream) {
    pthread_mutex_lock(&stream->lock);
    uint64_t target = stream->enqueued;
    while (stream->completed < target)
        pthread_cond_wait(&stream->changed, &stream->lock);
    pthread_mutex_unlock(&stream->lock);
}

bool sim_stream_is_idle(sim_stream_t *stream) {
    pthread_mutex_lock(&stream->lock);
    bool idle = stream->completed == stream->enqueued;
    pthread_mutex_unlock(&stream->lock);
    return idle;
}
