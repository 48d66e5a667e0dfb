/* The TCP transport: one device for each network interface, one or several connections for each comm. */
#ifndef TCP_TCP_H
#define TCP_TCP_H

#include "core/interface.h"
#include "core/transport.h"

extern const tpv_transport_t tpv_tcp_transport;

typedef struct {
    tpv_device_t base;
    tpv_interface_t interface;
    bool speed_known;
} tpv_tcp_device_t;

/* The transport's parts, see core/transport.h for their meaning. */
ncclResult_t tpv_tcp_listen(tpv_device_t *device, int traffic_class, void *handle, tpv_listener_t **listener);
ncclResult_t tpv_tcp_connect(const void *owner, tpv_device_t *device, int traffic_class, const void *handle,
                             tpv_comm_t **comm);
ncclResult_t tpv_tcp_accept(tpv_listener_t *listener, tpv_comm_t **comm);
void tpv_tcp_close_listener(tpv_listener_t *listener);
void tpv_tcp_abandon(const void *owner);

#endif
