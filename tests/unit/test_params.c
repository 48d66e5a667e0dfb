#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/params.h"

static void whole_numbers_and_suffixes(void **state) {
    (void)state;
    int64_t value = -1;
    assert_int_equal(tpv_parse_int("x", "42", 0, 100, &value), TPV_OK);
    assert_int_equal(value, 42);
    assert_int_equal(tpv_parse_int("x", "3M", 0, INT64_MAX, &value), TPV_OK);
    assert_int_equal(value, 3 << 20);
    assert_int_equal(tpv_parse_int("x", "2g", 0, INT64_MAX, &value), TPV_OK);
    assert_int_equal(value, INT64_C(2) << 30);
}

static void everything_else_is_refused(void **state) {
    (void)state;
    static const char *const bad[] = {"",           " 1", "1 ", "1KB", "0x10", "1.5", "x", "K", "99999999999999999999",
                                      "9000000000T"};
    int64_t value = 7;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(tpv_parse_int("x", bad[i], 0, INT64_MAX, &value), TPV_ERR_ARGUMENT);
        assert_int_equal(value, 7);
    }
    assert_int_equal(tpv_parse_int("x", "5", 6, 9, &value), TPV_ERR_ARGUMENT);
    assert_string_equal(tpv_error_message(), "x=5 is out of range: expected 6 to 9");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_numbers_and_suffixes),
        cmocka_unit_test(everything_else_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
