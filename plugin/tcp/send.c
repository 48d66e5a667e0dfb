/*
 * The sending end. isend queues; the lanes take pieces of messages from the queue's front, batch by batch, and hand
 * each batch to the kernel in as few calls as possible, frames and payloads together. A send is done when the kernel
 * has taken its last byte. With one lane all of it happens in the owner's thread; helpers take their share when more is
 * queued than the owner sends with one call.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/uio.h>

#include "core/clock.h"
#include "core/credits.h"
#include "core/fork.h"
#include "core/log.h"
#include "core/socket.h"
#include "tcp/comm.h"
#include "tcp/lanes.h"
#include "tcp/linger.h"
#include "tcp/tuner.h"

/* The receiver may have posted so many groups of so many receives. */
#define REQUESTS (NCCL_NET_MAX_REQUESTS * TPV_GROUP_MEMBERS_MAX)
#define FREE_WORDS (REQUESTS / 64)
/* Smaller sends wait for the next test, so that what is posted together leaves together. */
#define EAGER_BYTES ((size_t)256 << 10)
/* Of one batch: with one lane, more than the kernel takes in one call; with several, a message or a share of it. */
#define PIECES_MAX 32
#define BATCH_BYTES ((size_t)4 << 20)
#define SHARE_BYTES_MIN ((size_t)64 << 10)
#define SHARE_BYTES_MAX ((size_t)1 << 20)
#define PAGE_BYTES 4096 /* a message is cut between pages */
/* Of shorter messages the owner sends several with one call, which is faster than to share them out. */
#define HELP_MESSAGE_BYTES ((size_t)128 << 10)
/* What a helper sends at a time before it looks after other connections. */
#define HELP_BATCHES 16
/* A helper waits for more to do for so long before it sleeps: to wake it costs its caller, too. */
#define HELP_WAIT_NS (50 * TPV_NS_PER_US)
/* A full socket is left alone for so long: taking room up as soon as there is any means many tiny writes. */
#define FULL_GAP_NS (2 * TPV_NS_PER_US)
#define CHECK_INTERVAL_NS TPV_NS_PER_SECOND
/* Before the first notice, one is looked for after so many bytes: the receiver keeps what it has not asked for. */
#define LISTEN_BYTES ((size_t)1 << 20)
#define NOTICES_A_TURN 64

typedef struct {
    tpv_request_t base;
    uint8_t slot;
    const char *data;
    uint32_t number; /* of the message */
    int32_t tag;
    size_t size;
    /* Payload bytes that the kernel has not taken, and 1 more until the last piece is gone. Lanes lower it, the owner
     * waits for 0. */
    _Atomic size_t left;
    void *event;
} send_t;

typedef struct {
    send_t *request;
    tpv_tcp_frame_t frame;
} piece_t;

/* What a lane is sending. Belongs to whoever moves the lane. */
typedef struct {
    unsigned at, count; /* pieces[at] is the first one that is not gone */
    size_t offset;      /* bytes of its frame and payload gone */
    bool held_back;     /* the kernel was told of more that would follow, and may wait for it */
    piece_t pieces[PIECES_MAX];
} batch_t;

typedef struct {
    tpv_tcp_comm_t base;
    /* Under the comm's lock. */
    uint32_t head, tail; /* requests that are not all in batches yet: queue[head % 256] … queue[tail % 256 - 1] */
    size_t offset;       /* bytes of the head that are */
    uint8_t queue[REQUESTS];
    /* Any thread. */
    _Atomic size_t waiting;   /* bytes of the queue, frames included; changes under the lock */
    _Atomic uint64_t written; /* bytes that the kernel has taken */
    /* The owner's. */
    uint64_t free_slots[FREE_WORDS]; /* bit i of word w: requests[64 * w + i] is free */
    uint32_t next_number;
    uint64_t written_before; /* at next_check - CHECK_INTERVAL_NS */
    int64_t next_check;      /* when to ask the kernel about the peer; 0 while nothing is under way */
    uint64_t listened_at;    /* `written` when a notice was last looked for */
    unsigned outstanding;    /* requests */
    bool can_be_helped;      /* constant: there are helpers */
    bool tuned;              /* constant: it is measured whether they pay */
    bool helped;             /* they are asked */
    tpv_tcp_tuner_t tuner;
    size_t notice_bytes; /* how much of `notice` has come */
    tpv_notice_t notice;
    tpv_credits_t credits;
    send_t requests[REQUESTS];
    batch_t batches[]; /* one for each lane */
} sender_t;

typedef enum { SENT, FULL, IDLE, FAILED } outcome_t;

/* A free request; NULL when all are in use. */
static send_t *take_request(sender_t *comm) {
    for (unsigned word = 0; word < FREE_WORDS; word++) {
        if (!comm->free_slots[word]) continue;
        unsigned slot = 64 * word + (unsigned)__builtin_ctzll(comm->free_slots[word]);
        comm->free_slots[word] &= comm->free_slots[word] - 1;
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

static void enqueue(sender_t *comm, const send_t *request) {
    pthread_mutex_lock(&comm->base.lock);
    comm->queue[comm->tail++ % REQUESTS] = request->slot;
    atomic_fetch_add_explicit(&comm->waiting, sizeof(tpv_tcp_frame_t) + request->size, memory_order_relaxed);
    pthread_mutex_unlock(&comm->base.lock);
}

/* What one lane takes at a time: all when it is alone, otherwise a message if that is neither too little for a call nor
 * too much for one lane. */
static size_t fair_share(const sender_t *comm, const tpv_tcp_lane_t *lane, size_t waiting) {
    if (comm->head == comm->tail) return 0;
    size_t next = comm->requests[comm->queue[comm->head % REQUESTS]].size;
    bool alone =
        comm->can_be_helped ? !lane->seat && !(comm->helped && next >= HELP_MESSAGE_BYTES) : comm->base.lane_count == 1;
    if (alone) return BATCH_BYTES;
    size_t share = next - comm->offset + sizeof(tpv_tcp_frame_t);
    if (share > waiting / comm->base.lane_count) share = waiting / comm->base.lane_count;
    return share < SHARE_BYTES_MIN ? SHARE_BYTES_MIN : share > SHARE_BYTES_MAX ? SHARE_BYTES_MAX : share;
}

/* Move pieces from the queue's front into a lane's empty batch. Under the comm's lock. */
static void fill(sender_t *comm, const tpv_tcp_lane_t *lane, batch_t *batch) {
    size_t waiting = atomic_load_explicit(&comm->waiting, memory_order_relaxed), taken = 0,
           share = fair_share(comm, lane, waiting);
    batch->at = batch->count = 0;
    for (; batch->count < PIECES_MAX && taken < share && comm->head != comm->tail; batch->count++) {
        send_t *request = &comm->requests[comm->queue[comm->head % REQUESTS]];
        size_t left = request->size - comm->offset, room = share - taken;
        /* A rest that is not worth a piece of its own goes along. */
        size_t length = left < room + SHARE_BYTES_MIN / 2 ? left : room / PAGE_BYTES * PAGE_BYTES;
        if (length == 0 && left) break;
        if (comm->offset == 0) taken += sizeof(tpv_tcp_frame_t);
        taken += length;
        batch->pieces[batch->count] = (piece_t){.request = request,
                                                .frame = {.magic = TPV_TCP_FRAME_MAGIC,
                                                          .tag = request->tag,
                                                          .number = request->number,
                                                          .size = (uint32_t)request->size,
                                                          .offset = (uint32_t)comm->offset,
                                                          .length = (uint32_t)length}};
        comm->offset += length;
        if (comm->offset < request->size) continue;
        comm->head++;
        comm->offset = 0;
    }
    atomic_store_explicit(&comm->waiting, waiting - taken, memory_order_relaxed);
}

static size_t gather(const batch_t *batch, struct iovec *iovs, size_t *count) {
    size_t total = 0, skip = batch->offset;
    *count = 0;
    for (unsigned i = batch->at; i < batch->count; i++) {
        const piece_t *piece = &batch->pieces[i];
        if (skip < sizeof piece->frame) {
            iovs[(*count)++] = (struct iovec){(char *)(uintptr_t)&piece->frame + skip, sizeof piece->frame - skip};
            total += sizeof piece->frame - skip;
            skip = sizeof piece->frame;
        }
        size_t gone = skip - sizeof piece->frame, left = piece->frame.length - gone;
        if (left) {
            const char *from = piece->request->data + piece->frame.offset + gone;
            iovs[(*count)++] = (struct iovec){(void *)(uintptr_t)from, left};
            total += left;
        }
        skip = 0;
    }
    return total;
}

static void retire(batch_t *batch, size_t written) {
    batch->offset += written;
    while (batch->at < batch->count) {
        const piece_t *piece = &batch->pieces[batch->at];
        const tpv_tcp_frame_t *frame = &piece->frame;
        if (batch->offset < sizeof *frame + frame->length) return;
        batch->offset -= sizeof *frame + frame->length;
        batch->at++;
        /* The kernel has the bytes: the owner may give their memory back to the application. */
        atomic_fetch_sub_explicit(&piece->request->left, frame->length + (frame->offset + frame->length == frame->size),
                                  memory_order_release);
    }
}

/* There is nothing to follow on a lane after all: another one took it. */
static void release(const tpv_tcp_lane_t *lane, batch_t *batch) {
    if (batch->held_back) tpv_socket_push(lane->fd);
    batch->held_back = false;
}

/* One system call on a lane, by whoever moves it. */
static outcome_t send_some(tpv_tcp_lane_t *lane) {
    sender_t *comm = (sender_t *)lane->comm;
    batch_t *batch = &comm->batches[lane->index];
    if (tpv_comm_failed(&comm->base.base)) return FAILED;
    if (batch->at == batch->count) {
        pthread_mutex_lock(&comm->base.lock);
        fill(comm, lane, batch);
        pthread_mutex_unlock(&comm->base.lock);
        if (batch->count == 0) {
            release(lane, batch);
            return IDLE;
        }
    }
    struct iovec iovs[2 * PIECES_MAX];
    struct msghdr message = {.msg_iov = iovs};
    size_t wanted = gather(batch, iovs, &message.msg_iovlen);
    /* When more follows at once, the rest that does not fill a packet goes with it. */
    bool more = atomic_load_explicit(&comm->waiting, memory_order_relaxed) > 0;
    ssize_t written;
    do
        written = sendmsg(lane->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL | (more ? MSG_MORE : 0));
    while (written < 0 && errno == EINTR);
    if (written < 0 && errno != EAGAIN) {
        tpv_comm_fail_errno(&comm->base.base, "sendmsg", errno);
        return FAILED;
    }
    if (written > 0) {
        batch->held_back = more;
        atomic_fetch_add_explicit(&comm->written, (uint64_t)written, memory_order_relaxed);
        retire(batch, (size_t)written);
    }
    return written < (ssize_t)wanted ? FULL : SENT;
}

/* Under the lock: the lane may sleep unless there is something for it. */
static bool may_sleep(sender_t *comm, tpv_tcp_lane_t *lane) {
    pthread_mutex_lock(&comm->base.lock);
    bool idle = comm->head == comm->tail;
    if (idle) lane->awake = false;
    pthread_mutex_unlock(&comm->base.lock);
    return idle;
}

/* A helper's part. */
static unsigned help(void *argument) {
    tpv_tcp_lane_t *lane = argument;
    int64_t waits_since = 0;
    for (int batches = 0; batches < HELP_BATCHES;) {
        outcome_t outcome = send_some(lane);
        if (outcome == FAILED) return 0;
        if (outcome == SENT) {
            batches++;
            waits_since = 0;
            continue;
        }
        int64_t now = tpv_clock_ns();
        if (!waits_since) waits_since = now;
        if (now - waits_since < HELP_WAIT_NS) {
            sched_yield();
            continue;
        }
        if (outcome == FULL) break;
        if (may_sleep((sender_t *)lane->comm, lane)) return 0;
    }
    return EPOLLOUT;
}

/* If there are long messages to send, and help has paid, wake the lanes that sleep. */
static void ask_for_help(sender_t *comm) {
    if (!comm->helped || atomic_load_explicit(&comm->waiting, memory_order_relaxed) < HELP_MESSAGE_BYTES) return;
    pthread_mutex_lock(&comm->base.lock);
    bool wanted =
        comm->head != comm->tail && comm->requests[comm->queue[comm->head % REQUESTS]].size >= HELP_MESSAGE_BYTES;
    for (unsigned i = 1; wanted && i < comm->base.lane_count; i++) {
        tpv_tcp_lane_t *lane = &comm->base.lanes[i];
        if (!lane->seat || lane->awake) continue;
        lane->awake = true;
        tpv_tcp_seat_wake(lane->seat, EPOLLOUT);
    }
    pthread_mutex_unlock(&comm->base.lock);
}

/* Nothing moves although something is under way: is the peer still there? */
static void check_stall(sender_t *comm, int64_t now) {
    uint64_t written = atomic_load_explicit(&comm->written, memory_order_relaxed);
    if (comm->next_check && now < comm->next_check && written == comm->written_before) return;
    bool stalled = comm->next_check && written == comm->written_before;
    comm->written_before = written;
    comm->next_check = now + CHECK_INTERVAL_NS;
    for (unsigned i = 0; stalled && i < comm->base.lane_count; i++) {
        /* A peer that has closed while a forked child of it keeps its socket takes nothing, and refuses nothing. */
        if (tpv_socket_ended(comm->base.lanes[i].fd)) tpv_comm_fail_closed(&comm->base.base);
        long long seconds = tpv_socket_peer_silence(comm->base.lanes[i].fd);
        if (seconds)
            tpv_comm_fail(&comm->base.base, ncclRemoteError, "the peer's host has been silent for %lld s", seconds);
    }
}

/* Take the notices that have come, so many in one turn; a peer can send without end. False when it has closed. */
static bool listen_to_receiver(sender_t *comm) {
    comm->listened_at = atomic_load_explicit(&comm->written, memory_order_relaxed);
    for (int i = 0; i < NOTICES_A_TURN && !tpv_comm_failed(&comm->base.base); i++) {
        char *into = (char *)&comm->notice + comm->notice_bytes;
        ssize_t got = recv(comm->base.lanes[0].fd, into, sizeof comm->notice - comm->notice_bytes, MSG_DONTWAIT);
        if (got < 0 && errno == EINTR) continue;
        if (got == 0) return false;
        if (got < 0) {
            if (errno != EAGAIN) tpv_comm_fail_errno(&comm->base.base, "recv", errno);
            return true;
        }
        comm->notice_bytes += (size_t)got;
        if (comm->notice_bytes < sizeof comm->notice) return true;
        comm->notice_bytes = 0;
        if (tpv_credits_add(&comm->credits, &comm->notice) != ncclSuccess)
            tpv_comm_fail(&comm->base.base, ncclRemoteError, "the stream is damaged: bytes that are no notice");
    }
    return true;
}

/* The owner's part: one system call for each lane that has no helper. */
static void progress(sender_t *comm) {
    int64_t now = 0;
    /* Before the owner is busy for a while. */
    ask_for_help(comm);
    for (unsigned i = 0; i < comm->base.lane_count && !tpv_comm_failed(&comm->base.base); i++) {
        tpv_tcp_lane_t *lane = &comm->base.lanes[i];
        if (lane->seat) continue;
        if (lane->quiet_until) {
            if (!now) now = tpv_clock_ns();
            if (now < lane->quiet_until) continue;
            lane->quiet_until = 0;
        }
        if (send_some(lane) != FULL) continue;
        now = tpv_clock_ns();
        lane->quiet_until = now + FULL_GAP_NS;
    }
    uint64_t written = atomic_load_explicit(&comm->written, memory_order_relaxed);
    /* One that has all may be gone. What cannot be delivered any more, the next send or check_stall finds out. */
    if (written - comm->listened_at >= LISTEN_BYTES && !comm->credits.noticed) (void)listen_to_receiver(comm);
}

static bool may_send(sender_t *comm, int tag) {
    if (tpv_credits_take(&comm->credits, tag)) return true;
    if (!listen_to_receiver(comm)) tpv_comm_fail_closed(&comm->base.base);
    if (!tpv_comm_failed(&comm->base.base) && tpv_credits_take(&comm->credits, tag)) return true;
    /* The receiver may wait for what is queued before it asks for this one. */
    progress(comm);
    return false;
}

static ncclResult_t send_isend(tpv_comm_t *base, void *data, size_t size, int tag, tpv_registration_t *registration,
                               void **request) {
    (void)registration; /* the kernel copies */
    sender_t *comm = (sender_t *)base;
    if (tpv_comm_failed(&comm->base.base)) return tpv_tcp_comm_result(&comm->base);
    if (!have_request(comm)) return ncclSuccess;
    if (!may_send(comm, tag)) return tpv_tcp_comm_result(&comm->base);
    send_t *taken = take_request(comm);
    taken->data = data;
    taken->size = size;
    taken->tag = tag;
    taken->number = comm->next_number++;
    atomic_store_explicit(&taken->left, size + 1, memory_order_relaxed);
    enqueue(comm, taken);
    if (comm->outstanding++ == 0 && comm->can_be_helped) tpv_tcp_tuner_resume(&comm->tuner, tpv_clock_ns());
    if (comm->helped && size >= HELP_MESSAGE_BYTES)
        ask_for_help(comm);
    else if (atomic_load_explicit(&comm->waiting, memory_order_relaxed) >= EAGER_BYTES)
        progress(comm);
    *request = taken;
    return ncclSuccess;
}

/* A request has ended. */
static void account(sender_t *comm, const send_t *request) {
    comm->next_check = 0;
    comm->outstanding--;
    comm->base.base.messages++;
    comm->base.base.bytes += request->size;
    comm->free_slots[request->slot / 64] |= UINT64_C(1) << request->slot % 64;
    /* Perhaps nobody calls for a while. */
    for (unsigned i = 0; comm->outstanding == 0 && i < comm->base.lane_count; i++)
        if (!comm->base.lanes[i].seat) release(&comm->base.lanes[i], &comm->batches[i]);
    if (!comm->can_be_helped) return;
    int64_t now = tpv_clock_ns();
    uint64_t written = atomic_load_explicit(&comm->written, memory_order_relaxed);
    if (comm->tuned && request->size >= HELP_MESSAGE_BYTES)
        comm->helped = tpv_tcp_tuner_update(&comm->tuner, written, now);
    if (comm->outstanding == 0) tpv_tcp_tuner_pause(&comm->tuner, now);
}

static bool gone(send_t *request) {
    return atomic_load_explicit(&request->left, memory_order_acquire) == 0;
}

static ncclResult_t send_test(tpv_request_t *base, int *done, int *sizes) {
    sender_t *comm = (sender_t *)base->comm;
    send_t *request = (send_t *)base;
    if (!gone(request)) progress(comm);
    if (!gone(request)) {
        check_stall(comm, tpv_clock_ns());
        return tpv_tcp_comm_result(&comm->base);
    }
    *done = 1;
    if (sizes) *sizes = (int)request->size;
    account(comm, request);
    return ncclSuccess;
}

/* Whether the receiver sends notices, as far as can be known. */
static bool is_noticed(const sender_t *comm) {
    char byte;
    return comm->credits.noticed || recv(comm->base.lanes[0].fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

static void sender_close(tpv_comm_t *base) {
    sender_t *comm = (sender_t *)base;
    int *fd = &comm->base.lanes[0].fd;
    tpv_tcp_comm_calm(&comm->base);
    /* Should a late notice reset the connection after all, its end has come before that, and the receiver still takes
     * what is on other lanes. */
    if (!tpv_comm_failed(base) && tpv_comm_own(base) && is_noticed(comm) && tpv_tcp_linger(*fd)) *fd = -1;
    tpv_tcp_comm_end(&comm->base);
}

static const tpv_comm_ops_t send_ops = {
    .isend = send_isend,
    .test = send_test,
    .close = sender_close,
};

ncclResult_t tpv_tcp_send_over(tpv_end_t *end, const tpv_message_t *answer, tpv_connections_t *connections,
                               tpv_comm_t **comm) {
    (void)end;
    if (answer->size) return ncclRemoteError;
    unsigned count = connections->count;
    sender_t *made = calloc(1, sizeof *made + count * sizeof *made->batches);
    if (!made) {
        TPV_NET_WARN("out of memory");
        return ncclSystemError;
    }
    tpv_tcp_comm_start(&made->base, &send_ops, true, connections, help);
    for (unsigned i = 1; i < count; i++)
        made->can_be_helped = made->can_be_helped || made->base.lanes[i].seat;
    made->helped = made->can_be_helped && tpv_tcp_lanes_choose(connections->device).always;
    made->tuned = made->can_be_helped && !made->helped;
    for (int i = 0; i < REQUESTS; i++) {
        made->free_slots[i / 64] |= UINT64_C(1) << i % 64;
        made->requests[i].base.comm = &made->base.base;
        made->requests[i].base.events = &made->requests[i].event;
        made->requests[i].slot = (uint8_t)i;
    }
    *comm = &made->base.base;
    return ncclSuccess;
}
