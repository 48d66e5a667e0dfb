/*
 * What one comm may send. At first, everything with the tag of its first message; from the first notice on (see
 * core/receives.h), for each tag as many messages as receives were posted. Belongs to the one thread that moves the
 * comm's data.
 */
#ifndef CORE_CREDITS_H
#define CORE_CREDITS_H

#include "core/comm.h"
#include "core/notice.h"

/* A receiver has so many receives posted at most, and the first tag may have less than nothing. */
#define TPV_CREDIT_TAGS_MAX (NCCL_NET_MAX_REQUESTS * TPV_GROUP_MEMBERS_MAX + 1)

typedef struct {
    bool any;            /* something was sent */
    bool noticed;        /* the receiver tells what it has posted */
    int32_t first_tag;   /* before that: the tag of all messages, … */
    uint64_t first_sent; /* … and how many there were */
    unsigned used;
    struct {
        int32_t tag;
        int64_t balance; /* posted minus sent; never 0 */
    } tags[TPV_CREDIT_TAGS_MAX];
} tpv_credits_t;

/* Whether a message with `tag` may be sent now; if so it counts as sent. */
bool tpv_credits_take(tpv_credits_t *credits, int32_t tag);

/* Account for a notice. ncclRemoteError when it makes no sense. */
ncclResult_t tpv_credits_add(tpv_credits_t *credits, const tpv_notice_t *notice);

#endif
