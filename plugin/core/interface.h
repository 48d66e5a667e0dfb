/* Network interfaces to use, chosen the way NCCL's Socket transport does (src/misc/socket.cc at v2.28.9). */
#ifndef CORE_INTERFACE_H
#define CORE_INTERFACE_H

#include <net/if.h>

#include "core/address.h"

#define TPV_INTERFACES_MAX 16         /* as NCCL's MAX_IFS */
#define TPV_INTERFACE_ADDRESSES_MAX 2 /* one for each family, IPv4 first */

typedef struct {
    char name[IF_NAMESIZE];
    unsigned index;
    int family; /* wanted; AF_UNSPEC: any */
    int address_count;
    tpv_address_t addresses[TPV_INTERFACE_ADDRESSES_MAX]; /* ports are 0 */
} tpv_interface_t;

/* Find the interfaces that are up and have an address of `family` (AF_UNSPEC: any). `list` is the value of
 * NCCL_SOCKET_IFNAME: comma-separated prefixes, "^" before them excludes, "=" asks for exact names; then only what it
 * selects is used. A list without names selects everything. With fewer than two characters, which is what NCCL takes
 * for not set (ncclFindInterfaces), the first of these that finds any: ib*, everything but docker*, lo and virbr*,
 * docker*, lo, virbr*. Returns how many were written to `interfaces` (TPV_INTERFACES_MAX), -1 with errno when the
 * kernel refuses. */
int tpv_interfaces_find(const char *list, int family, tpv_interface_t *interfaces);

/* Look again for the addresses of an interface that was found before: they may have changed since. Left as they are
 * when there are none. */
void tpv_interface_refresh(tpv_interface_t *interface);

#endif
