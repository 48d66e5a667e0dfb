/* The sending end. isend queues; the queue is handed to the kernel in as few calls as possible, headers and payloads of
 * several messages together. A send is done when the kernel has taken its last byte. */
#include <errno.h>
#include <sys/uio.h>

#include "core/clock.h"
#include "tcp/comm.h"
#include "tcp/socket.h"

/* Smaller sends wait for the next test, so that what is posted together leaves together. */
#define EAGER_BYTES ((size_t)64 << 10)
/* Enough for a full queue. */
#define IOVS_MAX (2 * TPV_TCP_REQUESTS)
/* More than the kernel takes in one call. */
#define CALL_BYTES ((size_t)4 << 20)
/* A full socket is left alone for so long: taking room up as soon as there is any means many tiny writes. */
#define FULL_GAP_NS (2 * TPV_NS_PER_US)
#define CHECK_INTERVAL_NS TPV_NS_PER_SECOND

static size_t gather(tpv_tcp_comm_t *comm, struct iovec *iovs, int *count) {
    size_t total = 0, skip = comm->offset;
    int used = 0;
    for (uint32_t at = comm->head; at != comm->tail && total < CALL_BYTES; at++) {
        tpv_tcp_request_t *request = tpv_tcp_request_at(comm, at);
        size_t header_left = sizeof request->header;
        if (skip < header_left) {
            header_left -= skip;
            iovs[used++] = (struct iovec){(char *)&request->header + skip, header_left};
            total += header_left;
            skip = sizeof request->header;
        }
        size_t gone = skip - sizeof request->header, payload_left = request->size - gone;
        if (payload_left) {
            iovs[used++] = (struct iovec){request->data + gone, payload_left};
            total += payload_left;
        }
        skip = 0;
    }
    *count = used;
    return total;
}

static void retire(tpv_tcp_comm_t *comm, size_t written) {
    comm->offset += written;
    while (comm->head != comm->tail) {
        const tpv_tcp_request_t *request = tpv_tcp_request_at(comm, comm->head);
        size_t whole = sizeof request->header + request->size;
        if (comm->offset < whole) return;
        comm->offset -= whole;
        tpv_tcp_request_finish_head(comm, request->size);
    }
}

/* The kernel takes no more: is the peer still there? */
static void check_stall(tpv_tcp_comm_t *comm, int64_t now) {
    if (!comm->stalled_since) {
        comm->stalled_since = now;
        comm->next_check = now + CHECK_INTERVAL_NS;
    } else if (now >= comm->next_check) {
        comm->next_check = now + CHECK_INTERVAL_NS;
        if (tpv_tcp_peer_is_silent(comm->fd))
            tpv_tcp_fail(comm, ncclRemoteError, "the peer's host has been silent for %lld s",
                         (long long)((now - comm->stalled_since) / TPV_NS_PER_SECOND));
    }
}

static void progress(tpv_tcp_comm_t *comm) {
    if (comm->head == comm->tail || comm->failure != ncclSuccess) return;
    if (comm->quiet_until && tpv_clock_ns() < comm->quiet_until) return;
    struct iovec iovs[IOVS_MAX];
    struct msghdr message = {.msg_iov = iovs};
    int count;
    size_t wanted = gather(comm, iovs, &count);
    message.msg_iovlen = (size_t)count;
    comm->unsent = 0;
    comm->quiet_until = 0;
    ssize_t written;
    do
        written = sendmsg(comm->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (written < 0 && errno == EINTR);
    if (written < 0 && errno != EAGAIN) {
        tpv_tcp_fail_errno(comm, "sendmsg", errno);
        return;
    }
    if (written > 0) {
        comm->stalled_since = 0;
        retire(comm, (size_t)written);
    }
    if (written < (ssize_t)wanted) {
        int64_t now = tpv_clock_ns();
        comm->quiet_until = now + FULL_GAP_NS;
        if (written < 0) check_stall(comm, now);
    }
}

static ncclResult_t send_isend(tpv_comm_t *base, void *data, size_t size, int tag, void *registration, void **request) {
    (void)registration;
    tpv_tcp_comm_t *comm = (tpv_tcp_comm_t *)base;
    if (comm->failure != ncclSuccess) return comm->failure;
    if (size > TPV_TCP_MESSAGE_MAX)
        return tpv_tcp_fail(comm, ncclInvalidUsage, "a message of %zu bytes is too long: expected %llu at most", size,
                            (unsigned long long)TPV_TCP_MESSAGE_MAX);
    tpv_tcp_request_t *taken = tpv_tcp_request_take(comm);
    if (!taken) return ncclSuccess;
    taken->data = data;
    taken->size = size;
    taken->header = (tpv_tcp_header_t){.magic = TPV_TCP_HEADER_MAGIC, .tag = tag, .size = size};
    comm->unsent += sizeof taken->header + size;
    if (comm->unsent >= EAGER_BYTES) progress(comm);
    *request = taken;
    return ncclSuccess;
}

static ncclResult_t send_test(tpv_request_t *base, int *done, int *sizes) {
    tpv_tcp_comm_t *comm = (tpv_tcp_comm_t *)base->comm;
    tpv_tcp_request_t *request = (tpv_tcp_request_t *)base;
    if (!request->done) progress(comm);
    if (!request->done) return comm->failure;
    tpv_tcp_request_give_back(comm, request, done, sizes);
    return ncclSuccess;
}

const tpv_comm_ops_t tpv_tcp_send_ops = {
    .register_memory = tpv_tcp_register,
    .deregister_memory = tpv_tcp_deregister,
    .isend = send_isend,
    .irecv = tpv_tcp_no_irecv,
    .test = send_test,
    .close = tpv_tcp_comm_close,
};
