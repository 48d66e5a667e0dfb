/*
 * What TCP comms put on the wire and into handles; docs/plugin.md shows the same as tables. All numbers are
 * little-endian, which both supported machines are.
 */
#ifndef TCP_WIRE_H
#define TCP_WIRE_H

#include <stdbool.h>

#include "core/address.h"
#include "local/local.h"
#include "ncclnet/common.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "wire structures are written as they lie in memory");

#define TPV_TCP_VERSION 2
#define TPV_TCP_ID_BYTES 16
#define TPV_TCP_ADDRESSES_MAX 2
#define TPV_TCP_LANES_MAX 64 /* as NCCL's MAX_SOCKETS (src/transport/net_socket.cc at v2.28.9) */

/* What listen writes and connect reads: where to connect, and the secret that proves that one was told. */
typedef struct {
    uint8_t magic[8];
    uint16_t version;
    uint16_t address_count;
    uint8_t reserved[4];
    uint8_t id[TPV_TCP_ID_BYTES];
    struct {
        uint16_t family; /* 4 or 6 */
        uint16_t port;
        uint8_t address[16]; /* network byte order; IPv4 in the first four bytes */
    } addresses[TPV_TCP_ADDRESSES_MAX];
    uint8_t boot_id[16]; /* of the listener's host, for peers on the same one; 0: it takes no offers */
    uint8_t unused[40];
} tpv_tcp_handle_t;
_Static_assert(sizeof(tpv_tcp_handle_t) == NCCL_NET_HANDLE_MAXSIZE, "the handle fills what NCCL exchanges");

/* The first bytes on a connection, from the connecting side. With `offers` set, a tpv_local_offer_t follows. A comm's
 * first connection has index 0; the others follow once it is welcome and no offer was taken, and get no answer. */
typedef struct {
    uint8_t magic[8];
    uint16_t version;
    uint8_t offers;
    uint8_t lanes; /* connections of the comm, 1 to TPV_TCP_LANES_MAX */
    uint8_t index; /* which of them this is */
    uint8_t reserved[3];
    uint8_t id[TPV_TCP_ID_BYTES];
    uint8_t comm[TPV_TCP_ID_BYTES]; /* random, the same for all connections of a comm */
} tpv_tcp_hello_t;
_Static_assert(sizeof(tpv_tcp_hello_t) == 48, "no padding");

typedef struct {
    tpv_tcp_hello_t hello;
    tpv_local_offer_t offer;
} tpv_tcp_greeting_t;
_Static_assert(sizeof(tpv_tcp_greeting_t) == 104, "no padding");

/* The accepting side's answer on the comm's first connection. Only notices (core/notice.h) follow it, there too. */
typedef struct {
    uint8_t magic[8];
    uint16_t version;
    uint8_t mode; /* what became of the offer, a tpv_local_mode_t; 0: the messages follow on this connection */
    uint8_t reserved;
    uint32_t pid; /* with a mode, the accepting process */
} tpv_tcp_welcome_t;
_Static_assert(sizeof(tpv_tcp_welcome_t) == 16, "no padding");

/* Before each piece of a message, whose `length` bytes of payload follow. Pieces travel on any connection of the comm;
 * on each one they are in the order of their places in the stream of messages. */
typedef struct {
    uint32_t magic;
    int32_t tag;
    uint32_t number; /* of the message in its comm, from 0, wrapping around */
    uint32_t size;   /* of the message */
    uint32_t offset, length;
} tpv_tcp_frame_t;
_Static_assert(sizeof(tpv_tcp_frame_t) == 24, "no padding");

#define TPV_TCP_FRAME_MAGIC UINT32_C(0x4d565054) /* "TPVM" */
#define TPV_TCP_MESSAGE_MAX (UINT64_C(1) << 30)  /* as NCCL's MAX_NET_SIZE; test reports sizes as int */

/* Random bytes. ncclSystemError, logged, when the kernel has none. */
ncclResult_t tpv_tcp_id_create(uint8_t id[TPV_TCP_ID_BYTES]);

/* A new handle with a fresh random id and no address. Errors of tpv_tcp_id_create. */
ncclResult_t tpv_tcp_handle_create(tpv_tcp_handle_t *handle);

/* There must be room. */
void tpv_tcp_handle_add(tpv_tcp_handle_t *handle, const tpv_address_t *address);

/* Check a handle that came from outside. ncclInvalidArgument, logged: not a handle of this plugin, or a bad one;
 * ncclInvalidUsage, logged: of another version. */
ncclResult_t tpv_tcp_handle_check(const tpv_tcp_handle_t *handle);

/* The address at `index` of a checked handle. A link-local one gets `scope`, the interface to reach it by. */
tpv_address_t tpv_tcp_handle_address(const tpv_tcp_handle_t *handle, int index, unsigned scope);

tpv_tcp_hello_t tpv_tcp_hello(const uint8_t *id, const uint8_t *comm, unsigned lanes, unsigned index, bool offers);
tpv_tcp_welcome_t tpv_tcp_welcome(uint8_t mode, uint32_t pid);

/* Whether the first `length` bytes can begin a hello. Looks at the magic only: how long a wrong id is taken for right
 * must not show. */
bool tpv_tcp_hello_begins(const tpv_tcp_hello_t *hello, size_t length);

/* Whether a whole hello proves knowledge of `id` and makes sense; takes the same time for every wrong id. */
bool tpv_tcp_hello_proves(const tpv_tcp_hello_t *hello, const uint8_t *id);

#endif
