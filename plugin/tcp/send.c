/* The sending end. isend queues; the queue is handed to the kernel in as few calls as possible, headers and payloads of
 * several messages together. A send is done when the kernel has taken its last byte. */
#include <errno.h>
#include <stdlib.h>
#include <sys/uio.h>

#include "core/clock.h"
#include "core/credits.h"
#include "core/fork.h"
#include "core/log.h"
#include "tcp/comm.h"
#include "tcp/linger.h"
#include "tcp/socket.h"

/* The receiver may have posted so many groups of so many receives. */
#define REQUESTS (NCCL_NET_MAX_REQUESTS * TPV_GROUP_MEMBERS_MAX)
#define FREE_WORDS (REQUESTS / 64)
/* Smaller sends wait for the next test, so that what is posted together leaves together. */
#define EAGER_BYTES ((size_t)64 << 10)
#define IOVS_MAX 64
/* More than the kernel takes in one call. */
#define CALL_BYTES ((size_t)4 << 20)
/* A full socket is left alone for so long: taking room up as soon as there is any means many tiny writes. */
#define FULL_GAP_NS (2 * TPV_NS_PER_US)
#define CHECK_INTERVAL_NS TPV_NS_PER_SECOND
/* Before the first notice, one is looked for after so many bytes: the receiver keeps what it has not asked for. */
#define LISTEN_BYTES ((size_t)1 << 20)

typedef struct {
    tpv_request_t base;
    uint8_t slot;
    bool done;
    const char *data;
    size_t size;
    tpv_tcp_header_t header;
    void *event;
} send_t;

typedef struct {
    tpv_tcp_comm_t base;
    uint64_t free_slots[FREE_WORDS]; /* bit i of word w: requests[64 * w + i] is free */
    uint32_t head, tail;   /* requests not done yet, oldest first: queue[head % 256] … queue[tail % 256 - 1] */
    size_t offset;         /* bytes of the head's header and payload gone */
    size_t unsent;         /* bytes in the queue that no system call has been made for yet */
    int64_t stalled_since; /* when the kernel first took no more; 0 when it took some since */
    int64_t next_check;    /* when to ask the kernel about the peer again */
    size_t unlistened;     /* bytes sent since a notice was looked for */
    size_t notice_bytes;   /* how much of `notice` has come */
    tpv_notice_t notice;
    tpv_credits_t credits;
    uint8_t queue[REQUESTS];
    send_t requests[REQUESTS];
} sender_t;

static send_t *request_at(sender_t *comm, uint32_t position) {
    return &comm->requests[comm->queue[position % REQUESTS]];
}

/* A free request appended to the queue; NULL when all are in use. */
static send_t *take_request(sender_t *comm) {
    for (unsigned word = 0; word < FREE_WORDS; word++) {
        if (!comm->free_slots[word]) continue;
        unsigned slot = 64 * word + (unsigned)__builtin_ctzll(comm->free_slots[word]);
        comm->free_slots[word] &= comm->free_slots[word] - 1;
        comm->queue[comm->tail++ % REQUESTS] = (uint8_t)slot;
        comm->requests[slot].done = false;
        return &comm->requests[slot];
    }
    return NULL;
}

static bool have_request(const sender_t *comm) {
    uint64_t any = 0;
    for (unsigned word = 0; word < FREE_WORDS; word++)
        any |= comm->free_slots[word];
    return any != 0;
}

static size_t gather(sender_t *comm, struct iovec *iovs, int *count) {
    size_t total = 0, skip = comm->offset;
    int used = 0;
    for (uint32_t at = comm->head; at != comm->tail && total < CALL_BYTES && used + 2 <= IOVS_MAX; at++) {
        send_t *request = request_at(comm, at);
        size_t header_left = sizeof request->header;
        if (skip < header_left) {
            header_left -= skip;
            iovs[used++] = (struct iovec){(char *)&request->header + skip, header_left};
            total += header_left;
            skip = sizeof request->header;
        }
        size_t gone = skip - sizeof request->header, payload_left = request->size - gone;
        if (payload_left) {
            iovs[used++] = (struct iovec){(void *)(uintptr_t)(request->data + gone), payload_left};
            total += payload_left;
        }
        skip = 0;
    }
    *count = used;
    return total;
}

static void retire(sender_t *comm, size_t written) {
    comm->offset += written;
    while (comm->head != comm->tail) {
        send_t *request = request_at(comm, comm->head);
        size_t whole = sizeof request->header + request->size;
        if (comm->offset < whole) return;
        comm->offset -= whole;
        comm->head++;
        request->done = true;
        comm->base.messages++;
        comm->base.bytes += request->size;
    }
}

/* The kernel takes no more: is the peer still there? */
static void check_stall(sender_t *comm, int64_t now) {
    if (!comm->stalled_since) {
        comm->stalled_since = now;
        comm->next_check = now + CHECK_INTERVAL_NS;
    } else if (now >= comm->next_check) {
        comm->next_check = now + CHECK_INTERVAL_NS;
        if (tpv_tcp_peer_is_silent(comm->base.fd))
            tpv_tcp_fail(&comm->base, ncclRemoteError, "the peer's host has been silent for %lld s",
                         (long long)((now - comm->stalled_since) / TPV_NS_PER_SECOND));
    }
}

/* Take the notices that have come. */
static void listen_to_receiver(sender_t *comm) {
    comm->unlistened = 0;
    while (comm->base.failure == ncclSuccess) {
        char *into = (char *)&comm->notice + comm->notice_bytes;
        ssize_t got = recv(comm->base.fd, into, sizeof comm->notice - comm->notice_bytes, MSG_DONTWAIT);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && errno == EAGAIN) return;
        if (got <= 0) {
            got == 0 ? tpv_tcp_fail_closed(&comm->base) : tpv_tcp_fail_errno(&comm->base, "recv", errno);
            return;
        }
        comm->notice_bytes += (size_t)got;
        if (comm->notice_bytes < sizeof comm->notice) return;
        comm->notice_bytes = 0;
        if (tpv_credits_add(&comm->credits, &comm->notice) != ncclSuccess)
            tpv_tcp_fail(&comm->base, ncclRemoteError, "the stream is damaged: bytes that are no notice");
    }
}

static void progress(sender_t *comm) {
    if (comm->head == comm->tail || comm->base.failure != ncclSuccess) return;
    if (comm->base.quiet_until && tpv_clock_ns() < comm->base.quiet_until) return;
    struct iovec iovs[IOVS_MAX];
    struct msghdr message = {.msg_iov = iovs};
    int count;
    size_t wanted = gather(comm, iovs, &count);
    message.msg_iovlen = (size_t)count;
    comm->unsent = 0;
    comm->base.quiet_until = 0;
    ssize_t written;
    do
        written = sendmsg(comm->base.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (written < 0 && errno == EINTR);
    if (written < 0 && errno != EAGAIN) {
        tpv_tcp_fail_errno(&comm->base, "sendmsg", errno);
        return;
    }
    if (written > 0) {
        comm->stalled_since = 0;
        comm->unlistened += (size_t)written;
        retire(comm, (size_t)written);
    }
    if (written < (ssize_t)wanted) {
        int64_t now = tpv_clock_ns();
        comm->base.quiet_until = now + FULL_GAP_NS;
        if (written < 0) check_stall(comm, now);
    }
    if (comm->unlistened >= LISTEN_BYTES && !comm->credits.noticed) listen_to_receiver(comm);
}

static bool may_send(sender_t *comm, int tag) {
    if (tpv_credits_take(&comm->credits, tag)) return true;
    listen_to_receiver(comm);
    if (comm->base.failure == ncclSuccess && tpv_credits_take(&comm->credits, tag)) return true;
    /* The receiver may wait for what is queued before it asks for this one. */
    progress(comm);
    return false;
}

static ncclResult_t send_isend(tpv_comm_t *base, void *data, size_t size, int tag, void *registration, void **request) {
    (void)registration;
    sender_t *comm = (sender_t *)base;
    if (comm->base.failure != ncclSuccess) return comm->base.failure;
    if (size > TPV_TCP_MESSAGE_MAX)
        return tpv_tcp_fail(&comm->base, ncclInvalidUsage, "a message of %zu bytes is too long: expected %llu at most",
                            size, (unsigned long long)TPV_TCP_MESSAGE_MAX);
    if (!have_request(comm)) return ncclSuccess;
    if (!may_send(comm, tag)) return comm->base.failure;
    send_t *taken = take_request(comm);
    taken->data = data;
    taken->size = size;
    taken->header = (tpv_tcp_header_t){.magic = TPV_TCP_HEADER_MAGIC, .tag = tag, .size = size};
    comm->unsent += sizeof taken->header + size;
    if (comm->unsent >= EAGER_BYTES) progress(comm);
    *request = taken;
    return ncclSuccess;
}

static ncclResult_t send_test(tpv_request_t *base, int *done, int *sizes) {
    sender_t *comm = (sender_t *)base->comm;
    send_t *request = (send_t *)base;
    if (!request->done) progress(comm);
    if (!request->done) return comm->base.failure;
    *done = 1;
    if (sizes) *sizes = (int)request->size;
    comm->free_slots[request->slot / 64] |= UINT64_C(1) << request->slot % 64;
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
    if (comm->credits.noticed && comm->base.failure == ncclSuccess && base->fork_generation == tpv_fork_generation() &&
        tpv_tcp_linger(comm->base.fd))
        comm->base.fd = -1;
    tpv_tcp_comm_end(&comm->base);
}

static const tpv_comm_ops_t send_ops = {
    .register_memory = tpv_tcp_register,
    .deregister_memory = tpv_tcp_deregister,
    .isend = send_isend,
    .irecv = no_irecv,
    .test = send_test,
    .close = sender_close,
};

ncclResult_t tpv_tcp_sender_create(tpv_tcp_device_t *device, int fd, tpv_comm_t **comm) {
    sender_t *made = calloc(1, sizeof *made);
    if (!made) {
        TPV_NET_WARN("out of memory");
        return ncclSystemError;
    }
    tpv_tcp_comm_start(&made->base, &send_ops, device, fd);
    made->base.sends = true;
    for (int i = 0; i < REQUESTS; i++) {
        made->free_slots[i / 64] |= UINT64_C(1) << i % 64;
        made->requests[i].base.comm = &made->base.base;
        made->requests[i].base.events = &made->requests[i].event;
        made->requests[i].slot = (uint8_t)i;
    }
    *comm = &made->base.base;
    return ncclSuccess;
}
