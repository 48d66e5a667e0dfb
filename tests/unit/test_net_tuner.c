/* Whether help pays is found out from rates, here of a made-up link on a made-up clock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>

#include "tcp/tuner.h"

#define MIB (UINT64_C(1) << 20)

typedef struct {
    tpv_tcp_tuner_t tuner;
    uint64_t bytes, helped_bytes;
    int64_t now;
    double rates[2]; /* bytes for each ns, without and with help */
} link_t;

/* Send so much in messages of a MiB. */
static void stream(link_t *link, uint64_t bytes) {
    for (uint64_t end = link->bytes + bytes; link->bytes < end;) {
        bool helped = link->tuner.helped;
        link->bytes += MIB;
        if (helped) link->helped_bytes += MIB;
        link->now += (int64_t)((double)MIB / link->rates[helped]);
        tpv_tcp_tuner_update(&link->tuner, link->bytes, link->now);
    }
}

static double helped_share(link_t *link, uint64_t bytes) {
    link->helped_bytes = 0;
    stream(link, bytes);
    return (double)link->helped_bytes / (double)bytes;
}

static void help_that_pays_is_found_and_kept(void **state) {
    (void)state;
    link_t link = {.now = 1, .rates = {4, 7}};
    assert_false(link.tuner.helped);
    stream(&link, 512 * MIB);
    assert_true(helped_share(&link, 16384 * MIB) > 0.85);
}

static void help_that_does_not_pay_is_hardly_tried(void **state) {
    (void)state;
    static const double with_help[] = {1, 4, 4.1};
    for (int i = 0; i < 3; i++) {
        link_t link = {.now = 1, .rates = {4, with_help[i]}};
        stream(&link, 512 * MIB);
        double share = helped_share(&link, 32768 * MIB);
        assert_true(share > 0 && share < 0.03);
    }
}

static void a_change_is_noticed(void **state) {
    (void)state;
    link_t link = {.now = 1, .rates = {4, 7}};
    stream(&link, 4096 * MIB);
    assert_true(link.tuner.helped);
    link.rates[1] = 2;
    assert_true(helped_share(&link, 8192 * MIB) < 0.1);
    link.rates[1] = 7;
    stream(&link, 40960 * MIB); /* patience has grown meanwhile */
    assert_true(helped_share(&link, 4096 * MIB) > 0.85);
}

static void a_pause_does_not_count(void **state) {
    (void)state;
    link_t link = {.now = 1, .rates = {4, 7}};
    stream(&link, 4096 * MIB);
    double before = link.tuner.rates[true];
    stream(&link, 16 * MIB);
    tpv_tcp_tuner_pause(&link.tuner, link.now);
    link.now += INT64_C(10000000000);
    tpv_tcp_tuner_resume(&link.tuner, link.now);
    stream(&link, 64 * MIB);
    assert_true(link.tuner.helped);
    assert_true(link.tuner.rates[true] > 0.99 * before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(help_that_pays_is_found_and_kept),
        cmocka_unit_test(help_that_does_not_pay_is_hardly_tried),
        cmocka_unit_test(a_change_is_noticed),
        cmocka_unit_test(a_pause_does_not_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
