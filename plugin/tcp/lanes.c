#include "tcp/lanes.h"

#include <sched.h>
#include <stdio.h>

#include "core/handshake.h"
#include "core/params.h"

/* What one core can send was 30 to 50 Gb/s on the machines that were looked at. */
#define CORE_SPEED 40000
#define HELPERS_MAX 4
#define HELPERS_UNKNOWN 2
/* PCI vendors whose networks limit each connection; NCCL gives them 2 threads with 8 sockets each, and 4 with one each
 * (ncclNetSocketGetNsockNthread, src/transport/net_socket.cc at v2.28.9). */
#define VENDOR_AMAZON 0x1d0f
#define VENDOR_GOOGLE 0x1ae0
#define LANES_AMAZON 16
#define LANES_GOOGLE 4

static unsigned vendor(const tpv_device_t *device) {
    char path[80];
    unsigned id = 0;
    snprintf(path, sizeof path, "/sys/class/net/%.*s/device/vendor", IF_NAMESIZE, device->interface.name);
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    if (fscanf(file, "%x", &id) != 1) id = 0;
    fclose(file);
    return id;
}

/* One less than the cores that the link can keep busy, as the comm's owner is one of them; not more than there are. */
static unsigned useful_helpers(const tpv_device_t *device) {
    cpu_set_t cpus;
    int cores = sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? CPU_COUNT(&cpus) : 1;
    /* An interface that does not tell its speed, as virtual ones do, may well be a fast one. */
    int wanted = device->speed_known ? (device->speed - 1) / CORE_SPEED : HELPERS_UNKNOWN;
    if (wanted > HELPERS_MAX) wanted = HELPERS_MAX;
    if (cores == 1) return 0;
    return (unsigned)(wanted < cores ? wanted : cores);
}

tpv_tcp_lanes_t tpv_tcp_lanes_choose(const tpv_device_t *device) {
    int64_t threads = tpv_net_param_int(TPV_NET_PARAM_NTHREADS), sockets = tpv_net_param_int(TPV_NET_PARAM_NSOCKS);
    tpv_tcp_lanes_t choice = {.helpers = threads >= 0 ? (unsigned)threads : useful_helpers(device),
                              .always = threads > 0};
    if (sockets > 0) {
        choice.lanes = choice.helpers ? 1 + choice.helpers * (unsigned)sockets : (unsigned)sockets;
    } else {
        unsigned id = vendor(device);
        choice.lanes = id == VENDOR_AMAZON ? LANES_AMAZON : id == VENDOR_GOOGLE ? LANES_GOOGLE : 1;
        if (choice.lanes < 1 + choice.helpers) choice.lanes = 1 + choice.helpers;
    }
    if (choice.lanes > TPV_CONNECTIONS_MAX) choice.lanes = TPV_CONNECTIONS_MAX;
    return choice;
}
