/* Sets of numbers as ranges, against a plain map of every number. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/ranges.h"

#define END 200

static void is_same(const tpv_ranges_t *ranges, const bool map[END]) {
    bool seen[END] = {false};
    uint64_t total = 0;
    for (size_t i = 0; i < ranges->count; i++) {
        const tpv_range_t *range = &ranges->list[i];
        assert_true(range->begin < range->end && range->end <= END);
        if (i > 0) assert_true(ranges->list[i - 1].end < range->begin);
        for (uint64_t at = range->begin; at < range->end; at++)
            seen[at] = true;
        total += range->end - range->begin;
    }
    assert_memory_equal(seen, map, sizeof seen);
    assert_int_equal(ranges->total, total);
}

static bool all(const bool map[END], uint64_t begin, uint64_t end, bool value) {
    for (; begin < end; begin++)
        if (map[begin] != value) return false;
    return true;
}

static void a_random_set_is_that_of_a_map(void **state) {
    (void)state;
    srand(7);
    for (int round = 0; round < 200; round++) {
        tpv_ranges_t ranges = {0};
        bool map[END] = {false};
        for (int step = 0; step < 60; step++) {
            uint64_t begin = (uint64_t)rand() % END, end = begin + (uint64_t)rand() % 30;
            if (end > END) end = END;
            bool put = rand() % 3 != 0;
            assert_int_equal((put ? tpv_ranges_add : tpv_ranges_remove)(&ranges, begin, end), TPV_OK);
            for (uint64_t at = begin; at < end; at++)
                map[at] = put;
            is_same(&ranges, map);
            begin = (uint64_t)rand() % END;
            end = begin + (uint64_t)rand() % (END - begin);
            assert_int_equal(tpv_ranges_hold(&ranges, begin, end), all(map, begin, end, true));
        }
        tpv_ranges_clear(&ranges);
    }
}

static void what_is_missing_is_the_rest(void **state) {
    (void)state;
    srand(8);
    for (int round = 0; round < 500; round++) {
        tpv_ranges_t ranges = {0}, missing = {0};
        bool map[END] = {false}, rest[END];
        for (int step = 0; step < 8; step++) {
            uint64_t begin = (uint64_t)rand() % END, end = begin + (uint64_t)rand() % 20;
            tpv_ranges_add(&ranges, begin, end < END ? end : END);
            for (uint64_t at = begin; at < end && at < END; at++)
                map[at] = true;
        }
        uint64_t end = (uint64_t)rand() % END;
        size_t most = 1 + (size_t)rand() % 6;
        assert_int_equal(tpv_ranges_missing(&ranges, end, most, &missing), TPV_OK);
        assert_true(missing.count <= most);
        memset(rest, 0, sizeof rest);
        for (size_t i = 0; i < missing.count; i++)
            for (uint64_t at = missing.list[i].begin; at < missing.list[i].end; at++)
                rest[at] = true;
        assert_true(all(rest, end, END, false));
        uint64_t last = missing.count == most ? missing.list[most - 1].begin : end;
        for (uint64_t at = 0; at < end; at++)
            assert_true(at < last ? rest[at] == !map[at] : rest[at] || map[at]);
        tpv_ranges_clear(&ranges);
        tpv_ranges_clear(&missing);
    }
}

static void no_bound_is_too_large(void **state) {
    (void)state;
    tpv_ranges_t ranges = {0}, missing = {0};
    assert_int_equal(tpv_ranges_add(&ranges, UINT64_MAX - 1, UINT64_MAX), TPV_OK);
    assert_int_equal(tpv_ranges_add(&ranges, 0, 1), TPV_OK);
    assert_int_equal(tpv_ranges_missing(&ranges, UINT64_MAX, 9, &missing), TPV_OK);
    assert_int_equal(missing.count, 1);
    assert_int_equal(missing.list[0].begin, 1);
    assert_int_equal(missing.list[0].end, UINT64_MAX - 1);
    assert_int_equal(tpv_ranges_remove(&ranges, 0, UINT64_MAX), TPV_OK);
    assert_int_equal(ranges.count + ranges.total, 0);
    tpv_ranges_clear(&ranges);
    tpv_ranges_clear(&missing);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_random_set_is_that_of_a_map),
        cmocka_unit_test(what_is_missing_is_the_rest),
        cmocka_unit_test(no_bound_is_too_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
