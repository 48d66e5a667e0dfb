/* What both ends of a same-host comm have in common; send.c and receive.c add the rest. Everything belongs to the one
 * thread that moves the comm's data; `fd` and `end` are constant. */
#ifndef LOCAL_PAIR_H
#define LOCAL_PAIR_H

#include "local/link.h"

/* The longest copy of one system call: some 50 to 500 µs. Shorter ones pay for the call too often. */
#define TPV_LOCAL_SLICE ((size_t)1 << 20)
/* One test copies about so much at most, so that other comms of the thread get their turn. */
#define TPV_LOCAL_TEST_BYTES ((size_t)1 << 20)

typedef struct {
    tpv_comm_t base;
    int fd; /* the connection, over which nothing is ever sent */
    tpv_end_t *end;
    tpv_local_control_t *control; /* the end's */
    bool disconnected;            /* the connection has ended, which alone means nothing */
    bool peer_gone;
    int64_t next_look, next_long_look; /* when to look after the peer again */
} tpv_local_pair_t;

/* Parts of the transport's table: make the comm, which owns the end and the first connection unless this fails
 * (ncclRemoteError: the answer makes no sense; ncclSystemError, logged). */
ncclResult_t tpv_local_send_over(tpv_end_t *end, const tpv_message_t *answer, tpv_connections_t *connections,
                                 tpv_comm_t **comm);
ncclResult_t tpv_local_receive_over(tpv_end_t *end, tpv_connections_t *connections, tpv_comm_t **comm);

/* Fill the common part of a comm whose memory is all zero. */
void tpv_local_pair_start(tpv_local_pair_t *pair, const tpv_comm_ops_t *ops, bool sends, tpv_end_t *end,
                          tpv_connections_t *connections);

/* Give up end and connection, account for the comm, free the memory. */
void tpv_local_pair_end(tpv_local_pair_t *pair);

/* Called while nothing moves: every millisecond, see whether the peer is still there and set pair->peer_gone. */
void tpv_local_look_after_peer(tpv_local_pair_t *pair);

/* Between the sender's word that its memory is given up and what it does with it, and between reading that memory and
 * reading the word: both ends need a full barrier, since the memory itself is not atomic. Not atomic_thread_fence,
 * which ThreadSanitizer does not know; it sees none of the accesses in question anyway. */
static inline void tpv_local_barrier(void) {
    __sync_synchronize();
}

#endif
