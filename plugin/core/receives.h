/*
 * The receives posted on one comm, and which message goes where. One request may ask for several messages at once, a
 * group; all that counts then is the tags: a message goes to the oldest receive with its tag that has no message yet.
 * That is also what NCCL's IB transport comes to (ncclIbIsend, src/transport/net_ib/p2p.cc at v2.30.7), which lets a
 * send wait until the oldest group that is not full has a place with its tag.
 *
 * A stream cannot go past a message that nobody has asked for yet, although the one behind it may be what everybody
 * waits for. So a sender may send only its first tag without being asked. As soon as the tags tell of more than one
 * kind of message, notices go back to the sender, one for each receive, and every message from then on has a place
 * before it is sent (core/credits.h is the sender's half). Messages of the first tag that were under way by then, and
 * stand before others, are kept in memory until their receive is posted: "early". Comms with one tag, which is all that
 * NCCL moves data on unless its PXN feature shares comms between ranks, never send a notice and never copy.
 *
 * All of it belongs to the one thread that moves the comm's data.
 */
#ifndef CORE_RECEIVES_H
#define CORE_RECEIVES_H

#include "core/comm.h"
#include "core/notice.h"

#define TPV_GROUPS_MAX NCCL_NET_MAX_REQUESTS
#define TPV_NOTICES_MAX (TPV_GROUP_MEMBERS_MAX + 1)
/* Early messages of one comm; a sender that learns of notices late has some dozen requests under way. */
#define TPV_EARLY_BYTES_MAX (UINT64_C(1) << 30)

typedef struct {
    char *data;
    size_t size; /* room; once the message is there, its size */
    int32_t tag;
} tpv_receive_t;

/* One request. */
typedef struct {
    tpv_request_t base;
    uint8_t index, count;
    uint8_t unmatched; /* bit i: members[i] has no message yet */
    uint8_t undone;    /* members whose message is not whole; 0: the request is done */
    tpv_receive_t members[TPV_GROUP_MEMBERS_MAX];
    void *events[TPV_GROUP_MEMBERS_MAX];
} tpv_group_t;

typedef struct tpv_early tpv_early_t;

/* The transport's way to tell the sender what stands in receives->notices: sets notice_count to 0, or leaves the
 * notices where they are when they cannot go now. */
typedef void (*tpv_tell_t)(tpv_comm_t *comm);

/* A message that is coming in. */
typedef struct {
    char *data; /* where its `size` bytes go */
    size_t size;
    tpv_group_t *group; /* NULL: it is early */
    unsigned member;
    tpv_early_t *early;
} tpv_incoming_t;

typedef struct {
    uint32_t free_groups; /* bit i: groups[i] is free */
    uint32_t head, tail;  /* groups not done, oldest first: queue[head % 32] … queue[tail % 32 - 1] */
    uint8_t queue[TPV_GROUPS_MAX];
    tpv_group_t groups[TPV_GROUPS_MAX];
    bool any;             /* one was ever posted */
    bool noticing;        /* the sender is told of every receive */
    int32_t first_tag;    /* before that: the tag of all receives posted so far, … */
    uint64_t first_count; /* … and how many there were */
    tpv_early_t *early, **early_end;
    uint64_t early_bytes;
    int32_t early_tag;
    bool early_any;
    uint64_t untold;       /* receives that early messages filled and no notice told of yet */
    unsigned notice_count; /* notices for the sender; `tell` takes them away */
    tpv_notice_t notices[TPV_NOTICES_MAX];
    tpv_comm_t *comm;
    tpv_tell_t tell;
} tpv_receives_t;

/* `receives` must be all zero. */
void tpv_receives_start(tpv_receives_t *receives, tpv_comm_t *comm, tpv_tell_t tell);
void tpv_receives_free(tpv_receives_t *receives);

/*
 * Post a group, and tell the sender what it has to know. *group becomes NULL when all are in use or notices have not
 * been taken away yet: try again later. ncclInvalidUsage when an early message is longer than the room for it. `count`
 * must be 1 to TPV_GROUP_MEMBERS_MAX.
 */
ncclResult_t tpv_receives_post(tpv_receives_t *receives, int count, void **data, const size_t *sizes, const int *tags,
                               tpv_group_t **group);

/* Whether anything is posted that is not done: only then may a message be begun. */
static inline bool tpv_receives_waiting(const tpv_receives_t *receives) {
    return receives->head != receives->tail;
}

/* Tell the sender what it has not been told yet. */
static inline void tpv_receives_tell(tpv_receives_t *receives) {
    if (receives->notice_count) receives->tell(receives->comm);
}

/* Whether one of them has no message yet. A transport that brings several messages at the same time begins another one
 * only then. */
bool tpv_receives_open(const tpv_receives_t *receives);

/* For a transport that can leave a message where it is until there is a receive for it: whether there is one, and that
 * a message has come for which there is none. The latter may add notices. */
bool tpv_receives_wants(const tpv_receives_t *receives, int32_t tag);
void tpv_receives_unwanted(tpv_receives_t *receives);

/*
 * A message begins. *incoming says where its bytes go; tpv_receives_end has to follow when they are there. May add
 * notices. ncclInvalidUsage: it is longer than the receive posted for it, whose room is then incoming->size.
 * ncclRemoteError: the sender was never asked for it. ncclSystemError, logged: no memory for an early one.
 */
ncclResult_t tpv_receives_begin(tpv_receives_t *receives, int32_t tag, size_t size, tpv_incoming_t *incoming);

/* All bytes of the message have come. ncclInvalidUsage as for tpv_receives_post. */
ncclResult_t tpv_receives_end(tpv_receives_t *receives, const tpv_incoming_t *incoming);

/* Report a done group to its owner and free it. `sizes` may be NULL, otherwise it has an element for each member. */
void tpv_receives_give_back(tpv_receives_t *receives, tpv_group_t *group, int *sizes);

#endif
