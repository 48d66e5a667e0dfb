/*
 * The memory that the two ends of a same-host comm share: a memfd that the sender made and the receiver opened through
 * /proc. It carries announcements of messages, small payloads, and, where the receiver may not read the sender's
 * memory, large ones as well. Neither end believes what it finds here: each word of the other is read once and checked,
 * and what an end has to remember it keeps in memory of its own.
 *
 * A message lies in a slot that the sender fills and announces; the receiver takes it when a receive is posted that
 * fits and then marks the slot as done. Payloads are copied by system calls (pread, pwrite, process_vm_readv), never by
 * plain loads and stores: memory that is not there any more, such as a truncated file's, then is an error and no
 * signal.
 */
#ifndef LOCAL_SEGMENT_H
#define LOCAL_SEGMENT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/comm.h"
#include "core/handshake.h"
#include "core/notice.h"
#include "local/peer.h"

#define TPV_LOCAL_VERSION 3
/* Messages up to this size are complete for the sender as soon as they lie here. */
#define TPV_LOCAL_INLINE_MAX ((size_t)4 << 10)
#define TPV_LOCAL_INLINE_BUFFERS 256
/* The receiver may have posted so many groups of so many receives. */
#define TPV_LOCAL_SENDS (NCCL_NET_MAX_REQUESTS * TPV_GROUP_MEMBERS_MAX)
/* Messages in inline buffers may wait for their receive when their requests are long gone. */
#define TPV_LOCAL_SLOTS (TPV_LOCAL_SENDS + TPV_LOCAL_INLINE_BUFFERS)
/* Room for every slot; indexes count on for ever and wrap around. */
#define TPV_LOCAL_RING 512
/* Notices that the sender has not looked at; the receiver posts nothing more when it is full. */
#define TPV_LOCAL_NOTICES 256
#define TPV_LOCAL_BULK_BYTES ((size_t)512 << 10)
#define TPV_LOCAL_CACHE_LINE 64

_Static_assert(TPV_LOCAL_RING >= TPV_LOCAL_SLOTS, "the rings never overflow");
_Static_assert((TPV_LOCAL_RING & (TPV_LOCAL_RING - 1)) == 0, "indexes wrap around at a multiple");

/* Each word belongs to the end that writes it. */
typedef enum {
    TPV_LOCAL_OPEN,
    TPV_LOCAL_CLOSED,    /* by its owner; nothing in its memory may be read any more */
    TPV_LOCAL_WITHDRAWN, /* the sender's: memory was deregistered with a send in flight */
    TPV_LOCAL_FAILED
} tpv_local_state_t;

/* Written by the sender before it announces the slot, but for `done`. */
typedef struct {
    _Alignas(TPV_LOCAL_CACHE_LINE) uint64_t address; /* in the sender's memory */
    uint64_t size;
    int32_t tag;
    uint32_t buffer;       /* inline buffer with the payload, counted from 1; 0: none */
    uint32_t shared;       /* 1: to be had through `bulk` only, as the payload's memory cannot be read */
    _Atomic uint32_t done; /* by the receiver: it needs the slot and its payload no more */
} tpv_local_slot_t;

typedef struct {
    uint8_t magic[8];
    uint32_t version, bytes;
    /* Random: descriptors' numbers are used again, so another segment may lie where this one was. */
    uint8_t id[TPV_ID_BYTES];

    /* The sender's. */
    _Alignas(TPV_LOCAL_CACHE_LINE) _Atomic uint32_t announced; /* messages in `order` */
    _Atomic uint32_t sender_state;
    _Atomic uint32_t heard;    /* notices that were looked at */
    _Atomic uint64_t produced; /* bytes that went into `bulk` */

    /* The receiver's. */
    _Alignas(TPV_LOCAL_CACHE_LINE) _Atomic uint32_t granted; /* messages in `grants` */
    _Atomic uint32_t receiver_state;
    _Atomic uint32_t noticed;  /* notices in `notices` */
    _Atomic uint64_t consumed; /* bytes that were taken out of `bulk` */

    _Alignas(TPV_LOCAL_CACHE_LINE) uint32_t order[TPV_LOCAL_RING];  /* slots, oldest announcement first */
    _Alignas(TPV_LOCAL_CACHE_LINE) uint32_t grants[TPV_LOCAL_RING]; /* slots whose payload is wanted in `bulk` */
    tpv_notice_t notices[TPV_LOCAL_NOTICES];
    tpv_local_slot_t slots[TPV_LOCAL_SLOTS];
} tpv_local_control_t;

/* Where payloads lie in the memfd. They are never mapped. */
#define TPV_LOCAL_INLINE_AT ((size_t)65536)
#define TPV_LOCAL_BULK_AT (TPV_LOCAL_INLINE_AT + TPV_LOCAL_INLINE_BUFFERS * TPV_LOCAL_INLINE_MAX)
#define TPV_LOCAL_BYTES (TPV_LOCAL_BULK_AT + TPV_LOCAL_BULK_BYTES)
_Static_assert(sizeof(tpv_local_control_t) <= TPV_LOCAL_INLINE_AT, "control comes first");

/* One end's hold on a segment. */
typedef struct {
    int fd;
    tpv_local_control_t *control;
} tpv_local_segment_t;

/* Make one, all open, with a fresh id. False with errno. */
bool tpv_local_segment_make(tpv_local_segment_t *segment);

/* Where the peer says that a segment is. Descriptors' numbers are used again, the file's too in time, the id never. */
typedef struct {
    uint64_t device, inode; /* of the memfd, see stat(2) */
    int32_t fd;             /* among the peer's descriptors */
    uint8_t id[TPV_ID_BYTES];
} tpv_local_place_t;

/* Where the segment lies that this process made. False with errno. */
bool tpv_local_segment_place(const tpv_local_segment_t *segment, tpv_local_place_t *place);

/* Open the memfd that `peer` says is at `place` and check that it is the segment with the id, which also proves that
 * the peer is who sent that. Another file is never opened: that could have effects, and if it is another segment that
 * this process holds, closing it again would end the hold. *why: what is wrong, for a log line, when false. */
bool tpv_local_segment_open(tpv_local_peer_t *peer, const tpv_local_place_t *place, tpv_local_segment_t *segment,
                            const char **why);

/* The two ends, for the following. */
typedef enum { TPV_LOCAL_SENDER, TPV_LOCAL_RECEIVER } tpv_local_side_t;

/* Mark the segment as held by this process as one of its ends, until it closes it, ends or becomes another program; a
 * forked child does not hold it. */
void tpv_local_segment_hold(const tpv_local_segment_t *segment, tpv_local_side_t side);

/* Whether another process holds it as the end `side`. */
bool tpv_local_segment_held(const tpv_local_segment_t *segment, tpv_local_side_t side);

/* Give it up; the other end keeps its own hold. */
void tpv_local_segment_close(tpv_local_segment_t *segment);

#endif
