/* A CUDA event: a point in a stream that others can wait for. */
#ifndef SIMGPU_EVENT_H
#define SIMGPU_EVENT_H

#include "simgpu/stream.h"

typedef struct sim_event sim_event_t;

/* A new event that counts as reached. Thread-safe. */
sim_event_t *sim_event_create(void);

/* Gives the caller's hold on the event back; tasks already enqueued keep it alive until they have run. */
void sim_event_destroy(sim_event_t *event);

/* Moves the event to the present end of the stream. Thread-safe. */
void sim_event_record(sim_event_t *event, sim_stream_t *stream);

/* Makes tasks that are enqueued later wait for where the event is now. Thread-safe. */
void sim_event_wait_on_stream(sim_event_t *event, sim_stream_t *stream);

/* Whether the event has been reached; sim_event_synchronize waits until it has. Thread-safe. */
bool sim_event_is_reached(sim_event_t *event);
void sim_event_synchronize(sim_event_t *event);

#endif
