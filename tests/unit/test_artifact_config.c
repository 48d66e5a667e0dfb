/* config.json as Python writes it; values of the wrong kind matter to those plans alone that need them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "artifact/artifact.h"
#include "artifact/config.h"
#include "artifact/json_python.h"
#include "common/test_files.h"
#include "tpview/view.h"

/* ---- the text ---- */

static json_t *parse(const char *text) {
    json_t *json = NULL;
    assert_int_equal(tpv_json_parse_python((tpv_json_text_t){text, strlen(text)}, strlen(text), &json), TPV_OK);
    assert_non_null(json);
    return json;
}

/* What a text means, as jansson writes it. */
static const struct {
    const char *python, *meaning;
} texts[] = {
    {"[NaN,Infinity,-Infinity, -1]", "[\"NaN\",\"Infinity\",\"-Infinity\",-1]"},
    {"{\"NaN\":\"NaN -Infinity 1e999\",\"a\":[0.5,1E2]}", "{\"NaN\":\"NaN -Infinity 1e999\",\"a\":[0.5,100.0]}"},
    {"[9223372036854775807,-9223372036854775808]", "[9223372036854775807,-9223372036854775808]"},
    {"[9223372036854775808]", "[9.2233720368547758e18]"},
    {"[1000000000000000019884624838656]", "[1e30]"},
    {"[1e400,-1e400,1e-400]", "[\"Infinity\",\"-Infinity\",0.0]"},
    {"[\"\\ud800\",\"\\udc00x\",\"\\ud83d\\ude00\",\"\\u0000\",\"\\\\ud800\",\"\\\\\\ud800\"]",
     "[\"\\ufffd\",\"\\ufffdx\",\"\\ud83d\\ude00\",\"\\ufffd\",\"\\\\ud800\",\"\\\\\\ufffd\"]"},
    {"{\"\\u0000\":null}", "{\"\\ufffd\":null}"},
    {" true ", "true"},
};

static void python_is_read(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        json_t *found = parse(texts[i].python), *expected = json_loads(texts[i].meaning, JSON_DECODE_ANY, NULL);
        assert_non_null(expected);
        if (!json_equal(found, expected)) fail_msg("%s", texts[i].python);
        json_decref(found);
        json_decref(expected);
    }
}

static void a_long_integer_is_infinite(void **state) {
    (void)state;
    char text[1001];
    memset(text, '9', 1000);
    text[1000] = '\0';
    json_t *json = parse(text);
    assert_string_equal(json_string_value(json), "Infinity");
    json_decref(json);
}

static void what_python_refuses_is_refused(void **state) {
    (void)state;
    static const char *const faults[] = {"",         "nan",       "-NaN",    "Infinit",   "[1.]",      "[01]",
                                         "[+1]",     "[1e]",      "\"",      "\"\\",      "\"\\u12\"", "\"a\nb\"",
                                         "NaNNaN",   "[NaN 1]",   "{NaN:1}", "\"\\ud800", "[1,]",      "\xef\xbb\xbf{}",
                                         "\"\xff\"", "[1e4e400]", "[--1]",   "Infinity1"};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        json_t *json = NULL;
        tpv_json_text_t text = {faults[i], strlen(faults[i])};
        if (tpv_json_parse_python(text, 1000, &json) != TPV_ERR_FORMAT) fail_msg("%s", faults[i]);
        assert_null(json);
    }
    json_t *json = NULL;
    assert_int_equal(tpv_json_parse_python((tpv_json_text_t){"[ ]", 3}, 2, &json), TPV_ERR_FORMAT);
}

/* ---- the fields ---- */

static char *folder;

static int make_folder(void **state) {
    (void)state;
    folder = test_folder_make();
    test_safetensors_write(test_path(folder, "model.safetensors"),
                           "{\"model.layers.0.self_attn.q_proj.weight\":{\"dtype\":\"U8\",\"shape\":[8,2],"
                           "\"data_offsets\":[0,16]}}",
                           16, 1);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    test_folder_remove(folder);
    return 0;
}

/* What a plan by rules and an explicit view make of the folder, and of its manifest. */
static void assert_plans(const tpv_artifact_t *artifact, const char *plan, const char *expected) {
    static const char view_text[] =
        "{\"format\":\"tpview-view-1\",\"outputs\":[{\"name\":\"x\",\"dtype\":\"U8\",\"shape\":[8,2],"
        "\"pieces\":[{\"tensor\":\"model.layers.0.self_attn.q_proj.weight\",\"sizes\":[8,2]}]}]}";
    tpv_plan_options_t options = {.tp_size = 2, .plan = plan, .plan_length = plan ? strlen(plan) : 0};
    tpv_view_t *view = NULL;
    tpv_status_t status = tpv_view_plan(artifact, &options, &view);
    if (!expected) {
        assert_int_equal(status, TPV_OK);
        tpv_view_free(view);
    } else {
        assert_int_equal(status, TPV_ERR_PLAN);
        assert_string_equal(tpv_error_message(), expected);
    }
    options = (tpv_plan_options_t){.tp_size = 1, .plan = view_text, .plan_length = strlen(view_text)};
    assert_int_equal(tpv_view_plan(artifact, &options, &view), TPV_OK);
    tpv_view_free(view);
}

static void assert_config(const char *config, const char *plan, const char *expected) {
    tpv_artifact_t *artifact = NULL, *index = NULL;
    char *manifest = NULL;
    test_file_write_text(test_path(folder, "config.json"), config);
    assert_int_equal(tpv_artifact_open(folder, &artifact), TPV_OK);
    assert_plans(artifact, plan, expected);
    tpv_artifact_set_id(artifact, "00112233445566778899aabbccddeeff");
    assert_int_equal(tpv_artifact_manifest(artifact, &manifest), TPV_OK);
    assert_int_equal(tpv_artifact_from_manifest(manifest, strlen(manifest), &index), TPV_OK);
    assert_memory_equal(tpv_artifact_config(index), tpv_artifact_config(artifact), sizeof(tpv_model_config_t));
    assert_plans(index, plan, expected);
    free(manifest);
    tpv_artifact_close(index);
    tpv_artifact_close(artifact);
}

#define RULES "{\"format\":\"tpview-plan-1\",\"tp_plan\":{\"model.layers.*.self_attn.q_proj\":\"colwise\"}}"
#define HEADS "\"num_attention_heads\":4,\"num_key_value_heads\":2"

static void fields_that_no_plan_uses_do_not_matter(void **state) {
    (void)state;
    assert_config("{" HEADS ",\"intermediate_size\":[128,128],\"vocab_size\":\"x\",\"time_step_limit\":[0.0,Infinity]}",
                  RULES, NULL);
    assert_config("{" HEADS ",\"quantization_config\":{\"quant_method\":1},\"model_type\":{}}", RULES, NULL);
    assert_config("{" HEADS ",\"quantization_config\":[],\"hidden_size\":-1}", RULES, NULL);
}

static const struct {
    const char *config, *plan, *expected;
} faults[] = {
    {"{\"num_attention_heads\":\"4\"}", RULES, "num_attention_heads is not a non-negative integer"},
    {"{\"num_attention_heads\":4.0}", RULES, "num_attention_heads is not a non-negative integer"},
    {"{\"num_attention_heads\":-4}", RULES, "num_attention_heads is not a non-negative integer"},
    {"{\"num_attention_heads\":1000000000000000019884624838656}", RULES,
     "num_attention_heads is not a non-negative integer"},
    {"{\"num_attention_heads\":4,\"num_key_value_heads\":NaN}", RULES,
     "num_key_value_heads is not a non-negative integer"},
    {"{\"model_type\":7}", NULL, "model_type is not a string of at most 63 bytes"},
    {"{\"model_type\":\"0123456789012345678901234567890123456789012345678901234567890123\"}", NULL,
     "model_type is not a string of at most 63 bytes"},
    {"{\"model_type\":\"llama\",\"num_hidden_layers\":\"1\"}", NULL, "num_hidden_layers is not a non-negative integer"},
    {"{\"model_type\":\"llama\",\"num_hidden_layers\":1," HEADS ",\"head_dim\":{}}", NULL,
     "head_dim is not a non-negative integer"},
    {"{\"model_type\":\"llama\",\"num_hidden_layers\":1," HEADS ",\"hidden_size\":true}", NULL,
     "hidden_size is not a non-negative integer"},
    {"{\"model_type\":\"llama\",\"num_hidden_layers\":1," HEADS ",\"tie_word_embeddings\":1}", NULL,
     "tie_word_embeddings is neither true nor false"},
    {"{\"text_config\":\"llama\"}", RULES, "text_config is not an object"},
};

static void a_field_that_a_plan_needs_is_judged(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        char expected[256];
        snprintf(expected, sizeof expected, "config.json: %s", faults[i].expected);
        assert_config(faults[i].config, faults[i].plan, expected);
    }
}

static void block_sizes_are_judged_where_a_scale_needs_them(void **state) {
    (void)state;
    static const char *const configs[] = {"\"weight_block_size\":128", "\"weight_block_size\":[128]",
                                          "\"weight_block_size\":[128,0]", "\"weight_block_size\":[128.0,128]"};
    test_safetensors_write(test_path(folder, "model.safetensors"),
                           "{\"model.layers.0.self_attn.q_proj.weight\":{\"dtype\":\"U8\",\"shape\":[8,2],"
                           "\"data_offsets\":[0,16]},\"model.layers.0.self_attn.q_proj.weight_scale_inv\":{\"dtype\":"
                           "\"F32\",\"shape\":[2,2],\"data_offsets\":[16,32]}}",
                           32, 1);
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        char config[256];
        snprintf(config, sizeof config, "{" HEADS ",\"quantization_config\":{%s}}", configs[i]);
        assert_config(config, RULES,
                      "config.json: quantization_config.weight_block_size is not an array of two positive integers");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(python_is_read),
        cmocka_unit_test(a_long_integer_is_infinite),
        cmocka_unit_test(what_python_refuses_is_refused),
        cmocka_unit_test_setup_teardown(fields_that_no_plan_uses_do_not_matter, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_field_that_a_plan_needs_is_judged, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(block_sizes_are_judged_where_a_scale_needs_them, make_folder, remove_folder),
    };
    return cmocka_run_group_tests_name("artifact_config", tests, NULL, NULL);
}
