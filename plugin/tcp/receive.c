/* The receiving end. Payload is read straight into the posted buffer, and the same call fetches the next header, so a
 * stream of messages costs one system call each. Bytes behind a short message's end are never touched. */
#include <errno.h>
#include <stdlib.h>
#include <sys/uio.h>

#include "core/clock.h"
#include "core/log.h"
#include "core/receives.h"
#include "tcp/comm.h"

/* An empty socket is left alone for so long, which makes a sweep of tests over many requests cheap. */
#define EMPTY_GAP_NS TPV_NS_PER_US
/* One test moves about so much at most, so that other comms of the thread get their turn. */
#define TEST_BYTES ((size_t)2 << 20)

typedef struct {
    tpv_tcp_comm_t base;
    bool receiving; /* a header has come, its payload has not */
    tpv_incoming_t incoming;
    size_t offset;       /* how much of the payload has come */
    size_t header_bytes; /* how much of `header` has come */
    tpv_tcp_header_t header;
    size_t told_bytes; /* how much of the notices is on its way */
    tpv_receives_t receives;
} receiver_t;

static void fail_too_long(receiver_t *comm) {
    tpv_tcp_fail(&comm->base, ncclInvalidUsage,
                 "a message of %llu bytes (tag %d) is longer than the receive of %zu bytes posted for it",
                 (unsigned long long)comm->header.size, comm->header.tag, comm->incoming.size);
}

/* False when the comm failed. */
static bool end_message(receiver_t *comm) {
    comm->receiving = false;
    comm->base.messages++;
    comm->base.bytes += comm->incoming.size;
    if (tpv_receives_end(&comm->receives, &comm->incoming) == ncclSuccess) return true;
    tpv_tcp_fail(&comm->base, ncclInvalidUsage, "a message is longer than the receive posted for it");
    return false;
}

/* The next message's header is whole and something is posted. False when the comm failed. */
static bool begin_message(receiver_t *comm) {
    const tpv_tcp_header_t *header = &comm->header;
    if (header->magic != TPV_TCP_HEADER_MAGIC || header->size > TPV_TCP_MESSAGE_MAX) {
        tpv_tcp_fail(&comm->base, ncclRemoteError, "the stream is damaged: bytes that are no message header");
        return false;
    }
    ncclResult_t result = tpv_receives_begin(&comm->receives, header->tag, header->size, &comm->incoming);
    if (result != ncclSuccess) {
        if (result == ncclInvalidUsage)
            fail_too_long(comm);
        else
            tpv_tcp_fail(&comm->base, result, "a message of %llu bytes with tag %d that was not asked for",
                         (unsigned long long)header->size, header->tag);
        return false;
    }
    comm->header_bytes = 0;
    comm->offset = 0;
    if (header->size == 0) return end_message(comm);
    comm->receiving = true;
    return true;
}

/* Account for `count` bytes that came into what read_more asked for. */
static void consume(receiver_t *comm, size_t count) {
    if (comm->receiving) {
        size_t left = comm->incoming.size - comm->offset;
        size_t payload = count < left ? count : left;
        comm->offset += payload;
        count -= payload;
        if (payload < left) return;
        if (!end_message(comm)) return;
    }
    comm->header_bytes += count;
}

/* One system call. Returns bytes moved; 0 when there is nothing more to be had now, or the comm failed. */
static size_t read_more(receiver_t *comm) {
    struct iovec iovs[2];
    size_t count = 0, wanted = 0;
    if (comm->receiving) {
        wanted = comm->incoming.size - comm->offset;
        iovs[count++] = (struct iovec){comm->incoming.data + comm->offset, wanted};
    }
    iovs[count++] =
        (struct iovec){(char *)&comm->header + comm->header_bytes, sizeof comm->header - comm->header_bytes};
    wanted += sizeof comm->header - comm->header_bytes;
    struct msghdr message = {.msg_iov = iovs, .msg_iovlen = count};
    ssize_t got;
    do
        got = recvmsg(comm->base.fd, &message, MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    if (got == 0) {
        tpv_tcp_fail_closed(&comm->base);
        return 0;
    }
    if (got < 0 && errno != EAGAIN) {
        tpv_tcp_fail_errno(&comm->base, "recvmsg", errno);
        return 0;
    }
    if (got > 0) consume(comm, (size_t)got);
    /* A short read has emptied the socket: asking again would only cost. */
    if (got < (ssize_t)wanted) {
        comm->base.quiet_until = tpv_clock_ns() + EMPTY_GAP_NS;
        return 0;
    }
    return (size_t)got;
}

/* Send the sender what it has to know. A lost connection is for read_more to find out, after what came before. */
static void tell_sender(receiver_t *comm) {
    size_t total = comm->receives.notice_count * sizeof *comm->receives.notices;
    const char *from = (const char *)comm->receives.notices;
    ssize_t sent;
    do
        sent = send(comm->base.fd, from + comm->told_bytes, total - comm->told_bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent > 0) comm->told_bytes += (size_t)sent;
    if (sent < 0 && errno != EAGAIN) comm->told_bytes = total;
    if (comm->told_bytes < total) return;
    comm->told_bytes = 0;
    comm->receives.notice_count = 0;
}

static void progress(receiver_t *comm) {
    if (comm->base.failure != ncclSuccess) return;
    if (comm->base.quiet_until && tpv_clock_ns() < comm->base.quiet_until) return;
    comm->base.quiet_until = 0;
    size_t moved = 0;
    while (comm->base.failure == ncclSuccess && tpv_receives_waiting(&comm->receives) && moved < TEST_BYTES) {
        if (!comm->receiving && comm->header_bytes == sizeof comm->header) {
            if (!begin_message(comm)) return;
            continue;
        }
        size_t got = read_more(comm);
        if (got == 0) break;
        moved += got;
    }
    /* A short read may have brought the last byte of a header whose message has no payload. */
    while (comm->base.failure == ncclSuccess && tpv_receives_waiting(&comm->receives) && !comm->receiving &&
           comm->header_bytes == sizeof comm->header)
        if (!begin_message(comm)) return;
    if (comm->receives.notice_count) tell_sender(comm);
}

static ncclResult_t receive_irecv(tpv_comm_t *base, int count, void **data, const size_t *sizes, const int *tags,
                                  void **registrations, void **request) {
    (void)registrations;
    receiver_t *comm = (receiver_t *)base;
    if (comm->base.failure != ncclSuccess) return comm->base.failure;
    if (comm->receives.notice_count) tell_sender(comm);
    tpv_group_t *group;
    if (tpv_receives_post(&comm->receives, count, data, sizes, tags, &group) != ncclSuccess)
        return tpv_tcp_fail(&comm->base, ncclInvalidUsage, "a message is longer than the receive posted for it");
    if (comm->receives.notice_count) tell_sender(comm);
    *request = group;
    return ncclSuccess;
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

static ncclResult_t no_isend(tpv_comm_t *comm, void *data, size_t size, int tag, void *registration, void **request) {
    (void)comm, (void)data, (void)size, (void)tag, (void)registration, (void)request;
    TPV_NET_WARN("isend on a comm that receives");
    return ncclInvalidUsage;
}

static void receiver_close(tpv_comm_t *base) {
    receiver_t *comm = (receiver_t *)base;
    tpv_receives_free(&comm->receives);
    tpv_tcp_comm_end(&comm->base);
}

static const tpv_comm_ops_t receive_ops = {
    .register_memory = tpv_tcp_register,
    .deregister_memory = tpv_tcp_deregister,
    .isend = no_isend,
    .irecv = receive_irecv,
    .test = receive_test,
    .close = receiver_close,
};

ncclResult_t tpv_tcp_receiver_create(tpv_tcp_device_t *device, int fd, tpv_comm_t **comm) {
    receiver_t *made = calloc(1, sizeof *made);
    if (!made) {
        TPV_NET_WARN("out of memory");
        return ncclSystemError;
    }
    tpv_tcp_comm_start(&made->base, &receive_ops, device, fd);
    tpv_receives_start(&made->receives, &made->base.base);
    *comm = &made->base.base;
    return ncclSuccess;
}
