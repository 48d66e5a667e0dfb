/* What transports say to each other while a comm is made; setup/ carries it. */
#ifndef CORE_HANDSHAKE_H
#define CORE_HANDSHAKE_H

#include <stdint.h>

#define TPV_CONNECTIONS_MAX 64 /* of a comm; as NCCL's MAX_SOCKETS (src/transport/net_socket.cc at v2.28.9) */
#define TPV_MESSAGE_BYTES_MAX 128
#define TPV_ID_BYTES 16 /* of ids and secrets, drawn at random */

/* An offer, or the answer to one. */
typedef struct {
    uint16_t size;
    uint8_t bytes[TPV_MESSAGE_BYTES_MAX];
} tpv_message_t;

#endif
