/*
 * How comms come about: listen, connect and accept as NCCL calls them, whatever transport moves the data in the end. A
 * comm begins with TCP connections from the connecting (sending) side; on the first one the transports of both sides
 * agree on who takes over (core/transport.h). No function blocks. docs/plugin.md states the wire format.
 */
#ifndef SETUP_SETUP_H
#define SETUP_SETUP_H

#include "core/comm.h"

typedef struct tpv_listener tpv_listener_t;

/* Writes all NCCL_NET_HANDLE_MAXSIZE bytes of `handle`. traffic_class -1: undefined. ncclSystemError, logged: at none
 * of the device's addresses. */
ncclResult_t tpv_setup_listen(tpv_device_t *device, int traffic_class, void *handle, tpv_listener_t **listener);

/*
 * *comm stays NULL until the connections stand and the other side's kernel has our hello: call again with the same
 * handle memory. Messages go once the other side has accepted; until then isend gives no request. `owner` is who to ask
 * for at tpv_setup_abandon. ncclRemoteError, logged: nobody answers there; ncclInvalidArgument and ncclInvalidUsage,
 * logged: the handle is none.
 */
ncclResult_t tpv_setup_connect(const void *owner, tpv_device_t *device, int traffic_class, const void *handle,
                               tpv_comm_t **comm);

/* *comm stays NULL until a rightful peer has connected: call again. */
ncclResult_t tpv_setup_accept(tpv_listener_t *listener, tpv_comm_t **comm);

void tpv_setup_close_listener(tpv_listener_t *listener);

/* Whether a listener was made before a fork. */
bool tpv_setup_foreign(const tpv_listener_t *listener);

/* Drop the connects that `owner` began and did not carry to their end. */
void tpv_setup_abandon(const void *owner);

#endif
