/* What is not there is told as an error, before anything is asked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "tpview/fetch.h"

#define NOBODY "unix:/nowhere/tpview.sock"

static void test_nothing_where_a_text_is_expected(void **state) {
    (void)state;
    tpv_source_t *source = NULL;
    tpv_artifact_t *artifact = NULL;
    char *json = NULL;
    assert_int_equal(tpv_source_open(NOBODY, NULL, &source), TPV_OK);
    assert_int_equal(tpv_source_add(source, NULL, NULL), TPV_ERR_ARGUMENT);
    assert_int_equal(tpv_source_get(source, NULL, 1, &json), TPV_ERR_ARGUMENT);
    assert_int_equal(tpv_source_artifact(source, NULL, 1, &artifact), TPV_ERR_ARGUMENT);
    assert_int_equal(tpv_source_publish(source, NULL, 1), TPV_ERR_ARGUMENT);
    assert_int_equal(tpv_source_retire(source, NULL, 1), TPV_ERR_ARGUMENT);
    for (int i = 1; i < TPV_MAX_SOURCES; i++)
        assert_int_equal(tpv_source_add(source, NOBODY, NULL), TPV_OK);
    assert_int_equal(tpv_source_add(source, NULL, NULL), TPV_ERR_ARGUMENT);
    tpv_source_close(source);
}

/* What this process lacks is not the source's fault: no other one is asked. */
static void test_no_descriptor_left(void **state) {
    (void)state;
    struct rlimit all, none;
    tpv_source_t *source = NULL;
    char *json = NULL;
    assert_int_equal(tpv_source_open(NOBODY, NULL, &source), TPV_OK);
    assert_int_equal(tpv_source_get(source, "/healthz", 60, &json), TPV_ERR_PEER); /* so that curl has all it keeps */
    int next = dup(0);
    assert_true(next >= 0);
    close(next);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &all), 0);
    none = (struct rlimit){.rlim_cur = (rlim_t)next, .rlim_max = all.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    tpv_status_t status = tpv_source_get(source, "/healthz", 60, &json);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &all), 0);
    assert_int_equal(status, TPV_ERR_SYSTEM);
    assert_non_null(strstr(tpv_error_message(), "Too many open files"));
    assert_int_equal(tpv_source_get(source, "/healthz", 60, &json), TPV_ERR_PEER);
    tpv_source_close(source);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_descriptor_left),
        cmocka_unit_test(test_nothing_where_a_text_is_expected),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
