/* The first bytes on the connections of a comm. All numbers are little-endian. */
#ifndef SETUP_GREETING_H
#define SETUP_GREETING_H

#include <stdbool.h>
#include <stddef.h>

#include "setup/handle.h"

/* Begins each connection, from the connecting side. On the comm's first one, whose index is 0, offers follow. */
typedef struct {
    uint8_t magic[8];
    uint16_t version;
    uint16_t offer_bytes;
    uint8_t connections; /* of the comm, 1 to TPV_CONNECTIONS_MAX */
    uint8_t index;       /* which of them this is */
    uint8_t reserved[2];
    uint8_t id[TPV_ID_BYTES];   /* the handle's */
    uint8_t comm[TPV_ID_BYTES]; /* random, the same on all connections of a comm */
} tpv_hello_t;
_Static_assert(sizeof(tpv_hello_t) == 48, "no padding");

/* Before the bytes of each offer. */
typedef struct {
    uint8_t transport; /* its id */
    uint8_t reserved;
    uint16_t size;
} tpv_offer_head_t;
_Static_assert(sizeof(tpv_offer_head_t) == 4, "no padding");

#define TPV_OFFER_BYTES_MAX 512

typedef struct {
    tpv_hello_t hello;
    uint8_t offers[TPV_OFFER_BYTES_MAX];
} tpv_greeting_t;
_Static_assert(sizeof(tpv_greeting_t) == 560, "no padding");

/* The accepting side's answer, on the comm's first connection, once it has all of them. */
typedef struct {
    uint8_t magic[8];
    uint16_t version;
    uint16_t size;     /* bytes of `answer` that follow */
    uint8_t transport; /* whose offer was taken */
    uint8_t reserved[3];
    uint8_t answer[TPV_MESSAGE_BYTES_MAX];
} tpv_welcome_t;
#define TPV_WELCOME_BYTES offsetof(tpv_welcome_t, answer)
_Static_assert(TPV_WELCOME_BYTES == 16, "no padding");

tpv_hello_t tpv_hello(const uint8_t *id, const uint8_t *comm, unsigned connections, unsigned index);

/* Append an offer to a greeting; false when there is no room for it. */
bool tpv_greeting_offer(tpv_greeting_t *greeting, uint8_t transport, const tpv_message_t *offer);

/* The offer of `transport` in a whole greeting. False when there is none. */
bool tpv_greeting_find(const tpv_greeting_t *greeting, uint8_t transport, tpv_message_t *offer);

/* Whether the first `length` bytes can begin a hello. Looks at the magic only: how long a wrong id is taken for right
 * must not show. */
bool tpv_hello_begins(const tpv_hello_t *hello, size_t length);

/* Whether a whole hello proves knowledge of `id` and makes sense; takes the same time for every wrong id. */
bool tpv_hello_proves(const tpv_hello_t *hello, const uint8_t *id);

tpv_welcome_t tpv_welcome(uint8_t transport, const tpv_message_t *answer);

/* Whether a welcome's first TPV_WELCOME_BYTES make sense. */
bool tpv_welcome_good(const tpv_welcome_t *welcome);

#endif
