/* What a link holds, for those who make comms of it. */
#ifndef LOCAL_LINK_H
#define LOCAL_LINK_H

#include <sys/types.h>
#include <sys/uio.h>

#include "local/local.h"
#include "local/segment.h"

struct tpv_local_link {
    tpv_local_segment_t segment;
    tpv_local_mode_t mode;
    int peer;       /* process id */
    int peer_alive; /* pidfd, readable once the peer has ended; -1 where the kernel has none */
    uint64_t nonce_address;
    uint8_t nonce[TPV_LOCAL_ID_BYTES];
};

/* Read `count` runs of the peer's memory, given in remote[1] to remote[count], into local[1] to local[count]. Elements
 * 0 belong to this function, which reads the nonce with them in the same call: a system call works on one address
 * space, so right bytes there mean that all came from the peer. Returns the bytes read besides the nonce, fewer than
 * asked for when a place is not accessible, -1 with errno; ESRCH: this is not the peer any more. */
ssize_t tpv_local_pull(const tpv_local_link_t *link, struct iovec *local, struct iovec *remote, unsigned count);

#endif
