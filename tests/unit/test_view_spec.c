/* Explicit view specs: grammar, bounds, canonical form, identity. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/view_fixture.h"

static tpv_artifact_t *artifact;

static int open_artifact(void **state) {
    (void)state;
    test_index_t index;
    test_index_begin(&index);
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(4, 6), "m");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(4, 6), "m2");
    test_index_add(&index, TPV_DTYPE_F32, TEST_SHAPE(8), "f");
    test_index_add(&index, TPV_DTYPE_F32, TEST_SCALAR, "scalar");
    test_index_add(&index, TPV_DTYPE_F4, TEST_SHAPE(4, 8), "nibbles");
    test_index_add(&index, TPV_DTYPE_F6_E2M3, TEST_SHAPE(4, 8), "six");
    artifact = test_index_finish(&index, NULL);
    return 0;
}

static int close_artifact(void **state) {
    (void)state;
    tpv_artifact_close(artifact);
    return 0;
}

static tpv_view_t *make(const char *json) {
    tpv_view_t *view = NULL;
    if (tpv_view_from_json(artifact, json, strlen(json), &view) != TPV_OK)
        fail_msg("%s: %s", json, tpv_error_message());
    return view;
}

static void refused(const char *json, tpv_status_t status, const char *message) {
    tpv_view_t *view = (tpv_view_t *)1;
    assert_int_equal(tpv_view_from_json(artifact, json, strlen(json), &view), status);
    assert_null(view);
    assert_string_equal(tpv_error_message(), message);
}

/* One output "o" of BF16. */
#define ONE(shape, pieces)                                                                                             \
    "{\"format\":\"tpview-view-1\",\"outputs\":[{\"name\":\"o\",\"dtype\":\"BF16\",\"shape\":" shape                   \
    ",\"pieces\":[" pieces "]}]}"
#define CANONICAL(pieces, shape)                                                                                       \
    "{\"aliases\":{},\"format\":\"tpview-view-1\",\"outputs\":[{\"dtype\":\"BF16\",\"name\":\"o\",\"pieces\":[" pieces \
    "],\"shape\":" shape "}]}"

static void defaults_are_written_out(void **state) {
    (void)state;
    tpv_view_t *view = make(ONE("[4,6]", "{\"tensor\":\"m\",\"sizes\":[4,6]}"));
    assert_string_equal(tpv_view_json(view), CANONICAL("{\"offset\":0,\"sizes\":[24],\"strides\":[1],\"tensor\":\"m\","
                                                       "\"to\":{\"offset\":0,\"strides\":[1]}}",
                                                       "[4,6]"));
    assert_int_equal(strlen(tpv_view_id(view)), 32);
    tpv_view_free(view);
}

static void equal_views_have_equal_text(void **state) {
    (void)state;
    /* Columns 2 to 5 and then 0 to 1 of m, written in several ways. */
    static const char *const same[] = {
        ONE("[4,6]", "{\"tensor\":\"m\",\"sizes\":[4,4],\"offset\":2},"
                     "{\"tensor\":\"m\",\"sizes\":[4,2],\"to\":{\"offset\":4}}"),
        ONE("[4,6]", "{\"tensor\":\"m\",\"sizes\":[4,2],\"to\":{\"offset\":4}},"
                     "{\"tensor\":\"m\",\"sizes\":[4,4],\"offset\":2}"),
        /* dims in another order, one of size 1, one cut in two */
        ONE("[4,6]", "{\"tensor\":\"m\",\"sizes\":[4,1,4],\"strides\":[1,77,6],\"offset\":2,"
                     "\"to\":{\"strides\":[1,99,6]}},"
                     "{\"tensor\":\"m\",\"sizes\":[2,2,2],\"strides\":[12,6,1],\"to\":{\"strides\":[12,6,1],"
                     "\"offset\":4}}"),
        /* one without elements */
        ONE("[4,6]", "{\"tensor\":\"m\",\"sizes\":[4,4],\"offset\":2},"
                     "{\"tensor\":\"m2\",\"sizes\":[0,6]},"
                     "{\"tensor\":\"m\",\"sizes\":[4,2],\"to\":{\"offset\":4}}"),
    };
    tpv_view_t *first = make(same[0]);
    tpv_view_stats_t stats = tpv_view_stats(first);
    for (size_t i = 1; i < sizeof same / sizeof *same; i++) {
        tpv_view_t *view = make(same[i]);
        assert_string_equal(tpv_view_json(view), tpv_view_json(first));
        assert_string_equal(tpv_view_id(view), tpv_view_id(first));
        tpv_view_free(view);
    }
    assert_int_equal(stats.records, 2);
    assert_int_equal(stats.runs, 8);
    tpv_view_t *other = make(ONE("[4,6]", "{\"tensor\":\"m2\",\"sizes\":[4,6]}"));
    assert_string_not_equal(tpv_view_id(other), tpv_view_id(first));
    tpv_view_free(other);
    tpv_view_free(first);
}

static void pieces_that_go_on_are_merged(void **state) {
    (void)state;
    tpv_view_t *halves = make(ONE("[4,3]", "{\"tensor\":\"m\",\"sizes\":[2,3]},"
                                           "{\"tensor\":\"m\",\"sizes\":[2,3],\"offset\":12,\"to\":{\"offset\":6}}"));
    tpv_view_t *whole = make(ONE("[4,3]", "{\"tensor\":\"m\",\"sizes\":[4,3]}"));
    assert_string_equal(tpv_view_json(halves), tpv_view_json(whole));
    assert_int_equal(tpv_view_stats(halves).records, 1);
    tpv_view_free(halves);
    tpv_view_free(whole);
    /* Rows in the wrong order do not go on. */
    halves = make(ONE("[4,3]", "{\"tensor\":\"m\",\"sizes\":[2,3],\"offset\":12},"
                               "{\"tensor\":\"m\",\"sizes\":[2,3],\"to\":{\"offset\":6}}"));
    assert_int_equal(tpv_view_stats(halves).records, 2);
    tpv_view_free(halves);
}

static void the_id_covers_the_index(void **state) {
    (void)state;
    test_index_t index;
    test_index_begin(&index);
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(4, 6), "m");
    tpv_artifact_t *other = test_index_finish(&index, NULL);
    const char *json = ONE("[4,6]", "{\"tensor\":\"m\",\"sizes\":[4,6]}");
    tpv_view_t *a = make(json), *b = NULL;
    assert_int_equal(tpv_view_from_json(other, json, strlen(json), &b), TPV_OK);
    assert_string_equal(tpv_view_json(a), tpv_view_json(b));
    assert_string_not_equal(tpv_view_id(a), tpv_view_id(b));
    tpv_view_free(a);
    tpv_view_free(b);
    tpv_artifact_close(other);
}

static void scalars_and_empty_outputs(void **state) {
    (void)state;
    tpv_view_t *view = make("{\"format\":\"tpview-view-1\",\"outputs\":["
                            "{\"name\":\"none\",\"dtype\":\"F32\",\"shape\":[0,9223372036854775807],\"pieces\":[]},"
                            "{\"name\":\"s\",\"dtype\":\"F32\",\"shape\":[],\"pieces\":["
                            "{\"tensor\":\"scalar\",\"sizes\":[]}]},"
                            "{\"name\":\"three\",\"dtype\":\"F32\",\"shape\":[3],\"pieces\":["
                            "{\"tensor\":\"scalar\",\"sizes\":[3],\"strides\":[0]}]}],"
                            "\"aliases\":{\"z\":\"s\",\"y\":\"three\"}}");
    assert_int_equal(tpv_view_stats(view).bytes, 16);
    assert_int_equal(tpv_view_output(view, 0)->bytes, 0);
    assert_int_equal(tpv_view_output(view, 1)->dims, 0);
    const char *name, *target;
    assert_true(tpv_view_alias(view, 0, &name, &target));
    assert_string_equal(name, "y");
    assert_string_equal(target, "three");
    tpv_view_free(view);
    view = make("{\"format\":\"tpview-view-1\",\"outputs\":[]}");
    assert_int_equal(tpv_view_stats(view).bytes, 0);
    tpv_view_free(view);
}

static void elements_below_a_byte(void **state) {
    (void)state;
#define NIBBLES(dtype, shape, piece)                                                                                   \
    "{\"format\":\"tpview-view-1\",\"outputs\":[{\"name\":\"o\",\"dtype\":\"" dtype "\",\"shape\":" shape              \
    ",\"pieces\":[" piece "]}]}"
    tpv_view_t *view = make(NIBBLES("F4", "[4,4]", "{\"tensor\":\"nibbles\",\"sizes\":[4,4],\"offset\":2}"));
    assert_int_equal(tpv_view_stats(view).bytes, 8);
    assert_int_equal(tpv_view_stats(view).runs, 4);
    tpv_view_free(view);
    view = make(NIBBLES("F6_E2M3", "[4,4]", "{\"tensor\":\"six\",\"sizes\":[4,4],\"offset\":4}"));
    assert_int_equal(tpv_view_stats(view).bytes, 12);
    tpv_view_free(view);
    const char *expected = "output o: the piece of nibbles does not begin and end at byte boundaries: elements of F4 "
                           "have 4 bits";
    refused(NIBBLES("F4", "[4,4]", "{\"tensor\":\"nibbles\",\"sizes\":[4,4],\"offset\":1}"), TPV_ERR_PLAN, expected);
    refused(NIBBLES("F4", "[4,4]", "{\"tensor\":\"nibbles\",\"sizes\":[4,4],\"strides\":[8,2]}"), TPV_ERR_PLAN,
            expected);
    refused(
        NIBBLES("F4", "[2,3]", "{\"tensor\":\"nibbles\",\"sizes\":[2,3],\"strides\":[8,1],\"to\":{\"strides\":[3,1]}}"),
        TPV_ERR_PLAN, expected);
    refused(NIBBLES("F4", "[1,3]", "{\"tensor\":\"nibbles\",\"sizes\":[1,3]}"), TPV_ERR_PLAN,
            "view spec: output o: 3 elements of F4 are not a whole number of bytes");
}

static void grammar_faults(void **state) {
    (void)state;
    static const struct {
        const char *json, *message;
    } faults[] = {
        {"[]", "view spec: bad JSON at byte 0: expected an object"},
        {"{}", "view spec: \"format\" is missing"},
        {"{\"format\":\"tpview-view-2\",\"outputs\":[]}",
         "view spec: format \"tpview-view-2\", expected \"tpview-view-1\""},
        {"{\"format\":\"tpview-view-1\"}", "view spec: \"outputs\" is missing"},
        {"{\"format\":\"tpview-view-1\",\"outputs\":[],\"more\":1}", "view spec: unknown key \"more\""},
        {"{\"format\":\"tpview-view-1\",\"outputs\":[],\"outputs\":[]}", "view spec: \"outputs\" appears twice"},
        {"{\"format\":\"tpview-view-1\",\"outputs\":[],\"aliases\":{\"a\":1}}",
         "view spec: alias a: expected the name of an output"},
        {"{\"format\":\"tpview-view-1\",\"outputs\":[{}]}", "view spec: output 0: \"name\" is missing"},
        {"{\"format\":\"tpview-view-1\",\"outputs\":[{\"name\":\"\",\"dtype\":\"U8\",\"shape\":[],\"pieces\":[]}]}",
         "view spec: output 0: \"name\" must be a string of 1 to 1024 bytes"},
        {"{\"format\":\"tpview-view-1\",\"outputs\":[{\"name\":\"o\",\"dtype\":\"U9\",\"shape\":[],\"pieces\":[]}]}",
         "view spec: output o: unknown dtype \"U9\""},
        {"{\"format\":\"tpview-view-1\",\"outputs\":[{\"name\":\"o\",\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],"
         "\"pieces\":[]}]}",
         "view spec: output o: shape has 9 dims: expected at most 8"},
        {ONE("[4,6]", "{\"tensor\":\"m\"}"), "view spec: output o, piece 0: \"sizes\" is missing"},
        {ONE("[4,6]", "{\"sizes\":[4,6]}"),
         "view spec: output o, piece 0: \"tensor\" must be a string of 1 to 1024 bytes"},
        {ONE("[4,6]", "{\"tensor\":\"m\",\"sizes\":[4,-6]}"),
         "view spec: output o, piece 0: \"sizes\" must have whole numbers of 0 or more"},
        {ONE("[4,6]", "{\"tensor\":\"m\",\"sizes\":[4,6],\"strides\":[6]}"),
         "view spec: output o, piece 0: 1 strides for 2 sizes"},
        {ONE("[4,6]", "{\"tensor\":\"m\",\"sizes\":[24],\"to\":{\"strides\":[1]}}"),
         "view spec: output o, piece 0: \"strides\" can only be left out with as many sizes as the tensor has dims (2, "
         "not 1)"},
        {ONE("[4,6]", "{\"tensor\":\"m\",\"sizes\":[24],\"strides\":[1]}"),
         "view spec: output o, piece 0: \"strides\" can only be left out with as many sizes as the output has dims (2, "
         "not 1)"},
        {ONE("[4,6]", "{\"tensor\":\"m\",\"sizes\":[4,6],\"step\":1}"),
         "view spec: output o, piece 0: unknown key \"step\""},
        {ONE("[4,6]", "{\"zero\":true,\"sizes\":[4,6],\"offset\":1}"),
         "view spec: output o, piece 0: unknown key \"offset\""},
        {ONE("[4,6]", "{\"number\":-1,\"sizes\":[1,1]}"),
         "view spec: output o, piece 0: \"number\" must be a whole number of 0 or more"},
        {ONE("[4,6]", "{\"number\":1,\"zero\":true,\"sizes\":[1,1]}"),
         "view spec: output o, piece 0: unknown key \"number\""},
        {ONE("[4,6]", "{\"number\":1,\"sizes\":[1,1],\"tensor\":\"m\"}"),
         "view spec: output o, piece 0: unknown key \"tensor\""},
        {ONE("[4,6]", "{\"zero\":false,\"sizes\":[4,6]}"), "view spec: output o, piece 0: \"zero\" can only be true"},
        {ONE("[4,6]", "{\"tensor\":\"m\",\"sizes\":[4,6],\"to\":{\"tensor\":\"m\"}}"),
         "view spec: output o, piece 0: unknown key \"tensor\""},
        {ONE("[4,6]", "{\"tensor\":\"m\",\"sizes\":[4,6],\"sizes\":[4,6]}"),
         "view spec: output o, piece 0: bad JSON: the name \"sizes\" appears twice"},
        {ONE("[4,6]", "{\"tensor\":\"m\",\"sizes\":[4,6]},"),
         "view spec: pieces of output o: bad JSON at byte 30: expected a value"},
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        refused(faults[i].json, TPV_ERR_FORMAT, faults[i].message);
}

static void a_text_too_long(void **state) {
    (void)state;
    size_t length = (64u << 20) + 1;
    char *text = malloc(length);
    memset(text, ' ', length);
    tpv_view_t *view;
    assert_int_equal(tpv_view_from_json(artifact, text, length, &view), TPV_ERR_FORMAT);
    assert_string_equal(tpv_error_message(), "view spec: 67108865 bytes of JSON, expected at most 67108864");
    free(text);
}

static void faults_of_the_slices(void **state) {
    (void)state;
    static const struct {
        const char *json, *message;
    } faults[] = {
        {ONE("[4,6]", "{\"tensor\":\"n\",\"sizes\":[4,6]}"),
         "view spec: output o, piece 0: the artifact has no tensor n"},
        {ONE("[8]", "{\"tensor\":\"f\",\"sizes\":[8]}"), "output o: tensor f is F32, the output is BF16"},
        {ONE("[4,6]", "{\"tensor\":\"m\",\"sizes\":[4,6],\"offset\":1}"),
         "output o: the piece reads element 24 of tensor m, which has 24"},
        {ONE("[4,6]", "{\"tensor\":\"m\",\"sizes\":[4,6],\"to\":{\"offset\":3}}"),
         "output o: the piece of m writes element 26, the output has 24"},
        {ONE("[4,6]", "{\"tensor\":\"m\",\"sizes\":[4,6],\"to\":{\"strides\":[0,1]}}"),
         "output o: the piece of m has a destination stride of 0, so it writes elements twice"},
        {ONE("[4,6]", "{\"tensor\":\"m\",\"sizes\":[4,6],\"to\":{\"strides\":[9223372036854775807,1]}}"),
         "output o: the piece of m overflows 64 bits"},
        {ONE("[4,6]", "{\"tensor\":\"m\",\"sizes\":[4,6],\"strides\":[1,9223372036854775807]}"),
         "output o: the piece of m overflows 64 bits"},
        {ONE("[4294967296,4294967296]", ""), "view spec: output o: its shape overflows 64 bits"},
        {ONE("[9223372036854775807]", ""), "view spec: output o: its size overflows 64 bits"},
        {ONE("[70368744177664]", ""), "view spec: output o: the dense form grows beyond 70368744177664 bytes"},
        {ONE("[4,6]", ""), "output o: no piece writes elements 0 to 23 of 24"},
        {ONE("[4,6]", "{\"tensor\":\"m\",\"sizes\":[4,6]},{\"tensor\":\"m2\",\"sizes\":[4,6]}"),
         "output o: elements 0 to 23 are written by a piece of m and by one of m2"},
        {"{\"format\":\"tpview-view-1\",\"outputs\":[{\"name\":\"o\",\"dtype\":\"U8\",\"shape\":[0],\"pieces\":[]},"
         "{\"name\":\"o\",\"dtype\":\"U8\",\"shape\":[0],\"pieces\":[]}]}",
         "output o: two outputs or aliases have this name"},
        {"{\"format\":\"tpview-view-1\",\"outputs\":[{\"name\":\"o\",\"dtype\":\"U8\",\"shape\":[0],\"pieces\":[]}],"
         "\"aliases\":{\"o\":\"o\"}}",
         "output o: two outputs or aliases have this name"},
        {"{\"format\":\"tpview-view-1\",\"outputs\":[],\"aliases\":{\"a\":\"o\"}}", "alias a: there is no output o"},
        {"{\"format\":\"tpview-view-1\",\"outputs\":[{\"name\":\"__metadata__\",\"dtype\":\"U8\",\"shape\":[0],"
         "\"pieces\":[]}]}",
         "view spec: output __metadata__: the safetensors format reserves this name"},
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        refused(faults[i].json, TPV_ERR_PLAN, faults[i].message);
}

#define NUMBERS(dtype, pieces)                                                                                         \
    "{\"format\":\"tpview-view-1\",\"outputs\":[{\"name\":\"o\",\"dtype\":\"" dtype                                    \
    "\",\"shape\":[2],\"pieces\":[" pieces "]}]}"

static void numbers(void **state) {
    (void)state;
    tpv_view_t *view = make(NUMBERS("I64", "{\"number\":7,\"sizes\":[1],\"to\":{\"offset\":1}},"
                                           "{\"number\":4096,\"sizes\":[1]}"));
    static const char text[] =
        "{\"aliases\":{},\"format\":\"tpview-view-1\",\"outputs\":[{\"dtype\":\"I64\",\"name\":\"o\",\"pieces\":["
        "{\"number\":4096,\"sizes\":[],\"to\":{\"offset\":0,\"strides\":[]}},"
        "{\"number\":7,\"sizes\":[],\"to\":{\"offset\":1,\"strides\":[]}}],\"shape\":[2]}]}";
    assert_string_equal(tpv_view_json(view), text);
    tpv_view_t *again = make(text);
    assert_string_equal(tpv_view_id(again), tpv_view_id(view));
    assert_int_equal(tpv_view_stats(view).zeros, 16);
    tpv_view_free(again);
    tpv_view_free(view);
    tpv_view_free(
        make(NUMBERS("U8", "{\"number\":255,\"sizes\":[1]},{\"zero\":true,\"sizes\":[1],\"to\":{\"offset\":1}}")));
    refused(NUMBERS("I8", "{\"number\":128,\"sizes\":[1]}"), TPV_ERR_PLAN,
            "output o: the number 128 is none of dtype I8");
    refused(NUMBERS("F32", "{\"number\":1,\"sizes\":[1]}"), TPV_ERR_PLAN,
            "output o: the number 1 is none of dtype F32");
    refused(NUMBERS("I32", "{\"number\":1,\"sizes\":[2]}"), TPV_ERR_PLAN, "output o: a number is for one element");
    refused(NUMBERS("I32", "{\"number\":1,\"sizes\":[1],\"to\":{\"offset\":2}}"), TPV_ERR_PLAN,
            "output o: the piece of a number writes element 2, the output has 2");
    refused(NUMBERS("I32", "{\"number\":1,\"sizes\":[1]},{\"number\":1,\"sizes\":[1]}"), TPV_ERR_PLAN,
            "output o: elements 0 to 0 are written by a piece of a number and by one of a number");
}

/* A parameter filled by an engine's loader: transposed and interleaved places, a broadcast, zeros for the rest. */
static void recorded_slices(void **state) {
    (void)state;
    tpv_view_t *view = make(ONE("[6,10]", "{\"tensor\":\"m\",\"sizes\":[4,6],\"to\":{\"strides\":[2,10]}},"
                                          "{\"tensor\":\"m2\",\"sizes\":[6,4],\"strides\":[1,6],"
                                          "\"to\":{\"strides\":[10,2],\"offset\":1}},"
                                          "{\"tensor\":\"m\",\"sizes\":[6],\"strides\":[0],\"offset\":5,"
                                          "\"to\":{\"strides\":[10],\"offset\":8}},"
                                          "{\"zero\":true,\"sizes\":[6],\"to\":{\"strides\":[10],\"offset\":9}}"));
    assert_int_equal(tpv_view_stats(view).records, 4);
    assert_int_equal(tpv_view_stats(view).zeros, 12);
    tpv_view_free(view);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_written_out),
        cmocka_unit_test(equal_views_have_equal_text),
        cmocka_unit_test(pieces_that_go_on_are_merged),
        cmocka_unit_test(the_id_covers_the_index),
        cmocka_unit_test(scalars_and_empty_outputs),
        cmocka_unit_test(elements_below_a_byte),
        cmocka_unit_test(grammar_faults),
        cmocka_unit_test(a_text_too_long),
        cmocka_unit_test(faults_of_the_slices),
        cmocka_unit_test(recorded_slices),
        cmocka_unit_test(numbers),
    };
    return cmocka_run_group_tests(tests, open_artifact, close_artifact);
}
