/* Exports whose bytes are in a file: what keeps them and what ends them, with a clock and processes moved by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "common/fake_table.h"

#define TTL (10 * FAKE_SECOND)

/* The files that were erased, and what their slots were then. */
static struct {
    int count;
    bool refuse;
    uint32_t slot;
    uint64_t generation;
    tpv_export_state_t state;
} erased;

static bool erase(const tpv_table_t *table, uint32_t slot, uint64_t generation) {
    if (erased.refuse) return false;
    erased.count++;
    erased.slot = slot;
    erased.generation = generation;
    erased.state = fake_export_state(table, (tpv_export_t){.slot = slot, .generation = generation});
    return true;
}

static tpv_table_t *new_table(void) {
    tpv_table_t *table = fake_table_new(4, 4);
    table->erase = erase;
    memset(&erased, 0, sizeof erased);
    return table;
}

static tpv_export_role_t find(const tpv_table_t *table, unsigned view, tpv_export_t *export) {
    tpv_export_key_t key = fake_key(view);
    tpv_export_role_t role;
    assert_int_equal(tpv_export_find(table, &key, export, &role), TPV_OK);
    return role;
}

static tpv_export_t make(const tpv_table_t *table, unsigned view) {
    tpv_export_t export;
    assert_int_equal(find(table, view, &export), TPV_EXPORT_PREPARE);
    assert_int_equal(tpv_export_publish_file(table, export, 1000, TTL), TPV_OK);
    return export;
}

static tpv_lease_t attach(const tpv_table_t *table, tpv_export_t export, unsigned id) {
    tpv_lease_t lease;
    tpv_lease_request_t request = fake_request(id, TPV_DEADLINE_NEVER);
    assert_int_equal(tpv_lease_begin(table, export, &request, &lease), TPV_OK);
    assert_int_equal(tpv_lease_attach(table, lease), TPV_OK);
    return lease;
}

static uint32_t sweep(const tpv_table_t *table) {
    tpv_sweep_report_t report;
    tpv_table_sweep(table, &report);
    assert_int_equal(fake_findings(table, false), 0);
    return report.exports_freed;
}

static void it_outlives_who_fetched_it(void **state) {
    (void)state;
    tpv_table_t *table = new_table();
    tpv_export_t export = make(table, 1), again;
    tpv_export_t owned = fake_ready(table, 2);
    fake_kill(1);
    fake_self = 2;
    assert_int_equal(sweep(table), 1); /* the other one, whose owner died */
    assert_int_equal(fake_export_state(table, owned), TPV_EXPORT_FREE);
    assert_int_equal(find(table, 1, &again), TPV_EXPORT_USE);
    assert_int_equal(again.slot, export.slot);
    assert_int_equal(again.generation, export.generation);
    assert_int_equal(erased.count, 0);
    fake_table_free(table);
}

static void a_sweep_after_its_time_removes_the_file_then_frees_the_slot(void **state) {
    (void)state;
    tpv_table_t *table = new_table();
    tpv_export_t export = make(table, 1);
    fake_now += TTL - 1;
    assert_int_equal(sweep(table), 0);
    assert_int_equal(fake_export_state(table, export), TPV_EXPORT_READY);
    fake_now += 1;
    fake_self = 2; /* whoever */
    assert_int_equal(sweep(table), 1);
    assert_int_equal(fake_export_state(table, export), TPV_EXPORT_FREE);
    assert_int_equal(erased.count, 1);
    assert_int_equal(erased.slot, export.slot);
    assert_int_equal(erased.generation, export.generation);
    assert_int_equal(erased.state, TPV_EXPORT_CLOSED);
    assert_int_equal(tpv_table_counter(table, TPV_COUNT_EXPORTS_EXPIRED), 1);
    assert_int_equal(tpv_table_counter(table, TPV_COUNT_EXPORTS_FREED), 1);
    fake_table_free(table);
}

static void looking_does_not_renew_it(void **state) {
    (void)state;
    tpv_table_t *table = new_table();
    tpv_export_t export = make(table, 1), again;
    tpv_export_role_t role;
    tpv_export_info_t info;
    for (int i = 0; i < 9; i++) {
        fake_now += FAKE_SECOND;
        assert_int_equal(find(table, 1, &again), TPV_EXPORT_USE);
        assert_int_equal(tpv_export_wait(table, export, 0, &role), TPV_OK);
        assert_int_equal(tpv_export_read(table, export, &info), TPV_OK);
        sweep(table);
    }
    /* A lease under which nothing was read, likewise. */
    tpv_lease_t lease;
    tpv_lease_request_t request = fake_request(1, TPV_DEADLINE_NEVER);
    assert_int_equal(tpv_lease_begin(table, export, &request, &lease), TPV_OK);
    assert_true(tpv_lease_end(table, lease));
    fake_now += FAKE_SECOND;
    /* Over, though nobody has swept: cold. */
    assert_int_equal(find(table, 1, &again), TPV_EXPORT_PREPARE);
    assert_true(again.slot != export.slot || again.generation != export.generation);
    assert_int_equal(fake_export_state(table, export), TPV_EXPORT_DRAINING);
    assert_int_equal(sweep(table), 1);
    assert_int_equal(erased.generation, export.generation);
    fake_table_free(table);
}

/* Attaching, progress and the end, each by itself. */
static void every_sign_of_reading_renews_it(void **state) {
    (void)state;
    for (int last = 0; last < 3; last++) {
        tpv_table_t *table = new_table();
        tpv_export_t export = make(table, 1);
        fake_now += TTL / 2;
        tpv_lease_t lease = attach(table, export, 1);
        if (last >= 1) {
            fake_now += TTL / 2;
            assert_int_equal(tpv_lease_progress(table, lease, 1000), TPV_OK);
        }
        if (last >= 2) {
            fake_now += TTL / 2;
            assert_true(tpv_lease_end(table, lease));
        }
        tpv_export_info_t info;
        assert_int_equal(tpv_export_read(table, export, &info), TPV_OK);
        assert_true(info.moved_ns == fake_now);
        fake_table_free(table);
    }
}

static void reading_renews_it(void **state) {
    (void)state;
    tpv_table_t *table = new_table();
    tpv_export_t export = make(table, 1);
    fake_now += TTL - 1;
    tpv_lease_t lease = attach(table, export, 1);
    fake_now += 100 * TTL; /* no time is over while somebody reads */
    assert_int_equal(sweep(table), 0);
    assert_int_equal(find(table, 1, &export), TPV_EXPORT_USE);
    assert_int_equal(tpv_lease_progress(table, lease, 1000), TPV_OK);
    assert_true(tpv_lease_end(table, lease));
    fake_now += TTL - 1;
    assert_int_equal(sweep(table), 0);
    fake_now += 1;
    assert_int_equal(sweep(table), 1);
    fake_table_free(table);
}

/* A rank that held it for hours is killed: its successor finds the view, for its time. */
static void the_time_runs_from_the_death_of_the_last_reader(void **state) {
    (void)state;
    tpv_table_t *table = new_table();
    tpv_export_t export = make(table, 1);
    attach(table, export, 1);
    fake_now += 100 * TTL;
    fake_kill(1);
    fake_self = 2;
    assert_int_equal(sweep(table), 0);
    assert_int_equal(fake_active(table, export), 0);
    fake_now += TTL - 1;
    assert_int_equal(sweep(table), 0);
    assert_int_equal(find(table, 1, &export), TPV_EXPORT_USE);
    fake_now += 1;
    assert_int_equal(sweep(table), 1);
    fake_table_free(table);
}

/* Each death between giving the file its name and publishing. */
static void the_name_of_a_dead_fetcher_goes(void **state) {
    (void)state;
    tpv_table_t *table = new_table();
    tpv_export_t export, again;
    tpv_export_role_t role;
    assert_int_equal(find(table, 1, &export), TPV_EXPORT_PREPARE);
    fake_kill(1);
    fake_self = 2; /* a waiter takes over */
    assert_int_equal(tpv_export_wait(table, export, 0, &role), TPV_OK);
    assert_int_equal(role, TPV_EXPORT_PREPARE);
    assert_int_equal(erased.count, 1);
    assert_int_equal(erased.generation, export.generation);
    fake_kill(2);
    fake_self = 3; /* a sweeper gives up for it */
    assert_int_equal(sweep(table), 1);
    assert_int_equal(erased.count, 2);
    assert_int_equal(erased.generation, export.generation);
    assert_int_equal(erased.state, TPV_EXPORT_PENDING);
    assert_int_equal(find(table, 1, &again), TPV_EXPORT_PREPARE);
    fake_table_free(table);
}

static void what_cannot_be_removed_keeps_its_slot(void **state) {
    (void)state;
    tpv_table_t *table = new_table();
    tpv_export_t export = make(table, 1), again;
    fake_now += TTL;
    erased.refuse = true;
    assert_int_equal(sweep(table), 0);
    assert_int_equal(fake_export_state(table, export), TPV_EXPORT_CLOSED);
    assert_int_equal(tpv_export_free(table, export), TPV_ERR_SYSTEM);
    assert_int_equal(find(table, 1, &again), TPV_EXPORT_PREPARE);
    erased.refuse = false;
    assert_int_equal(sweep(table), 1);
    assert_int_equal(erased.count, 1);
    fake_table_free(table);
}

static void eviction_takes_what_nobody_reads(void **state) {
    (void)state;
    tpv_table_t *table = new_table();
    tpv_export_t export = make(table, 1);
    tpv_export_t owned = fake_ready(table, 2);
    assert_false(tpv_export_withdraw_idle(table, owned, TPV_EXPORT_EVICTED));
    assert_false(tpv_export_withdraw_idle(table, export, TPV_EXPORT_EXPIRED));
    tpv_lease_t lease = attach(table, export, 1);
    assert_false(tpv_export_withdraw_idle(table, export, TPV_EXPORT_EVICTED));
    assert_true(tpv_lease_end(table, lease));
    assert_true(tpv_export_withdraw_idle(table, export, TPV_EXPORT_EVICTED));
    assert_false(tpv_export_withdraw_idle(table, export, TPV_EXPORT_EVICTED));
    assert_int_equal(fake_export_state(table, export), TPV_EXPORT_DRAINING);
    assert_int_equal(sweep(table), 1);
    assert_false(tpv_export_withdraw_idle(table, export, TPV_EXPORT_EVICTED));
    assert_int_equal(tpv_table_counter(table, TPV_COUNT_EXPORTS_EVICTED), 1);
    fake_table_free(table);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_outlives_who_fetched_it),
        cmocka_unit_test(a_sweep_after_its_time_removes_the_file_then_frees_the_slot),
        cmocka_unit_test(looking_does_not_renew_it),
        cmocka_unit_test(every_sign_of_reading_renews_it),
        cmocka_unit_test(reading_renews_it),
        cmocka_unit_test(the_time_runs_from_the_death_of_the_last_reader),
        cmocka_unit_test(the_name_of_a_dead_fetcher_goes),
        cmocka_unit_test(what_cannot_be_removed_keeps_its_slot),
        cmocka_unit_test(eviction_takes_what_nobody_reads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
