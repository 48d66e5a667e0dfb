/* Which addresses a rank may ask for its data at. */
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "ncclnet/common.h"
#include "service/reach.h"

#define NET "TPView"

/* Of the networks for documentation (RFC 5737) one that this machine is not in stands for 192.0.2.0/24. */
static const char *strange = "192.0.2.";

static void choose_strange(void) {
    static const char *const choices[] = {"192.0.2.", "198.51.100.", "203.0.113."};
    struct ifaddrs *all = NULL;
    assert_int_equal(getifaddrs(&all), 0);
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++) {
        bool ours = false;
        for (const struct ifaddrs *one = all; one; one = one->ifa_next) {
            char text[INET_ADDRSTRLEN] = "";
            if (one->ifa_addr && one->ifa_addr->sa_family == AF_INET)
                inet_ntop(AF_INET, &((struct sockaddr_in *)one->ifa_addr)->sin_addr, text, sizeof text);
            ours = ours || strncmp(text, choices[i], strlen(choices[i])) == 0;
        }
        strange = choices[i];
        if (!ours) break;
    }
    freeifaddrs(all);
}

/* `text` with the strange network put in; in one of a few static buffers that take turns. */
static const char *placed(const char *text) {
    static char texts[8][64];
    static unsigned turn;
    const char *at = strstr(text, "192.0.2.");
    if (!at) return text;
    char *made = texts[turn++ % 8];
    snprintf(made, sizeof texts[0], "%.*s%s%s", (int)(at - text), text, strange, at + strlen("192.0.2."));
    return made;
}

typedef struct {
    uint8_t bytes[NCCL_NET_HANDLE_MAXSIZE];
} handle_t;

/* With one address, or two when `second` is not NULL; as docs/plugin.md shows it. */
static handle_t handle_with(const char *first, const char *second) {
    handle_t handle = {.bytes = "TPVHANDL\3"};
    const char *addresses[] = {placed(first), second ? placed(second) : NULL};
    for (int i = 0; i < 2 && addresses[i]; i++) {
        uint8_t *at = handle.bytes + 32 + 20 * i;
        bool ipv6 = strchr(addresses[i], ':') != NULL;
        *at = ipv6 ? 6 : 4;
        assert_int_equal(inet_pton(ipv6 ? AF_INET6 : AF_INET, addresses[i], at + 4), 1);
        handle.bytes[10]++;
    }
    return handle;
}

static struct sockaddr_storage socket_address(const char *text) {
    struct sockaddr_storage address = {0};
    text = placed(text);
    if (strchr(text, ':')) {
        address.ss_family = AF_INET6;
        assert_int_equal(inet_pton(AF_INET6, text, &((struct sockaddr_in6 *)&address)->sin6_addr), 1);
    } else {
        address.ss_family = AF_INET;
        assert_int_equal(inet_pton(AF_INET, text, &((struct sockaddr_in *)&address)->sin_addr), 1);
    }
    return address;
}

static tpv_status_t check(handle_t *handle, const char *peer, const tpv_networks_t *allowed, bool *elsewhere) {
    struct sockaddr_storage address = socket_address(peer);
    return tpv_reach_confine(NET, handle->bytes, 1, (struct sockaddr *)&address, allowed, elsewhere);
}

static tpv_networks_t networks(const char *const *texts) {
    tpv_networks_t networks = {0};
    for (; *texts; texts++)
        assert_int_equal(tpv_networks_add(&networks, placed(*texts)), TPV_OK);
    return networks;
}

static void test_own_address(void **state) {
    (void)state;
    static const char *const addresses[] = {"192.0.2.7", "2001:db8::7", "127.0.0.1", "::1"};
    for (size_t i = 0; i < sizeof addresses / sizeof *addresses; i++) {
        bool elsewhere = true;
        handle_t handle = handle_with(addresses[i], NULL);
        assert_int_equal(check(&handle, addresses[i], NULL, &elsewhere), TPV_OK);
        assert_false(elsewhere);
    }
    bool elsewhere = true;
    handle_t handle = handle_with("192.0.2.7", NULL);
    assert_int_equal(check(&handle, "::ffff:192.0.2.7", NULL, &elsewhere), TPV_OK);
    assert_false(elsewhere);
}

static void test_third_hosts(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"192.0.2.7", "127.0.0.1"}, {"192.0.2.7", "192.0.2.8"},   {"192.0.2.7", "169.254.169.254"},
        {"192.0.2.7", "::1"},       {"2001:db8::7", "127.0.0.1"}, {"127.0.0.1", "192.0.2.7"},
        {"192.0.2.7", "0.0.0.0"},   {"192.0.2.7", "224.0.0.1"},   {"192.0.2.7", "::ffff:127.0.0.1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool elsewhere = false;
        handle_t handle = handle_with(cases[i][1], NULL);
        assert_int_equal(check(&handle, cases[i][0], NULL, &elsewhere), TPV_ERR_PERMISSION);
        assert_non_null(strstr(tpv_error_message(), "--allow-net"));
        /* Of two addresses the right one is left. */
        for (int second = 0; second < 2; second++) {
            handle = second ? handle_with(cases[i][1], cases[i][0]) : handle_with(cases[i][0], cases[i][1]);
            handle_t left = handle_with(cases[i][0], NULL);
            assert_int_equal(check(&handle, cases[i][0], NULL, &elsewhere), TPV_OK);
            assert_memory_equal(&handle, &left, sizeof left);
            assert_false(elsewhere);
        }
    }
}

static void test_this_host_is_its_own_network(void **state) {
    (void)state;
    bool elsewhere = false;
    handle_t handle = handle_with("127.0.0.2", NULL);
    assert_int_equal(check(&handle, "127.0.0.1", NULL, &elsewhere), TPV_OK);
    assert_true(elsewhere);
    assert_int_equal(handle.bytes[10], 1);
}

static void test_allowed_networks(void **state) {
    (void)state;
    static const char *const texts[] = {"10.1.0.0/16", "192.0.2.9", "2001:db8:1::/48", NULL};
    static const struct {
        const char *address;
        tpv_status_t status;
    } cases[] = {
        {"10.1.255.255", TPV_OK},          {"10.2.0.0", TPV_ERR_PERMISSION}, {"192.0.2.9", TPV_OK},
        {"192.0.2.8", TPV_ERR_PERMISSION}, {"2001:db8:1:ffff::1", TPV_OK},   {"2001:db8:2::1", TPV_ERR_PERMISSION},
        {"198.51.100.1", TPV_OK}, /* the peer */
        {"127.0.0.1", TPV_ERR_PERMISSION},
    };
    tpv_networks_t allowed = networks(texts);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool elsewhere;
        handle_t handle = handle_with(cases[i].address, NULL);
        assert_int_equal(check(&handle, "198.51.100.1", &allowed, &elsewhere), cases[i].status);
    }
    /* Networks that are named take the place of the default. */
    bool elsewhere;
    handle_t handle = handle_with("127.0.0.2", NULL);
    assert_int_equal(check(&handle, "127.0.0.1", &allowed, &elsewhere), TPV_ERR_PERMISSION);
    tpv_networks_clear(&allowed);
    static const char *const everything[] = {"0.0.0.0/0", "::/0", NULL};
    allowed = networks(everything);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        handle = handle_with(cases[i].address, NULL);
        assert_int_equal(check(&handle, "192.0.2.7", &allowed, &elsewhere), TPV_OK);
    }
    tpv_networks_clear(&allowed);
}

static void test_bad_networks(void **state) {
    (void)state;
    static const char *const texts[] = {"",
                                        "/",
                                        "10.0.0.0/",
                                        "10.0.0.0/33",
                                        "10.0.0/8",
                                        "::/129",
                                        "::/-1",
                                        "host",
                                        "10.0.0.0/8/8",
                                        "10.0.0.0/0x8",
                                        "10.0.0.0 /8",
                                        "1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb:cccc/8"};
    tpv_networks_t none = {0};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        assert_int_equal(tpv_networks_add(&none, texts[i]), TPV_ERR_ARGUMENT);
    assert_int_equal(none.count, 0);
}

static void test_unreadable_handles(void **state) {
    (void)state;
    bool elsewhere;
    handle_t good = handle_with("192.0.2.7", NULL), bad = good;
    bad.bytes[0] = 'x';
    assert_int_equal(check(&bad, "192.0.2.7", NULL, &elsewhere), TPV_ERR_FORMAT);
    bad = good;
    bad.bytes[8] = 9; /* version */
    assert_int_equal(check(&bad, "192.0.2.7", NULL, &elsewhere), TPV_ERR_FORMAT);
    bad = good;
    for (int addresses = 0; addresses < 5; addresses += 3) {
        bad.bytes[10] = (uint8_t)addresses;
        assert_int_equal(check(&bad, "192.0.2.7", NULL, &elsewhere), TPV_ERR_FORMAT);
    }
    /* Those of other plugins cannot be read at all. */
    struct sockaddr_storage peer = socket_address("192.0.2.7");
    assert_int_equal(tpv_reach_confine("Socket", bad.bytes, 1, (struct sockaddr *)&peer, NULL, &elsewhere), TPV_OK);
    assert_false(elsewhere);
}

int main(void) {
    choose_strange();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_own_address),      cmocka_unit_test(test_third_hosts),
        cmocka_unit_test(test_allowed_networks), cmocka_unit_test(test_this_host_is_its_own_network),
        cmocka_unit_test(test_bad_networks),     cmocka_unit_test(test_unreadable_handles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
