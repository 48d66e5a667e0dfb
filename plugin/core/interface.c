#include "core/interface.h"

#include <ifaddrs.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Whether one name of the list fits. A name may be followed by ":port", which means nothing here. A list without names
 * fits all, as with NCCL (matchIfList, src/misc/utils.cc at v2.28.9). */
static bool listed(const char *list, bool exact, const char *name) {
    bool any = false;
    for (const char *item = list;; item++) {
        size_t span = strcspn(item, ","), length = strcspn(item, ",:");
        if (length && strncmp(item, name, length) == 0 && (!exact || name[length] == '\0')) return true;
        any = any || length;
        item += span;
        if (!*item) return !any;
    }
}

static bool selected(const char *list, const char *name) {
    bool exclude = *list == '^';
    if (exclude) list++;
    bool exact = *list == '=';
    if (exact) list++;
    return listed(list, exact, name) != exclude;
}

static bool link_local(const tpv_address_t *address) {
    return address->any.sa_family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&address->v6.sin6_addr);
}

/* Keep the first address of each family, but a routable IPv6 address before a link-local one. */
static void add_address(tpv_interface_t *interface, const struct sockaddr *found) {
    tpv_address_t address;
    memset(&address, 0, sizeof address);
    if (found->sa_family == AF_INET6)
        memcpy(&address.v6, found, sizeof address.v6);
    else
        memcpy(&address.v4, found, sizeof address.v4);
    for (int i = 0; i < interface->address_count; i++) {
        tpv_address_t *present = &interface->addresses[i];
        if (present->any.sa_family != found->sa_family) continue;
        if (link_local(present) && !link_local(&address)) *present = address;
        return;
    }
    interface->addresses[interface->address_count++] = address;
}

/* IPv4 first; a link-local address only where there is no other. */
static void order_addresses(tpv_interface_t *interface) {
    if (interface->address_count != 2) return;
    if (interface->addresses[0].any.sa_family == AF_INET6) {
        tpv_address_t first = interface->addresses[0];
        interface->addresses[0] = interface->addresses[1];
        interface->addresses[1] = first;
    }
    if (link_local(&interface->addresses[1])) interface->address_count = 1;
}

/* `list` selects; NULL: only the interface that is called `name`, which may have ':' in it as labels do. */
static int collect(const struct ifaddrs *all, const char *list, const char *name, int family,
                   tpv_interface_t *interfaces, int room) {
    int count = 0;
    for (const struct ifaddrs *entry = all; entry; entry = entry->ifa_next) {
        const struct sockaddr *address = entry->ifa_addr;
        if (!address || (address->sa_family != AF_INET && address->sa_family != AF_INET6)) continue;
        if (family != AF_UNSPEC && address->sa_family != family) continue;
        if (!(entry->ifa_flags & IFF_UP) || !(entry->ifa_flags & IFF_RUNNING)) continue;
        if (list ? !selected(list, entry->ifa_name) : strcmp(name, entry->ifa_name) != 0) continue;
        int i = 0;
        while (i < count && strcmp(interfaces[i].name, entry->ifa_name) != 0)
            i++;
        if (i == room) continue;
        if (i == count) {
            memset(&interfaces[i], 0, sizeof interfaces[i]);
            snprintf(interfaces[i].name, sizeof interfaces[i].name, "%s", entry->ifa_name);
            interfaces[i].index = if_nametoindex(entry->ifa_name);
            interfaces[i].family = family;
            count++;
        }
        add_address(&interfaces[i], address);
    }
    for (int i = 0; i < count; i++)
        order_addresses(&interfaces[i]);
    return count;
}

int tpv_interfaces_find(const char *list, int family, tpv_interface_t *interfaces) {
    static const char *const choices[] = {"ib", "^docker,lo,virbr", "docker", "lo", "virbr"};
    struct ifaddrs *all = NULL;
    if (getifaddrs(&all) != 0) return -1;
    int count = 0;
    if (strlen(list) > 1) {
        count = collect(all, list, NULL, family, interfaces, TPV_INTERFACES_MAX);
    } else {
        for (size_t i = 0; i < sizeof choices / sizeof *choices && count == 0; i++)
            count = collect(all, choices[i], NULL, family, interfaces, TPV_INTERFACES_MAX);
    }
    freeifaddrs(all);
    return count;
}

void tpv_interface_refresh(tpv_interface_t *interface) {
    struct ifaddrs *all = NULL;
    tpv_interface_t found[1];
    if (getifaddrs(&all) != 0) return;
    if (collect(all, NULL, interface->name, interface->family, found, 1) == 1) *interface = found[0];
    freeifaddrs(all);
}
