/* The sending end. A small message is copied into the shared memory and is done; a larger one is announced where it
 * lies and is done when the receiver has it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/credits.h"
#include "core/log.h"
#include "local/comm.h"

#define CHUNK ((size_t)64 << 10)

/* What isend was given for its memory. */
typedef struct {
    _Atomic uint32_t in_flight; /* requests; by the thread that moves data, read by the one that deregisters */
} registration_t;

typedef struct {
    tpv_request_t base;
    uint16_t index;
    uint16_t slot;
    bool eager; /* it lies in an inline buffer */
    const char *data;
    size_t size;
    registration_t *registration;
    void *event;
} send_t;

/* A set of small numbers. */
typedef struct {
    uint64_t words[(TPV_LOCAL_SLOTS + 63) / 64];
} set_t;

typedef struct {
    tpv_local_comm_t base;
    set_t free_requests, free_slots, free_buffers;
    /* Slots whose requests are gone and whose messages wait for their receives, oldest first. */
    unsigned lingering_count;
    uint16_t lingering[TPV_LOCAL_INLINE_BUFFERS];
    /* Payloads for `bulk`, in the order of the grants. */
    uint32_t served;   /* grants whose payload is in whole */
    size_t offset;     /* how much of the present one is */
    uint64_t produced; /* the shared word's own copy, as all words that we alone write */
    uint32_t announced, heard;
    tpv_credits_t credits;
    send_t *by_slot[TPV_LOCAL_SLOTS];
    send_t requests[TPV_LOCAL_SENDS];
} sender_t;

static void put(set_t *set, unsigned number) {
    set->words[number / 64] |= UINT64_C(1) << number % 64;
}

static bool empty(const set_t *set) {
    uint64_t any = 0;
    for (unsigned i = 0; i < sizeof set->words / sizeof *set->words; i++)
        any |= set->words[i];
    return any == 0;
}

/* The lowest, which was most likely in use a moment ago; -1 when there is none. */
static int take(set_t *set) {
    for (unsigned i = 0; i < sizeof set->words / sizeof *set->words; i++) {
        if (!set->words[i]) continue;
        unsigned number = 64 * i + (unsigned)__builtin_ctzll(set->words[i]);
        set->words[i] &= set->words[i] - 1;
        return (int)number;
    }
    return -1;
}

static bool taken_over(const sender_t *comm, unsigned slot) {
    return atomic_load_explicit(&comm->base.control->slots[slot].done, memory_order_acquire);
}

static void free_slot(sender_t *comm, unsigned slot) {
    uint32_t buffer = comm->base.control->slots[slot].buffer;
    if (buffer) put(&comm->free_buffers, buffer - 1);
    put(&comm->free_slots, slot);
}

/* Get back what the receiver has taken meanwhile. It mostly takes the oldest first, so a look at that one does until
 * something runs out. */
static void reclaim(sender_t *comm) {
    unsigned kept = 0;
    if (comm->lingering_count == 0) return;
    if (!taken_over(comm, comm->lingering[0]) && comm->lingering_count < TPV_LOCAL_INLINE_BUFFERS) return;
    for (unsigned i = 0; i < comm->lingering_count; i++) {
        if (taken_over(comm, comm->lingering[i]))
            free_slot(comm, comm->lingering[i]);
        else
            comm->lingering[kept++] = comm->lingering[i];
    }
    comm->lingering_count = kept;
}

static bool complete(const sender_t *comm, const send_t *request) {
    return request->eager || taken_over(comm, request->slot);
}

/* The peer's word, and what it means for us. */
static void heed_receiver(sender_t *comm) {
    switch (atomic_load_explicit(&comm->base.control->receiver_state, memory_order_acquire)) {
    case TPV_LOCAL_OPEN:
        break;
    case TPV_LOCAL_CLOSED:
        tpv_local_fail(&comm->base, ncclRemoteError, "the peer closed the connection");
        break;
    case TPV_LOCAL_SOURCE_FAULT:
        tpv_local_fail_data(&comm->base, "the peer's process_vm_readv");
        break;
    default:
        tpv_local_fail(&comm->base, ncclRemoteError, "the peer has failed");
    }
}

/* Take the notices that have come. */
static void listen_to_receiver(sender_t *comm) {
    tpv_local_control_t *control = comm->base.control;
    uint32_t noticed = atomic_load_explicit(&control->noticed, memory_order_acquire);
    if (comm->heard == noticed) return;
    bool good = noticed - comm->heard <= TPV_LOCAL_NOTICES;
    while (good && comm->heard != noticed) {
        tpv_notice_t notice = control->notices[comm->heard++ % TPV_LOCAL_NOTICES];
        good = tpv_credits_add(&comm->credits, &notice) == ncclSuccess;
    }
    if (!good) tpv_local_fail(&comm->base, ncclRemoteError, "the shared memory is damaged: words that are no notice");
    atomic_store_explicit(&control->heard, comm->heard, memory_order_release);
}

/* What the peer reads of our memory from here on does not count. */
static void give_up_memory(sender_t *comm, tpv_local_state_t state) {
    atomic_store_explicit(&comm->base.control->sender_state, state, memory_order_release);
    tpv_local_barrier();
}

/* Copy to the shared memory; false when the comm failed. */
static bool store(sender_t *comm, const char *data, size_t size, size_t at) {
    while (size) {
        ssize_t count = pwrite(comm->base.link->segment.fd, data, size, (off_t)at);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) {
            if (count < 0 && errno == EFAULT)
                tpv_local_fail_data(&comm->base, "pwrite");
            else
                tpv_local_fail(&comm->base, ncclSystemError, "pwrite: %s", strerror(count ? errno : ENOSPC));
            give_up_memory(comm, TPV_LOCAL_WITHDRAWN);
            return false;
        }
        data += count;
        size -= (size_t)count;
        at += (size_t)count;
    }
    return true;
}

/* Put payloads that the receiver wants into `bulk`, as far as there is room. */
static void serve_grants(sender_t *comm) {
    tpv_local_control_t *control = comm->base.control;
    uint32_t granted = atomic_load_explicit(&control->granted, memory_order_acquire);
    size_t moved = 0;
    while (comm->served != granted && moved < TPV_LOCAL_TEST_BYTES) {
        uint32_t slot = control->grants[comm->served % TPV_LOCAL_RING];
        const send_t *request = slot < TPV_LOCAL_SLOTS ? comm->by_slot[slot] : NULL;
        if (!request || request->eager || request->size <= comm->offset) {
            tpv_local_fail(&comm->base, ncclRemoteError, "the shared memory is damaged: it asks for what is not sent");
            return;
        }
        uint64_t consumed = atomic_load_explicit(&control->consumed, memory_order_acquire);
        if (comm->produced - consumed > TPV_LOCAL_BULK_BYTES) {
            tpv_local_fail(&comm->base, ncclRemoteError, "the shared memory is damaged: more was taken than given");
            return;
        }
        size_t room = TPV_LOCAL_BULK_BYTES - (size_t)(comm->produced - consumed);
        size_t at = comm->produced % TPV_LOCAL_BULK_BYTES, size = request->size - comm->offset;
        if (size > CHUNK) size = CHUNK;
        if (size > TPV_LOCAL_BULK_BYTES - at) size = TPV_LOCAL_BULK_BYTES - at;
        if (size > room) size = room;
        if (size == 0) return;
        if (!store(comm, request->data + comm->offset, size, TPV_LOCAL_BULK_AT + at)) return;
        moved += size;
        comm->offset += size;
        comm->produced += size;
        if (comm->offset == request->size) {
            comm->offset = 0;
            comm->served++;
        }
        atomic_store_explicit(&control->produced, comm->produced, memory_order_release);
    }
}

static void progress(sender_t *comm) {
    if (comm->base.failure != ncclSuccess) return;
    serve_grants(comm);
    heed_receiver(comm);
    tpv_local_look_after_peer(&comm->base);
    if (comm->base.peer_gone) {
        heed_receiver(comm); /* what it said before counts more */
        tpv_local_fail(&comm->base, ncclRemoteError, "the peer is gone: its process or the connection to it has ended");
    }
}

static void announce(sender_t *comm, send_t *request, int tag, unsigned buffer) {
    tpv_local_control_t *control = comm->base.control;
    tpv_local_slot_t *slot = &control->slots[request->slot];
    slot->address = (uintptr_t)request->data;
    slot->size = request->size;
    slot->tag = tag;
    slot->buffer = buffer;
    atomic_store_explicit(&slot->done, 0, memory_order_relaxed);
    comm->by_slot[request->slot] = request;
    control->order[comm->announced++ % TPV_LOCAL_RING] = request->slot;
    atomic_store_explicit(&control->announced, comm->announced, memory_order_release);
}

static ncclResult_t send_isend(tpv_comm_t *base, void *data, size_t size, int tag, void *registration, void **request) {
    sender_t *comm = (sender_t *)base;
    if (comm->base.failure != ncclSuccess) return comm->base.failure;
    if (size > TPV_LOCAL_MESSAGE_MAX)
        return tpv_local_fail(&comm->base, ncclInvalidUsage,
                              "a message of %zu bytes is too long: expected %llu at most", size,
                              (unsigned long long)TPV_LOCAL_MESSAGE_MAX);
    heed_receiver(comm);
    listen_to_receiver(comm);
    if (comm->base.failure != ncclSuccess || empty(&comm->free_requests)) return comm->base.failure;
    if (!tpv_credits_take(&comm->credits, tag)) {
        progress(comm); /* the receiver may wait for what was sent before, or be gone */
        return comm->base.failure;
    }
    int index = take(&comm->free_requests), buffer = -1;
    /* Requests and inline buffers together are no more than the slots, so there is one. */
    reclaim(comm);
    send_t *taken = &comm->requests[index];
    taken->slot = (uint16_t)take(&comm->free_slots);
    taken->data = data;
    taken->size = size;
    taken->registration = registration;
    if (size <= TPV_LOCAL_INLINE_MAX) buffer = take(&comm->free_buffers);
    taken->eager = buffer >= 0;
    if (taken->eager && !store(comm, data, size, TPV_LOCAL_INLINE_AT + (size_t)buffer * TPV_LOCAL_INLINE_MAX))
        return comm->base.failure;
    if (taken->registration && !taken->eager)
        atomic_fetch_add_explicit(&taken->registration->in_flight, 1, memory_order_relaxed);
    announce(comm, taken, tag, (unsigned)(buffer + 1));
    *request = taken;
    return ncclSuccess;
}

static ncclResult_t send_test(tpv_request_t *base, int *done, int *sizes) {
    sender_t *comm = (sender_t *)base->comm;
    send_t *request = (send_t *)base;
    if (!complete(comm, request)) {
        progress(comm);
        if (!complete(comm, request)) return comm->base.failure;
    }
    *done = 1;
    if (sizes) *sizes = (int)request->size;
    comm->base.messages++;
    comm->base.bytes += request->size;
    if (request->registration && !request->eager)
        atomic_fetch_sub_explicit(&request->registration->in_flight, 1, memory_order_relaxed);
    comm->by_slot[request->slot] = NULL;
    if (taken_over(comm, request->slot))
        free_slot(comm, request->slot);
    else
        comm->lingering[comm->lingering_count++] = request->slot;
    put(&comm->free_requests, request->index);
    return ncclSuccess;
}

static ncclResult_t send_register(tpv_comm_t *base, void *data, size_t size, int type, void **registration) {
    (void)base, (void)data, (void)size;
    if (type != NCCL_PTR_HOST) {
        TPV_NET_WARN("regMr: the same-host transport moves host memory only (type %d, expected %d)", type,
                     NCCL_PTR_HOST);
        return ncclInvalidUsage;
    }
    registration_t *made = calloc(1, sizeof *made);
    if (!made) {
        TPV_NET_WARN("out of memory");
        return ncclSystemError;
    }
    *registration = made;
    return ncclSuccess;
}

/* What is deregistered may be freed next, and the peer may be reading it now: from here on nothing that it reads
 * counts. Only an abort does this to requests in flight. */
static ncclResult_t send_deregister(tpv_comm_t *base, void *registration) {
    registration_t *of = registration;
    if (of && atomic_load_explicit(&of->in_flight, memory_order_relaxed) && tpv_local_own((tpv_local_comm_t *)base))
        give_up_memory((sender_t *)base, TPV_LOCAL_WITHDRAWN);
    free(of);
    return ncclSuccess;
}

static ncclResult_t no_irecv(tpv_comm_t *comm, int count, void **data, const size_t *sizes, const int *tags,
                             void **registrations, void **request) {
    (void)comm, (void)count, (void)data, (void)sizes, (void)tags, (void)registrations, (void)request;
    TPV_NET_WARN("irecv on a comm that sends");
    return ncclInvalidUsage;
}

static void sender_close(tpv_comm_t *base) {
    sender_t *comm = (sender_t *)base;
    if (tpv_local_own(&comm->base)) give_up_memory(comm, TPV_LOCAL_CLOSED);
    tpv_local_comm_end(&comm->base);
}

static const tpv_comm_ops_t send_ops = {
    .register_memory = send_register,
    .deregister_memory = send_deregister,
    .isend = send_isend,
    .irecv = no_irecv,
    .test = send_test,
    .close = sender_close,
};

ncclResult_t tpv_local_sender_create(tpv_local_link_t *link, tpv_device_t *device, int fd, tpv_comm_t **comm) {
    sender_t *made = calloc(1, sizeof *made);
    if (!made) {
        TPV_NET_WARN("out of memory");
        return ncclSystemError;
    }
    tpv_local_comm_start(&made->base, &send_ops, true, link, device, fd);
    for (unsigned i = 0; i < TPV_LOCAL_SENDS; i++) {
        made->requests[i].base.comm = &made->base.base;
        made->requests[i].base.events = &made->requests[i].event;
        made->requests[i].index = (uint16_t)i;
        put(&made->free_requests, i);
    }
    for (unsigned i = 0; i < TPV_LOCAL_SLOTS; i++)
        put(&made->free_slots, i);
    for (unsigned i = 0; i < TPV_LOCAL_INLINE_BUFFERS; i++)
        put(&made->free_buffers, i);
    *comm = &made->base.base;
    return ncclSuccess;
}
