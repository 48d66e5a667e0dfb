/*
 * What every comm has, whatever carries its data: who it is, whether it has failed, what it has moved, and the memory
 * that was registered for it. A transport's comm begins with a tpv_comm_t and adds the rest. Return codes follow NCCL:
 * ncclRemoteError is the peer's fault, ncclSystemError a local one, ncclInvalidUsage the caller's; whoever decides on
 * one has logged it.
 */
#ifndef CORE_COMM_H
#define CORE_COMM_H

#include <pthread.h>

#include "core/address.h"
#include "core/device.h"

/* Receives that one irecv may ask for, as with NCCL's IB transport (NCCL_NET_IB_MAX_RECVS). */
#define TPV_GROUP_MEMBERS_MAX 8
/* Bytes of a message, as NCCL's MAX_NET_SIZE; test reports sizes as int. */
#define TPV_MESSAGE_MAX (UINT64_C(1) << 30)

typedef struct tpv_comm tpv_comm_t;

/* First member of every transport's request. */
typedef struct {
    tpv_comm_t *comm;
    /* For core/profiler.h: a place for each message of the request (sends: one), NULL when there is no event. */
    void **events;
    uint8_t event_count;
} tpv_request_t;

/* Memory that the caller registered. In the list of its comm; `next` is under the comm's lock, the rest constant but
 * for `word`. */
typedef struct tpv_registration {
    struct tpv_registration *next;
    void *data;
    size_t size;
    _Atomic uintptr_t word; /* the transport's own; 0 at first */
} tpv_registration_t;

/* Operations of one connected comm. One thread at a time moves data; deregister_memory may run beside it on another
 * thread. None of them blocks. */
typedef struct {
    /* NULL on a comm that receives. *request stays NULL when it cannot be begun now: try again. */
    ncclResult_t (*isend)(tpv_comm_t *comm, void *data, size_t size, int tag, tpv_registration_t *registration,
                          void **request);
    /* NULL on a comm that sends. `count` is 1 to TPV_GROUP_MEMBERS_MAX. */
    ncclResult_t (*irecv)(tpv_comm_t *comm, int count, void **data, const size_t *sizes, const int *tags,
                          void **registrations, void **request);
    /* Moves what can be moved on the comm. With *done the request is gone; `sizes` may be NULL, otherwise it has an
     * element for each message of the request. */
    ncclResult_t (*test)(tpv_request_t *request, int *done, int *sizes);
    /* Frees everything, requests in flight included. In a forked child it must leave the parent's connection alone. */
    void (*close)(tpv_comm_t *comm);
    /* May be NULL where the transport needs none. Runs under the comm's lock; after it nothing may refer to the
     * registration any more, requests in flight included. */
    void (*deregister_memory)(tpv_comm_t *comm, tpv_registration_t *registration);
} tpv_comm_ops_t;

struct tpv_comm {
    /* Constant once the comm is made. */
    const tpv_comm_ops_t *ops;
    tpv_device_t *device;
    unsigned fork_generation;
    bool sends;
    int peer_process;          /* of this host; 0 where that is not known */
    tpv_address_t local, peer; /* of its first connection, for messages */
    /* Who moves the data: the comm itself, or what it has become (tpv_comm_become). Stored by the thread that moves
     * data. */
    _Atomic(tpv_comm_t *) mover;
    _Atomic ncclResult_t failure; /* sticky; any thread */
    tpv_request_t broken;         /* what posting on a comm with a lost peer gives: its test tells */
    pthread_mutex_t lock;
    tpv_registration_t *registrations; /* under the lock */
    uint64_t messages, bytes;          /* moved. The owner's. */
};

/* Fill a comm whose memory, which comes from calloc, is all zero. `fd`: its first connection. */
void tpv_comm_start(tpv_comm_t *comm, const tpv_comm_ops_t *ops, bool sends, tpv_device_t *device, int fd);

/* Account for the comm, free what is registered and the memory. */
void tpv_comm_end(tpv_comm_t *comm);

/* From here on `made` moves the data of `comm`, which stays what the caller knows, and keeps what is registered. */
void tpv_comm_become(tpv_comm_t *comm, tpv_comm_t *made);

/* Whether this process made the comm, and is no forked child. */
bool tpv_comm_own(const tpv_comm_t *comm);

/* ncclSuccess while the comm is good. Any thread. */
static inline ncclResult_t tpv_comm_failure(tpv_comm_t *comm) {
    return atomic_load_explicit(&comm->failure, memory_order_acquire);
}

static inline bool tpv_comm_failed(tpv_comm_t *comm) {
    return tpv_comm_failure(comm) != ncclSuccess;
}

/* Mark the comm as failed for good and log why, once; later calls change nothing. Returns the comm's failure. Any
 * thread. */
ncclResult_t tpv_comm_fail(tpv_comm_t *comm, ncclResult_t result, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same for an errno of a system call on a connection, which decides between remote and local. */
ncclResult_t tpv_comm_fail_errno(tpv_comm_t *comm, const char *call, int error_number);
/* The same for data of this process that is not accessible. */
ncclResult_t tpv_comm_fail_data(tpv_comm_t *comm, const char *call);
/* The same for a peer that has closed the comm. */
ncclResult_t tpv_comm_fail_closed(tpv_comm_t *comm);
/* The same for a send that no receive can take. */
ncclResult_t tpv_comm_fail_long(tpv_comm_t *comm, size_t size);

/* regMr and deregMr. ncclInvalidUsage, logged: memory of a kind that the device does not move. Any thread. */
ncclResult_t tpv_comm_register(tpv_comm_t *comm, void *data, size_t size, int type, void **registration);
void tpv_comm_deregister(tpv_comm_t *comm, tpv_registration_t *registration);

#endif
