/* What answers take of the budget while they wait for their readers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "service/http_answer.h"

typedef struct {
    size_t room, used;
    unsigned calls;
} budget_t;

static bool reserve(void *user, size_t bytes) {
    budget_t *budget = user;
    budget->calls++;
    if (bytes > budget->room - budget->used) return false;
    budget->used += bytes;
    return true;
}

static void unreserve(void *user, size_t bytes) {
    ((budget_t *)user)->used -= bytes;
}

static char *text_of(size_t length) {
    char *text = malloc(length + 1);
    assert_non_null(text);
    memset(text, 'x', length);
    text[length] = '\0';
    return text;
}

static void test_a_short_one_is_not_counted(void **state) {
    (void)state;
    budget_t budget = {.room = 0};
    tpv_body_account_t account = {&budget, reserve, unreserve};
    struct MHD_Response *response = NULL;
    assert_int_equal(tpv_http_answer_make(&account, text_of(TPV_BODY_SMALL), &response), TPV_OK);
    MHD_destroy_response(response);
    assert_int_equal(budget.calls, 0);
}

static void test_a_long_one_counts_until_it_goes(void **state) {
    (void)state;
    budget_t budget = {.room = 3 * TPV_BODY_SMALL};
    tpv_body_account_t account = {&budget, reserve, unreserve};
    struct MHD_Response *first = NULL, *second = NULL, *third = NULL;
    assert_int_equal(tpv_http_answer_make(&account, text_of(TPV_BODY_SMALL + 1), &first), TPV_OK);
    assert_int_equal(budget.used, TPV_BODY_SMALL + 1);
    assert_int_equal(tpv_http_answer_make(&account, text_of(TPV_BODY_SMALL + 1), &second), TPV_OK);
    assert_int_equal(tpv_http_answer_make(&account, text_of(TPV_BODY_SMALL + 1), &third), TPV_ERR_NO_MEMORY);
    assert_non_null(strstr(tpv_error_message(), "too many are being read"));
    assert_null(third);
    assert_int_equal(budget.used, 2 * (TPV_BODY_SMALL + 1));
    MHD_destroy_response(first);
    assert_int_equal(budget.used, TPV_BODY_SMALL + 1);
    assert_int_equal(tpv_http_answer_make(&account, text_of(TPV_BODY_SMALL + 1), &third), TPV_OK);
    MHD_destroy_response(second);
    MHD_destroy_response(third);
    assert_int_equal(budget.used, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_short_one_is_not_counted),
        cmocka_unit_test(test_a_long_one_counts_until_it_goes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
