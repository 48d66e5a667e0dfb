/* An IPv4 or IPv6 socket address. */
#ifndef CORE_ADDRESS_H
#define CORE_ADDRESS_H

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

typedef union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
} tpv_address_t;

#define TPV_ADDRESS_TEXT 72 /* enough for "[address%scope]:port" */

static inline socklen_t tpv_address_length(const tpv_address_t *address) {
    return address->any.sa_family == AF_INET6 ? sizeof address->v6 : sizeof address->v4;
}

/* Host byte order. */
static inline uint16_t tpv_address_port(const tpv_address_t *address) {
    return ntohs(address->any.sa_family == AF_INET6 ? address->v6.sin6_port : address->v4.sin_port);
}

/* "10.0.0.1:4000", "[2001:db8::1]:4000" or "[fe80::1%eth0]:4000" into `text` (TPV_ADDRESS_TEXT bytes), which is also
 * returned. */
const char *tpv_address_print(const tpv_address_t *address, char *text);

#endif
