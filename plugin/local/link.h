/* What one end holds of the other before and under a same-host comm. */
#ifndef LOCAL_LINK_H
#define LOCAL_LINK_H

#include <sys/types.h>
#include <sys/uio.h>

#include "core/transport.h"
#include "local/peer.h"
#include "local/segment.h"

/* How payloads move; the receiver's choice. */
typedef enum {
    TPV_LOCAL_PULL = 1, /* it reads the sender's memory: one copy */
    TPV_LOCAL_SHARE     /* it may not: payloads go through the shared memory, two copies */
} tpv_local_mode_t;

/* core/transport.h's end. */
struct tpv_end {
    tpv_local_segment_t segment;
    tpv_local_mode_t mode;
    tpv_local_peer_t peer;
    uint64_t nonce_address;
    uint8_t nonce[TPV_ID_BYTES];
};

/* Parts of the transport's table. */
bool tpv_local_offer(tpv_device_t *device, const uint8_t *peer, tpv_message_t *offer, tpv_end_t **end);
bool tpv_local_take(tpv_device_t *device, const tpv_message_t *offer, tpv_message_t *answer, tpv_end_t **end);
void tpv_local_drop(tpv_end_t *end);

/* The sending side has its answer. False: it makes no sense. */
bool tpv_local_taken(tpv_end_t *end, const tpv_message_t *answer);

/* Read `count` runs of the peer's memory, given in remote[1] to remote[count], into local[1] to local[count]. Elements
 * 0 belong to this function, which reads the nonce with them in the same call: a system call works on one address
 * space, so right bytes there mean that all came from the peer. Returns the bytes read besides the nonce, fewer than
 * asked for when a place is not accessible, -1 with errno; ESRCH: this is not the peer any more. */
ssize_t tpv_local_pull(tpv_end_t *end, struct iovec *local, struct iovec *remote, unsigned count);

#endif
