#include "core/address.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <stdio.h>

const char *tpv_address_print(const tpv_address_t *address, char *text) {
    char host[INET6_ADDRSTRLEN] = "?", scope[IF_NAMESIZE] = "";
    if (address->any.sa_family == AF_INET6) {
        unsigned index = address->v6.sin6_scope_id;
        inet_ntop(AF_INET6, &address->v6.sin6_addr, host, sizeof host);
        if (index && !if_indextoname(index, scope)) snprintf(scope, sizeof scope, "%u", index);
        snprintf(text, TPV_ADDRESS_TEXT, "[%s%s%s]:%u", host, index ? "%" : "", scope,
                 (unsigned)tpv_address_port(address));
    } else {
        inet_ntop(AF_INET, &address->v4.sin_addr, host, sizeof host);
        snprintf(text, TPV_ADDRESS_TEXT, "%s:%u", host, (unsigned)tpv_address_port(address));
    }
    return text;
}
