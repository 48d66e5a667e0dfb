/*
 * What a transport is: a way to make devices, and to make connected comms between two of them. core/ and the ABI shims
 * know transports only through these tables; each comm carries its own operations, so a transport may hand out comms
 * of several kinds. Return codes follow NCCL: ncclRemoteError is the peer's fault, ncclSystemError a local one,
 * ncclInvalidUsage the caller's; whoever decides on one has logged it.
 */
#ifndef CORE_TRANSPORT_H
#define CORE_TRANSPORT_H

#include "core/device.h"

typedef struct tpv_comm tpv_comm_t;
typedef struct tpv_listener tpv_listener_t;

/* Receives that one irecv may ask for, as with NCCL's IB transport (NCCL_NET_IB_MAX_RECVS). */
#define TPV_GROUP_MEMBERS_MAX 8

/* First member of every transport's request. */
typedef struct {
    tpv_comm_t *comm;
    /* For core/profiler.h: a place for each message of the request (sends: one), NULL when there is no event. */
    void **events;
    uint8_t event_count;
} tpv_request_t;

/* Operations of one connected comm. One thread at a time moves data; register_memory and deregister_memory may run
 * beside it on another thread. None of them blocks. */
typedef struct {
    /* *registration may become NULL where the transport needs none. */
    ncclResult_t (*register_memory)(tpv_comm_t *comm, void *data, size_t size, int type, void **registration);
    ncclResult_t (*deregister_memory)(tpv_comm_t *comm, void *registration);
    /* *request stays NULL when it cannot be begun now: try again. `count` is 1 to TPV_GROUP_MEMBERS_MAX. */
    ncclResult_t (*isend)(tpv_comm_t *comm, void *data, size_t size, int tag, void *registration, void **request);
    ncclResult_t (*irecv)(tpv_comm_t *comm, int count, void **data, const size_t *sizes, const int *tags,
                          void **registrations, void **request);
    /* Moves what can be moved on the comm. With *done the request is gone; `sizes` may be NULL, otherwise it has an
     * element for each message of the request. */
    ncclResult_t (*test)(tpv_request_t *request, int *done, int *sizes);
    /* Frees everything, requests in flight included. In a forked child it must leave the parent's connection alone. */
    void (*close)(tpv_comm_t *comm);
} tpv_comm_ops_t;

/* First member of every transport's comm. */
struct tpv_comm {
    const tpv_comm_ops_t *ops;
    unsigned fork_generation;
};

typedef struct tpv_transport {
    const char *name;
    /* Add this transport's devices to the table by tpv_device_add. Called once, under the setup lock (core/fork.h). */
    ncclResult_t (*discover)(void);
    /* Writes all NCCL_NET_HANDLE_MAXSIZE bytes of `handle`. traffic_class -1: undefined. */
    ncclResult_t (*listen)(tpv_device_t *device, int traffic_class, void *handle, tpv_listener_t **listener);
    /* *comm stays NULL until the connection stands: call again with the same handle memory. `owner` is who to ask for
     * at `abandon`. */
    ncclResult_t (*connect)(const void *owner, tpv_device_t *device, int traffic_class, const void *handle,
                            tpv_comm_t **comm);
    /* *comm stays NULL until a rightful peer has connected: call again. */
    ncclResult_t (*accept)(tpv_listener_t *listener, tpv_comm_t **comm);
    void (*close_listener)(tpv_listener_t *listener);
    /* Drop the connects that `owner` began and did not carry to their end. */
    void (*abandon)(const void *owner);
} tpv_transport_t;

/* First member of every transport's listener. */
struct tpv_listener {
    const tpv_transport_t *transport;
    unsigned fork_generation;
};

/* Every transport, best first, ending with NULL. Defined beside the ABI shims (abi/transports.c), so that core/ knows
 * none of them. */
extern const tpv_transport_t *const tpv_transports[];

#endif
