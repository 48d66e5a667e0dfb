/* Manifests: round trip, and strict reading. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "artifact/artifact.h"

#define ID "00112233445566778899aabbccddeeff"
/* Of {"a": ["U8", [2]]}. */
#define DIGEST "084020869203c05f273be7f3bb95518f"

static tpv_artifact_t *build(const tpv_tensor_t *tensors, size_t count) {
    tpv_artifact_t *artifact = tpv_artifact_create();
    assert_non_null(artifact);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(tpv_artifact_add(artifact, &tensors[i]), TPV_OK);
    assert_int_equal(tpv_artifact_seal(artifact), TPV_OK);
    return artifact;
}

static void a_round_trip_keeps_everything(void **state) {
    (void)state;
    const tpv_tensor_t tensors[] = {
        {.name = "w\xc3\xa9\"\\\n/", .dtype = TPV_DTYPE_F6_E2M3, .dims = 2, .shape = {3, 4}},
        {.name = "scalar", .dtype = TPV_DTYPE_BF16},
        {.name = "empty", .dtype = TPV_DTYPE_U64, .dims = 3, .shape = {5, 0, 7}},
        {.name = "", .dtype = TPV_DTYPE_C64, .dims = 8, .shape = {1, 2, 1, 2, 1, 2, 1, 2}},
    };
    tpv_artifact_t *artifact = build(tensors, 4);
    tpv_model_config_t config = {.present = true,
                                 .model_type = "qwen3",
                                 .quant_method = "fp8",
                                 .hidden_size = 5120,
                                 .intermediate_size = 17408,
                                 .vocab_size = 151936,
                                 .num_hidden_layers = 40,
                                 .num_attention_heads = 40,
                                 .num_key_value_heads = 8,
                                 .weight_block_size = {128, 64},
                                 .tie_word_embeddings = true};
    artifact->config = config;
    char *json = NULL;
    assert_int_equal(tpv_artifact_manifest(artifact, &json), TPV_ERR_ARGUMENT);
    assert_null(json);
    tpv_artifact_set_id(artifact, ID);
    assert_int_equal(tpv_artifact_manifest(artifact, &json), TPV_OK);

    tpv_artifact_t *copy = NULL;
    assert_int_equal(tpv_artifact_from_manifest(json, strlen(json), &copy), TPV_OK);
    assert_string_equal(tpv_artifact_id(copy), ID);
    assert_string_equal(tpv_artifact_index_digest(copy), tpv_artifact_index_digest(artifact));
    assert_int_equal(tpv_artifact_tensor_count(copy), 4);
    assert_int_equal(tpv_artifact_bytes(copy), 9 + 2 + 0 + 8 * 16);
    for (size_t i = 0; i < 4; i++) {
        const tpv_tensor_t *left = tpv_artifact_tensor(artifact, i), *right = tpv_artifact_tensor(copy, i);
        assert_string_equal(left->name, right->name);
        assert_int_equal(left->dtype, right->dtype);
        assert_int_equal(left->dims, right->dims);
        assert_memory_equal(left->shape, right->shape, sizeof left->shape);
        assert_int_equal(left->bytes, right->bytes);
        assert_null(tpv_artifact_data(copy, right));
    }
    assert_memory_equal(tpv_artifact_config(copy), &config, sizeof config);
    assert_int_equal(tpv_artifact_digest(copy, 0, NULL, NULL), TPV_OK); /* has it from the start */

    char *again = NULL;
    assert_int_equal(tpv_artifact_manifest(copy, &again), TPV_OK);
    assert_string_equal(json, again);
    free(again);
    free(json);
    tpv_artifact_close(copy);
    tpv_artifact_close(artifact);
}

/* Recorded once: a change of the serialisation is a change of every id in the field. */
static void the_text_and_the_digest_are_fixed(void **state) {
    (void)state;
    tpv_artifact_t *artifact = build(&(tpv_tensor_t){.name = "a", .dtype = TPV_DTYPE_U8, .dims = 1, .shape = {2}}, 1);
    tpv_artifact_set_id(artifact, ID);
    char *json = NULL;
    assert_int_equal(tpv_artifact_manifest(artifact, &json), TPV_OK);
    assert_string_equal(json, "{\"format\":\"tpview-manifest-1\",\"artifact_id\":\"" ID "\",\"index_digest\":\"" DIGEST
                              "\",\"tensors\":{\"a\":[\"U8\",[2]]}}");
    free(json);
    tpv_artifact_close(artifact);
}

static void the_digest_tells_indexes_apart(void **state) {
    (void)state;
    const tpv_tensor_t lists[][2] = {
        {{.name = "a", .dtype = TPV_DTYPE_U8, .dims = 1, .shape = {2}}, {.name = "b", .dtype = TPV_DTYPE_U8}},
        {{.name = "a", .dtype = TPV_DTYPE_I8, .dims = 1, .shape = {2}}, {.name = "b", .dtype = TPV_DTYPE_U8}},
        {{.name = "a", .dtype = TPV_DTYPE_U8, .dims = 1, .shape = {3}}, {.name = "b", .dtype = TPV_DTYPE_U8}},
        {{.name = "a", .dtype = TPV_DTYPE_U8, .dims = 2, .shape = {2, 1}}, {.name = "b", .dtype = TPV_DTYPE_U8}},
        {{.name = "a", .dtype = TPV_DTYPE_U8, .dims = 2, .shape = {1, 2}}, {.name = "b", .dtype = TPV_DTYPE_U8}},
        {{.name = "a", .dtype = TPV_DTYPE_U8, .dims = 1, .shape = {2}}, {.name = "c", .dtype = TPV_DTYPE_U8}},
        {{.name = "b", .dtype = TPV_DTYPE_U8, .dims = 1, .shape = {2}}, {.name = "a", .dtype = TPV_DTYPE_U8}},
    };
    enum { LISTS = sizeof lists / sizeof *lists };
    char digests[LISTS][TPV_ID_CHARS];
    for (size_t i = 0; i < LISTS; i++) {
        tpv_artifact_t *artifact = build(lists[i], 2);
        strcpy(digests[i], tpv_artifact_index_digest(artifact));
        tpv_artifact_close(artifact);
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(digests[i], digests[j]);
    }
    /* The order of adding, and the place in a file, do not count. */
    tpv_tensor_t turned[] = {lists[0][1], lists[0][0]};
    turned[0].offset = 77;
    tpv_artifact_t *artifact = build(turned, 2);
    assert_string_equal(tpv_artifact_index_digest(artifact), digests[0]);
    tpv_artifact_close(artifact);
}

#define FORMAT "\"format\":\"tpview-manifest-1\""
#define IDS "\"artifact_id\":\"" ID "\",\"index_digest\":\"" DIGEST "\""
#define TENSORS "\"tensors\":{\"a\":[\"U8\",[2]]}"

static const struct {
    const char *json, *expected;
} faults[] = {
    {"", "bad JSON at byte 0: expected an object, found the end"},
    {"[]", "bad JSON at byte 0: expected an object"},
    {"{}", "\"format\" is missing"},
    {"{" FORMAT "," IDS "}", "\"tensors\" is missing"},
    {"{" FORMAT "," TENSORS "}", "\"artifact_id\" is missing"},
    {"{" FORMAT "," FORMAT "," IDS "," TENSORS "}", "\"format\" appears twice"},
    {"{" FORMAT "," IDS "," TENSORS "," TENSORS "}", "\"tensors\" appears twice"},
    {"{" FORMAT "," IDS "," TENSORS ",\"x\":1}", "unknown field \"x\""},
    {"{" FORMAT "," IDS "," TENSORS "} {}", "bad JSON at byte 157: expected nothing after the object"},
    {"{\"format\":\"tpview-manifest-2\"," IDS "," TENSORS "}",
     "format is \"tpview-manifest-2\": expected \"tpview-manifest-1\""},
    {"{\"format\":1," IDS "," TENSORS "}", "format is not a string of at most 63 bytes"},
    {"{" FORMAT ",\"artifact_id\":\"00112233445566778899AABBCCDDEEFF\",\"index_digest\":\"" DIGEST "\"," TENSORS "}",
     "artifact_id is not 32 lower-case hex digits"},
    {"{" FORMAT ",\"artifact_id\":\"\",\"index_digest\":\"" DIGEST "\"," TENSORS "}",
     "artifact_id is not 32 lower-case hex digits"},
    {"{" FORMAT ",\"artifact_id\":\"" ID "0\",\"index_digest\":\"" DIGEST "\"," TENSORS "}",
     "artifact_id is not a string of at most 32 bytes"},
    {"{" FORMAT ",\"artifact_id\":\"" ID "\",\"index_digest\":\"" ID "\"," TENSORS "}",
     "index_digest is " ID ", but the tensors have " DIGEST},
    {"{" FORMAT "," IDS ",\"tensors\":[]}", "tensors: bad JSON at byte 0: expected an object"},
    {"{" FORMAT "," IDS ",\"tensors\":{\"a\":[\"U8\"]}}", "tensors: tensor \"a\": not an array of a dtype and a shape"},
    {"{" FORMAT "," IDS ",\"tensors\":{\"a\":[\"U8\",[2],0]}}",
     "tensors: tensor \"a\": not an array of a dtype and a shape"},
    {"{" FORMAT "," IDS ",\"tensors\":{\"a\":{}}}", "tensors: tensor \"a\": not an array of a dtype and a shape"},
    {"{" FORMAT "," IDS ",\"tensors\":{\"a\":[\"U7\",[2]]}}",
     "tensors: tensor \"a\": unknown dtype \"U7\": expected one of the safetensors format, such as BF16"},
    {"{" FORMAT "," IDS ",\"tensors\":{\"a\":[\"U8\",[-2]]}}",
     "tensors: tensor \"a\": dim 0 of shape is not a non-negative integer"},
    {"{" FORMAT "," IDS ",\"tensors\":{\"a\":[\"U8\",[1,1,1,1,1,1,1,1,1]]}}",
     "tensors: tensor \"a\": shape has 9 dims: expected at most 8"},
    {"{" FORMAT "," IDS ",\"tensors\":{\"a\":[\"F4\",[3]]}}",
     "tensors: tensor \"a\": its 3 elements of F4 are not a whole number of bytes"},
    {"{" FORMAT "," IDS ",\"tensors\":{\"a\":[\"U8\",[4294967296,4294967296]]}}",
     "tensors: tensor \"a\": the shape's size in bits overflows 64 bits"},
    {"{" FORMAT "," IDS ",\"tensors\":{\"a\":[\"U8\",[2]],\"a\":[\"U8\",[2]]}}", "tensor \"a\" appears twice"},
    {"{" FORMAT "," IDS ",\"tensors\":{\"__metadata__\":[\"U8\",[2]]}}",
     "tensors: tensor \"__metadata__\": the safetensors format reserves this name"},
    {"{" FORMAT "," IDS ",\"tensors\":{\"a\":[\"U8\",[2305843009213693951]],\"b\":[\"U8\",[2305843009213693951]],"
     "\"c\":[\"U8\",[2305843009213693951]],\"d\":[\"U8\",[2305843009213693951]],\"e\":[\"U8\",[2305843009213693951]],"
     "\"f\":[\"U8\",[2305843009213693951]],\"g\":[\"U8\",[2305843009213693951]],\"h\":[\"U8\",[2305843009213693951]],"
     "\"i\":[\"U8\",[2305843009213693951]]}}",
     "the sizes of all tensors overflow 64 bits"},
    {"{" FORMAT "," IDS ",\"config\":[]," TENSORS "}", "config: not an object"},
};

static void each_fault_has_its_message(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        char expected[1024];
        snprintf(expected, sizeof expected, "manifest: %s", faults[i].expected);
        tpv_artifact_t *artifact = (void *)1;
        tpv_status_t status = tpv_artifact_from_manifest(faults[i].json, strlen(faults[i].json), &artifact);
        assert_int_equal(status, TPV_ERR_FORMAT);
        assert_string_equal(tpv_error_message(), expected);
        assert_null(artifact);
    }
}

static void order_and_space_do_not_matter(void **state) {
    (void)state;
    const char *json = " {\n" TENSORS " ,\t\"config\" : { } , " IDS "," FORMAT " } \r\n";
    tpv_artifact_t *artifact = NULL;
    assert_int_equal(tpv_artifact_from_manifest(json, strlen(json), &artifact), TPV_OK);
    assert_true(tpv_artifact_config(artifact)->present);
    assert_int_equal(tpv_artifact_config(artifact)->hidden_size, 0);
    tpv_artifact_close(artifact);
    /* `length` counts, not a zero: nothing behind it is read. */
    char *exact = malloc(strlen(json));
    assert_non_null(exact);
    memcpy(exact, json, strlen(json));
    assert_int_equal(tpv_artifact_from_manifest(exact, strlen(json), &artifact), TPV_OK);
    tpv_artifact_close(artifact);
    free(exact);
}

/* What a plan may ask of config.json travels, wherever it stands; what it cannot ask does not. */
static void facts_travel(void **state) {
    (void)state;
    const char *json = "{" FORMAT "," IDS ",\"config\":{\"text_config\":{\"num_kv_heads\":[2,4],\"eps\":1e-6,"
                       "\"layer_types\":[\"full_attention\"]},\"x\":{\"y\":{\"z\":3}},\"rope\":[1.5]}," TENSORS "}";
    tpv_artifact_t *artifact = NULL, *copy = NULL;
    char *text = NULL;
    assert_int_equal(tpv_artifact_from_manifest(json, strlen(json), &artifact), TPV_OK);
    assert_int_equal(tpv_artifact_manifest(artifact, &text), TPV_OK);
    assert_int_equal(tpv_artifact_from_manifest(text, strlen(text), &copy), TPV_OK);
    json_t *facts = tpv_artifact_facts(copy);
    json_t *expected = json_loads("{\"text_config\":{\"num_kv_heads\":[2,4],\"eps\":1e-6,"
                                  "\"layer_types\":[\"full_attention\"]},\"x\":{\"y\":{\"z\":3}},\"rope\":[1.5]}",
                                  0, NULL);
    assert_true(json_equal(facts, expected));
    json_decref(expected);
    json_decref(facts);
    free(text);
    tpv_artifact_close(copy);
    tpv_artifact_close(artifact);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_round_trip_keeps_everything),  cmocka_unit_test(the_text_and_the_digest_are_fixed),
        cmocka_unit_test(the_digest_tells_indexes_apart), cmocka_unit_test(each_fault_has_its_message),
        cmocka_unit_test(order_and_space_do_not_matter),  cmocka_unit_test(facts_travel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
