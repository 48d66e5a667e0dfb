#include "channel/route_device.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/log.h"

/* As IPv6: a socket for both families shows IPv4 addresses mapped (rfc4291, 2.5.5.2). False for other families. */
static bool address_of(const struct sockaddr *address, struct in6_addr *mapped) {
    if (address->sa_family == AF_INET6) {
        *mapped = ((const struct sockaddr_in6 *)address)->sin6_addr;
        return true;
    }
    if (address->sa_family != AF_INET) return false;
    memset(mapped, 0, sizeof *mapped);
    mapped->s6_addr[10] = mapped->s6_addr[11] = 0xff;
    memcpy(&mapped->s6_addr[12], &((const struct sockaddr_in *)address)->sin_addr, 4);
    return true;
}

/* A link-local address may be on several interfaces: the socket's scope says which. */
static bool interface_of(int descriptor, char name[IF_NAMESIZE]) {
    struct sockaddr_storage local;
    socklen_t bytes = sizeof local;
    struct in6_addr wanted, present;
    struct ifaddrs *all = NULL;
    if (getsockname(descriptor, (struct sockaddr *)&local, &bytes) != 0 ||
        !address_of((struct sockaddr *)&local, &wanted))
        return false;
    if (IN6_IS_ADDR_LINKLOCAL(&wanted))
        return if_indextoname(((struct sockaddr_in6 *)(void *)&local)->sin6_scope_id, name) != NULL;
    if (getifaddrs(&all) != 0) return false;
    const struct ifaddrs *entry = all;
    while (entry &&
           !(entry->ifa_addr && address_of(entry->ifa_addr, &present) && memcmp(&present, &wanted, sizeof wanted) == 0))
        entry = entry->ifa_next;
    if (entry) snprintf(name, IF_NAMESIZE, "%s", entry->ifa_name);
    freeifaddrs(all);
    return entry != NULL;
}

int tpv_net_device_towards(const tpv_net_t *net, int descriptor) {
    char name[IF_NAMESIZE];
    /* Memory that is registered with a whole device is good for that one alone (registration.h). */
    if (net->devices < 2 || net->properties.registers_for_device || !interface_of(descriptor, name)) return net->device;
    for (int i = 0; i < net->devices; i++) {
        tpv_net_device_t device;
        if (net->abi.properties(&net->abi, i, &device) != ncclSuccess || strcmp(device.name, name) != 0) continue;
        TPV_INFO("net plugin %s: device %s, which the control connection comes over", net->abi.name, name);
        return i;
    }
    return net->device;
}
