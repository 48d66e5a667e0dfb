/* The comm that connect gives: its connections stand, its hello is with the other side's kernel, and the answer to its
 * offers may take until the other side accepts. From then on a transport's comm moves the data (tpv_comm_become). */
#ifndef SETUP_WAITING_H
#define SETUP_WAITING_H

#include "core/transport.h"

#define TPV_TRANSPORTS_MAX 8

/* What each transport of tpv_transports has offered. */
typedef struct {
    bool made;
    tpv_end_t *end;
} tpv_offered_t;

/* Give up what was offered. */
void tpv_offered_drop(tpv_offered_t offered[TPV_TRANSPORTS_MAX]);

/* Make the comm; it owns `count` connections and the ends unless this fails (ncclSystemError, logged). */
ncclResult_t tpv_waiting_create(tpv_device_t *device, const int *fds, unsigned count,
                                const tpv_offered_t offered[TPV_TRANSPORTS_MAX], tpv_comm_t **comm);

#endif
