/*
 * Helper threads of the process, which move data on the connections of TCP comms beside the threads that own the comms.
 * They sleep in epoll: one connection with something to do wakes one of them. They are started with the first seat and
 * end with the last one. A forked child has none of its parent's; what it inherited is left alone.
 */
#ifndef TCP_WORKERS_H
#define TCP_WORKERS_H

#include <stdbool.h>

/* The right to be worked on, for one connection. */
typedef struct tpv_tcp_seat tpv_tcp_seat_t;

/* Runs on a worker for a short time. Returns the epoll events to be called for next; 0: not until it is woken. */
typedef unsigned (*tpv_tcp_work_t)(void *argument);

/* Take a seat, asleep, for connection `fd`; see to it that there are `threads` workers. NULL, logged, when that cannot
 * be had: go on without. Under the setup lock (core/fork.h). */
tpv_tcp_seat_t *tpv_tcp_seat_take(int fd, unsigned threads, tpv_tcp_work_t work, void *argument);

/* Have `work` called when one of `events` (epoll's) is there. Only for a seat whose last call returned 0. Any thread.
 */
void tpv_tcp_seat_wake(tpv_tcp_seat_t *seat, unsigned events);

/* Once this returns, `work` does not run and will not be called. Waits for that, holding no lock; not from `work`, and
 * not under the setup lock. */
void tpv_tcp_seat_leave(tpv_tcp_seat_t *seat);

#endif
