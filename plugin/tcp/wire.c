#include "tcp/wire.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "core/log.h"

static const uint8_t handle_magic[8] = {'T', 'P', 'V', 'H', 'A', 'N', 'D', 'L'};
static const uint8_t hello_magic[8] = {'T', 'P', 'V', 'H', 'E', 'L', 'L', 'O'};
static const uint8_t welcome_magic[8] = {'T', 'P', 'V', 'W', 'E', 'L', 'C', 'M'};

ncclResult_t tpv_tcp_id_create(uint8_t id[TPV_TCP_ID_BYTES]) {
    /* Up to 256 bytes come whole or not at all once the pool is ready (getrandom(2)). */
    if (getrandom(id, TPV_TCP_ID_BYTES, GRND_NONBLOCK) == TPV_TCP_ID_BYTES) return ncclSuccess;
    TPV_NET_WARN("getrandom: %s", strerror(errno));
    return ncclSystemError;
}

ncclResult_t tpv_tcp_handle_create(tpv_tcp_handle_t *handle) {
    memset(handle, 0, sizeof *handle);
    memcpy(handle->magic, handle_magic, sizeof handle->magic);
    handle->version = TPV_TCP_VERSION;
    return tpv_tcp_id_create(handle->id);
}

void tpv_tcp_handle_add(tpv_tcp_handle_t *handle, const tpv_address_t *address) {
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

ncclResult_t tpv_tcp_handle_check(const tpv_tcp_handle_t *handle) {
    if (memcmp(handle->magic, handle_magic, sizeof handle->magic) != 0) {
        TPV_NET_WARN("connect: the handle was not made by this plugin: do all ranks use the same one?");
        return ncclInvalidArgument;
    }
    if (handle->version != TPV_TCP_VERSION) {
        TPV_NET_WARN("connect: the handle has version %u, expected %u: all ranks need the same release of the plugin",
                     handle->version, TPV_TCP_VERSION);
        return ncclInvalidUsage;
    }
    bool good = handle->address_count >= 1 && handle->address_count <= TPV_TCP_ADDRESSES_MAX;
    for (int i = 0; good && i < handle->address_count; i++)
        good = (handle->addresses[i].family == 4 || handle->addresses[i].family == 6) && handle->addresses[i].port != 0;
    if (good) return ncclSuccess;
    TPV_NET_WARN("connect: the handle is damaged: no valid address in it");
    return ncclInvalidArgument;
}

tpv_address_t tpv_tcp_handle_address(const tpv_tcp_handle_t *handle, int index, unsigned scope) {
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

tpv_tcp_hello_t tpv_tcp_hello(const uint8_t *id, const uint8_t *comm, unsigned lanes, unsigned index, bool offers) {
    tpv_tcp_hello_t hello = {
        .version = TPV_TCP_VERSION, .offers = offers, .lanes = (uint8_t)lanes, .index = (uint8_t)index};
    memcpy(hello.magic, hello_magic, sizeof hello.magic);
    memcpy(hello.id, id, sizeof hello.id);
    memcpy(hello.comm, comm, sizeof hello.comm);
    return hello;
}

tpv_tcp_welcome_t tpv_tcp_welcome(uint8_t mode, uint32_t pid) {
    tpv_tcp_welcome_t welcome = {.version = TPV_TCP_VERSION, .mode = mode, .pid = pid};
    memcpy(welcome.magic, welcome_magic, sizeof welcome.magic);
    return welcome;
}

bool tpv_tcp_hello_begins(const tpv_tcp_hello_t *hello, size_t length) {
    return memcmp(hello->magic, hello_magic, length < sizeof hello_magic ? length : sizeof hello_magic) == 0;
}

bool tpv_tcp_hello_proves(const tpv_tcp_hello_t *hello, const uint8_t *id) {
    tpv_tcp_hello_t expected = tpv_tcp_hello(id, hello->comm, hello->lanes, hello->index, hello->offers == 1);
    const volatile uint8_t *a = (const uint8_t *)hello, *b = (const uint8_t *)&expected;
    unsigned difference = 0;
    for (size_t i = 0; i < sizeof expected; i++)
        difference |= (unsigned)(a[i] ^ b[i]);
    return difference == 0 && hello->lanes >= 1 && hello->lanes <= TPV_TCP_LANES_MAX && hello->index < hello->lanes &&
           !(hello->index && hello->offers);
}
