/* What listen writes and connect reads: where to connect, and the secret that proves that one was told. All numbers are
 * little-endian, which both supported machines are. */
#ifndef SETUP_HANDLE_H
#define SETUP_HANDLE_H

#include "core/address.h"
#include "core/handshake.h"
#include "ncclnet/common.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "wire structures are written as they lie in memory");

#define TPV_WIRE_VERSION 3
#define TPV_HANDLE_ADDRESSES_MAX 2

typedef struct {
    uint8_t magic[8];
    uint16_t version;
    uint16_t address_count;
    uint8_t reserved[4];
    uint8_t id[TPV_ID_BYTES];
    struct {
        uint16_t family; /* 4 or 6 */
        uint16_t port;
        uint8_t address[16]; /* network byte order; IPv4 in the first four bytes */
    } addresses[TPV_HANDLE_ADDRESSES_MAX];
    uint8_t boot_id[TPV_ID_BYTES]; /* of the listener's host; 0: not known */
    uint8_t unused[40];
} tpv_handle_t;
_Static_assert(sizeof(tpv_handle_t) == NCCL_NET_HANDLE_MAXSIZE, "the handle fills what NCCL exchanges");

/* Random bytes. ncclSystemError, logged, when the kernel has none. */
ncclResult_t tpv_id_create(uint8_t id[TPV_ID_BYTES]);

/* A new handle with a fresh random id and no address. Errors of tpv_id_create. */
ncclResult_t tpv_handle_create(tpv_handle_t *handle);

/* There must be room. */
void tpv_handle_add(tpv_handle_t *handle, const tpv_address_t *address);

/* Check a handle that came from outside. ncclInvalidArgument, logged: not a handle of this plugin, or a bad one;
 * ncclInvalidUsage, logged: of another version. */
ncclResult_t tpv_handle_check(const tpv_handle_t *handle);

/* The address at `index` of a checked handle. A link-local one gets `scope`, the interface to reach it by. */
tpv_address_t tpv_handle_address(const tpv_handle_t *handle, int index, unsigned scope);

#endif
