/* The receiving end. Payload is read straight into the posted buffer, and the same call fetches the next header, so a
 * stream of messages costs one system call each. Bytes behind a short message's end are never touched. */
#include <errno.h>
#include <sys/uio.h>

#include "core/clock.h"
#include "tcp/comm.h"

/* An empty socket is left alone for so long, which makes a sweep of tests over many requests cheap. */
#define EMPTY_GAP_NS TPV_NS_PER_US
/* One test moves about so much at most, so that other comms of the thread get their turn. */
#define TEST_BYTES ((size_t)2 << 20)

/* The next message's header is whole and a receive is posted for it. False when the comm failed. */
static bool begin_message(tpv_tcp_comm_t *comm) {
    const tpv_tcp_header_t *header = &comm->header;
    const tpv_tcp_request_t *request = tpv_tcp_request_at(comm, comm->head);
    if (header->magic != TPV_TCP_HEADER_MAGIC || header->size > TPV_TCP_MESSAGE_MAX) {
        tpv_tcp_fail(comm, ncclRemoteError, "the stream is damaged: bytes that are no message header");
        return false;
    }
    if (header->size > request->size) {
        tpv_tcp_fail(comm, ncclInvalidUsage,
                     "a message of %llu bytes (tag %d) is longer than the receive of %zu bytes posted for it",
                     (unsigned long long)header->size, header->tag, request->size);
        return false;
    }
    comm->header_bytes = 0;
    comm->offset = 0;
    comm->incoming = header->size;
    if (comm->incoming)
        comm->receiving = true;
    else
        tpv_tcp_request_finish_head(comm, 0);
    return true;
}

/* Account for `count` bytes that came into what read_more asked for. */
static void consume(tpv_tcp_comm_t *comm, size_t count) {
    if (comm->receiving) {
        size_t left = comm->incoming - comm->offset;
        size_t payload = count < left ? count : left;
        comm->offset += payload;
        count -= payload;
        if (payload < left) return;
        comm->receiving = false;
        tpv_tcp_request_finish_head(comm, comm->incoming);
    }
    comm->header_bytes += count;
}

/* One system call. Returns bytes moved; 0 when there is nothing more to be had now, or the comm failed. */
static size_t read_more(tpv_tcp_comm_t *comm) {
    struct iovec iovs[2];
    size_t count = 0, wanted = 0;
    if (comm->receiving) {
        const tpv_tcp_request_t *request = tpv_tcp_request_at(comm, comm->head);
        wanted = comm->incoming - comm->offset;
        iovs[count++] = (struct iovec){request->data + comm->offset, wanted};
    }
    iovs[count++] =
        (struct iovec){(char *)&comm->header + comm->header_bytes, sizeof comm->header - comm->header_bytes};
    wanted += sizeof comm->header - comm->header_bytes;
    struct msghdr message = {.msg_iov = iovs, .msg_iovlen = count};
    ssize_t got;
    do
        got = recvmsg(comm->fd, &message, MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    if (got == 0) {
        tpv_tcp_fail(comm, ncclRemoteError, "the peer closed the connection");
        return 0;
    }
    if (got < 0 && errno != EAGAIN) {
        tpv_tcp_fail_errno(comm, "recvmsg", errno);
        return 0;
    }
    if (got > 0) consume(comm, (size_t)got);
    /* A short read has emptied the socket: asking again would only cost. */
    if (got < (ssize_t)wanted) {
        comm->quiet_until = tpv_clock_ns() + EMPTY_GAP_NS;
        return 0;
    }
    return (size_t)got;
}

static void progress(tpv_tcp_comm_t *comm) {
    if (comm->failure != ncclSuccess) return;
    if (comm->quiet_until && tpv_clock_ns() < comm->quiet_until) return;
    comm->quiet_until = 0;
    size_t moved = 0;
    while (comm->head != comm->tail && moved < TEST_BYTES) {
        if (!comm->receiving && comm->header_bytes == sizeof comm->header) {
            if (!begin_message(comm)) return;
            continue;
        }
        size_t got = read_more(comm);
        if (got == 0) break;
        moved += got;
    }
    /* A short read may have brought the last byte of a header whose message has no payload. */
    while (comm->failure == ncclSuccess && comm->head != comm->tail && !comm->receiving &&
           comm->header_bytes == sizeof comm->header)
        if (!begin_message(comm)) return;
}

static ncclResult_t receive_irecv(tpv_comm_t *base, int count, void **data, const size_t *sizes, const int *tags,
                                  void **registrations, void **request) {
    (void)tags, (void)registrations;
    tpv_tcp_comm_t *comm = (tpv_tcp_comm_t *)base;
    if (comm->failure != ncclSuccess) return comm->failure;
    if (count != 1)
        return tpv_tcp_fail(comm, ncclInvalidUsage, "irecv of %d messages at once: expected 1 (maxRecvs)", count);
    tpv_tcp_request_t *taken = tpv_tcp_request_take(comm);
    if (!taken) return ncclSuccess;
    taken->data = data[0];
    taken->size = sizes[0];
    *request = taken;
    return ncclSuccess;
}

static ncclResult_t receive_test(tpv_request_t *base, int *done, int *sizes) {
    tpv_tcp_comm_t *comm = (tpv_tcp_comm_t *)base->comm;
    tpv_tcp_request_t *request = (tpv_tcp_request_t *)base;
    if (!request->done) progress(comm);
    if (!request->done) return comm->failure;
    tpv_tcp_request_give_back(comm, request, done, sizes);
    return ncclSuccess;
}

const tpv_comm_ops_t tpv_tcp_receive_ops = {
    .register_memory = tpv_tcp_register,
    .deregister_memory = tpv_tcp_deregister,
    .isend = tpv_tcp_no_isend,
    .irecv = receive_irecv,
    .test = receive_test,
    .close = tpv_tcp_comm_close,
};
