/* Every transition of an export, legal and illegal, with a clock and processes moved by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "common/fake_table.h"

static tpv_status_t find(const tpv_table_t *table, unsigned view, tpv_export_t *export, tpv_export_role_t *role) {
    tpv_export_key_t key = fake_key(view);
    return tpv_export_find(table, &key, export, role);
}

static void one_prepares_and_the_others_share(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(4, 4);
    tpv_export_t first, second, other;
    tpv_export_role_t role;
    assert_int_equal(find(table, 1, &first, &role), TPV_OK);
    assert_int_equal(role, TPV_EXPORT_PREPARE);
    assert_int_equal(find(table, 1, &second, &role), TPV_OK);
    assert_int_equal(role, TPV_EXPORT_WAIT);
    assert_int_equal(second.slot, first.slot);
    assert_int_equal(second.generation, first.generation);
    assert_int_equal(find(table, 2, &other, &role), TPV_OK);
    assert_int_equal(role, TPV_EXPORT_PREPARE);
    assert_int_not_equal(other.slot, first.slot);

    assert_int_equal(tpv_export_publish(table, first, 10, FAKE_SECOND), TPV_OK);
    assert_int_equal(find(table, 1, &second, &role), TPV_OK);
    assert_int_equal(role, TPV_EXPORT_USE);
    assert_int_equal(tpv_export_wait(table, second, 0, &role), TPV_OK);
    assert_int_equal(role, TPV_EXPORT_USE);
    assert_int_equal(tpv_table_counter(table, TPV_COUNT_EXPORTS_CREATED), 2);
    assert_int_equal(tpv_table_counter(table, TPV_COUNT_EXPORTS_COALESCED), 1);
    assert_int_equal(tpv_table_counter(table, TPV_COUNT_EXPORTS_REUSED), 1);

    tpv_export_info_t info;
    assert_int_equal(tpv_export_read(table, first, &info), TPV_OK);
    assert_int_equal(info.state, TPV_EXPORT_READY);
    assert_int_equal(info.bytes, 10);
    assert_string_equal(info.record.label, "model@1");
    assert_int_equal(fake_findings(table, false), 0);
    fake_table_free(table);
}

/* The device is part of the key, the label is not. */
static void what_is_in_the_key(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(4, 4);
    tpv_export_t export, again;
    tpv_export_role_t role;
    tpv_export_key_t key = fake_key(1);
    assert_int_equal(tpv_export_find(table, &key, &export, &role), TPV_OK);
    key.label = "another@2";
    assert_int_equal(tpv_export_find(table, &key, &again, &role), TPV_OK);
    assert_int_equal(again.slot, export.slot);
    key.device = "cuda:0";
    assert_int_equal(tpv_export_find(table, &key, &again, &role), TPV_OK);
    assert_int_not_equal(again.slot, export.slot);

    key.device = "";
    assert_int_equal(tpv_export_find(table, &key, &again, &role), TPV_ERR_ARGUMENT);
    key = fake_key(1);
    key.view_id = "0123";
    assert_int_equal(tpv_export_find(table, &key, &again, &role), TPV_ERR_ARGUMENT);
    key = fake_key(1);
    char label[129];
    memset(label, 'x', 128);
    label[128] = '\0';
    key.label = label;
    assert_int_equal(tpv_export_find(table, &key, &again, &role), TPV_ERR_ARGUMENT);
    fake_table_free(table);
}

static void a_failure_is_told_until_it_may_be_tried_again(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(4, 4);
    tpv_export_t export, again;
    tpv_export_role_t role;
    assert_int_equal(find(table, 1, &export, &role), TPV_OK);
    assert_int_equal(tpv_export_fail(table, export, TPV_OK, FAKE_SECOND), TPV_ERR_ARGUMENT);
    assert_int_equal(tpv_export_fail(table, export, TPV_ERR_NO_MEMORY, 5 * FAKE_SECOND), TPV_OK);
    assert_int_equal(find(table, 1, &again, &role), TPV_ERR_NO_MEMORY);
    assert_non_null(strstr(tpv_error_message(), "no_memory"));
    assert_int_equal(tpv_export_wait(table, export, 0, &role), TPV_ERR_NO_MEMORY);
    fake_now += 5 * FAKE_SECOND - 1;
    assert_int_equal(find(table, 1, &again, &role), TPV_ERR_NO_MEMORY);
    fake_now += 1;
    assert_int_equal(find(table, 1, &again, &role), TPV_OK);
    assert_int_equal(role, TPV_EXPORT_PREPARE);
    assert_int_equal(tpv_export_wait(table, export, 0, &role), TPV_ERR_STALE);
    /* Another preparer may fail too, and a sweep drops what nobody asks for. */
    assert_int_equal(tpv_export_fail(table, again, TPV_ERR_SYSTEM, FAKE_SECOND), TPV_OK);
    tpv_sweep_report_t report;
    tpv_table_sweep(table, &report);
    assert_int_equal(report.exports_freed, 0);
    fake_now += FAKE_SECOND;
    tpv_table_sweep(table, &report);
    assert_int_equal(report.exports_freed, 1);
    assert_int_equal(fake_export_state(table, again), TPV_EXPORT_FREE);
    fake_table_free(table);
}

static void giving_up_lets_the_next_one_prepare(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(4, 4);
    tpv_export_t export, again;
    tpv_export_role_t role;
    assert_int_equal(find(table, 1, &export, &role), TPV_OK);
    assert_int_equal(tpv_export_abandon(table, export), TPV_OK);
    assert_int_equal(tpv_export_wait(table, export, 0, &role), TPV_ERR_STALE);
    assert_int_equal(find(table, 1, &again, &role), TPV_OK);
    assert_int_equal(role, TPV_EXPORT_PREPARE);
    assert_int_equal(again.slot, export.slot);
    assert_int_not_equal(again.generation, export.generation);
    fake_table_free(table);
}

static void only_the_preparing_process_ends_preparing(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(4, 4);
    tpv_export_t export;
    tpv_export_role_t role;
    assert_int_equal(find(table, 1, &export, &role), TPV_OK);
    fake_self = 2;
    assert_int_equal(tpv_export_publish(table, export, 1, 1), TPV_ERR_PERMISSION);
    assert_int_equal(tpv_export_fail(table, export, TPV_ERR_NET, 1), TPV_ERR_PERMISSION);
    assert_int_equal(tpv_export_abandon(table, export), TPV_ERR_PERMISSION);
    assert_int_equal(fake_export_state(table, export), TPV_EXPORT_PENDING);
    fake_table_free(table);
}

static void the_order_of_retirement(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(4, 4);
    tpv_export_t export = fake_ready(table, 1), again;
    tpv_export_role_t role;
    assert_int_equal(tpv_export_withdraw(table, export), TPV_OK);
    assert_int_equal(tpv_export_withdraw(table, export), TPV_OK);
    assert_int_equal(fake_export_state(table, export), TPV_EXPORT_DRAINING);
    /* Never offered again: who asks now gets a new one. */
    assert_int_equal(find(table, 1, &again, &role), TPV_OK);
    assert_int_equal(role, TPV_EXPORT_PREPARE);
    assert_int_not_equal(again.slot, export.slot);
    assert_int_equal(tpv_export_wait(table, export, 0, &role), TPV_ERR_STALE);
    assert_int_equal(fake_findings(table, false), 0);
    assert_int_equal(tpv_export_free(table, export), TPV_ERR_REFUSED);
    assert_int_equal(tpv_export_close(table, export), TPV_OK);
    assert_int_equal(tpv_export_close(table, export), TPV_OK);
    assert_int_equal(tpv_export_withdraw(table, export), TPV_OK);
    assert_int_equal(fake_export_state(table, export), TPV_EXPORT_CLOSED);
    assert_int_equal(tpv_export_wait_idle(table, export, 0), TPV_OK);
    assert_int_equal(tpv_export_free(table, export), TPV_OK);
    assert_int_equal(fake_export_state(table, export), TPV_EXPORT_FREE);
    assert_int_equal(tpv_export_free(table, export), TPV_ERR_STALE);
    fake_table_free(table);
}

typedef enum { PUBLISH, FAIL, ABANDON, WITHDRAW, CLOSE, IDLE, FREE, READ, VERBS } verb_t;

static tpv_status_t call(const tpv_table_t *table, verb_t verb, tpv_export_t export) {
    tpv_export_info_t info;
    switch (verb) {
    case PUBLISH:
        return tpv_export_publish(table, export, 1, FAKE_SECOND);
    case FAIL:
        return tpv_export_fail(table, export, TPV_ERR_NET, FAKE_SECOND);
    case ABANDON:
        return tpv_export_abandon(table, export);
    case WITHDRAW:
        return tpv_export_withdraw(table, export);
    case CLOSE:
        return tpv_export_close(table, export);
    case IDLE:
        return tpv_export_wait_idle(table, export, 0);
    case FREE:
        return tpv_export_free(table, export);
    default:
        return tpv_export_read(table, export, &info);
    }
}

/* An export in state `wanted`, by the shortest way. */
static tpv_export_t make(const tpv_table_t *table, tpv_export_state_t wanted) {
    tpv_export_t export;
    tpv_export_role_t role;
    assert_int_equal(find(table, 1, &export, &role), TPV_OK);
    if (wanted == TPV_EXPORT_FAILED) assert_int_equal(call(table, FAIL, export), TPV_OK);
    if (wanted == TPV_EXPORT_FREE) assert_int_equal(call(table, ABANDON, export), TPV_OK);
    if (wanted == TPV_EXPORT_READY || wanted == TPV_EXPORT_DRAINING || wanted == TPV_EXPORT_CLOSED)
        assert_int_equal(call(table, PUBLISH, export), TPV_OK);
    if (wanted == TPV_EXPORT_DRAINING || wanted == TPV_EXPORT_CLOSED)
        assert_int_equal(call(table, WITHDRAW, export), TPV_OK);
    if (wanted == TPV_EXPORT_CLOSED) assert_int_equal(call(table, CLOSE, export), TPV_OK);
    return export;
}

static void every_verb_in_every_state(void **state) {
    (void)state;
    enum { OK = TPV_OK, NO = TPV_ERR_REFUSED, GONE = TPV_ERR_STALE };
    static const int expected[TPV_EXPORT_STATE_COUNT][VERBS] = {
        [TPV_EXPORT_FREE] = {GONE, GONE, GONE, GONE, GONE, GONE, GONE, GONE},
        [TPV_EXPORT_PENDING] = {OK, OK, OK, NO, NO, NO, NO, OK},
        [TPV_EXPORT_READY] = {NO, NO, NO, OK, NO, NO, NO, OK},
        [TPV_EXPORT_DRAINING] = {NO, NO, NO, OK, OK, OK, NO, OK},
        [TPV_EXPORT_CLOSED] = {NO, NO, NO, OK, OK, OK, OK, OK},
        [TPV_EXPORT_FAILED] = {NO, NO, NO, NO, NO, NO, NO, OK},
    };
    for (int from = 0; from < TPV_EXPORT_STATE_COUNT; from++) {
        for (int verb = 0; verb < VERBS; verb++) {
            tpv_table_t *table = fake_table_new(2, 2);
            tpv_export_t export = make(table, (tpv_export_state_t)from);
            assert_int_equal(fake_export_state(table, export), from);
            assert_int_equal(call(table, (verb_t)verb, export), expected[from][verb]);
            if (expected[from][verb] != OK) assert_int_equal(fake_export_state(table, export), from);
            /* A handle of another use of the slot is refused whatever the state. */
            tpv_export_t old = {.slot = export.slot, .generation = export.generation - 1};
            assert_int_equal(call(table, (verb_t)verb, old), TPV_ERR_STALE);
            old = (tpv_export_t){.slot = 2, .generation = export.generation};
            assert_int_equal(call(table, (verb_t)verb, old), TPV_ERR_STALE);
            assert_int_equal(fake_findings(table, false), 0);
            fake_table_free(table);
        }
    }
}

static void a_dead_preparer_is_followed_by_a_waiter(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(4, 4);
    tpv_export_t export;
    tpv_export_role_t role;
    assert_int_equal(find(table, 1, &export, &role), TPV_OK);
    fake_self = 2;
    assert_int_equal(find(table, 1, &export, &role), TPV_OK);
    assert_int_equal(role, TPV_EXPORT_WAIT);
    assert_int_equal(tpv_export_wait(table, export, 0, &role), TPV_ERR_DEADLINE);
    fake_kill(1);
    assert_int_equal(tpv_export_wait(table, export, 0, &role), TPV_OK);
    assert_int_equal(role, TPV_EXPORT_PREPARE);
    fake_self = 3;
    assert_int_equal(tpv_export_wait(table, export, 0, &role), TPV_ERR_DEADLINE);
    fake_self = 2;
    assert_int_equal(tpv_export_publish(table, export, 1, 1), TPV_OK);
    assert_int_equal(tpv_table_counter(table, TPV_COUNT_EXPORTS_TAKEN_OVER), 1);
    fake_table_free(table);
}

static void a_sweep_frees_what_dead_processes_had(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(4, 4);
    tpv_export_t pending, ready = fake_ready(table, 1), draining = fake_ready(table, 2), closed = fake_ready(table, 3);
    tpv_export_role_t role;
    assert_int_equal(find(table, 4, &pending, &role), TPV_OK);
    assert_int_equal(tpv_export_withdraw(table, draining), TPV_OK);
    assert_int_equal(tpv_export_withdraw(table, closed), TPV_OK);
    assert_int_equal(tpv_export_close(table, closed), TPV_OK);
    fake_self = 2;
    tpv_sweep_report_t report;
    tpv_table_sweep(table, &report);
    assert_int_equal(report.exports_freed, 0);
    fake_kill(1);
    tpv_table_sweep(table, &report);
    assert_int_equal(report.exports_freed, 4);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(fake_export_state(table, (tpv_export_t){.slot = i}), TPV_EXPORT_FREE);
    assert_int_equal(tpv_export_read(table, ready, &(tpv_export_info_t){0}), TPV_ERR_STALE);
    assert_int_equal(fake_findings(table, false), 0);
    fake_table_free(table);
}

static void the_bytes_of_a_dead_owner_are_not_offered(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(4, 4);
    tpv_export_t export = fake_ready(table, 1), again;
    tpv_export_role_t role;
    fake_self = 2;
    assert_int_equal(find(table, 1, &again, &role), TPV_OK);
    assert_int_equal(role, TPV_EXPORT_USE);
    fake_kill(1);
    assert_int_equal(find(table, 1, &again, &role), TPV_OK);
    assert_int_equal(role, TPV_EXPORT_PREPARE);
    assert_int_not_equal(again.slot, export.slot);
    assert_int_equal(fake_export_state(table, export), TPV_EXPORT_DRAINING);
    fake_table_free(table);
}

static void a_full_table_says_so(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(2, 2);
    tpv_export_t export;
    tpv_export_role_t role;
    fake_ready(table, 1);
    fake_ready(table, 2);
    assert_int_equal(find(table, 3, &export, &role), TPV_ERR_NO_SPACE);
    assert_non_null(strstr(tpv_error_message(), "all 2 export slots"));
    assert_int_equal(find(table, 2, &export, &role), TPV_OK);
    assert_int_equal(role, TPV_EXPORT_USE);
    fake_table_free(table);
}

/* Somebody died after it took a free slot: before it announced the new export, and after. */
static void a_death_while_creating(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(1, 1);
    tpv_export_t export;
    tpv_export_role_t role;
    tpv_slot_head_t *head = &tpv_table_export(table, 0)->head;
    tpv_word_store(&head->actor, 1);
    fake_self = 2;
    assert_int_equal(find(table, 1, &export, &role), TPV_ERR_NO_SPACE);
    fake_kill(1);
    assert_int_equal(find(table, 1, &export, &role), TPV_OK);
    assert_int_equal(role, TPV_EXPORT_PREPARE);
    assert_int_equal(tpv_export_abandon(table, export), TPV_OK);

    tpv_word_store(&head->actor, 1);
    tpv_table_sweep(table, NULL);
    assert_int_equal(tpv_word_load(&head->actor), 0);
    fake_table_free(table);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_prepares_and_the_others_share),
        cmocka_unit_test(what_is_in_the_key),
        cmocka_unit_test(a_failure_is_told_until_it_may_be_tried_again),
        cmocka_unit_test(giving_up_lets_the_next_one_prepare),
        cmocka_unit_test(only_the_preparing_process_ends_preparing),
        cmocka_unit_test(the_order_of_retirement),
        cmocka_unit_test(every_verb_in_every_state),
        cmocka_unit_test(a_dead_preparer_is_followed_by_a_waiter),
        cmocka_unit_test(a_sweep_frees_what_dead_processes_had),
        cmocka_unit_test(the_bytes_of_a_dead_owner_are_not_offered),
        cmocka_unit_test(a_full_table_says_so),
        cmocka_unit_test(a_death_while_creating),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
