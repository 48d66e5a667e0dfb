#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/params.h"
#include "tcp/comm.h"
#include "tcp/lanes.h"
#include "tcp/linger.h"
#include "tcp/tcp.h"

/* Interfaces that do not know their speed (virtual ones say -1 or nothing) count as 10 Gb/s, as with NCCL's Socket
 * transport (ncclNetSocketGetSpeed, src/transport/net_socket.cc at v2.28.9). */
#define SPEED_UNKNOWN 10000

/* Mb/s; not above 0 when it is not known. */
static int interface_speed(const char *name) {
    char path[64];
    int speed = -1;
    snprintf(path, sizeof path, "/sys/class/net/%.*s/speed", IF_NAMESIZE, name);
    FILE *file = fopen(path, "re");
    if (file) {
        if (fscanf(file, "%d", &speed) != 1) speed = -1;
        fclose(file);
    }
    return speed;
}

static int family_wanted(void) {
    const char *text = tpv_net_param_string(TPV_NET_PARAM_FAMILY);
    if (!*text) return AF_UNSPEC;
    if (strcmp(text, "AF_INET") == 0) return AF_INET;
    if (strcmp(text, "AF_INET6") == 0) return AF_INET6;
    TPV_NET_WARN("NCCL_SOCKET_FAMILY=%s is ignored: expected AF_INET or AF_INET6", text);
    return AF_UNSPEC;
}

static ncclResult_t add(const tpv_interface_t *interface) {
    tpv_device_t *device = calloc(1, sizeof *device);
    char path[64], text[TPV_ADDRESS_TEXT];
    if (!device || !(device->name = strdup(interface->name))) {
        free(device);
        TPV_NET_WARN("out of memory");
        return ncclSystemError;
    }
    snprintf(path, sizeof path, "/sys/class/net/%.*s/device", IF_NAMESIZE, interface->name);
    device->interface = *interface;
    device->transport = &tpv_tcp_transport;
    device->pci_path = realpath(path, NULL); /* NULL: a virtual interface */
    device->guid = (uint64_t)tpv_device_count();
    device->pointer_support = NCCL_PTR_HOST;
    int speed = interface_speed(interface->name);
    device->speed_known = speed > 0;
    device->speed = device->speed_known ? speed : SPEED_UNKNOWN;
    device->receives_max = TPV_GROUP_MEMBERS_MAX;
    device->message_max = TPV_MESSAGE_MAX;
    TPV_NET_INFO("TCP device %d: %s at %s, %d Mb/s", tpv_device_count(), interface->name,
                 tpv_address_print(&interface->addresses[0], text), device->speed);
    if (!tpv_device_add(device)) {
        free(device->pci_path);
        free(device->name);
        free(device);
    }
    return ncclSuccess;
}

static ncclResult_t discover(void) {
    tpv_interface_t interfaces[TPV_INTERFACES_MAX];
    int count = tpv_interfaces_find(tpv_net_param_string(TPV_NET_PARAM_IFNAME), family_wanted(), interfaces);
    if (count < 0) {
        TPV_NET_WARN("getifaddrs: %s", strerror(errno));
        return ncclSystemError;
    }
    ncclResult_t result = ncclSuccess;
    for (int i = 0; i < count && result == ncclSuccess; i++)
        result = add(&interfaces[i]);
    return result;
}

static unsigned connections(const tpv_device_t *device) {
    return tpv_tcp_lanes_choose(device).lanes;
}

/* It can always be had, and there is nothing to say. */
static bool offer(tpv_device_t *device, const uint8_t *peer, tpv_message_t *message, tpv_end_t **end) {
    (void)device, (void)peer, (void)message, (void)end;
    return true;
}

static bool take(tpv_device_t *device, const tpv_message_t *message, tpv_message_t *answer, tpv_end_t **end) {
    (void)device, (void)message, (void)answer, (void)end;
    return true;
}

const tpv_transport_t tpv_tcp_transport = {
    .name = "TCP",
    .id = 1,
    .discover = discover,
    .connections = connections,
    .offer = offer,
    .take = take,
    .send_over = tpv_tcp_send_over,
    .receive_over = tpv_tcp_receive_over,
    .sweep = tpv_tcp_linger_sweep,
};
