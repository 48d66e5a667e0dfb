/*
 * The receiving end. It alone moves payloads: out of the sender's memory, or out of the shared memory, into what its
 * own caller has posted. Nobody ever writes into the memory of another process, so nothing can arrive after a close.
 *
 * Messages go to receives by their tags, see core/receives.h, and are copied in the order in which they found them; but
 * what comes through `bulk` comes in the order in which it was asked for.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/log.h"
#include "core/receives.h"
#include "local/pair.h"

/* Runs in one process_vm_readv, the nonce included: as many as the kernel has on its stack (UIO_FASTIOV). */
#define RUNS_MAX 8
/* More than places of receives: behind one that waits for `bulk`, others may be done. */
#define TRANSFERS 512

/* An announcement, copied out of the shared memory once and checked. */
typedef struct {
    uint64_t address;
    size_t size;
    int32_t tag;
    uint32_t slot, buffer;
    bool shared;
} message_t;

/* A message and where it goes. */
typedef struct {
    message_t message;
    tpv_incoming_t incoming;
    size_t offset; /* how much of the payload has come */
    bool too_long;
    bool granted; /* it comes through `bulk` */
    bool whole;
} transfer_t;

typedef struct {
    tpv_local_pair_t base;
    tpv_receives_t receives;
    unsigned open_places;     /* posted receives that have no message yet */
    uint32_t seen;            /* announcements that were looked at */
    bool crowded;             /* messages without a transfer may have a receive */
    bool told_unreadable;     /* of memory that cannot be read */
    unsigned unmatched_count; /* messages without a receive, oldest first */
    message_t unmatched[TPV_LOCAL_SLOTS];
    uint32_t head, tail; /* transfers[head % TRANSFERS] … transfers[tail % TRANSFERS - 1]; the head is not whole */
    bool ends;           /* the last transfer is too long: none may follow */
    uint32_t filled;     /* grants whose payload is here */
    uint32_t granted_to[TPV_LOCAL_RING]; /* positions of transfers */
    uint32_t granted, noticed;           /* ours of the shared words */
    uint64_t consumed;
    transfer_t transfers[TRANSFERS];
} receiver_t;

static void tell(receiver_t *comm, tpv_local_state_t state) {
    atomic_store_explicit(&comm->base.control->receiver_state, state, memory_order_release);
}

static void fail(receiver_t *comm, tpv_local_state_t state, ncclResult_t result, const char *text) {
    tpv_comm_fail(&comm->base.base, result, "%s", text);
    tell(comm, state);
}

static void fail_call(receiver_t *comm, const char *call, int error_number) {
    tpv_comm_fail(&comm->base.base, ncclSystemError, "%s: %s", call, strerror(error_number));
    tell(comm, TPV_LOCAL_FAILED);
}

static void fail_data(receiver_t *comm, const char *call) {
    tpv_comm_fail_data(&comm->base.base, call);
    tell(comm, TPV_LOCAL_FAILED);
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
        fail(comm, TPV_LOCAL_FAILED, ncclRemoteError, "the peer is gone: its process has ended");
        break;
    case TPV_LOCAL_WITHDRAWN:
        fail(comm, TPV_LOCAL_FAILED, ncclRemoteError, "the peer deregistered memory with a send in flight");
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

/* Its message is there. */
static void finish(receiver_t *comm, transfer_t *transfer) {
    transfer->whole = true;
    comm->base.base.messages++;
    comm->base.base.bytes += transfer->message.size;
    /* Cannot fail: no message is begun here before there is a receive for it. */
    (void)tpv_receives_end(&comm->receives, &transfer->incoming);
    atomic_store_explicit(&comm->base.control->slots[transfer->message.slot].done, 1, memory_order_release);
    while (comm->head != comm->tail && transfer_at(comm, comm->head)->whole)
        comm->head++;
}

static bool wants_grant(const receiver_t *comm, const transfer_t *transfer) {
    return (comm->base.end->mode == TPV_LOCAL_SHARE || transfer->message.shared) && !transfer->message.buffer &&
           transfer->message.size && !transfer->too_long && !transfer->granted && !transfer->whole;
}

/* Have the payload of the transfer at `position` come through `bulk`, from its first byte. */
static void grant(receiver_t *comm, uint32_t position) {
    tpv_local_control_t *control = comm->base.control;
    transfer_t *transfer = transfer_at(comm, position);
    transfer->granted = true;
    transfer->offset = 0;
    comm->granted_to[comm->granted % TPV_LOCAL_RING] = position;
    control->grants[comm->granted++ % TPV_LOCAL_RING] = transfer->message.slot;
    atomic_store_explicit(&control->granted, comm->granted, memory_order_release);
}

/* Pass on what the sender has to know; what finds no room now is for later. */
static void tell_sender(tpv_comm_t *base) {
    receiver_t *comm = (receiver_t *)base;
    tpv_local_control_t *control = comm->base.control;
    uint32_t unheard = comm->noticed - atomic_load_explicit(&control->heard, memory_order_acquire);
    if (unheard > TPV_LOCAL_NOTICES) {
        fail_damaged(comm);
        return;
    }
    if (comm->receives.notice_count > TPV_LOCAL_NOTICES - unheard) return;
    for (unsigned i = 0; i < comm->receives.notice_count; i++)
        control->notices[comm->noticed++ % TPV_LOCAL_NOTICES] = comm->receives.notices[i];
    comm->receives.notice_count = 0;
    atomic_store_explicit(&control->noticed, comm->noticed, memory_order_release);
}

static bool have_transfer(const receiver_t *comm) {
    return comm->tail - comm->head < TRANSFERS;
}

/* There is a receive for the message. If it is too short, the comm fails when the transfer's turn comes: what came
 * before stays good. */
static void begin_transfer(receiver_t *comm, const message_t *message) {
    uint32_t position = comm->tail++;
    transfer_t *transfer = transfer_at(comm, position);
    comm->open_places--;
    *transfer = (transfer_t){.message = *message};
    transfer->too_long = comm->ends =
        tpv_receives_begin(&comm->receives, message->tag, message->size, &transfer->incoming) != ncclSuccess;
    if (wants_grant(comm, transfer)) grant(comm, position);
}

/* Messages that came before their receives. */
static void match_unmatched(receiver_t *comm) {
    unsigned kept = 0;
    for (unsigned i = 0; i < comm->unmatched_count; i++) {
        if (!comm->ends && have_transfer(comm) && tpv_receives_wants(&comm->receives, comm->unmatched[i].tag))
            begin_transfer(comm, &comm->unmatched[i]);
        else
            comm->unmatched[kept++] = comm->unmatched[i];
    }
    comm->unmatched_count = kept;
    comm->crowded = !have_transfer(comm);
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
    while (comm->seen != announced && comm->open_places && !comm->ends && have_transfer(comm)) {
        uint32_t slot = *(const volatile uint32_t *)&control->order[comm->seen++ % TPV_LOCAL_RING];
        if (slot >= TPV_LOCAL_SLOTS) {
            fail_damaged(comm);
            return false;
        }
        const volatile tpv_local_slot_t *from = &control->slots[slot];
        message_t message = {from->address, from->size, from->tag, slot, from->buffer, from->shared == 1};
        if (message.size > TPV_MESSAGE_MAX || message.buffer > TPV_LOCAL_INLINE_BUFFERS ||
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
        ssize_t count = pread(comm->base.end->segment.fd, data, size, (off_t)at);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) {
            if (count < 0 && errno == EFAULT)
                fail_data(comm, "pread");
            else
                fail_call(comm, "pread", count ? errno : ENODATA);
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
    transfer_t *transfer = transfer_at(comm, comm->head);
    size_t at = TPV_LOCAL_INLINE_AT + (size_t)(transfer->message.buffer - 1) * TPV_LOCAL_INLINE_MAX;
    if (transfer->message.size && !load(comm, transfer->incoming.data, transfer->message.size, at)) return 0;
    finish(comm, transfer);
    return transfer->message.size + 1;
}

static size_t copy_bulk(receiver_t *comm) {
    tpv_local_control_t *control = comm->base.control;
    transfer_t *transfer = transfer_at(comm, comm->granted_to[comm->filled % TPV_LOCAL_RING]);
    uint64_t produced = atomic_load_explicit(&control->produced, memory_order_acquire);
    if (produced - comm->consumed > TPV_LOCAL_BULK_BYTES) {
        fail_damaged(comm);
        return 0;
    }
    size_t size = (size_t)(produced - comm->consumed), left = transfer->message.size - transfer->offset;
    size_t at = comm->consumed % TPV_LOCAL_BULK_BYTES;
    if (size > left) size = left;
    if (size > TPV_LOCAL_BULK_BYTES - at) size = TPV_LOCAL_BULK_BYTES - at;
    if (size == 0 || !load(comm, transfer->incoming.data + transfer->offset, size, TPV_LOCAL_BULK_AT + at)) return 0;
    transfer->offset += size;
    comm->consumed += size;
    atomic_store_explicit(&control->consumed, comm->consumed, memory_order_release);
    if (transfer->offset == transfer->message.size) {
        comm->filled++;
        finish(comm, transfer);
    }
    return size;
}

/* The kernel does not let us read the sender's memory any more (it may have changed its user or its permissions): from
 * here on all that is not inline goes through the shared memory, from the first byte. */
static void share_instead(receiver_t *comm) {
    TPV_NET_INFO("the memory of process %d cannot be read any more (process_vm_readv: %s): its data is copied twice",
                 comm->base.base.peer_process, strerror(errno));
    comm->base.end->mode = TPV_LOCAL_SHARE;
    for (uint32_t at = comm->head; at != comm->tail; at++)
        if (wants_grant(comm, transfer_at(comm, at))) grant(comm, at);
}

/* process_vm_readv stopped at the first byte that it was asked for: whose place is not accessible? The sender's may be
 * of a kind that only its owner can read (secret memory, a device's), which is to be had through `bulk`; should it not
 * be there at all, the sender finds out. Returns as the copying functions. */
static size_t ask_for_a_copy(receiver_t *comm) {
    const transfer_t *transfer = transfer_at(comm, comm->head);
    char byte = 0;
    struct iovec local[2] = {[1] = {&byte, 1}};
    struct iovec remote[2] = {[1] = {(void *)(uintptr_t)(transfer->message.address + transfer->offset), 1}};
    ssize_t got = tpv_local_pull(comm->base.end, local, remote, 1);
    if (got < 0 || sender_state(comm) != TPV_LOCAL_OPEN) {
        fail_ended(comm);
        return 0;
    }
    if (got > 0) {
        fail_data(comm, "process_vm_readv");
        return 0;
    }
    if (!comm->told_unreadable)
        TPV_NET_INFO("some memory of process %d cannot be read by others: its data is copied twice",
                     comm->base.base.peer_process);
    comm->told_unreadable = true;
    grant(comm, comm->head);
    return 1;
}

/* The `got` bytes that were asked for in the order of the transfers are here. */
static void distribute(receiver_t *comm, size_t got) {
    while (got) {
        transfer_t *transfer = transfer_at(comm, comm->head);
        size_t rest = transfer->message.size - transfer->offset;
        if (got < rest) {
            transfer->offset += got;
            return;
        }
        got -= rest;
        finish(comm, transfer);
    }
}

/* Several messages with one call. */
static size_t pull(receiver_t *comm) {
    struct iovec local[RUNS_MAX], remote[RUNS_MAX];
    unsigned runs = 0;
    size_t wanted = 0;
    for (uint32_t at = comm->head; at != comm->tail && runs + 1 < RUNS_MAX && wanted < TPV_LOCAL_SLICE; at++) {
        const transfer_t *transfer = transfer_at(comm, at);
        size_t offset = transfer->offset, size = transfer->message.size - offset;
        if (transfer->message.buffer || size == 0 || transfer->too_long || transfer->granted) break;
        if (size > TPV_LOCAL_SLICE - wanted) size = TPV_LOCAL_SLICE - wanted;
        runs++;
        local[runs] = (struct iovec){transfer->incoming.data + offset, size};
        remote[runs] = (struct iovec){(void *)(uintptr_t)(transfer->message.address + offset), size};
        wanted += size;
    }
    ssize_t got = tpv_local_pull(comm->base.end, local, remote, runs);
    if (got < 0 && errno == EPERM) {
        share_instead(comm);
        return 1;
    }
    if (got < 0 && errno != ESRCH) {
        fail_call(comm, "process_vm_readv", errno);
        return 0;
    }
    /* What was read counts only if the sender had not given its memory up by then: this load must not move up. */
    tpv_local_barrier();
    if (got < 0 || sender_state(comm) != TPV_LOCAL_OPEN) {
        fail_ended(comm);
        return 0;
    }
    if (got == 0) return ask_for_a_copy(comm);
    distribute(comm, (size_t)got);
    return (size_t)got;
}

static size_t copy_some(receiver_t *comm) {
    const transfer_t *transfer = transfer_at(comm, comm->head);
    const message_t *message = &transfer->message;
    if (transfer->too_long) {
        tpv_comm_fail(&comm->base.base, ncclInvalidUsage,
                      "a message of %zu bytes (tag %d) is longer than the receive of %zu bytes posted for it",
                      message->size, message->tag, transfer->incoming.size);
        tell(comm, TPV_LOCAL_FAILED);
        return 0;
    }
    if (message->size == 0 || message->buffer) return copy_inline(comm);
    return transfer->granted ? copy_bulk(comm) : pull(comm);
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
    while (comm->head != comm->tail && !tpv_comm_failed(&comm->base.base))
        if (copy_some(comm) == 0) break;
    if (tpv_receives_waiting(&comm->receives)) fail_ended(comm);
}

static void progress(receiver_t *comm) {
    size_t moved = 0;
    if (tpv_comm_failed(&comm->base.base)) return;
    if (comm->crowded) match_unmatched(comm);
    if (!look_at_announcements(comm)) return;
    while (comm->head != comm->tail && moved < TPV_LOCAL_TEST_BYTES) {
        size_t copied = copy_some(comm);
        if (copied == 0) break;
        moved += copied;
    }
    tpv_receives_tell(&comm->receives);
    if (moved == 0 && tpv_receives_waiting(&comm->receives) && !tpv_comm_failed(&comm->base.base)) check_sender(comm);
}

static ncclResult_t receive_irecv(tpv_comm_t *base, int count, void **data, const size_t *sizes, const int *tags,
                                  void **registrations, void **request) {
    (void)registrations;
    receiver_t *comm = (receiver_t *)base;
    if (tpv_comm_failed(&comm->base.base)) return tpv_comm_failure(&comm->base.base);
    tpv_group_t *group;
    ncclResult_t result = tpv_receives_post(&comm->receives, count, data, sizes, tags, &group);
    if (group) comm->open_places += (unsigned)count;
    if (comm->unmatched_count) match_unmatched(comm);
    if (comm->ends && transfer_at(comm, comm->head)->too_long) {
        (void)copy_some(comm);
        return tpv_comm_failure(&comm->base.base);
    }
    *request = group;
    return result;
}

static ncclResult_t receive_test(tpv_request_t *base, int *done, int *sizes) {
    receiver_t *comm = (receiver_t *)base->comm;
    tpv_group_t *group = (tpv_group_t *)base;
    if (group->undone) progress(comm);
    if (group->undone) return tpv_comm_failure(&comm->base.base);
    *done = 1;
    tpv_receives_give_back(&comm->receives, group, sizes);
    return ncclSuccess;
}

static void receiver_close(tpv_comm_t *base) {
    receiver_t *comm = (receiver_t *)base;
    /* A failure was told already, and says more. */
    if (tpv_comm_own(base) && !tpv_comm_failed(base)) tell(comm, TPV_LOCAL_CLOSED);
    tpv_local_pair_end(&comm->base);
}

static const tpv_comm_ops_t receive_ops = {.irecv = receive_irecv, .test = receive_test, .close = receiver_close};

ncclResult_t tpv_local_receive_over(tpv_end_t *end, tpv_connections_t *connections, tpv_comm_t **comm) {
    receiver_t *made = calloc(1, sizeof *made);
    if (!made) {
        TPV_NET_WARN("out of memory");
        return ncclSystemError;
    }
    tpv_local_pair_start(&made->base, &receive_ops, false, end, connections);
    tpv_receives_start(&made->receives, &made->base.base, tell_sender);
    *comm = &made->base.base;
    return ncclSuccess;
}
