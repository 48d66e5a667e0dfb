/* The TCP transport: one device for each network interface, one or several connections for each comm. */
#ifndef TCP_TCP_H
#define TCP_TCP_H

#include "core/transport.h"

extern const tpv_transport_t tpv_tcp_transport;

#endif
