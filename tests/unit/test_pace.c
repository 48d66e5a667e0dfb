/* When chunks were verified: the first one and the 99th percentile of the gaps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "client/pace.h"

static tpv_pace_t paced(int64_t first, unsigned count, int64_t gap) {
    tpv_pace_t pace = {0};
    for (unsigned i = 0; i < count; i++)
        tpv_pace_note(&pace, first + (int64_t)i * gap);
    return pace;
}

/* Of one value, each in a class of its own width: never below it and less than an eighth above. */
static void test_every_size_of_gap(void **state) {
    (void)state;
    for (unsigned bit = 0; bit < 62; bit++) {
        for (int64_t offset = -1; offset <= 1; offset++) {
            int64_t gap = (INT64_C(1) << bit) + offset;
            tpv_pace_t pace = paced(1, 2, gap);
            assert_true(tpv_pace_gap_p99(&pace) >= (uint64_t)gap);
            assert_true(tpv_pace_gap_p99(&pace) <= (uint64_t)(gap + gap / 8));
        }
    }
}

static void test_one_of_a_hundred_may_be_longer(void **state) {
    (void)state;
    tpv_pace_t pace = paced(1000, 100, 7); /* 99 gaps */
    assert_int_equal(tpv_pace_gap_p99(&pace), 7);
    tpv_pace_note(&pace, pace.last_ns + 1000000); /* 1 of 100 */
    assert_int_equal(tpv_pace_gap_p99(&pace), 7);
    tpv_pace_note(&pace, pace.last_ns + 1000000); /* 2 of 101 */
    assert_in_range(tpv_pace_gap_p99(&pace), 1000000, 1125000);
    assert_int_equal(pace.first_ns, 1000);
}

static void test_too_few_chunks(void **state) {
    (void)state;
    tpv_pace_t none = {0}, one = paced(5, 1, 0);
    assert_int_equal(tpv_pace_gap_p99(&none), 0);
    assert_int_equal(none.first_ns, 0);
    assert_int_equal(tpv_pace_gap_p99(&one), 0);
    assert_int_equal(one.first_ns, 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_size_of_gap),
        cmocka_unit_test(test_one_of_a_hundred_may_be_longer),
        cmocka_unit_test(test_too_few_chunks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
