/* What TCP comms put on their connections once they stand; docs/plugin.md shows the same as a table. All numbers are
 * little-endian, which both supported machines are. */
#ifndef TCP_WIRE_H
#define TCP_WIRE_H

#include <stdint.h>

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

#endif
