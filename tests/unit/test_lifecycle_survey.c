/* The look at a whole table: what is in which state, and who holds it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/fake_table.h"
#include "lifecycle/survey.h"

static tpv_table_t *table;
static tpv_survey_t survey;

static int set_up(void **state) {
    (void)state;
    table = fake_table_new(8, 16);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    fake_table_free(table);
    return 0;
}

static void look(void) {
    tpv_survey_clear(&survey);
    assert_int_equal(tpv_table_survey(table, &survey), TPV_OK);
}

static const tpv_holder_t *holder(uint64_t process) {
    for (size_t i = 0; i < survey.holder_count; i++)
        if (survey.holders[i].process == process) return &survey.holders[i];
    return NULL;
}

static void an_empty_table_has_no_holders(void **state) {
    (void)state;
    look();
    assert_int_equal(survey.holder_count, 0);
    assert_int_equal(survey.bytes, 0);
    tpv_survey_clear(&survey);
}

static void states_and_holders_are_counted(void **state) {
    (void)state;
    tpv_lease_t lease;
    tpv_export_t ready = fake_ready(table, 1), pending;
    tpv_export_role_t role;
    fake_self = 2;
    tpv_export_key_t key = fake_key(2);
    assert_int_equal(tpv_export_find(table, &key, &pending, &role), TPV_OK);
    for (unsigned i = 0; i < 3; i++) {
        tpv_lease_request_t request = fake_request(i, FAKE_SECOND);
        assert_int_equal(tpv_lease_begin(table, ready, &request, &lease), TPV_OK);
    }
    assert_int_equal(tpv_lease_attach(table, lease), TPV_OK);
    look();
    assert_int_equal(survey.exports[TPV_EXPORT_READY], 1);
    assert_int_equal(survey.exports[TPV_EXPORT_PENDING], 1);
    assert_int_equal(survey.leases[TPV_LEASE_GRANTED], 2);
    assert_int_equal(survey.leases[TPV_LEASE_ATTACHED], 1);
    tpv_export_info_t info;
    assert_int_equal(tpv_export_read(table, ready, &info), TPV_OK);
    assert_int_equal(survey.bytes, info.bytes);
    assert_int_equal(survey.holder_count, 2);
    assert_true(holder(1)->alive && holder(2)->alive);
    assert_int_equal(holder(1)->exports, 1);
    assert_int_equal(holder(1)->leases, 0);
    assert_int_equal(holder(2)->exports, 1);
    assert_int_equal(holder(2)->leases, 3);
    tpv_survey_clear(&survey);
}

static void the_dead_are_told_until_a_sweep(void **state) {
    (void)state;
    tpv_lease_t lease;
    tpv_export_t ready = fake_ready(table, 1);
    fake_self = 2;
    tpv_lease_request_t request = fake_request(1, FAKE_SECOND);
    assert_int_equal(tpv_lease_begin(table, ready, &request, &lease), TPV_OK);
    fake_kill(2);
    fake_self = 3;
    look();
    assert_false(holder(2)->alive);
    assert_int_equal(holder(2)->leases, 1);
    assert_true(holder(1)->alive);
    tpv_table_sweep(table, NULL);
    look();
    assert_null(holder(2));
    assert_int_equal(holder(1)->exports, 1);
    fake_kill(1);
    look();
    assert_int_equal(holder(1)->exports, 1);
    tpv_table_sweep(table, NULL);
    look();
    assert_int_equal(survey.holder_count, 0);
    assert_int_equal(survey.exports[TPV_EXPORT_FREE], 1);
    tpv_survey_clear(&survey);
}

static void a_slot_that_a_dead_process_had_taken_is_told(void **state) {
    (void)state;
    tpv_export_t ready = fake_ready(table, 1);
    tpv_word_store(table->exports.used, 3);
    tpv_word_store(&tpv_table_export(table, 2)->head.actor, 5);
    look();
    assert_true(holder(5)->alive);
    fake_kill(5);
    look();
    assert_false(holder(5)->alive);
    assert_int_equal(holder(5)->slots, 1);
    tpv_table_sweep(table, NULL);
    look();
    assert_null(holder(5));
    assert_int_equal(fake_export_state(table, ready), TPV_EXPORT_READY);
    tpv_survey_clear(&survey);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_empty_table_has_no_holders, set_up, tear_down),
        cmocka_unit_test_setup_teardown(states_and_holders_are_counted, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_dead_are_told_until_a_sweep, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_slot_that_a_dead_process_had_taken_is_told, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
