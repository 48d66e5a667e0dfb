/* The proof that each element is written exactly once, on large and on awkward views. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "common/view_fixture.h"
#include "view/cover.h"
#include "view/cover_group.h"
#include "view/spec_canonical.h"
#include "view/spec_check.h"

#define MOST_SECONDS 30 /* far above what is needed; a sanitizer may be slow */

static tpv_artifact_t *artifact; /* one tensor "t" of 2^40 elements, as an index */

static int open_artifact(void **state) {
    (void)state;
    test_index_t index;
    test_index_begin(&index);
    test_index_add(&index, TPV_DTYPE_U8, TEST_SHAPE(UINT64_C(1) << 40), "t");
    artifact = test_index_finish(&index, NULL);
    return 0;
}

static int close_artifact(void **state) {
    (void)state;
    tpv_artifact_close(artifact);
    return 0;
}

static void begin(tpv_spec_t *spec, uint32_t dims, const uint64_t *shape) {
    *spec = (tpv_spec_t){0};
    assert_int_equal(tpv_spec_add_output(spec, "o", TPV_DTYPE_U8, dims, shape), TPV_OK);
}

/* A piece whose source does not matter, but is never mergeable. */
static void add(tpv_spec_t *spec, uint64_t to, uint32_t dims, const uint64_t *sizes, const uint64_t *strides) {
    tpv_piece_t piece = {.tensor = 0, .dims = dims, .to = to, .from = to % 1000003 * 3};
    for (uint32_t i = 0; i < dims; i++)
        piece.dim[i] = (tpv_piece_dim_t){.size = sizes[i], .from = 1, .to = strides[i]};
    assert_int_equal(tpv_spec_add_piece(spec, &piece), TPV_OK);
}
#define U64(...) ((const uint64_t[]){__VA_ARGS__})

/* Check, and end the spec. CPU seconds, so that a busy machine does not fail the test. */
static tpv_status_t check(tpv_spec_t *spec, double *seconds) {
    clock_t start = clock();
    tpv_status_t status = tpv_spec_check(artifact, spec);
    if (status == TPV_OK) {
        tpv_spec_canonicalise(spec);
        status = tpv_cover_check(artifact, spec);
    }
    *seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    tpv_spec_clear(spec);
    return status;
}

static void whole(tpv_spec_t *spec) {
    double seconds;
    if (check(spec, &seconds) != TPV_OK) fail_msg("%s", tpv_error_message());
    assert_true(seconds < MOST_SECONDS);
}

static void refused(tpv_spec_t *spec, const char *message) {
    double seconds;
    assert_int_equal(check(spec, &seconds), TPV_ERR_PLAN);
    assert_string_equal(tpv_error_message(), message);
    assert_true(seconds < MOST_SECONDS);
}

/* w13 [E, 2 * I, H]: gate and up of each expert. */
static void stack_of_experts(tpv_spec_t *spec, uint64_t experts) {
    begin(spec, 3, U64(experts, 512, 4096));
    for (uint64_t e = 0; e < experts; e++)
        for (uint64_t half = 0; half < 2; half++)
            add(spec, (e * 2 + half) * 256 * 4096, 2, U64(256, 4096), U64(4096, 1));
}

static void stacks_of_experts(void **state) {
    (void)state;
    tpv_spec_t spec;
    stack_of_experts(&spec, 20000);
    whole(&spec);
    stack_of_experts(&spec, 20000);
    spec.outputs[0].pieces[30001].to -= 4096;
    refused(&spec, "output o: elements 31458324480 to 31458328575 are written by a piece of t and by one of t");
}

/* Columns of every expert, one piece for each: nothing but strides. */
static void grid_of_tiles(tpv_spec_t *spec, uint64_t down, uint64_t across) {
    begin(spec, 2, U64(down * 16, across * 8));
    for (uint64_t i = 0; i < down; i++)
        for (uint64_t k = 0; k < across; k++)
            add(spec, i * 16 * across * 8 + k * 8, 2, U64(16, 8), U64(across * 8, 1));
}

static void grids(void **state) {
    (void)state;
    tpv_spec_t spec;
    grid_of_tiles(&spec, 400, 250);
    whole(&spec);
    grid_of_tiles(&spec, 1, 50000);
    whole(&spec);
    grid_of_tiles(&spec, 50000, 1);
    whole(&spec);
    /* Tile (7, 11) is narrower by one column. */
    grid_of_tiles(&spec, 400, 250);
    spec.outputs[0].pieces[7 * 250 + 11].dim[1].size = 7;
    refused(&spec, "output o: no piece writes elements 224095 to 224095 of 12800000");
    /* Tile (7, 11) is one row lower than its place: its first row is missing before its last is written twice. */
    grid_of_tiles(&spec, 400, 250);
    spec.outputs[0].pieces[7 * 250 + 11].to += 2000;
    refused(&spec, "output o: no piece writes elements 224088 to 224095 of 12800000");
    /* An element at the very end. */
    grid_of_tiles(&spec, 400, 250);
    spec.outputs[0].pieces[400 * 250 - 1].dim[0].size = 15;
    refused(&spec, "output o: no piece writes elements 12799992 to 12799999 of 12800000");
}

static void interleaved_and_transposed(void **state) {
    (void)state;
    tpv_spec_t spec;
    /* gate and up by turns: [2 * I, H], rows 0, 2, 4, … and 1, 3, 5, … */
    begin(&spec, 2, U64(2000000, 5120));
    add(&spec, 0, 2, U64(1000000, 5120), U64(10240, 1));
    add(&spec, 5120, 2, U64(1000000, 5120), U64(10240, 1));
    whole(&spec);
    /* A transposed matrix beside a plain one. */
    begin(&spec, 2, U64(4096, 8192));
    add(&spec, 0, 2, U64(4096, 4096), U64(1, 8192));
    add(&spec, 4096, 2, U64(4096, 4096), U64(8192, 1));
    whole(&spec);
    /* Runs that do not begin with a row. */
    begin(&spec, 2, U64(1000, 1000));
    add(&spec, 0, 1, U64(123456), U64(1));
    add(&spec, 123456, 1, U64(500044), U64(1));
    add(&spec, 623500, 2, U64(377, 500), U64(1000, 1));
    add(&spec, 624000, 2, U64(376, 500), U64(1000, 1));
    add(&spec, 999500, 1, U64(500), U64(1));
    refused(&spec, "output o: elements 999500 to 999999 are written by a piece of t and by one of t");
    begin(&spec, 2, U64(1000, 1000));
    add(&spec, 0, 1, U64(623500), U64(1));
    add(&spec, 623500, 2, U64(377, 500), U64(1000, 1));
    add(&spec, 624000, 2, U64(376, 500), U64(1000, 1));
    whole(&spec);
}

/* A huge output with a hole or an overlap that only one row has. */
static void one_bad_row_of_a_huge_output(void **state) {
    (void)state;
    tpv_spec_t spec;
    begin(&spec, 2, U64(UINT64_C(1) << 22, UINT64_C(1) << 18));
    add(&spec, 0, 2, U64(UINT64_C(1) << 22, 100000), U64(UINT64_C(1) << 18, 1));
    add(&spec, 100000, 2, U64(3000000, 162144), U64(UINT64_C(1) << 18, 1));
    add(&spec, 100000 + 3000001 * (UINT64_C(1) << 18), 2, U64(1194303, 162144), U64(UINT64_C(1) << 18, 1));
    refused(&spec, "output o: no piece writes elements 786432100000 to 786432262143 of 1099511627776");
}

static void strides_that_do_not_divide(void **state) {
    (void)state;
    tpv_spec_t spec;
    /* {0, 2, 3, 5} and {1, 4}: only the bitmap can tell. */
    begin(&spec, 1, U64(6));
    add(&spec, 0, 2, U64(2, 2), U64(3, 2));
    add(&spec, 1, 1, U64(2), U64(3));
    whole(&spec);
    begin(&spec, 1, U64(7));
    add(&spec, 0, 2, U64(2, 2), U64(3, 2));
    add(&spec, 1, 1, U64(2), U64(5));
    refused(&spec, "output o: no piece writes elements 4 to 4 of 7");
    /* A piece that meets itself. */
    begin(&spec, 1, U64(6));
    add(&spec, 0, 2, U64(2, 3), U64(3, 1));
    whole(&spec);
    begin(&spec, 1, U64(6));
    add(&spec, 0, 2, U64(2, 3), U64(2, 1));
    add(&spec, 5, 1, U64(1), U64(1));
    refused(&spec, "output o: the piece of t writes elements 2 to 2 more than once");
    /* Pieces far larger together than their place end the marking early. */
    begin(&spec, 1, U64(1u << 20));
    for (int i = 0; i < 1000; i++)
        add(&spec, 0, 2, U64((1u << 19) - 3, 2), U64(2, 3));
    refused(&spec, "output o: elements 0 to 0 are written by a piece of t and by one of t");
}

static void too_intertwined(void **state) {
    (void)state;
    tpv_spec_t spec;
    uint64_t elements = UINT64_C(1) << 33;
    begin(&spec, 1, &elements);
    add(&spec, 0, 1, U64(elements / 2), U64(2));
    add(&spec, 1, 2, U64(2, 3), U64(2, 3));
    double seconds;
    assert_int_equal(check(&spec, &seconds), TPV_ERR_PLAN);
    assert_string_equal(tpv_error_message(),
                        "output o: 2 pieces from that of t on are too intertwined to prove that elements 0 to "
                        "8589934590 are written once: expected destination strides that divide one another");
    assert_true(seconds < MOST_SECONDS);
}

/* Stairs: every bound of one piece cuts all others. When the sweep gives up, the bitmap decides. */
static void stairs(void **state) {
    (void)state;
    tpv_spec_t spec;
    uint64_t steps = 400;
    begin(&spec, 2, U64(steps, 2 * steps));
    for (uint64_t i = 0; i < steps; i++) {
        add(&spec, i * 2, 2, U64(i + 1, 1), U64(2 * steps, 1));
        if (i + 1 < steps) add(&spec, i * 2 + (i + 1) * 2 * steps, 2, U64(steps - i - 1, 1), U64(2 * steps, 1));
        add(&spec, i * 2 + 1, 2, U64(steps, 1), U64(2 * steps, 1));
    }
    tpv_spec_canonicalise(&spec);
    const tpv_spec_output_t *output = &spec.outputs[0];
    uint64_t elements = output->elements;
    tpv_cover_fault_t fault;
    tpv_cover_budget_t budget = {.steps = 2 * steps * steps, .elements = elements};
    assert_int_equal(tpv_cover_sweep(output->pieces, output->piece_count, 0, elements, &budget, &fault),
                     TPV_COVER_PROVEN);
    budget.steps = steps * steps;
    assert_int_equal(tpv_cover_sweep(output->pieces, output->piece_count, 0, elements, &budget, &fault),
                     TPV_COVER_UNDECIDED);
    assert_int_equal(tpv_cover_bitmap(output->pieces, output->piece_count, 0, elements, &budget, &fault),
                     TPV_COVER_PROVEN);
    assert_int_equal(budget.elements, 0);
    assert_int_equal(tpv_cover_bitmap(output->pieces, output->piece_count, 0, elements, &budget, &fault),
                     TPV_COVER_UNDECIDED);
    whole(&spec);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stacks_of_experts),
        cmocka_unit_test(grids),
        cmocka_unit_test(interleaved_and_transposed),
        cmocka_unit_test(one_bad_row_of_a_huge_output),
        cmocka_unit_test(strides_that_do_not_divide),
        cmocka_unit_test(too_intertwined),
        cmocka_unit_test(stairs),
    };
    return cmocka_run_group_tests(tests, open_artifact, close_artifact);
}
