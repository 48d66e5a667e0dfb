/* What is not there is told as an error, before anything is asked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tpview/fetch.h"

static void test_nothing_where_a_text_is_expected(void **state) {
    (void)state;
    tpv_source_t *source = NULL;
    tpv_artifact_t *artifact = NULL;
    char *json = NULL;
    assert_int_equal(tpv_source_open("127.0.0.1:9", NULL, &source), TPV_OK);
    assert_int_equal(tpv_source_add(source, NULL, NULL), TPV_ERR_ARGUMENT);
    assert_int_equal(tpv_source_get(source, NULL, 1, &json), TPV_ERR_ARGUMENT);
    assert_int_equal(tpv_source_artifact(source, NULL, 1, &artifact), TPV_ERR_ARGUMENT);
    assert_int_equal(tpv_source_publish(source, NULL, 1), TPV_ERR_ARGUMENT);
    assert_int_equal(tpv_source_retire(source, NULL, 1), TPV_ERR_ARGUMENT);
    for (int i = 1; i < TPV_MAX_SOURCES; i++)
        assert_int_equal(tpv_source_add(source, "127.0.0.1:9", NULL), TPV_OK);
    assert_int_equal(tpv_source_add(source, NULL, NULL), TPV_ERR_ARGUMENT);
    tpv_source_close(source);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_where_a_text_is_expected),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
