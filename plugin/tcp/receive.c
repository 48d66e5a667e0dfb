/*
 * The receiving end. Payload is read straight into the posted buffer, and the same call fetches the next frame, so a
 * stream of messages costs one system call each. Bytes behind a short message's end are never touched.
 *
 * Messages are begun, that is, given to receives, in the order of their numbers, whichever lane the first piece comes
 * on. A lane whose next piece is of a message that cannot be begun yet is parked until it can. That always ends: a lane
 * brings its pieces in the order of the whole stream, so what a parked lane waits for cannot be behind it.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/uio.h>

#include "core/clock.h"
#include "core/log.h"
#include "core/receives.h"
#include "tcp/comm.h"

/* An empty socket is left alone for so long, which makes a sweep of tests over many requests cheap; longer for lanes
 * that a sender uses only when it has much to send. */
#define EMPTY_GAP_NS TPV_NS_PER_US
#define EMPTY_GAP_NS_MAX (16 * TPV_NS_PER_US)
/* One test or one call of a helper moves about so much of a lane at most, so that others get their turn. */
#define TURN_BYTES ((size_t)2 << 20)
/* Messages between the oldest one that is not whole and the newest one that was begun. */
#define WINDOW 512

/* A message that was begun and is not whole. */
typedef struct {
    bool open;
    size_t unclaimed; /* bytes that no piece has come for yet */
    size_t missing;   /* bytes that have not arrived */
    tpv_incoming_t incoming;
} message_t;

/* What a lane is at. Belongs to whoever moves the lane, but for `parked`. */
typedef struct {
    message_t *message; /* whose piece is coming in; NULL: none */
    char *into;
    size_t length, left; /* of the piece */
    bool ended;          /* the peer sends no more on the lane */
    bool parked;         /* `frame` has to wait. Under the comm's lock, as is then `frame`. */
    int64_t gap;         /* between looks at an empty socket */
    size_t frame_bytes;  /* how much of `frame` has come */
    tpv_tcp_frame_t frame;
} intake_t;

typedef struct {
    tpv_tcp_comm_t base;
    /* All but the intakes is under the comm's lock. */
    uint32_t next;              /* number of the next message to begin */
    unsigned ended;             /* lanes */
    size_t told_bytes;          /* how much of the notices is on its way */
    message_t messages[WINDOW]; /* by number */
    tpv_receives_t receives;
    intake_t intakes[]; /* one for each lane */
} receiver_t;

/* Whether a piece of message `number` can be taken now, or is wrong, which shows when it is. */
static bool may_begin(const receiver_t *comm, uint32_t number) {
    if ((int32_t)(number - comm->next) < 0) return true;
    return number == comm->next && tpv_receives_open(&comm->receives) && !comm->messages[number % WINDOW].open;
}

/* Nothing can come any more, as every lane has ended or waits for what only another one could bring. */
static bool stuck(const receiver_t *comm) {
    for (unsigned i = 0; i < comm->base.lane_count; i++) {
        const intake_t *intake = &comm->intakes[i];
        if (intake->ended) continue;
        if (!intake->parked) return false;
        int32_t ahead = (int32_t)(intake->frame.number - comm->next);
        if (ahead < 0 || (ahead == 0 && !comm->messages[comm->next % WINDOW].open)) return false;
    }
    return true;
}

static void fail_damaged(receiver_t *comm) {
    tpv_comm_fail(&comm->base.base, ncclRemoteError, "the stream is damaged: bytes that are no message header");
}

/* The next message is given to a receive. False when the comm failed. */
static bool begin_message(receiver_t *comm, const tpv_tcp_frame_t *frame) {
    message_t *message = &comm->messages[frame->number % WINDOW];
    ncclResult_t result = tpv_receives_begin(&comm->receives, frame->tag, frame->size, &message->incoming);
    if (result == ncclSuccess) {
        message->open = true;
        message->unclaimed = message->missing = frame->size;
        comm->next++;
        return true;
    }
    if (result == ncclInvalidUsage)
        tpv_comm_fail(&comm->base.base, result,
                      "a message of %u bytes (tag %d) is longer than the receive of %zu bytes posted for it",
                      frame->size, frame->tag, message->incoming.size);
    else
        tpv_comm_fail(&comm->base.base, result, "a message of %u bytes with tag %d that was not asked for", frame->size,
                      frame->tag);
    return false;
}

/* `length` bytes of the message have arrived. */
static bool end_piece(receiver_t *comm, message_t *message, size_t length) {
    message->missing -= length;
    if (message->missing) return true;
    message->open = false;
    ncclResult_t result = tpv_receives_end(&comm->receives, &message->incoming);
    if (result == ncclSuccess) return true;
    tpv_comm_fail(&comm->base.base, ncclInvalidUsage, "a message is longer than the receive posted for it");
    return false;
}

static bool frame_makes_sense(const receiver_t *comm, const tpv_tcp_frame_t *frame) {
    if (frame->magic != TPV_TCP_FRAME_MAGIC || frame->size > TPV_MESSAGE_MAX) return false;
    if (frame->offset > frame->size || frame->length > frame->size - frame->offset) return false;
    if (frame->length == 0 && frame->size) return false;
    /* Of those that were begun, what is not whole is in the window. */
    uint32_t behind = comm->next - frame->number;
    return (int32_t)behind <= WINDOW;
}

/* The lane's frame is whole: find the place for its payload. False when it has to wait, or the comm failed. */
static bool begin_piece(receiver_t *comm, intake_t *intake) {
    const tpv_tcp_frame_t *frame = &intake->frame;
    bool sane = frame_makes_sense(comm, frame);
    intake->parked = sane && !may_begin(comm, frame->number);
    if (intake->parked) {
        if (stuck(comm)) comm->ended ? tpv_comm_fail_closed(&comm->base.base) : fail_damaged(comm);
        return false;
    }
    if (sane && frame->number == comm->next && !begin_message(comm, frame)) return false;
    message_t *message = &comm->messages[frame->number % WINDOW];
    if (!sane || !message->open || message->incoming.size != frame->size || message->unclaimed < frame->length) {
        fail_damaged(comm);
        return false;
    }
    intake->frame_bytes = 0;
    message->unclaimed -= frame->length;
    if (frame->length == 0) return end_piece(comm, message, 0);
    intake->message = message;
    intake->into = message->incoming.data + frame->offset;
    intake->length = intake->left = frame->length;
    return true;
}

/* Account for what has come into a lane. Whether there is a place for more. Under the lock. */
static bool settle(receiver_t *comm, const tpv_tcp_lane_t *lane, intake_t *intake) {
    for (;;) {
        if (tpv_comm_failed(&comm->base.base)) return false;
        if (intake->message) {
            if (intake->left) return true;
            message_t *message = intake->message;
            intake->message = NULL;
            if (!end_piece(comm, message, intake->length)) return false;
        }
        /* The owner looks for more only when somebody waits for it. */
        if (intake->frame_bytes < sizeof intake->frame) return lane->seat || tpv_receives_waiting(&comm->receives);
        if (!begin_piece(comm, intake)) return false;
    }
}

/* The peer sends no more on this lane. What it sent on others may still be on its way. */
static void end_lane(receiver_t *comm, intake_t *intake) {
    bool in_between = !intake->message && intake->frame_bytes == 0;
    intake->ended = true;
    comm->ended++;
    if (!in_between || stuck(comm)) tpv_comm_fail_closed(&comm->base.base);
}

/* One system call. Returns bytes moved; *emptied: there is nothing more to be had now, or ever. */
static size_t read_some(receiver_t *comm, const tpv_tcp_lane_t *lane, intake_t *intake, bool *emptied) {
    struct iovec iovs[2];
    struct msghdr message = {.msg_iov = iovs};
    size_t wanted = sizeof intake->frame - intake->frame_bytes;
    if (intake->message) {
        iovs[message.msg_iovlen++] = (struct iovec){intake->into, intake->left};
        wanted += intake->left;
    }
    iovs[message.msg_iovlen++] =
        (struct iovec){(char *)&intake->frame + intake->frame_bytes, sizeof intake->frame - intake->frame_bytes};
    ssize_t got;
    do
        got = recvmsg(lane->fd, &message, MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    /* A short read has emptied the socket: asking again would only cost. */
    *emptied = got < (ssize_t)wanted;
    if (got == 0) end_lane(comm, intake);
    if (got < 0 && errno != EAGAIN) tpv_comm_fail_errno(&comm->base.base, "recvmsg", errno);
    if (got <= 0) return 0;
    size_t payload = intake->message ? ((size_t)got < intake->left ? (size_t)got : intake->left) : 0;
    if (payload) {
        intake->into += payload;
        intake->left -= payload;
    }
    intake->frame_bytes += (size_t)got - payload;
    return (size_t)got;
}

/* Move what can be moved on a lane for a while. Returns the bytes; *able: it could take more if there were more. */
static size_t take_turn(receiver_t *comm, tpv_tcp_lane_t *lane, bool *able) {
    intake_t *intake = &comm->intakes[lane->index];
    size_t moved = 0;
    bool emptied = false;
    for (;;) {
        *able = settle(comm, lane, intake);
        if (!*able || emptied || moved >= TURN_BYTES) return moved;
        moved += read_some(comm, lane, intake, &emptied);
        if (intake->ended) *able = false;
        if (intake->ended) return moved;
    }
}

/* Send the sender what it has to know. A lost connection is for read_some to find out, after what came before. */
static void tell_sender(tpv_comm_t *base) {
    receiver_t *comm = (receiver_t *)base;
    size_t total = comm->receives.notice_count * sizeof *comm->receives.notices;
    const char *from = (const char *)comm->receives.notices;
    ssize_t sent;
    do
        sent = send(comm->base.lanes[0].fd, from + comm->told_bytes, total - comm->told_bytes,
                    MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent > 0) comm->told_bytes += (size_t)sent;
    if (sent < 0 && errno != EAGAIN) comm->told_bytes = total;
    if (comm->told_bytes < total) return;
    comm->told_bytes = 0;
    comm->receives.notice_count = 0;
}

/* The owner's part. */
static void progress(receiver_t *comm) {
    int64_t now = 0;
    for (unsigned i = 0; i < comm->base.lane_count && !tpv_comm_failed(&comm->base.base); i++) {
        tpv_tcp_lane_t *lane = &comm->base.lanes[i];
        intake_t *intake = &comm->intakes[i];
        if (lane->seat || intake->ended) continue;
        if (lane->quiet_until) {
            if (!now) now = tpv_clock_ns();
            if (now < lane->quiet_until) continue;
            lane->quiet_until = 0;
        }
        bool able;
        size_t moved = take_turn(comm, lane, &able);
        if (moved >= TURN_BYTES || !able) continue;
        intake->gap = i == 0 || moved ? EMPTY_GAP_NS : 2 * intake->gap;
        if (intake->gap > EMPTY_GAP_NS_MAX) intake->gap = EMPTY_GAP_NS_MAX;
        now = tpv_clock_ns();
        lane->quiet_until = now + intake->gap;
    }
    if (!tpv_comm_failed(&comm->base.base)) tpv_receives_tell(&comm->receives);
}

static ncclResult_t receive_irecv(tpv_comm_t *base, int count, void **data, const size_t *sizes, const int *tags,
                                  void **registrations, void **request) {
    (void)registrations;
    receiver_t *comm = (receiver_t *)base;
    if (tpv_comm_failed(&comm->base.base)) return tpv_tcp_comm_result(&comm->base);
    tpv_group_t *group;
    ncclResult_t result = tpv_receives_post(&comm->receives, count, data, sizes, tags, &group);
    if (result != ncclSuccess) {
        tpv_comm_fail(&comm->base.base, ncclInvalidUsage, "a message is longer than the receive posted for it");
        return tpv_tcp_comm_result(&comm->base);
    }
    *request = group;
    return ncclSuccess;
}

/* Take the group back if it is done. */
static bool finish(receiver_t *comm, tpv_group_t *group, int *sizes) {
    bool done = group->undone == 0;
    if (done) {
        comm->base.base.messages += group->count;
        for (unsigned i = 0; i < group->count; i++)
            comm->base.base.bytes += group->members[i].size;
        tpv_receives_give_back(&comm->receives, group, sizes);
    }
    return done;
}

static ncclResult_t receive_test(tpv_request_t *base, int *done, int *sizes) {
    receiver_t *comm = (receiver_t *)base->comm;
    tpv_group_t *group = (tpv_group_t *)base;
    *done = finish(comm, group, sizes);
    if (*done) return ncclSuccess;
    progress(comm);
    *done = finish(comm, group, sizes);
    return *done ? ncclSuccess : tpv_tcp_comm_result(&comm->base);
}

static void receiver_close(tpv_comm_t *base) {
    receiver_t *comm = (receiver_t *)base;
    tpv_tcp_comm_calm(&comm->base);
    tpv_receives_free(&comm->receives);
    tpv_tcp_comm_end(&comm->base);
}

static const tpv_comm_ops_t receive_ops = {
    .irecv = receive_irecv,
    .test = receive_test,
    .close = receiver_close,
};

ncclResult_t tpv_tcp_receive_over(tpv_end_t *end, tpv_connections_t *connections, tpv_comm_t **comm) {
    (void)end;
    unsigned count = connections->count;
    receiver_t *made = calloc(1, sizeof *made + count * sizeof *made->intakes);
    if (!made) {
        TPV_NET_WARN("out of memory");
        return ncclSystemError;
    }
    tpv_receives_start(&made->receives, &made->base.base, tell_sender);
    tpv_tcp_comm_start(&made->base, &receive_ops, false, connections, NULL);
    for (unsigned i = 0; i < count; i++)
        made->intakes[i].gap = EMPTY_GAP_NS;
    *comm = &made->base.base;
    return ncclSuccess;
}
