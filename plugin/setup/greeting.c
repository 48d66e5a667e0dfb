#include "setup/greeting.h"

#include <string.h>

static const uint8_t hello_magic[8] = {'T', 'P', 'V', 'H', 'E', 'L', 'L', 'O'};
static const uint8_t welcome_magic[8] = {'T', 'P', 'V', 'W', 'E', 'L', 'C', 'M'};

tpv_hello_t tpv_hello(const uint8_t *id, const uint8_t *comm, unsigned connections, unsigned index) {
    tpv_hello_t hello = {.version = TPV_WIRE_VERSION, .connections = (uint8_t)connections, .index = (uint8_t)index};
    memcpy(hello.magic, hello_magic, sizeof hello.magic);
    memcpy(hello.id, id, sizeof hello.id);
    memcpy(hello.comm, comm, sizeof hello.comm);
    return hello;
}

bool tpv_greeting_offer(tpv_greeting_t *greeting, uint8_t transport, const tpv_message_t *offer) {
    const tpv_offer_head_t head = {.transport = transport, .size = offer->size};
    size_t used = greeting->hello.offer_bytes;
    if (sizeof head + offer->size > sizeof greeting->offers - used) return false;
    memcpy(greeting->offers + used, &head, sizeof head);
    memcpy(greeting->offers + used + sizeof head, offer->bytes, offer->size);
    greeting->hello.offer_bytes = (uint16_t)(used + sizeof head + offer->size);
    return true;
}

bool tpv_greeting_find(const tpv_greeting_t *greeting, uint8_t transport, tpv_message_t *offer) {
    tpv_offer_head_t head;
    size_t end = greeting->hello.offer_bytes;
    for (size_t at = 0; end - at >= sizeof head; at += head.size) {
        memcpy(&head, greeting->offers + at, sizeof head);
        at += sizeof head;
        if (head.size > end - at) return false;
        if (head.transport != transport) continue;
        if (head.size > sizeof offer->bytes) return false;
        memset(offer, 0, sizeof *offer);
        offer->size = head.size;
        memcpy(offer->bytes, greeting->offers + at, head.size);
        return true;
    }
    return false;
}

bool tpv_hello_begins(const tpv_hello_t *hello, size_t length) {
    return memcmp(hello->magic, hello_magic, length < sizeof hello_magic ? length : sizeof hello_magic) == 0;
}

bool tpv_hello_proves(const tpv_hello_t *hello, const uint8_t *id) {
    tpv_hello_t expected = tpv_hello(id, hello->comm, hello->connections, hello->index);
    expected.offer_bytes = hello->offer_bytes;
    const volatile uint8_t *a = (const uint8_t *)hello, *b = (const uint8_t *)&expected;
    unsigned difference = 0;
    for (size_t i = 0; i < sizeof expected; i++)
        difference |= (unsigned)(a[i] ^ b[i]);
    return difference == 0 && hello->connections >= 1 && hello->connections <= TPV_CONNECTIONS_MAX &&
           hello->index < hello->connections && hello->offer_bytes <= TPV_OFFER_BYTES_MAX &&
           !(hello->index && hello->offer_bytes);
}

tpv_welcome_t tpv_welcome(uint8_t transport, const tpv_message_t *answer) {
    tpv_welcome_t welcome = {.version = TPV_WIRE_VERSION, .size = answer->size, .transport = transport};
    memcpy(welcome.magic, welcome_magic, sizeof welcome.magic);
    memcpy(welcome.answer, answer->bytes, answer->size);
    return welcome;
}

bool tpv_welcome_good(const tpv_welcome_t *welcome) {
    static const uint8_t zero[sizeof welcome->reserved] = {0};
    return memcmp(welcome->magic, welcome_magic, sizeof welcome_magic) == 0 && welcome->version == TPV_WIRE_VERSION &&
           welcome->size <= TPV_MESSAGE_BYTES_MAX && memcmp(welcome->reserved, zero, sizeof zero) == 0;
}
