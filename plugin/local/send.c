/* The sending end. A small message is copied into the shared memory and is done; a larger one is announced where it
 * lies and is done when the receiver has it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/credits.h"
#include "core/log.h"
#include "local/pair.h"

#define CHUNK ((size_t)64 << 10)

/* A registration's word, once the peer could not read its memory. */
#define UNREADABLE 1

typedef struct {
    tpv_request_t base;
    uint16_t index;
    bool eager;  /* it lies in an inline buffer */
    bool shared; /* it is announced as not to be read */
    const char *data;
    size_t size;
    /* What isend was given, while the peer may need the memory; set by the thread that moves data, cleared by it or by
     * the one that deregisters, and read with `slot` by the latter. */
    _Atomic(tpv_registration_t *) registration;
    _Atomic uint16_t slot;
    void *event;
} send_t;

/* A set of small numbers. */
typedef struct {
    uint64_t words[(TPV_LOCAL_SLOTS + 63) / 64];
} set_t;

typedef struct {
    tpv_local_pair_t base;
    _Atomic bool withdrawn;          /* memory was deregistered with a send in flight; any thread */
    pthread_mutex_t registered_lock; /* no registration that a request refers to goes while it is held */
    set_t free_requests, free_slots, free_buffers;
    /* Slots whose requests are gone and whose messages wait for their receives, oldest first. */
    unsigned lingering_count;
    uint16_t lingering[TPV_LOCAL_INLINE_BUFFERS];
    /* Payloads for `bulk`, in the order of the grants. */
    uint32_t served;   /* grants whose payload is in whole */
    send_t *serving;   /* whose payload is going in; NULL: the peer has it all, and is wrong to ask for more */
    size_t offset;     /* how much of the present one is */
    uint64_t produced; /* the shared word's own copy, as all words that we alone write */
    uint32_t announced, heard;
    tpv_credits_t credits;
    send_t *by_slot[TPV_LOCAL_SLOTS];
    uint16_t
        buffers[TPV_LOCAL_SLOTS]; /* of a slot's message, counted from 1; 0: none. The peer can write to its own. */
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

/* The peer's word, which it may take back: whoever acts on it reads it once. */
static bool taken_over(const sender_t *comm, unsigned slot) {
    return atomic_load_explicit(&comm->base.control->slots[slot].done, memory_order_acquire);
}

static unsigned slot_of(send_t *request) {
    return atomic_load_explicit(&request->slot, memory_order_relaxed);
}

static void free_slot(sender_t *comm, unsigned slot) {
    unsigned buffer = comm->buffers[slot];
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

/* The peer's word, and what it means for us. */
static void heed_receiver(sender_t *comm) {
    if (atomic_load_explicit(&comm->withdrawn, memory_order_relaxed))
        tpv_comm_fail(&comm->base.base, ncclInvalidUsage, "deregMr of memory with a send in flight");
    switch (atomic_load_explicit(&comm->base.control->receiver_state, memory_order_acquire)) {
    case TPV_LOCAL_OPEN:
        break;
    case TPV_LOCAL_CLOSED:
        tpv_comm_fail_closed(&comm->base.base);
        break;
    default:
        tpv_comm_fail(&comm->base.base, ncclRemoteError, "the peer has failed");
    }
}

static void fail_damaged(sender_t *comm, const char *what) {
    tpv_comm_fail(&comm->base.base, ncclRemoteError, "the shared memory is damaged: %s", what);
}

/* Take the notices that have come. */
static void listen_to_receiver(sender_t *comm) {
    tpv_local_control_t *control = comm->base.control;
    uint32_t noticed = atomic_load_explicit(&control->noticed, memory_order_acquire);
    if (comm->heard == noticed) return;
    bool good = noticed - comm->heard <= TPV_LOCAL_NOTICES;
    while (good && comm->heard != noticed) {
        const volatile tpv_notice_t *from = &control->notices[comm->heard++ % TPV_LOCAL_NOTICES];
        tpv_notice_t notice = {.magic = from->magic, .tag = from->tag, .count = from->count};
        good = tpv_credits_add(&comm->credits, &notice) == ncclSuccess;
    }
    if (!good) fail_damaged(comm, "words that are no notice");
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
        ssize_t count = pwrite(comm->base.end->segment.fd, data, size, (off_t)at);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) {
            if (count < 0 && errno == EFAULT)
                tpv_comm_fail_data(&comm->base.base, "pwrite");
            else
                tpv_comm_fail(&comm->base.base, ncclSystemError, "pwrite: %s", strerror(count ? errno : ENOSPC));
            give_up_memory(comm, TPV_LOCAL_FAILED);
            return false;
        }
        data += count;
        size -= (size_t)count;
        at += (size_t)count;
    }
    return true;
}

/* The receiver could not read a message's memory: announce the next ones of its registration as such. */
static void note_unreadable(sender_t *comm, send_t *request) {
    pthread_mutex_lock(&comm->registered_lock);
    tpv_registration_t *registration = atomic_load_explicit(&request->registration, memory_order_relaxed);
    if (registration) atomic_store_explicit(&registration->word, UNREADABLE, memory_order_relaxed);
    pthread_mutex_unlock(&comm->registered_lock);
}

/* Put payloads that the receiver wants into `bulk`, as far as there is room. */
static void serve_grants(sender_t *comm) {
    tpv_local_control_t *control = comm->base.control;
    uint32_t granted = atomic_load_explicit(&control->granted, memory_order_acquire);
    size_t moved = 0;
    if (granted - comm->served > TPV_LOCAL_RING) {
        fail_damaged(comm, "it asks for more than there is");
        return;
    }
    while (comm->served != granted && moved < TPV_LOCAL_TEST_BYTES) {
        if (comm->offset == 0) {
            uint32_t slot = *(const volatile uint32_t *)&control->grants[comm->served % TPV_LOCAL_RING];
            comm->serving = slot < TPV_LOCAL_SLOTS ? comm->by_slot[slot] : NULL;
        }
        send_t *request = comm->serving;
        if (!request || request->eager || request->size <= comm->offset) {
            fail_damaged(comm, "it asks for what is not sent");
            return;
        }
        if (comm->offset == 0 && !request->shared && comm->base.end->mode == TPV_LOCAL_PULL)
            note_unreadable(comm, request);
        uint64_t consumed = atomic_load_explicit(&control->consumed, memory_order_acquire);
        if (comm->produced - consumed > TPV_LOCAL_BULK_BYTES) {
            fail_damaged(comm, "more was taken than given");
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
    if (tpv_comm_failed(&comm->base.base)) return;
    heed_receiver(comm);
    if (!tpv_comm_failed(&comm->base.base)) serve_grants(comm);
    tpv_local_look_after_peer(&comm->base);
    if (comm->base.peer_gone) {
        heed_receiver(comm); /* what it said before counts more */
        tpv_comm_fail(&comm->base.base, ncclRemoteError, "the peer is gone: its process has ended");
    }
}

static void announce(sender_t *comm, send_t *request, int tag, unsigned buffer) {
    tpv_local_control_t *control = comm->base.control;
    unsigned at = slot_of(request);
    tpv_local_slot_t *slot = &control->slots[at];
    slot->address = (uintptr_t)request->data;
    slot->size = request->size;
    slot->tag = tag;
    slot->buffer = buffer;
    slot->shared = request->shared;
    comm->by_slot[at] = request;
    comm->buffers[at] = (uint16_t)buffer;
    control->order[comm->announced++ % TPV_LOCAL_RING] = at;
    atomic_store_explicit(&control->announced, comm->announced, memory_order_release);
}

/* From here on deregMr finds the request by its registration, and its slot tells how far it is. */
static void begin(sender_t *comm, send_t *request, tpv_registration_t *registration) {
    unsigned slot = (unsigned)take(&comm->free_slots);
    atomic_store_explicit(&request->slot, (uint16_t)slot, memory_order_relaxed);
    atomic_store_explicit(&comm->base.control->slots[slot].done, 0, memory_order_relaxed);
    request->shared = false;
    if (request->eager || !registration) return;
    request->shared = atomic_load_explicit(&registration->word, memory_order_relaxed) == UNREADABLE;
    atomic_store_explicit(&request->registration, registration, memory_order_release);
}

static ncclResult_t send_isend(tpv_comm_t *base, void *data, size_t size, int tag, tpv_registration_t *registration,
                               void **request) {
    sender_t *comm = (sender_t *)base;
    if (tpv_comm_failed(base)) return tpv_comm_failure(base);
    heed_receiver(comm);
    listen_to_receiver(comm);
    if (tpv_comm_failed(base) || empty(&comm->free_requests)) return tpv_comm_failure(base);
    if (!tpv_credits_take(&comm->credits, tag)) {
        progress(comm); /* the receiver may wait for what was sent before, or be gone */
        return tpv_comm_failure(base);
    }
    int index = take(&comm->free_requests), buffer = -1;
    /* Requests and inline buffers together are no more than the slots, so there is one. */
    reclaim(comm);
    send_t *taken = &comm->requests[index];
    taken->data = data;
    taken->size = size;
    if (size <= TPV_LOCAL_INLINE_MAX) buffer = take(&comm->free_buffers);
    taken->eager = buffer >= 0;
    if (taken->eager && !store(comm, data, size, TPV_LOCAL_INLINE_AT + (size_t)buffer * TPV_LOCAL_INLINE_MAX))
        return tpv_comm_failure(base);
    begin(comm, taken, registration);
    announce(comm, taken, tag, (unsigned)(buffer + 1));
    *request = taken;
    return ncclSuccess;
}

static ncclResult_t send_test(tpv_request_t *base, int *done, int *sizes) {
    sender_t *comm = (sender_t *)base->comm;
    send_t *request = (send_t *)base;
    unsigned slot = slot_of(request);
    bool taken = taken_over(comm, slot);
    if (!taken && !request->eager) {
        progress(comm);
        taken = taken_over(comm, slot);
        if (!taken) return tpv_comm_failure(&comm->base.base);
    }
    *done = 1;
    if (sizes) *sizes = (int)request->size;
    comm->base.base.messages++;
    comm->base.base.bytes += request->size;
    atomic_store_explicit(&request->registration, NULL, memory_order_relaxed);
    comm->by_slot[slot] = NULL;
    /* The peer may call a message done that it has asked for. */
    if (comm->serving == request) comm->serving = NULL;
    if (taken)
        free_slot(comm, slot);
    else
        comm->lingering[comm->lingering_count++] = (uint16_t)slot;
    put(&comm->free_requests, request->index);
    return ncclSuccess;
}

/* Whether the peer may still read the memory of a request with this registration. */
static bool in_flight(sender_t *comm, send_t *request, const tpv_registration_t *registration) {
    if (atomic_load_explicit(&request->registration, memory_order_acquire) != registration) return false;
    unsigned slot = slot_of(request);
    if (taken_over(comm, slot)) return false;
    /* Its test may have ended it, and another one have got the slot. */
    return atomic_load_explicit(&request->registration, memory_order_acquire) == registration;
}

/* What is deregistered may be freed next, and the peer may be reading it now: from here on nothing that it reads
 * counts. Only an abort does this to requests in flight. */
static void send_deregister(tpv_comm_t *base, tpv_registration_t *registration) {
    sender_t *comm = (sender_t *)base;
    bool any = false;
    pthread_mutex_lock(&comm->registered_lock);
    for (unsigned i = 0; i < TPV_LOCAL_SENDS; i++) {
        tpv_registration_t *mine = registration;
        any = any || in_flight(comm, &comm->requests[i], registration);
        (void)atomic_compare_exchange_strong_explicit(&comm->requests[i].registration, &mine, NULL,
                                                      memory_order_acq_rel, memory_order_relaxed);
    }
    pthread_mutex_unlock(&comm->registered_lock);
    if (!any) return;
    atomic_store_explicit(&comm->withdrawn, true, memory_order_relaxed);
    give_up_memory(comm, TPV_LOCAL_WITHDRAWN);
}

static void sender_close(tpv_comm_t *base) {
    sender_t *comm = (sender_t *)base;
    if (tpv_comm_own(base)) {
        give_up_memory(comm, TPV_LOCAL_CLOSED);
        pthread_mutex_destroy(&comm->registered_lock);
    }
    tpv_local_pair_end(&comm->base);
}

static const tpv_comm_ops_t send_ops = {
    .isend = send_isend,
    .test = send_test,
    .close = sender_close,
    .deregister_memory = send_deregister,
};

ncclResult_t tpv_local_send_over(tpv_end_t *end, const tpv_message_t *answer, tpv_connections_t *connections,
                                 tpv_comm_t **comm) {
    if (!tpv_local_taken(end, answer)) return ncclRemoteError;
    sender_t *made = calloc(1, sizeof *made);
    if (!made) {
        TPV_NET_WARN("out of memory");
        return ncclSystemError;
    }
    tpv_local_pair_start(&made->base, &send_ops, true, end, connections);
    pthread_mutex_init(&made->registered_lock, NULL);
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
