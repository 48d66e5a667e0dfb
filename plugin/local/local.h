/*
 * Comms between two processes of one host, whose data does not go through a network stack. They come about on a
 * connection that another transport has made: the connecting (sending) side offers, the accepting side takes or
 * declines, and when it declines both go on as if nothing had been said. The connection stays open under the comm: its
 * end is the news that the peer is gone.
 */
#ifndef LOCAL_LOCAL_H
#define LOCAL_LOCAL_H

#include "core/transport.h"
#include "local/host.h"

/* What the sender says of itself, as it goes over the connection. */
typedef struct {
    uint8_t boot_id[TPV_LOCAL_ID_BYTES];
    uint64_t pid_namespace;
    uint32_t pid;
    int32_t fd; /* the shared memory, among the sender's descriptors */
    uint64_t nonce_address;
    uint8_t nonce[TPV_LOCAL_ID_BYTES];
} tpv_local_offer_t;
_Static_assert(sizeof(tpv_local_offer_t) == 56, "no padding: it goes on the wire as it is");

/* The receiver's choice. */
typedef enum {
    TPV_LOCAL_DECLINED, /* go on without */
    TPV_LOCAL_PULL,     /* it reads the sender's memory: one copy */
    TPV_LOCAL_SHARE     /* it may not: payloads go through the shared memory, two copies */
} tpv_local_mode_t;

/* One end between offer and comm. */
typedef struct tpv_local_link tpv_local_link_t;

/* The sending side, to a peer whose handle named the boot id `peer`. NULL: nothing to offer, go on without; logged
 * where it is a surprise. Under the setup lock (core/fork.h). */
tpv_local_link_t *tpv_local_offer(const uint8_t *peer, tpv_local_offer_t *offer);

/* The sending side has its answer: the receiver's choice, not DECLINED, and its process id. */
void tpv_local_offer_taken(tpv_local_link_t *link, tpv_local_mode_t mode, int pid);

/* The receiving side. NULL: declined; the reason is logged. */
tpv_local_link_t *tpv_local_take(const tpv_local_offer_t *offer, tpv_local_mode_t *mode);

/* NULL is allowed. */
void tpv_local_link_free(tpv_local_link_t *link);

/* Make the comm; it owns `link` and the connection `fd` unless this fails (ncclSystemError, logged). */
ncclResult_t tpv_local_sender_create(tpv_local_link_t *link, tpv_device_t *device, int fd, tpv_comm_t **comm);
ncclResult_t tpv_local_receiver_create(tpv_local_link_t *link, tpv_device_t *device, int fd, tpv_comm_t **comm);

#endif
