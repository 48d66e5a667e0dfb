/* Plain streaming over one comm of a net plugin: blocks one behind the other, no framing, no digests. The yardstick for
 * everything that tpview puts on top. */
#ifndef TOOLS_COMMON_RAW_STREAM_H
#define TOOLS_COMMON_RAW_STREAM_H

#include "channel/net.h"

typedef struct tpv_raw_stream {
    size_t block;      /* bytes of one message */
    uint64_t bytes;    /* in all */
    unsigned inflight; /* messages posted at the same time, at most NCCL_NET_MAX_REQUESTS */
} tpv_raw_stream_t;

/* Wait for a connection and receive into `destination` (stream->bytes long), on this thread. `handle_fd` is a pipe that
 * the other end gets our handle from, and only it has open for reading: while nobody has, TPV_ERR_PEER. *seconds counts
 * from the connection to the last byte. */
tpv_status_t tpv_raw_receive(const tpv_net_t *net, const tpv_raw_stream_t *stream, int handle_fd, void *destination,
                             double *seconds);
/* The other end, in another process: reads the handle and sends `source`. */
tpv_status_t tpv_raw_send(const tpv_net_t *net, const tpv_raw_stream_t *stream, int handle_fd, const void *source);

#endif
