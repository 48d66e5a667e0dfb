/* Where chunks may land when the plugin does not take the sink's memory: a ring that stays small. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "client/arrivals.h"

#define MIB ((size_t)1 << 20)

typedef struct {
    tpv_ranges_t have;
    tpv_pace_t pace;
    uint8_t *memory;
    tpv_sink_t sink;
    tpv_arrivals_t *arrivals;
    tpv_landing_t landing;
} fixture_t;

/* Chunks of 1 MiB over `comms` comms into memory. */
static void open_arrivals(fixture_t *f, uint32_t comms, size_t bytes) {
    *f = (fixture_t){.memory = calloc(1, bytes)};
    assert_non_null(f->memory);
    tpv_stream_t stream = {.comms = comms, .chunk_bytes = MIB, .bytes = bytes};
    f->sink = tpv_sink_memory(f->memory);
    assert_int_equal(tpv_arrivals_open(&f->sink, &stream, 0, false, &f->have, &f->pace, &f->arrivals), TPV_OK);
    f->landing = tpv_arrivals_landing(f->arrivals);
    assert_int_equal(f->landing.begin(f->landing.user, MIB), TPV_OK);
}

static void close_arrivals(fixture_t *f) {
    tpv_arrivals_close(f->arrivals);
    tpv_ranges_clear(&f->have);
    free(f->memory);
}

static bool is_in(tpv_region_t region, const void *data, size_t bytes) {
    const uint8_t *base = region.base, *at = data;
    return at >= base && at + bytes <= base + region.bytes;
}

static void test_the_ring_is_bounded(void **state) {
    (void)state;
    fixture_t f;
    open_arrivals(&f, 8, 200 * MIB);
    uint64_t chunk = 0;
    void *data, *first = NULL;
    while ((data = f.landing.place(f.landing.user, chunk, false))) {
        assert_true(is_in(f.landing.ring(f.landing.user), data, MIB));
        if (chunk++ == 0) first = data;
    }
    assert_true(f.landing.ring(f.landing.user).bytes <= 16 * MIB);
    assert_true(chunk >= 9); /* one for each comm and one more */
    /* A place that is free again is given again. */
    bool moved = false, done = false;
    assert_int_equal(f.landing.arrived(f.landing.user, 0, first, 0), TPV_OK);
    assert_int_equal(tpv_arrivals_advance(f.arrivals, &moved, &done), TPV_OK);
    assert_true(moved && !done);
    assert_ptr_equal(f.landing.place(f.landing.user, chunk, false), first);
    close_arrivals(&f);
}

/* One comm has the memory, another one does not: neither takes the other's places. */
static void test_both_ways_at_once(void **state) {
    (void)state;
    fixture_t f;
    open_arrivals(&f, 8, 200 * MIB);
    uint64_t chunk = 0, in_ring = 0;
    while (f.landing.place(f.landing.user, chunk, false)) {
        chunk++;
        in_ring++;
    }
    uint64_t direct = 0;
    uint8_t *data;
    while ((data = f.landing.place(f.landing.user, chunk, true))) {
        assert_ptr_equal(data, f.memory + chunk * MIB);
        chunk++;
        direct++;
    }
    assert_int_equal(in_ring, 16);
    assert_int_equal(in_ring + direct, 8 * TPV_STREAM_WINDOW + 2);
    close_arrivals(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_ring_is_bounded),
        cmocka_unit_test(test_both_ways_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
