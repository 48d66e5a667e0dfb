/* Which of a net plugin's devices reaches the other side of a connection. */
#ifndef CHANNEL_ROUTE_DEVICE_H
#define CHANNEL_ROUTE_DEVICE_H

#include "channel/net.h"

/*
 * The device that is named for the interface which `descriptor`, a connected socket, has its local address on: the way
 * that reaches the peer. The net's first device for a Unix socket, and where no device has that name: the plugin does
 * not name its devices for interfaces (InfiniBand) or registers memory with whole devices, or NCCL_SOCKET_IFNAME has
 * left this one out. Thread-safe.
 */
int tpv_net_device_towards(const tpv_net_t *net, int descriptor);

#endif
