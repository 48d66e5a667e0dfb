/* The process at the other end, as /proc and the kernel tell of it. */
#ifndef LOCAL_PEER_H
#define LOCAL_PEER_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    int pid;
    int alive;      /* pidfd, readable once all threads have ended; -1 where the kernel has none */
    uint64_t began; /* its start time, which tells it from a later process with its id; 0 where that is not known */
    int task;       /* the thread by which its memory and descriptors are reached: the main one may have ended */
} tpv_local_peer_t;

/* Begin to watch process `pid`. */
void tpv_local_peer_watch(tpv_local_peer_t *peer, int pid);

/* Give it up. One that is all zero but for `alive` of -1 is allowed. */
void tpv_local_peer_forget(tpv_local_peer_t *peer);

/* Whether all its user ids are this process's effective one. False where they cannot be seen. */
bool tpv_local_peer_same_user(const tpv_local_peer_t *peer);

/* Its memory or descriptors are not to be reached by peer->task: look for a thread that lives. False: there is none
 * other. */
bool tpv_local_peer_find_task(tpv_local_peer_t *peer);

/* Whether the process has ended, by its start time. Reads /proc: where there is a pidfd, poll that. */
bool tpv_local_peer_ended(const tpv_local_peer_t *peer);

#endif
