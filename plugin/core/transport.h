/*
 * What a transport is: devices, if it has its own, and a way to make comms between two of them. setup/ makes the
 * connections of a comm and carries a transport's few bytes both ways: the connecting (sending) side's transports make
 * offers, the accepting side takes the best one that it can and answers. core/, setup/ and the ABI shims know
 * transports only through this table; a further one is a folder and a line in abi/transports.c.
 */
#ifndef CORE_TRANSPORT_H
#define CORE_TRANSPORT_H

#include "core/comm.h"
#include "core/handshake.h"

/* One end of a comm between offer and comm; each transport knows its own. */
typedef struct tpv_end tpv_end_t;

/* The connections of a comm that is made: a transport owns those that it keeps, and sets their places to -1. */
typedef struct {
    tpv_device_t *device;
    unsigned count;
    int *fds;
} tpv_connections_t;

typedef struct tpv_transport {
    const char *name;
    uint8_t id; /* in handshakes, 1 to 255: never given to another one */
    /* Add this transport's devices to the table by tpv_device_add. Called once, under the setup lock (core/fork.h).
     * NULL: it has none of its own. */
    ncclResult_t (*discover)(void);
    /* How many connections a comm that connects from `device` should have, 1 to TPV_CONNECTIONS_MAX. There may be fewer
     * in the end, and more when another transport wants more. */
    unsigned (*connections)(const tpv_device_t *device);
    /* The connecting side. What it can offer to a peer whose handle named the boot id `peer`: offer->size bytes, and
     * *end, which may stay NULL where nothing has to be kept. False: nothing; logged where it is a surprise. Under the
     * setup lock. */
    bool (*offer)(tpv_device_t *device, const uint8_t *peer, tpv_message_t *offer, tpv_end_t **end);
    /* The accepting side. False: declined, and the next one is asked; the reason is logged. */
    bool (*take)(tpv_device_t *device, const tpv_message_t *offer, tpv_message_t *answer, tpv_end_t **end);
    /* Make the comm of an end whose offer was taken; `answer` is the peer's. ncclRemoteError: it makes no sense.
     * ncclSystemError: a lack of memory. Both logged. The end is owned by the comm unless this fails. Under the setup
     * lock. */
    ncclResult_t (*send_over)(tpv_end_t *end, const tpv_message_t *answer, tpv_connections_t *connections,
                              tpv_comm_t **comm);
    ncclResult_t (*receive_over)(tpv_end_t *end, tpv_connections_t *connections, tpv_comm_t **comm);
    /* An end that becomes no comm. NULL where there is nothing to free. */
    void (*drop)(tpv_end_t *end);
    /* Called now and then, for what has to be looked after when no comm is used. NULL: nothing. Under the setup lock.
     */
    void (*sweep)(void);
} tpv_transport_t;

/* Every transport, best first, ending with NULL. Defined beside the ABI shims (abi/transports.c), so that core/ knows
 * none of them. */
extern const tpv_transport_t *const tpv_transports[];

#endif
