/* How the plugin prints addresses: what a log line tells must be enough to find the other end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <net/if.h>

#include "core/address.h"

static void addresses_are_printed_with_port_and_scope(void **state) {
    (void)state;
    char text[TPV_ADDRESS_TEXT];
    tpv_address_t v4 = {.v4 = {.sin_family = AF_INET, .sin_port = htons(4000)}};
    inet_pton(AF_INET, "10.0.0.1", &v4.v4.sin_addr);
    assert_string_equal(tpv_address_print(&v4, text), "10.0.0.1:4000");
    tpv_address_t v6 = {.v6 = {.sin6_family = AF_INET6, .sin6_port = htons(65535)}};
    inet_pton(AF_INET6, "2001:db8::1", &v6.v6.sin6_addr);
    assert_string_equal(tpv_address_print(&v6, text), "[2001:db8::1]:65535");
    /* Link-local: the same address may stand on every link. */
    inet_pton(AF_INET6, "fe80::1", &v6.v6.sin6_addr);
    v6.v6.sin6_scope_id = if_nametoindex("lo");
    assert_string_equal(tpv_address_print(&v6, text), "[fe80::1%lo]:65535");
    v6.v6.sin6_scope_id = 4000000000; /* no such interface (any more) */
    assert_string_equal(tpv_address_print(&v6, text), "[fe80::1%4000000000]:65535");
    /* The longest that there is. */
    inet_pton(AF_INET6, "fe80:1111:2222:3333:4444:5555:6666:7777", &v6.v6.sin6_addr);
    assert_string_equal(tpv_address_print(&v6, text), "[fe80:1111:2222:3333:4444:5555:6666:7777%4000000000]:65535");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(addresses_are_printed_with_port_and_scope)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
