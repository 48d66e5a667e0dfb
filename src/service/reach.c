#include "service/reach.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/params.h"
#include "channel/net.h"

#define OUR_NET "TPView"
#define ADDRESS_BYTES 16
#define ADDRESS_TEXT INET6_ADDRSTRLEN

static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff}; /* RFC 4291, 2.5.5.2 */

static void map_ipv4(const void *ipv4, uint8_t address[ADDRESS_BYTES]) {
    memcpy(address, mapped, sizeof mapped);
    memcpy(address + sizeof mapped, ipv4, 4);
}

static bool address_of(const struct sockaddr *from, uint8_t address[ADDRESS_BYTES]) {
    if (from && from->sa_family == AF_INET)
        map_ipv4(&((const struct sockaddr_in *)from)->sin_addr, address);
    else if (from && from->sa_family == AF_INET6)
        memcpy(address, &((const struct sockaddr_in6 *)from)->sin6_addr, ADDRESS_BYTES);
    else
        return false;
    return true;
}

static void write_address(const uint8_t address[ADDRESS_BYTES], char text[ADDRESS_TEXT]) {
    bool ipv4 = memcmp(address, mapped, sizeof mapped) == 0;
    if (!inet_ntop(ipv4 ? AF_INET : AF_INET6, address + (ipv4 ? sizeof mapped : 0), text, ADDRESS_TEXT)) *text = '\0';
}

static bool same_network(const uint8_t *a, const uint8_t *b, unsigned bits) {
    unsigned whole = bits / 8, rest = bits % 8;
    if (memcmp(a, b, whole) != 0) return false;
    return rest == 0 || (a[whole] ^ b[whole]) >> (8 - rest) == 0;
}

/* ---- networks ---- */

tpv_status_t tpv_networks_add(tpv_networks_t *networks, const char *text) {
    char address[ADDRESS_TEXT];
    size_t length = strcspn(text, "/");
    uint8_t bytes[ADDRESS_BYTES], ipv4[4];
    int64_t bits = 0;
    bool good = length < sizeof address;
    if (good) {
        memcpy(address, text, length);
        address[length] = '\0';
    }
    bool is_ipv4 = good && inet_pton(AF_INET, address, ipv4) == 1;
    good = is_ipv4 || (good && inet_pton(AF_INET6, address, bytes) == 1);
    int64_t most = is_ipv4 ? 32 : 128;
    if (good && text[length])
        good = strspn(text + length + 1, "0123456789") == strlen(text + length + 1) &&
               tpv_parse_int("bits", text + length + 1, 0, most, &bits) == TPV_OK;
    else
        bits = most;
    if (!good)
        return tpv_error_set(TPV_ERR_ARGUMENT, "\"%s\" is not a network: expected ADDRESS/BITS, such as 10.1.0.0/16",
                             text);
    void *grown = reallocarray(networks->list, networks->count + 1, sizeof *networks->list);
    if (!grown) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a network");
    networks->list = grown;
    if (is_ipv4) map_ipv4(ipv4, bytes);
    memcpy(networks->list[networks->count].bytes, bytes, ADDRESS_BYTES);
    networks->list[networks->count++].bits = (unsigned)bits + (is_ipv4 ? 96 : 0);
    return TPV_OK;
}

void tpv_networks_clear(tpv_networks_t *networks) {
    free(networks->list);
    *networks = (tpv_networks_t){0};
}

static unsigned mask_bits(const struct sockaddr *mask) {
    uint8_t bytes[ADDRESS_BYTES];
    unsigned bits = 0;
    if (!address_of(mask, bytes)) return 8 * ADDRESS_BYTES;
    if (mask->sa_family == AF_INET) memset(bytes, 0xff, sizeof mapped);
    while (bits < 8 * ADDRESS_BYTES && bytes[bits / 8] & (0x80 >> bits % 8))
        bits++;
    return bits;
}

/* Whether an interface of this host has a network with `peer` and one with `address`, which may be of the other family;
 * or both are this host's own addresses. */
static bool is_neighbour(const uint8_t *peer, const uint8_t *address) {
    struct ifaddrs *all = NULL;
    bool neighbour = false, peer_own = false, address_own = false;
    uint8_t own[ADDRESS_BYTES];
    if (getifaddrs(&all) != 0) return false;
    for (const struct ifaddrs *i = all; i && !neighbour; i = i->ifa_next) {
        if (!address_of(i->ifa_addr, own)) continue;
        peer_own = peer_own || memcmp(own, peer, ADDRESS_BYTES) == 0;
        address_own = address_own || memcmp(own, address, ADDRESS_BYTES) == 0;
        if (!same_network(own, peer, mask_bits(i->ifa_netmask))) continue;
        for (const struct ifaddrs *k = all; k && !neighbour; k = k->ifa_next)
            neighbour = strcmp(i->ifa_name, k->ifa_name) == 0 && address_of(k->ifa_addr, own) &&
                        same_network(own, address, mask_bits(k->ifa_netmask));
    }
    freeifaddrs(all);
    return neighbour || (peer_own && address_own);
}

static bool is_allowed(const tpv_networks_t *allowed, const uint8_t *peer, const uint8_t *address) {
    if (memcmp(peer, address, ADDRESS_BYTES) == 0) return true;
    size_t count = allowed ? allowed->count : 0;
    for (size_t i = 0; i < count; i++)
        if (same_network(allowed->list[i].bytes, address, allowed->list[i].bits)) return true;
    return count == 0 && is_neighbour(peer, address);
}

/* ---- handles ---- */

#define MOST_ADDRESSES 2

/* What our plugin writes, as far as it is of interest here; the places are the same in both versions. */
typedef struct {
    uint8_t magic[8];
    uint16_t version, address_count;
    uint8_t unused[20];
    struct {
        uint16_t family; /* 4 or 6 */
        uint16_t port;
        uint8_t address[ADDRESS_BYTES]; /* IPv4 in the first four bytes */
    } addresses[MOST_ADDRESSES];
} handle_t;
#define OLDEST_VERSION 2
#define NEWEST_VERSION 3

static tpv_status_t refuse(const uint8_t *address, const uint8_t *peer) {
    char there[ADDRESS_TEXT], here[ADDRESS_TEXT];
    write_address(address, there);
    write_address(peer, here);
    return tpv_error_set(
        TPV_ERR_PERMISSION,
        "the rank asks for its data at %s, but its control connection comes from %s: the service sends "
        "elsewhere only to networks that its --allow-net names; NCCL_SOCKET_IFNAME at the rank chooses "
        "where it listens",
        there, here);
}

static tpv_status_t confine(uint8_t *bytes, size_t number, const uint8_t *peer, const tpv_networks_t *allowed,
                            bool *elsewhere) {
    handle_t handle;
    uint8_t address[ADDRESS_BYTES];
    memcpy(&handle, bytes, sizeof handle);
    size_t given = handle.address_count;
    if (memcmp(handle.magic, "TPVHANDL", sizeof handle.magic) != 0 || handle.version < OLDEST_VERSION ||
        handle.version > NEWEST_VERSION || given < 1 || given > MOST_ADDRESSES)
        return tpv_error_set(TPV_ERR_FORMAT,
                             "handle %zu is not one of net plugin " OUR_NET
                             " that this service can read: are both of the same version?",
                             number);
    handle.address_count = 0;
    for (size_t i = 0; i < given; i++) {
        if (handle.addresses[i].family == 4)
            map_ipv4(handle.addresses[i].address, address);
        else
            memcpy(address, handle.addresses[i].address, ADDRESS_BYTES);
        if (!is_allowed(allowed, peer, address)) continue;
        if (memcmp(peer, address, ADDRESS_BYTES) != 0) *elsewhere = true;
        handle.addresses[handle.address_count++] = handle.addresses[i];
    }
    if (handle.address_count == 0) return refuse(address, peer);
    memset(handle.addresses + handle.address_count, 0,
           (MOST_ADDRESSES - handle.address_count) * sizeof *handle.addresses);
    memcpy(bytes, &handle, sizeof handle);
    return TPV_OK;
}

tpv_status_t tpv_reach_confine(const char *net, uint8_t *handles, size_t count, const struct sockaddr *peer,
                               const tpv_networks_t *allowed, bool *elsewhere) {
    uint8_t address[ADDRESS_BYTES];
    *elsewhere = false;
    if (strcmp(net, OUR_NET) != 0) return TPV_OK;
    if (!address_of(peer, address)) return tpv_error_set(TPV_ERR_PERMISSION, "the rank's address is not known");
    for (size_t i = 0; i < count; i++)
        TPV_TRY(confine(handles + i * NCCL_NET_HANDLE_MAXSIZE, i, address, allowed, elsewhere));
    return TPV_OK;
}
