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

#define TPV_TCP_VERSION 1
#define TPV_TCP_ID_BYTES 16
#define TPV_TCP_ADDRESSES_MAX 2

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

/* The first bytes on a connection, from the connecting side. With `offers` set, a tpv_local_offer_t follows. */
typedef struct {
    uint8_t magic[8];
    uint16_t version;
    uint8_t offers;
    uint8_t reserved[5];
    uint8_t id[TPV_TCP_ID_BYTES];
} tpv_tcp_hello_t;
_Static_assert(sizeof(tpv_tcp_hello_t) == 32, "no padding");

typedef struct {
    tpv_tcp_hello_t hello;
    tpv_local_offer_t offer;
} tpv_tcp_greeting_t;
_Static_assert(sizeof(tpv_tcp_greeting_t) == 88, "no padding");

/* The accepting side's answer, and the only bytes that it ever sends. */
typedef struct {
    uint8_t magic[8];
    uint16_t version;
    uint8_t mode; /* what became of the offer, a tpv_local_mode_t; 0: the messages follow on this connection */
    uint8_t reserved;
    uint32_t pid; /* with a mode, the accepting process */
} tpv_tcp_welcome_t;
_Static_assert(sizeof(tpv_tcp_welcome_t) == 16, "no padding");

/* Before each message; `size` bytes of payload follow. */
typedef struct {
    uint32_t magic;
    int32_t tag;
    uint64_t size;
} tpv_tcp_header_t;
_Static_assert(sizeof(tpv_tcp_header_t) == 16, "no padding");

#define TPV_TCP_HEADER_MAGIC UINT32_C(0x4d565054) /* "TPVM" */
#define TPV_TCP_MESSAGE_MAX (UINT64_C(1) << 30)   /* as NCCL's MAX_NET_SIZE; test reports sizes as int */

/* A new handle with a fresh random id and no address. ncclSystemError, logged, when the kernel has no random bytes. */
ncclResult_t tpv_tcp_handle_create(tpv_tcp_handle_t *handle);

/* There must be room. */
void tpv_tcp_handle_add(tpv_tcp_handle_t *handle, const tpv_address_t *address);

/* Check a handle that came from outside. ncclInvalidArgument, logged: not a handle of this plugin, or a bad one;
 * ncclInvalidUsage, logged: of another version. */
ncclResult_t tpv_tcp_handle_check(const tpv_tcp_handle_t *handle);

/* The address at `index` of a checked handle. A link-local one gets `scope`, the interface to reach it by. */
tpv_address_t tpv_tcp_handle_address(const tpv_tcp_handle_t *handle, int index, unsigned scope);

tpv_tcp_hello_t tpv_tcp_hello(const uint8_t *id, bool offers);
tpv_tcp_welcome_t tpv_tcp_welcome(uint8_t mode, uint32_t pid);

/* Whether the first `length` bytes can begin a hello. Looks at the magic only: how long a wrong id is taken for right
 * must not show. */
bool tpv_tcp_hello_begins(const tpv_tcp_hello_t *hello, size_t length);

/* Whether a whole hello proves knowledge of `id`; takes the same time for every wrong one. */
bool tpv_tcp_hello_proves(const tpv_tcp_hello_t *hello, const uint8_t *id);

#endif
