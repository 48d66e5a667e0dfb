/*
 * Comms between two processes of one host, whose data does not go through a network stack. The connecting (sending)
 * side offers shared memory and a place in its own memory, the accepting side takes the offer or declines. The
 * connection stays open under the comm, but carries nothing.
 */
#ifndef LOCAL_LOCAL_H
#define LOCAL_LOCAL_H

#include "core/transport.h"

extern const tpv_transport_t tpv_local_transport;

#endif
