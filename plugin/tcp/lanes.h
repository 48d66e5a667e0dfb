/*
 * How many connections a TCP comm has, and how many threads help to move data on them. The connections of a comm are
 * its lanes: lane 0 is the one that all comms have, and the thread that owns the comm always moves it itself.
 */
#ifndef TCP_LANES_H
#define TCP_LANES_H

#include "core/device.h"

typedef struct {
    unsigned lanes;   /* of each comm that connects from here, 1 to TPV_CONNECTIONS_MAX */
    unsigned helpers; /* threads of this process, see tcp/workers.h; 0: the owners of the comms do all of it */
    bool always;      /* the user wants helpers: have them even where they do not pay */
} tpv_tcp_lanes_t;

/* By what the user asks for, by the interface and by the CPUs that this thread may use. */
tpv_tcp_lanes_t tpv_tcp_lanes_choose(const tpv_device_t *device);

#endif
