#include "simgpu/event.h"

#include "simgpu/fatal.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

struct sim_event {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t recorded, reached; /* under lock: sequence numbers of records */
    unsigned holders;           /* under lock */
};

/* What a record or wait task carries: the event, and which of its records is meant. */
struct point {
    sim_event_t *event;
    uint64_t sequence;
};

sim_event_t *sim_event_create(void) {
    sim_event_t *event = sim_allocate(sizeof *event);
    pthread_mutex_init(&event->lock, NULL);
    pthread_cond_init(&event->changed, NULL);
    event->holders = 1;
    return event;
}

void sim_event_destroy(sim_event_t *event) {
    pthread_mutex_lock(&event->lock);
    bool last = --event->holders == 0;
    pthread_mutex_unlock(&event->lock);
    if (!last) return;
    pthread_cond_destroy(&event->changed);
    pthread_mutex_destroy(&event->lock);
    free(event);
}

static void reach(void *argument) {
    struct point *point = argument;
    sim_event_t *event = point->event;
    pthread_mutex_lock(&event->lock);
    if (event->reached < point->sequence) event->reached = point->sequence;
    pthread_cond_broadcast(&event->changed);
    pthread_mutex_unlock(&event->lock);
    sim_event_destroy(event);
    free(point);
}

static void wait_for(void *argument) {
    struct point *point = argument;
    sim_event_t *event = point->event;
    pthread_mutex_lock(&event->lock);
    while (event->reached < point->sequence)
        pthread_cond_wait(&event->changed, &event->lock);
    pthread_mutex_unlock(&event->lock);
    sim_event_destroy(event);
    free(point);
}

static void enqueue(sim_event_t *event, sim_stream_t *stream, sim_task_t *task, unsigned advance) {
    struct point *point = sim_allocate(sizeof *point);
    pthread_mutex_lock(&event->lock);
    event->holders++;
    event->recorded += advance;
    *point = (struct point){event, event->recorded};
    pthread_mutex_unlock(&event->lock);
    sim_stream_enqueue(stream, task, point);
}

void sim_event_record(sim_event_t *event, sim_stream_t *stream) {
    enqueue(event, stream, reach, 1);
}

void sim_event_wait_on_stream(sim_event_t *event, sim_stream_t *stream) {
    enqueue(event, stream, wait_for, 0);
}

bool sim_event_is_reached(sim_event_t *event) {
    pthread_mutex_lock(&event->lock);
    bool reached = event->reached >= event->recorded;
    pthread_mutex_unlock(&event->lock);
    return reached;
}

void sim_event_synchronize(sim_event_t *event) {
    pthread_mutex_lock(&event->lock);
    uint64_t target = event->recorded;
    while (event->reached < target)
        pthread_cond_wait(&event->changed, &event->lock);
    pthread_mutex_unlock(&event->lock);
}
