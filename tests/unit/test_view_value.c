/* Numbers in plan files: expressions over config.json. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "view/plan_value.h"

static json_t *config;

static int read_config(void **state) {
    (void)state;
    config =
        json_loads("{\"text\":{\"heads\":8,\"kv\":[4,2,1],\"types\":[\"a\",\"b\",\"c\"],\"none\":null,\"yes\":true},"
                   "\"heads\":6,\"hidden\":96,\"float\":1.5,\"negative\":-1,"
                   "\"layer\":{\"1\":{\"kv\":7}}}",
                   0, NULL);
    return config ? 0 : -1;
}

static int drop_config(void **state) {
    (void)state;
    json_decref(config);
    return 0;
}

static tpv_scope_t scope(uint64_t layer) {
    return (tpv_scope_t){.sections = {json_object_get(config, "text"), config}, .layer = layer};
}

static void values(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint64_t layer, number; /* UINT64_MAX: not known */
    } cases[] = {
        {"12", 0, 12},
        {"heads", 0, 8}, /* the first section that has it */
        {"hidden / heads", 0, 12},
        {"hidden / 7", 0, UINT64_MAX},
        {"hidden / 0", 0, UINT64_MAX},
        {"hidden / 7 | 3", 0, 3},
        {"kv", 0, 4},
        {"kv", 2, 1},
        {"kv", 3, UINT64_MAX}, /* beyond the list */
        {"kv", UINT64_MAX, UINT64_MAX},
        {"layer.@.kv | kv", 1, 7},
        {"layer.@.kv | kv", 2, 1},
        {"length(kv) + length(types)", 1, 6},
        {"length(heads)", 0, UINT64_MAX},
        {"types", 0, UINT64_MAX},
        {"none | 5", 0, 5},
        {"yes", 0, 1},
        {"float", 0, UINT64_MAX},
        {"negative", 0, UINT64_MAX},
        {"2 * (heads + 1) - 3", 0, 15},
        {"1 - 2", 0, UINT64_MAX},
        {"2 + 3 * 4", 0, 14},
        {"min(heads, 3) + max(heads, 3)", 0, 11},
        {"999999999999999999 * 999999999999999999", 0, UINT64_MAX},
        {"missing * 0", 0, UINT64_MAX},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *value = json_string(cases[i].text);
        tpv_scope_t where = scope(cases[i].layer);
        uint64_t number;
        assert_int_equal(tpv_value_check("x", value), TPV_OK);
        bool known = tpv_value_of(value, &where, &number);
        if (known != (cases[i].number != UINT64_MAX) || (known && number != cases[i].number))
            fail_msg("%s: %s %llu", cases[i].text, known ? "known" : "not known", (unsigned long long)number);
        json_decref(value);
    }
}

static void faults(void **state) {
    (void)state;
    static const char *const texts[] = {"",     "1 +",   "(1",      "1)",
                                        "a b",  "a ! b", "min(1)",  "length()",
                                        "a.b|", "* 3",   "min(1,2", "((((((((((((((((((1))))))))))))))))))",
                                        "-1"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        json_t *value = json_string(texts[i]);
        if (tpv_value_check("x", value) != TPV_ERR_FORMAT) fail_msg("%s", texts[i]);
        json_decref(value);
    }
}

static void layers(void **state) {
    (void)state;
    assert_int_equal(tpv_layer_of("model.layers.12.mlp.experts.3.w1.weight"), 12);
    assert_int_equal(tpv_layer_of("h.7"), 7);
    assert_int_equal(tpv_layer_of("lm_head.w1"), UINT64_MAX);
    assert_int_equal(tpv_layer_of(""), UINT64_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(values), cmocka_unit_test(faults), cmocka_unit_test(layers)};
    return cmocka_run_group_tests(tests, read_config, drop_config);
}
