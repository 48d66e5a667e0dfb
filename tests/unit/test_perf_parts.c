/* What the benchmarks rest on: reading all of so many bytes within a time, and quantiles. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "tools/common/exact_io.h"
#include "tools/common/quantile.h"

typedef struct {
    int mine, other, stop[2];
} ends_t;

static void open_ends(ends_t *ends) {
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(pipe(ends->stop), 0);
    ends->mine = pair[0];
    ends->other = pair[1];
}

static void close_ends(ends_t *ends) {
    close(ends->mine);
    if (ends->other >= 0) close(ends->other);
    close(ends->stop[0]);
    close(ends->stop[1]);
}

static void test_all_bytes_are_read(void **state) {
    (void)state;
    ends_t ends;
    char got[7] = "";
    open_ends(&ends);
    assert_int_equal(tpv_exact_write(ends.other, "abcdef", 6), TPV_OK);
    assert_int_equal(tpv_exact_read_until(ends.mine, ends.stop[0], tpv_deadline_in(60), got, 6), TPV_OK);
    assert_string_equal(got, "abcdef");
    close_ends(&ends);
}

/* A part of what is waited for does not count, and does not make it wait for the rest. */
static void test_a_part_in_time_is_too_late(void **state) {
    (void)state;
    ends_t ends;
    char got[6];
    open_ends(&ends);
    assert_int_equal(tpv_exact_write(ends.other, "abc", 3), TPV_OK);
    assert_int_equal(tpv_exact_read_until(ends.mine, -1, tpv_deadline_in(0.05), got, 6), TPV_ERR_DEADLINE);
    close_ends(&ends);
}

static void test_who_is_gone_is_told(void **state) {
    (void)state;
    ends_t ends;
    char got[6];
    open_ends(&ends);
    assert_int_equal(tpv_exact_write(ends.other, "abc", 3), TPV_OK);
    close(ends.other);
    ends.other = -1;
    assert_int_equal(tpv_exact_read_until(ends.mine, -1, tpv_deadline_in(60), got, 6), TPV_ERR_PEER);
    close_ends(&ends);
}

static void test_the_caller_may_stop_it(void **state) {
    (void)state;
    ends_t ends;
    char got[6], token = 0;
    open_ends(&ends);
    assert_int_equal(write(ends.stop[1], "!", 1), 1);
    assert_int_equal(tpv_exact_read_until(ends.mine, ends.stop[0], tpv_deadline_in(60), got, 6), TPV_ERR_CANCELLED);
    assert_int_equal(read(ends.stop[0], &token, 1), 1);
    close_ends(&ends);
}

static void test_quantiles(void **state) {
    (void)state;
    double odd[] = {3, 1, 2}, even[] = {4, 1, 3, 2}, one[] = {7};
    assert_true(tpv_quantile(odd, 3, 0.5) == 2);
    assert_true(odd[0] == 1 && odd[1] == 2 && odd[2] == 3);
    assert_true(tpv_quantile(even, 4, 0.5) == 2.5);
    assert_true(tpv_quantile(even, 4, 0) == 1 && tpv_quantile(even, 4, 1) == 4);
    assert_true(tpv_quantile(even, 4, 0.25) == 1.75);
    assert_true(tpv_quantile(one, 1, 0.99) == 7);
    assert_true(tpv_quantile(one, 0, 0.5) == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_bytes_are_read),  cmocka_unit_test(test_a_part_in_time_is_too_late),
        cmocka_unit_test(test_who_is_gone_is_told), cmocka_unit_test(test_the_caller_may_stop_it),
        cmocka_unit_test(test_quantiles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
