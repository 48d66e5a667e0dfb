/*
 * The receiving end. It alone moves payloads: out of the sender's memory, or out of the shared memory, into what its
 * own caller has posted. Nobody ever writes into the memory of another process, so nothing can arrive after a close.
 *
 * Messages go to receives by their tags, see core/receives.h, and are copied in the order in which they found them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/log.h"
#include "core/receives.h"
#include "local/comm.h"

/* Runs in one process_vm_readv, the nonce included: as many as the kernel has on its stack (UIO_FASTIOV). */
#define RUNS_MAX 8
/* One for each place of a receive. */
#define TRANSFERS (TPV_GROUPS_MAX * TPV_GROUP_MEMBERS_MAX)

/* An announcement, copied out of the shared memory once and checked. */
typedef struct {
    uint64_t address;
    size_t size;
    int32_t tag;
    uint32_t slot, buffer;
} message_t;

/* A message and where it goes. */
typedef struct {
    message_t message;
    tpv_incoming_t incoming;
    bool too_long;
} transfer_t;

typedef struct {
    tpv_local_comm_t base;
    tpv_receives_t receives;
    unsigned open_places;     /* posted receives that have no message yet */
    uint32_t seen;            /* announcements that were looked at */
    unsigned unmatched_count; /* messages without a receive, oldest first */
    message_t unmatched[TPV_LOCAL_SLOTS];
    uint32_t head, tail;       /* transfers[head % TRANSFERS] … */
    bool ends;                 /* the last transfer is too long: none may follow */
    size_t offset;             /* how much of the head's payload has come */
    uint32_t granted, noticed; /* ours of the shared words */
    uint64_t consumed;
    transfer_t transfers[TRANSFERS];
} receiver_t;

static void tell(receiver_t *comm, tpv_local_state_t state) {
    atomic_store_explicit(&comm->base.control->receiver_state, state, memory_order_release);
}

static void fail(receiver_t *comm, tpv_local_state_t state, ncclResult_t result, const char *text) {
    tpv_local_fail(&comm->base, result, "%s", text);
    tell(comm, state);
}

static void fail_damaged(receiver_t *comm) {
    fail(comm, TPV_LOCAL_FAILED, ncclRemoteError, "the shared memory is damaged");
}

static tpv_local_state_t sender_state(const receiver_t *comm) {
    return (tpv_local_state_t)atomic_load_explicit(&comm->base.control->sender_state, memory_order_acquire);
}

/* The sender will send no more. */
static void fail_ended(receiver_t *comm) {
    switch (sender_state(comm)) {
    case TPV_LOCAL_OPEN:
        fail(comm, TPV_LOCAL_FAILED, ncclRemoteError,
             "the peer is gone: its process or the connection to it has ended");
        break;
    case TPV_LOCAL_CLOSED:
        fail(comm, TPV_LOCAL_FAILED, ncclRemoteError, "the peer closed the connection");
        break;
    default:
        fail(comm, TPV_LOCAL_FAILED, ncclRemoteError, "the peer has failed");
    }
}

static transfer_t *transfer_at(receiver_t *comm, uint32_t position) {
    return &comm->transfers[position % TRANSFERS];
}

/* The head's message is there. */
static void finish_head(receiver_t *comm) {
    const transfer_t *transfer = transfer_at(comm, comm->head++);
    comm->offset = 0;
    comm->base.messages++;
    comm->base.bytes += transfer->message.size;
    /* Cannot fail: no message is begun here before there is a receive for it. */
    (void)tpv_receives_end(&comm->receives, &transfer->incoming);
    atomic_store_explicit(&comm->base.control->slots[transfer->message.slot].done, 1, memory_order_release);
}

static bool wants_grant(const receiver_t *comm, const transfer_t *transfer) {
    return comm->base.link->mode == TPV_LOCAL_SHARE && !transfer->message.buffer && transfer->message.size &&
           !transfer->too_long;
}

static void grant(receiver_t *comm, uint32_t slot) {
    tpv_local_control_t *control = comm->base.control;
    control->grants[comm->granted++ % TPV_LOCAL_RING] = slot;
    atomic_store_explicit(&control->granted, comm->granted, memory_order_release);
}

/* Pass on what the sender has to know; what finds no room now is for later. */
static void tell_sender(receiver_t *comm) {
    tpv_local_control_t *control = comm->base.control;
    uint32_t room = TPV_LOCAL_NOTICES - (comm->noticed - atomic_load_explicit(&control->heard, memory_order_acquire));
    if (comm->receives.notice_count > room) return;
    for (unsigned i = 0; i < comm->receives.notice_count; i++)
        control->notices[comm->noticed++ % TPV_LOCAL_NOTICES] = comm->receives.notices[i];
    comm->receives.notice_count = 0;
    atomic_store_explicit(&control->noticed, comm->noticed, memory_order_release);
}

/* There is a receive for the message. If it is too short, the comm fails when the transfer's turn comes: what came
 * before stays good. */
static void begin_transfer(receiver_t *comm, const message_t *message) {
    transfer_t *transfer = transfer_at(comm, comm->tail++);
    comm->open_places--;
    transfer->message = *message;
    transfer->too_long = comm->ends =
        tpv_receives_begin(&comm->receives, message->tag, message->size, &transfer->incoming) != ncclSuccess;
    if (wants_grant(comm, transfer)) grant(comm, message->slot);
}

/* Messages that came before their receives. */
static void match_unmatched(receiver_t *comm) {
    unsigned kept = 0;
    for (unsigned i = 0; i < comm->unmatched_count; i++) {
        if (!comm->ends && tpv_receives_wants(&comm->receives, comm->unmatched[i].tag))
            begin_transfer(comm, &comm->unmatched[i]);
        else
            comm->unmatched[kept++] = comm->unmatched[i];
    }
    comm->unmatched_count = kept;
}

/* False when the comm failed. */
static bool look_at_announcements(receiver_t *comm) {
    tpv_local_control_t *control = comm->base.control;
    uint32_t announced = atomic_load_explicit(&control->announced, memory_order_acquire);
    if (announced - comm->seen > TPV_LOCAL_RING) {
        fail_damaged(comm);
        return false;
    }
    /* A message that nobody has asked for is only of interest while others are waited for. */
    while (comm->seen != announced && comm->open_places && !comm->ends) {
        uint32_t slot = control->order[comm->seen++ % TPV_LOCAL_RING];
        if (slot >= TPV_LOCAL_SLOTS) {
            fail_damaged(comm);
            return false;
        }
        const volatile tpv_local_slot_t *from = &control->slots[slot];
        message_t message = {from->address, from->size, from->tag, slot, from->buffer};
        if (message.size > TPV_LOCAL_MESSAGE_MAX || message.buffer > TPV_LOCAL_INLINE_BUFFERS ||
            (message.buffer && message.size > TPV_LOCAL_INLINE_MAX)) {
            fail_damaged(comm);
            return false;
        }
        if (tpv_receives_wants(&comm->receives, message.tag)) {
            begin_transfer(comm, &message);
        } else if (comm->unmatched_count < TPV_LOCAL_SLOTS) {
            comm->unmatched[comm->unmatched_count++] = message;
            tpv_receives_unwanted(&comm->receives);
        } else {
            fail_damaged(comm);
            return false;
        }
    }
    return true;
}

/* Copy out of the shared memory; false when the comm failed. */
static bool load(receiver_t *comm, char *data, size_t size, size_t at) {
    while (size) {
        ssize_t count = pread(comm->base.link->segment.fd, data, size, (off_t)at);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) {
            if (count < 0 && errno == EFAULT)
                tpv_local_fail_data(&comm->base, "pread");
            else
                tpv_local_fail(&comm->base, ncclSystemError, "pread: %s", strerror(count ? errno : ENODATA));
            tell(comm, TPV_LOCAL_FAILED);
            return false;
        }
        data += count;
        size -= (size_t)count;
        at += (size_t)count;
    }
    return true;
}

/* Each of the following copies for the oldest transfers and returns the bytes, but at least 1 when something was done;
 * 0 when nothing can be had now, or the comm failed. */

static size_t copy_inline(receiver_t *comm) {
    const transfer_t *transfer = transfer_at(comm, comm->head);
    size_t at = TPV_LOCAL_INLINE_AT + (size_t)(transfer->message.buffer - 1) * TPV_LOCAL_INLINE_MAX;
    if (!load(comm, transfer->incoming.data, transfer->message.size, at)) return 0;
    finish_head(comm);
    return transfer->message.size + 1;
}

static size_t copy_bulk(receiver_t *comm) {
    tpv_local_control_t *control = comm->base.control;
    const transfer_t *transfer = transfer_at(comm, comm->head);
    uint64_t produced = atomic_load_explicit(&control->produced, memory_order_acquire);
    if (produced - comm->consumed > TPV_LOCAL_BULK_BYTES) {
        fail_damaged(comm);
        return 0;
    }
    size_t size = (size_t)(produced - comm->consumed), left = transfer->message.size - comm->offset;
    size_t at = comm->consumed % TPV_LOCAL_BULK_BYTES;
    if (size > left) size = left;
    if (size > TPV_LOCAL_BULK_BYTES - at) size = TPV_LOCAL_BULK_BYTES - at;
    if (size == 0 || !load(comm, transfer->incoming.data + comm->offset, size, TPV_LOCAL_BULK_AT + at)) return 0;
    comm->offset += size;
    comm->consumed += size;
    atomic_store_explicit(&control->consumed, comm->consumed, memory_order_release);
    if (comm->offset == transfer->message.size) {
        finish_head(comm);
    }
    return size;
}

/* The kernel does not let us read the sender's memory any more (it may have changed its user or its permissions): from
 * here on all that is not inline goes through the shared memory, from the first byte. */
static void share_instead(receiver_t *comm) {
    TPV_NET_INFO("the memory of process %d cannot be read any more (process_vm_readv: %s): its data is copied twice",
                 comm->base.link->peer, strerror(errno));
    comm->base.link->mode = TPV_LOCAL_SHARE;
    comm->offset = 0;
    for (uint32_t at = comm->head; at != comm->tail; at++)
        if (wants_grant(comm, transfer_at(comm, at))) grant(comm, transfer_at(comm, at)->message.slot);
}

/* process_vm_readv stopped at the first byte that it was asked for: whose place is not accessible? */
static void blame(receiver_t *comm) {
    const transfer_t *transfer = transfer_at(comm, comm->head);
    char byte = 0;
    struct iovec local[2] = {[1] = {&byte, 1}};
    struct iovec remote[2] = {[1] = {(void *)(uintptr_t)(transfer->message.address + comm->offset), 1}};
    ssize_t got = tpv_local_pull(comm->base.link, local, remote, 1);
    if (got < 0 || sender_state(comm) != TPV_LOCAL_OPEN) {
        fail_ended(comm);
    } else if (got == 0) {
        fail(comm, TPV_LOCAL_SOURCE_FAULT, ncclRemoteError, "the peer's data is not accessible");
    } else {
        tpv_local_fail_data(&comm->base, "process_vm_readv");
        tell(comm, TPV_LOCAL_FAILED);
    }
}

/* Several messages with one call. */
static size_t pull(receiver_t *comm) {
    struct iovec local[RUNS_MAX], remote[RUNS_MAX];
    unsigned runs = 0;
    size_t wanted = 0, offset = comm->offset;
    for (uint32_t at = comm->head; at != comm->tail && runs + 1 < RUNS_MAX && wanted < TPV_LOCAL_SLICE; at++) {
        const transfer_t *transfer = transfer_at(comm, at);
        size_t size = transfer->message.size - offset;
        if (transfer->message.buffer || size == 0 || transfer->too_long) break;
        if (size > TPV_LOCAL_SLICE - wanted) size = TPV_LOCAL_SLICE - wanted;
        runs++;
        local[runs] = (struct iovec){transfer->incoming.data + offset, size};
        remote[runs] = (struct iovec){(void *)(uintptr_t)(transfer->message.address + offset), size};
        wanted += size;
        offset = 0;
    }
    ssize_t got = tpv_local_pull(comm->base.link, local, remote, runs);
    if (got < 0 && errno == EPERM) {
        share_instead(comm);
        return 1;
    }
    if (got < 0 && errno != ESRCH) {
        tpv_local_fail(&comm->base, ncclSystemError, "process_vm_readv: %s", strerror(errno));
        tell(comm, TPV_LOCAL_FAILED);
        return 0;
    }
    /* What was read counts only if the sender had not given its memory up by then: this load must not move up. */
    tpv_local_barrier();
    if (got < 0 || sender_state(comm) != TPV_LOCAL_OPEN) {
        fail_ended(comm);
        return 0;
    }
    if (got == 0) {
        blame(comm);
        return 0;
    }
    for (size_t left = (size_t)got; left;) {
        const transfer_t *transfer = transfer_at(comm, comm->head);
        size_t rest = transfer->message.size - comm->offset;
        if (left < rest) {
            comm->offset += left;
            break;
        }
        left -= rest;
        finish_head(comm);
    }
    return (size_t)got;
}

static size_t copy_some(receiver_t *comm) {
    const transfer_t *transfer = transfer_at(comm, comm->head);
    const message_t *message = &transfer->message;
    if (transfer->too_long) {
        tpv_local_fail(&comm->base, ncclInvalidUsage,
                       "a message of %zu bytes (tag %d) is longer than the receive of %zu bytes posted for it",
                       message->size, message->tag, transfer->incoming.size);
        tell(comm, TPV_LOCAL_FAILED);
        return 0;
    }
    if (message->size == 0 || message->buffer) return copy_inline(comm);
    return comm->base.link->mode == TPV_LOCAL_PULL ? pull(comm) : copy_bulk(comm);
}

/* Nothing moves although receives are posted: can anything come yet? */
static void check_sender(receiver_t *comm) {
    bool ended = comm->base.peer_gone || sender_state(comm) != TPV_LOCAL_OPEN;
    if (!ended) {
        tpv_local_look_after_peer(&comm->base);
        return;
    }
    /* Whatever it announced before is visible by now. */
    if (!look_at_announcements(comm)) return;
    while (comm->head != comm->tail && comm->base.failure == ncclSuccess)
        if (copy_some(comm) == 0) break;
    if (tpv_receives_waiting(&comm->receives)) fail_ended(comm);
}

static void progress(receiver_t *comm) {
    size_t moved = 0;
    if (comm->base.failure != ncclSuccess) return;
    if (!look_at_announcements(comm)) return;
    while (comm->head != comm->tail && moved < TPV_LOCAL_TEST_BYTES) {
        size_t copied = copy_some(comm);
        if (copied == 0) break;
        moved += copied;
    }
    if (comm->receives.notice_count) tell_sender(comm);
    if (moved == 0 && tpv_receives_waiting(&comm->receives) && comm->base.failure == ncclSuccess) check_sender(comm);
}

static ncclResult_t receive_irecv(tpv_comm_t *base, int count, void **data, const size_t *sizes, const int *tags,
                                  void **registrations, void **request) {
    (void)registrations;
    receiver_t *comm = (receiver_t *)base;
    if (comm->base.failure != ncclSuccess) return comm->base.failure;
    tpv_group_t *group;
    if (comm->receives.notice_count) tell_sender(comm);
    ncclResult_t result = tpv_receives_post(&comm->receives, count, data, sizes, tags, &group);
    if (comm->receives.notice_count) tell_sender(comm);
    if (group) comm->open_places += (unsigned)count;
    if (comm->unmatched_count) match_unmatched(comm);
    if (comm->ends && transfer_at(comm, comm->head)->too_long) {
        (void)copy_some(comm);
        return comm->base.failure;
    }
    *request = group;
    return result;
}

static ncclResult_t receive_test(tpv_request_t *base, int *done, int *sizes) {
    receiver_t *comm = (receiver_t *)base->comm;
    tpv_group_t *group = (tpv_group_t *)base;
    if (group->undone) progress(comm);
    if (group->undone) return comm->base.failure;
    *done = 1;
    tpv_receives_give_back(&comm->receives, group, sizes);
    return ncclSuccess;
}

static ncclResult_t receive_register(tpv_comm_t *comm, void *data, size_t size, int type, void **registration) {
    (void)comm, (void)data, (void)size;
    *registration = NULL; /* only this process ever touches it */
    if (type == NCCL_PTR_HOST) return ncclSuccess;
    TPV_NET_WARN("regMr: the same-host transport moves host memory only (type %d, expected %d)", type, NCCL_PTR_HOST);
    return ncclInvalidUsage;
}

static ncclResult_t receive_deregister(tpv_comm_t *comm, void *registration) {
    (void)comm, (void)registration;
    return ncclSuccess;
}

static ncclResult_t no_isend(tpv_comm_t *comm, void *data, size_t size, int tag, void *registration, void **request) {
    (void)comm, (void)data, (void)size, (void)tag, (void)registration, (void)request;
    TPV_NET_WARN("isend on a comm that receives");
    return ncclInvalidUsage;
}

static void receiver_close(tpv_comm_t *base) {
    receiver_t *comm = (receiver_t *)base;
    /* A failure was told already, and says more. */
    if (tpv_local_own(&comm->base) && comm->base.failure == ncclSuccess) tell(comm, TPV_LOCAL_CLOSED);
    tpv_local_comm_end(&comm->base);
}

static const tpv_comm_ops_t receive_ops = {
    .register_memory = receive_register,
    .deregister_memory = receive_deregister,
    .isend = no_isend,
    .irecv = receive_irecv,
    .test = receive_test,
    .close = receiver_close,
};

ncclResult_t tpv_local_receiver_create(tpv_local_link_t *link, tpv_device_t *device, int fd, tpv_comm_t **comm) {
    receiver_t *made = calloc(1, sizeof *made);
    if (!made) {
        TPV_NET_WARN("out of memory");
        return ncclSystemError;
    }
    tpv_local_comm_start(&made->base, &receive_ops, false, link, device, fd);
    tpv_receives_start(&made->receives, &made->base.base);
    *comm = &made->base.base;
    return ncclSuccess;
}
