/*
 * What travels on a data comm, from the source to the receiving rank, as messages of the net plugin:
 *
 *     greeting, then for each of the comm's chunks:  chunk (its bytes)  trailer
 *
 * Chunk i of a view is dense bytes [i * chunk_bytes, (i + 1) * chunk_bytes), the last one shorter. Those that have a
 * byte that was asked for are sent in ascending order, the n-th of them on comm n mod comms. A source that cannot go on
 * sends an empty chunk with a trailer that has its status and message. All numbers are little-endian.
 */
#ifndef CHANNEL_WIRE_H
#define CHANNEL_WIRE_H

#include <assert.h>
#include <stdint.h>

#include "base/id.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the wire is little-endian and so are all our targets");

#define TPV_WIRE_VERSION 1
#define TPV_GREETING_MAGIC UINT32_C(0x47565054) /* "TPVG" */
#define TPV_TRAILER_MAGIC UINT32_C(0x54565054)  /* "TPVT" */

typedef struct tpv_greeting {
    uint32_t magic;
    uint16_t version;
    uint16_t comm;
    uint16_t comms;
    uint16_t reserved;
    uint32_t chunk_bytes;
    uint64_t bytes;           /* of the dense form */
    uint8_t id[TPV_ID_BYTES]; /* the fetch: random, known only to the two ends */
} tpv_greeting_t;
static_assert(sizeof(tpv_greeting_t) == 40, "wire layout");

/* A trailer of a good chunk ends before the message. */
#define TPV_TRAILER_BYTES 32
typedef struct tpv_trailer {
    uint32_t magic;
    uint16_t version;
    uint16_t status; /* tpv_status_t, whose numbers are never reused */
    uint64_t chunk;
    uint64_t bytes;
    uint64_t digest; /* XXH3-64 of the chunk, seed 0 */
    char message[224];
} tpv_trailer_t;
static_assert(sizeof(tpv_trailer_t) == 256, "wire layout");

#endif
