#include "setup/handle.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/random.h>

#include "core/log.h"

static const uint8_t magic[8] = {'T', 'P', 'V', 'H', 'A', 'N', 'D', 'L'};

ncclResult_t tpv_id_create(uint8_t id[TPV_ID_BYTES]) {
    /* Up to 256 bytes come whole or not at all once the pool is ready (getrandom(2)). */
    if (getrandom(id, TPV_ID_BYTES, GRND_NONBLOCK) == TPV_ID_BYTES) return ncclSuccess;
    TPV_NET_WARN("getrandom: %s", strerror(errno));
    return ncclSystemError;
}

ncclResult_t tpv_handle_create(tpv_handle_t *handle) {
    memset(handle, 0, sizeof *handle);
    memcpy(handle->magic, magic, sizeof handle->magic);
    handle->version = TPV_WIRE_VERSION;
    return tpv_id_create(handle->id);
}

void tpv_handle_add(tpv_handle_t *handle, const tpv_address_t *address) {
    int index = handle->address_count++;
    handle->addresses[index].port = tpv_address_port(address);
    if (address->any.sa_family == AF_INET6) {
        handle->addresses[index].family = 6;
        memcpy(handle->addresses[index].address, &address->v6.sin6_addr, 16);
    } else {
        handle->addresses[index].family = 4;
        memcpy(handle->addresses[index].address, &address->v4.sin_addr, 4);
    }
}

ncclResult_t tpv_handle_check(const tpv_handle_t *handle) {
    if (memcmp(handle->magic, magic, sizeof handle->magic) != 0) {
        TPV_NET_WARN("connect: the handle was not made by this plugin: do all ranks use the same one?");
        return ncclInvalidArgument;
    }
    if (handle->version != TPV_WIRE_VERSION) {
        TPV_NET_WARN("connect: the handle has version %u, expected %u: all ranks need the same release of the plugin",
                     handle->version, TPV_WIRE_VERSION);
        return ncclInvalidUsage;
    }
    bool good = handle->address_count >= 1 && handle->address_count <= TPV_HANDLE_ADDRESSES_MAX;
    for (int i = 0; good && i < handle->address_count; i++)
        good = (handle->addresses[i].family == 4 || handle->addresses[i].family == 6) && handle->addresses[i].port != 0;
    if (good) return ncclSuccess;
    TPV_NET_WARN("connect: the handle is damaged: no valid address in it");
    return ncclInvalidArgument;
}

tpv_address_t tpv_handle_address(const tpv_handle_t *handle, int index, unsigned scope) {
    tpv_address_t address;
    memset(&address, 0, sizeof address);
    if (handle->addresses[index].family == 6) {
        address.v6.sin6_family = AF_INET6;
        address.v6.sin6_port = htons(handle->addresses[index].port);
        memcpy(&address.v6.sin6_addr, handle->addresses[index].address, 16);
        if (IN6_IS_ADDR_LINKLOCAL(&address.v6.sin6_addr)) address.v6.sin6_scope_id = scope;
    } else {
        address.v4.sin_family = AF_INET;
        address.v4.sin_port = htons(handle->addresses[index].port);
        memcpy(&address.v4.sin_addr, handle->addresses[index].address, 4);
    }
    return address;
}
