/* What both ends of a same-host comm have in common; send.c and receive.c add the rest. Everything belongs to the one
 * thread that moves the comm's data; `device`, `fd` and the addresses are constant. */
#ifndef LOCAL_COMM_H
#define LOCAL_COMM_H

#include "core/address.h"
#include "local/link.h"

/* As over TCP; test reports sizes as int. */
#define TPV_LOCAL_MESSAGE_MAX (UINT64_C(1) << 30)
/* The longest copy of one system call: some 50 to 500 µs. Shorter ones pay for the call too often. */
#define TPV_LOCAL_SLICE ((size_t)1 << 20)
/* One test copies about so much at most, so that other comms of the thread get their turn. */
#define TPV_LOCAL_TEST_BYTES ((size_t)1 << 20)

typedef struct {
    tpv_comm_t base;
    bool sends;
    tpv_device_t *device;
    int fd; /* the connection */
    tpv_local_link_t *link;
    tpv_local_control_t *control; /* the link's */
    ncclResult_t failure;         /* sticky; ncclSuccess while the comm is good */
    bool peer_gone;               /* its process or the connection has ended */
    int64_t next_look;            /* when to look after the peer again */
    uint64_t messages, bytes;
    tpv_address_t local, peer;
} tpv_local_comm_t;

/* Fill the common part of a comm whose memory is all zero. */
void tpv_local_comm_start(tpv_local_comm_t *comm, const tpv_comm_ops_t *ops, bool sends, tpv_local_link_t *link,
                          tpv_device_t *device, int fd);

/* Account for the comm, give up link and connection, free the memory. */
void tpv_local_comm_end(tpv_local_comm_t *comm);

/* Mark the comm as failed for good and log why, once; later calls change nothing. Returns the comm's failure. */
ncclResult_t tpv_local_fail(tpv_local_comm_t *comm, ncclResult_t result, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same for data of this process that is not accessible. */
ncclResult_t tpv_local_fail_data(tpv_local_comm_t *comm, const char *call);

/* Called while nothing moves: every millisecond, see whether the peer is still there and set comm->peer_gone. */
void tpv_local_look_after_peer(tpv_local_comm_t *comm);

/* Between the sender's word that its memory is given up and what it does with it, and between reading that memory and
 * reading the word: both ends need a full barrier, since the memory itself is not atomic. Not atomic_thread_fence,
 * which ThreadSanitizer does not know; it sees none of the accesses in question anyway. */
static inline void tpv_local_barrier(void) {
    __sync_synchronize();
}

/* Whether this process is the one that made the comm, and not its forked child. */
bool tpv_local_own(const tpv_local_comm_t *comm);

#endif
