/* Every transition of a lease, legal and illegal, with a clock and processes moved by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "common/fake_table.h"
#include "lifecycle/words.h"

#define TTL (10 * FAKE_SECOND)

static tpv_lease_t begin(const tpv_table_t *table, tpv_export_t export, unsigned id) {
    tpv_lease_request_t request = fake_request(id, TTL);
    tpv_lease_t lease;
    assert_int_equal(tpv_lease_begin(table, export, &request, &lease), TPV_OK);
    return lease;
}

static bool same(tpv_lease_t a, tpv_lease_t b) {
    return a.slot == b.slot && a.generation == b.generation;
}

static void a_whole_life(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(2, 4);
    tpv_export_t export = fake_ready(table, 1);
    tpv_lease_t lease = begin(table, export, 1);
    assert_int_equal(fake_active(table, export), 1);
    assert_int_equal(fake_lease_state(table, lease), TPV_LEASE_GRANTED);
    assert_int_equal(tpv_lease_progress(table, lease, 1), TPV_ERR_REFUSED);
    assert_int_equal(tpv_lease_attach(table, lease), TPV_OK);
    assert_int_equal(tpv_lease_attach(table, lease), TPV_OK);
    assert_int_equal(fake_lease_state(table, lease), TPV_LEASE_ATTACHED);
    assert_int_equal(tpv_lease_progress(table, lease, 500), TPV_OK);
    assert_int_equal(tpv_lease_check(table, lease), TPV_OK);
    assert_int_equal(fake_findings(table, false), 0);
    assert_true(tpv_lease_end(table, lease));
    assert_int_equal(fake_active(table, export), 0);
    assert_int_equal(fake_lease_state(table, lease), TPV_LEASE_FREE);
    assert_int_equal(tpv_lease_progress(table, lease, 600), TPV_ERR_STALE);
    assert_int_equal(fake_findings(table, false), 0);
    fake_table_free(table);
}

static void ending_twice_or_nothing_is_harmless(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(2, 4);
    tpv_export_t export = fake_ready(table, 1);
    tpv_lease_t a = begin(table, export, 1), b = begin(table, export, 2);
    assert_true(tpv_lease_end(table, a));
    assert_false(tpv_lease_end(table, a));
    assert_false(tpv_lease_end(table, (tpv_lease_t){.slot = 3}));
    assert_false(tpv_lease_end(table, (tpv_lease_t){.slot = 99, .generation = 1}));
    assert_int_equal(fake_active(table, export), 1);
    assert_int_equal(tpv_lease_check(table, b), TPV_OK);
    fake_table_free(table);
}

static void a_repeated_begin_is_the_same_lease(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(2, 4);
    tpv_export_t export = fake_ready(table, 1), other = fake_ready(table, 2);
    tpv_lease_t lease = begin(table, export, 1), again = begin(table, export, 1);
    assert_true(same(lease, again));
    assert_int_equal(fake_active(table, export), 1);
    assert_int_equal(tpv_lease_attach(table, lease), TPV_OK);
    again = begin(table, export, 1);
    assert_true(same(lease, again));
    assert_int_equal(fake_lease_state(table, lease), TPV_LEASE_ATTACHED);

    tpv_lease_request_t request = fake_request(1, TTL);
    assert_int_equal(tpv_lease_begin(table, other, &request, &again), TPV_ERR_ARGUMENT);
    assert_int_equal(fake_active(table, other), 0);
    assert_int_equal(tpv_lease_find(table, request.lease_id, &again), TPV_OK);
    assert_true(same(lease, again));
    assert_true(tpv_lease_end(table, lease));
    assert_int_equal(tpv_lease_find(table, request.lease_id, &again), TPV_ERR_NOT_FOUND);
    /* The id of a lease that is over may be used again. */
    again = begin(table, other, 1);
    assert_int_equal(fake_active(table, other), 1);
    assert_int_equal(tpv_table_counter(table, TPV_COUNT_LEASES_BEGUN), 2);
    fake_table_free(table);
}

static void requests_out_of_bounds(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(2, 4);
    tpv_export_t export = fake_ready(table, 1);
    tpv_lease_t lease;
    tpv_lease_request_t request = fake_request(1, TTL);
    request.lease_id = "xyz";
    assert_int_equal(tpv_lease_begin(table, export, &request, &lease), TPV_ERR_ARGUMENT);
    request = fake_request(1, 0);
    assert_int_equal(tpv_lease_begin(table, export, &request, &lease), TPV_ERR_ARGUMENT);
    request = fake_request(1, TTL);
    request.bytes_total = TPV_MAX_LEASE_BYTES + 1;
    assert_int_equal(tpv_lease_begin(table, export, &request, &lease), TPV_ERR_ARGUMENT);
    request = fake_request(1, TTL);
    request.remote_host = "012345678901234567890123456789012345678901234567890123456789012345678901";
    assert_int_equal(tpv_lease_begin(table, export, &request, &lease), TPV_ERR_ARGUMENT);
    assert_int_equal(fake_active(table, export), 0);
    request.remote_host++; /* one byte less */
    assert_int_equal(tpv_lease_begin(table, export, &request, &lease), TPV_OK);
    assert_true(tpv_lease_end(table, lease));
    /* A time that cannot be represented means for ever. */
    request = fake_request(1, TPV_DEADLINE_NEVER);
    assert_int_equal(tpv_lease_begin(table, export, &request, &lease), TPV_OK);
    assert_int_equal(tpv_lease_attach(table, lease), TPV_OK);
    fake_now += INT64_C(1) << 60;
    tpv_table_sweep(table, NULL);
    assert_int_equal(tpv_lease_progress(table, lease, 1), TPV_OK);
    fake_table_free(table);
}

/* Begin refused means that no lease is left and no byte may be read. */
static void no_lease_on_what_is_not_ready(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(2, 4);
    tpv_export_key_t key = fake_key(1);
    tpv_export_t export;
    tpv_export_role_t role;
    tpv_lease_t lease;
    tpv_lease_request_t request = fake_request(1, TTL);
    assert_int_equal(tpv_export_find(table, &key, &export, &role), TPV_OK);
    assert_int_equal(tpv_lease_begin(table, export, &request, &lease), TPV_ERR_REFUSED);
    assert_int_equal(tpv_export_publish(table, export, 1, TTL), TPV_OK);
    assert_int_equal(tpv_export_withdraw(table, export), TPV_OK);
    assert_int_equal(tpv_lease_begin(table, export, &request, &lease), TPV_ERR_REFUSED);
    assert_int_equal(tpv_export_close(table, export), TPV_OK);
    assert_int_equal(tpv_lease_begin(table, export, &request, &lease), TPV_ERR_REFUSED);
    assert_int_equal(tpv_export_free(table, export), TPV_OK);
    assert_int_equal(tpv_lease_begin(table, export, &request, &lease), TPV_ERR_STALE);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(fake_lease_state(table, (tpv_lease_t){.slot = i}), TPV_LEASE_FREE);
    fake_table_free(table);
}

static void a_fetch_longer_than_the_ttl(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(2, 4);
    tpv_export_t export = fake_ready(table, 1);
    tpv_lease_t lease = begin(table, export, 1);
    assert_int_equal(tpv_lease_attach(table, lease), TPV_OK);
    for (unsigned i = 0; i < 100; i++) {
        fake_now += TTL - FAKE_SECOND / 100;
        tpv_table_sweep(table, NULL);
        assert_int_equal(tpv_lease_progress(table, lease, i), TPV_OK);
    }
    tpv_export_info_t info;
    assert_int_equal(tpv_export_read(table, export, &info), TPV_OK);
    assert_int_equal(info.moved_ns, fake_now);
    assert_true(tpv_lease_end(table, lease));
    fake_table_free(table);
}

static void renewing_one_does_not_keep_another(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(2, 4);
    tpv_export_t export = fake_ready(table, 1);
    tpv_lease_t a = begin(table, export, 1), b = begin(table, export, 2), c = begin(table, export, 3);
    assert_int_equal(tpv_lease_attach(table, a), TPV_OK);
    assert_int_equal(tpv_lease_attach(table, c), TPV_OK);
    fake_now += TTL / 2;
    assert_int_equal(tpv_lease_progress(table, a, 1), TPV_OK);
    fake_now += TTL / 2 + FAKE_SECOND / 100;
    assert_int_equal(tpv_lease_progress(table, a, 2), TPV_OK);
    tpv_sweep_report_t report;
    tpv_table_sweep(table, &report);
    assert_int_equal(report.leases_expired, 1);
    assert_int_equal(report.leases_revoked, 1);
    assert_int_equal(tpv_lease_check(table, a), TPV_OK);
    /* b had not attached: it is gone, and cannot attach any more. */
    assert_int_equal(fake_lease_state(table, b), TPV_LEASE_FREE);
    assert_int_equal(tpv_lease_attach(table, b), TPV_ERR_STALE);
    /* c is being read: it is told, and counts until it has let go. */
    assert_int_equal(fake_lease_state(table, c), TPV_LEASE_REVOKED);
    assert_int_equal(fake_active(table, export), 2);
    assert_int_equal(tpv_lease_progress(table, c, 1), TPV_ERR_STALE);
    assert_int_equal(tpv_lease_attach(table, c), TPV_ERR_STALE);
    assert_int_equal(tpv_lease_check(table, c), TPV_ERR_STALE);
    tpv_lease_request_t request = fake_request(3, TTL);
    tpv_lease_t again;
    assert_int_equal(tpv_lease_begin(table, export, &request, &again), TPV_ERR_STALE);
    assert_true(tpv_lease_end(table, c));
    assert_int_equal(fake_active(table, export), 1);
    assert_int_equal(fake_findings(table, false), 0);
    fake_table_free(table);
}

static void a_lease_lives_to_its_deadline_and_not_longer(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(2, 4);
    tpv_export_t export = fake_ready(table, 1);
    tpv_lease_t lease = begin(table, export, 1);
    fake_now += TTL;
    tpv_table_sweep(table, NULL);
    assert_int_equal(tpv_lease_check(table, lease), TPV_OK);
    fake_now += 2 * FAKE_SECOND / 1000;
    tpv_table_sweep(table, NULL);
    assert_int_equal(tpv_lease_check(table, lease), TPV_ERR_STALE);
    fake_table_free(table);
}

static void a_stale_handle_after_its_slot_was_used_again(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(1, 1);
    tpv_export_t old_export = fake_ready(table, 1);
    tpv_lease_t old = begin(table, old_export, 1);
    assert_true(tpv_lease_end(table, old));
    assert_int_equal(tpv_export_withdraw(table, old_export), TPV_OK);
    assert_int_equal(tpv_export_close(table, old_export), TPV_OK);
    assert_int_equal(tpv_export_free(table, old_export), TPV_OK);
    tpv_export_t export = fake_ready(table, 1);
    tpv_lease_t lease = begin(table, export, 1);
    assert_int_equal(lease.slot, old.slot);
    assert_int_equal(export.slot, old_export.slot);
    assert_int_equal(tpv_lease_attach(table, lease), TPV_OK);
    assert_int_equal(tpv_lease_progress(table, lease, 100), TPV_OK);
    uint64_t word = tpv_word_load(&tpv_table_lease(table, 0)->head.word);

    fake_now += FAKE_SECOND;
    tpv_lease_request_t request = fake_request(2, TTL);
    tpv_lease_t none;
    assert_int_equal(tpv_lease_progress(table, old, 900), TPV_ERR_STALE);
    assert_int_equal(tpv_lease_attach(table, old), TPV_ERR_STALE);
    assert_int_equal(tpv_lease_check(table, old), TPV_ERR_STALE);
    assert_false(tpv_lease_end(table, old));
    assert_int_equal(tpv_lease_begin(table, old_export, &request, &none), TPV_ERR_STALE);
    assert_int_equal(tpv_export_withdraw(table, old_export), TPV_ERR_STALE);
    /* None of that has touched the new one, its deadline included. */
    assert_int_equal(tpv_word_load(&tpv_table_lease(table, 0)->head.word), word);
    assert_int_equal(tpv_word_load(&tpv_table_lease(table, 0)->bytes_done) & TPV_MAX_LEASE_BYTES, 100);
    assert_int_equal(fake_active(table, export), 1);
    fake_table_free(table);
}

static void two_groups_with_the_same_rank(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(2, 4);
    tpv_export_t export = fake_ready(table, 1);
    tpv_lease_t a = begin(table, export, 1), b = begin(table, export, 2); /* both tp_rank 0 of 4, same host and pid */
    assert_int_not_equal(a.slot, b.slot);
    assert_int_equal(fake_active(table, export), 2);
    assert_true(tpv_lease_end(table, a));
    assert_int_equal(tpv_lease_check(table, b), TPV_OK);
    assert_int_equal(fake_active(table, export), 1);
    fake_table_free(table);
}

static void a_dead_owner_loses_its_leases(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(2, 4);
    tpv_export_t export = fake_ready(table, 1);
    tpv_lease_t kept = begin(table, export, 1);
    fake_self = 2;
    tpv_lease_t granted = begin(table, export, 2), attached = begin(table, export, 3),
                revoked = begin(table, export, 4);
    assert_int_equal(tpv_lease_attach(table, attached), TPV_OK);
    assert_int_equal(tpv_lease_attach(table, revoked), TPV_OK);
    fake_now += TTL + FAKE_SECOND / 100;
    assert_int_equal(tpv_lease_attach(table, attached), TPV_OK);
    assert_int_equal(tpv_lease_attach(table, granted), TPV_OK);
    fake_self = 1;
    assert_int_equal(tpv_lease_attach(table, kept), TPV_OK);
    tpv_sweep_report_t report;
    tpv_table_sweep(table, &report);
    assert_int_equal(report.leases_revoked, 1);
    fake_kill(2);
    tpv_table_sweep(table, &report);
    assert_int_equal(report.leases_orphaned, 3);
    assert_int_equal(fake_active(table, export), 1);
    assert_int_equal(tpv_lease_check(table, kept), TPV_OK);
    assert_int_equal(fake_findings(table, false), 0);
    fake_table_free(table);
}

static void closing_ends_what_is_not_attached(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(2, 4);
    tpv_export_t export = fake_ready(table, 1);
    tpv_lease_t early = begin(table, export, 1), in_time = begin(table, export, 2), late = begin(table, export, 3);
    assert_int_equal(tpv_lease_attach(table, early), TPV_OK);
    assert_int_equal(tpv_export_withdraw(table, export), TPV_OK);
    assert_int_equal(tpv_lease_attach(table, in_time), TPV_OK);
    assert_int_equal(tpv_export_close(table, export), TPV_OK);
    assert_int_equal(tpv_lease_attach(table, late), TPV_ERR_STALE);
    assert_int_equal(fake_active(table, export), 2);
    assert_int_equal(tpv_lease_progress(table, early, 1), TPV_OK);
    assert_int_equal(tpv_export_free(table, export), TPV_ERR_REFUSED);
    assert_int_equal(tpv_export_wait_idle(table, export, 0), TPV_ERR_DEADLINE);
    assert_true(tpv_lease_end(table, early));
    assert_true(tpv_lease_end(table, in_time));
    assert_int_equal(tpv_export_wait_idle(table, export, 0), TPV_OK);
    assert_int_equal(tpv_export_free(table, export), TPV_OK);
    fake_table_free(table);
}

/* As the process that closes an export leaves both when it is held up between the two steps. */
static void attaching_to_what_is_being_closed(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(2, 4);
    tpv_export_t export = fake_ready(table, 1);
    tpv_lease_t granted = begin(table, export, 1), attached = begin(table, export, 2);
    assert_int_equal(tpv_lease_attach(table, attached), TPV_OK);
    assert_int_equal(tpv_export_withdraw(table, export), TPV_OK);
    tpv_word_t *word = &tpv_table_export(table, export.slot)->head.word;
    tpv_word_store(word, tpv_export_word_to(tpv_word_load(word), TPV_EXPORT_CLOSED));
    assert_int_equal(tpv_lease_attach(table, granted), TPV_ERR_STALE);
    assert_int_equal(fake_lease_state(table, granted), TPV_LEASE_GRANTED);
    assert_int_equal(tpv_lease_attach(table, attached), TPV_OK);
    assert_int_equal(tpv_lease_progress(table, attached, 1), TPV_OK);
    assert_int_equal(tpv_export_close(table, export), TPV_OK);
    assert_int_equal(fake_lease_state(table, granted), TPV_LEASE_FREE);
    assert_int_equal(fake_active(table, export), 1);
    fake_table_free(table);
}

/* A process that is held up in tpv_export_close comes to the leases when the slot has another export. */
static void closing_ends_no_lease_of_another_generation(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(1, 4);
    tpv_export_t export = fake_ready(table, 1);
    tpv_lease_t other = begin(table, export, 1);
    tpv_word_t *generation = &tpv_table_export(table, export.slot)->head.generation;
    assert_int_equal(tpv_export_withdraw(table, export), TPV_OK);
    export.generation++;
    tpv_word_store(generation, export.generation);
    assert_int_equal(tpv_export_close(table, export), TPV_OK);
    assert_int_equal(fake_lease_state(table, other), TPV_LEASE_GRANTED);
    assert_int_equal(tpv_table_counter(table, TPV_COUNT_LEASES_CLOSED), 0);
    tpv_word_store(generation, export.generation - 1);
    export.generation--;
    assert_int_equal(tpv_export_close(table, export), TPV_OK);
    assert_int_equal(fake_lease_state(table, other), TPV_LEASE_FREE);
    assert_int_equal(tpv_table_counter(table, TPV_COUNT_LEASES_CLOSED), 1);
    fake_table_free(table);
}

static uint64_t bytes_done(const tpv_table_t *table, tpv_lease_t lease) {
    return tpv_word_load(&tpv_table_lease(table, lease.slot)->bytes_done) & TPV_MAX_LEASE_BYTES;
}

/* Threads that tell it out of order must not take back what others said. */
static void progress_never_goes_down(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(1, 1);
    tpv_export_t export = fake_ready(table, 1);
    tpv_lease_t lease = begin(table, export, 1);
    assert_int_equal(tpv_lease_attach(table, lease), TPV_OK);
    assert_int_equal(bytes_done(table, lease), 0);
    static const uint64_t told[] = {500, 300, 0, 500, 501, UINT64_C(5) << 32, 502};
    uint64_t most = 0;
    for (size_t i = 0; i < sizeof told / sizeof *told; i++) {
        assert_int_equal(tpv_lease_progress(table, lease, told[i]), TPV_OK);
        most = told[i] > most ? told[i] : most;
        assert_true(bytes_done(table, lease) == most);
    }
    assert_int_equal(tpv_lease_progress(table, lease, TPV_MAX_LEASE_BYTES + 1), TPV_ERR_ARGUMENT);
    assert_true(bytes_done(table, lease) == most);
    assert_true(tpv_lease_end(table, lease));
    /* The next use of the slot begins with nothing. */
    lease = begin(table, export, 2);
    assert_int_equal(bytes_done(table, lease), 0);
    fake_table_free(table);
}

static int64_t moved_ns(const tpv_table_t *table, tpv_export_t export) {
    tpv_export_info_t info;
    assert_int_equal(tpv_export_read(table, export, &info), TPV_OK);
    return info.moved_ns;
}

/* An export's time counts from the last sign that bytes move: each of them by itself, and nothing else. */
static void what_renews_an_export(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(1, 2);
    tpv_export_t export = fake_ready(table, 1);
    assert_true(moved_ns(table, export) == fake_now);
    int64_t then = fake_now++;
    tpv_lease_t lease = begin(table, export, 1), granted = begin(table, export, 2);
    assert_int_equal(tpv_lease_check(table, lease), TPV_OK);
    assert_true(moved_ns(table, export) == then);
    assert_int_equal(tpv_lease_attach(table, lease), TPV_OK);
    assert_true(moved_ns(table, export) == fake_now);
    fake_now++;
    assert_int_equal(tpv_lease_attach(table, lease), TPV_OK);
    assert_true(moved_ns(table, export) == fake_now);
    fake_now++;
    assert_int_equal(tpv_lease_progress(table, lease, 1), TPV_OK);
    assert_true(moved_ns(table, export) == fake_now);
    then = fake_now++;
    assert_int_equal(tpv_lease_check(table, lease), TPV_OK);
    assert_true(tpv_lease_end(table, granted));
    assert_true(moved_ns(table, export) == then);
    assert_true(tpv_lease_end(table, lease));
    assert_true(moved_ns(table, export) == fake_now);
    fake_table_free(table);
}

static void a_full_table_is_swept_once(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(2, 2);
    tpv_export_t export = fake_ready(table, 1);
    begin(table, export, 1);
    fake_self = 2;
    begin(table, export, 2);
    tpv_lease_request_t request = fake_request(3, TTL);
    tpv_lease_t lease;
    fake_self = 1;
    assert_int_equal(tpv_lease_begin(table, export, &request, &lease), TPV_ERR_NO_SPACE);
    fake_kill(2);
    assert_int_equal(tpv_lease_begin(table, export, &request, &lease), TPV_OK);
    assert_int_equal(fake_active(table, export), 2);
    fake_table_free(table);
}

/* A lease slot as a process leaves it that dies in the middle of begin or end. */
static void half_a_begin_and_half_an_end(void **state) {
    (void)state;
    for (int counted = 0; counted < 2; counted++) {
        for (int ending = 0; ending < 2; ending++) {
            tpv_table_t *table = fake_table_new(1, 2);
            tpv_export_t export = fake_ready(table, 1);
            fake_self = 2;
            tpv_lease_t lease = begin(table, export, 1);
            tpv_word_t *lease_word = &tpv_table_lease(table, lease.slot)->head.word;
            tpv_word_t *word = &tpv_table_export(table, 0)->head.word;
            uint64_t now = tpv_word_load(word), lease_now = tpv_word_load(lease_word);
            if (ending) {
                tpv_word_store(lease_word, tpv_lease_word_to(lease_now, TPV_LEASE_ENDING));
                if (counted) tpv_word_store(word, tpv_export_word_next(now, TPV_EXPORT_READY, 0, tpv_step_ended(0)));
            } else {
                tpv_word_store(lease_word, tpv_lease_word_to(lease_now, TPV_LEASE_OPENING));
                tpv_word_store(&tpv_table_lease(table, 0)->head.actor, 2);
                if (!counted) tpv_word_store(word, tpv_export_word_next(now, TPV_EXPORT_READY, 0, 0));
            }
            assert_int_equal(fake_findings(table, false), 0);
            fake_self = 1;
            fake_kill(2);
            /* Somebody else begins before anybody has swept. */
            tpv_lease_t other = begin(table, export, 2);
            assert_int_equal(fake_findings(table, false), 0);
            tpv_table_sweep(table, NULL);
            assert_int_equal(fake_findings(table, false), 0);
            assert_int_equal(fake_active(table, export), 1);
            assert_true(tpv_lease_end(table, other));
            assert_int_equal(fake_active(table, export), 0);
            assert_int_equal(fake_lease_state(table, lease), TPV_LEASE_FREE);
            fake_table_free(table);
        }
    }
}

static void the_checker_finds_and_repairs(void **state) {
    (void)state;
    tpv_table_t *table = fake_table_new(4, 4);
    tpv_export_t export = fake_ready(table, 1), twin = fake_ready(table, 2);
    tpv_lease_t lease = begin(table, export, 1);
    tpv_word_t *word = &tpv_table_export(table, export.slot)->head.word;
    tpv_word_store(word, tpv_export_word_next(tpv_word_load(word), TPV_EXPORT_READY, 3, 0));
    assert_int_equal(fake_findings(table, true), 1);
    assert_int_equal(fake_active(table, export), 1);
    assert_int_equal(fake_findings(table, false), 0);

    tpv_word_t *generation = &tpv_table_export(table, export.slot)->head.generation;
    tpv_word_store(generation, tpv_word_load(generation) + 1);
    assert_true(fake_findings(table, true) >= 1);
    assert_int_equal(fake_lease_state(table, lease), TPV_LEASE_FREE);
    fake_findings(table, true);
    assert_int_equal(fake_findings(table, false), 0);

    tpv_word_t *hash = &tpv_table_export(table, twin.slot)->head.key_hash;
    tpv_word_store(hash, tpv_word_load(&tpv_table_export(table, export.slot)->head.key_hash));
    assert_int_equal(fake_findings(table, true), 1);
    assert_int_equal(fake_export_state(table, twin), TPV_EXPORT_DRAINING);
    assert_int_equal(fake_findings(table, false), 0);

    tpv_word_store(&tpv_table_lease(table, 0)->head.word, 7);
    assert_int_equal(fake_findings(table, true), 1);
    assert_int_equal(fake_findings(table, false), 0);
    fake_table_free(table);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_life),
        cmocka_unit_test(ending_twice_or_nothing_is_harmless),
        cmocka_unit_test(a_repeated_begin_is_the_same_lease),
        cmocka_unit_test(requests_out_of_bounds),
        cmocka_unit_test(no_lease_on_what_is_not_ready),
        cmocka_unit_test(a_fetch_longer_than_the_ttl),
        cmocka_unit_test(renewing_one_does_not_keep_another),
        cmocka_unit_test(a_lease_lives_to_its_deadline_and_not_longer),
        cmocka_unit_test(a_stale_handle_after_its_slot_was_used_again),
        cmocka_unit_test(two_groups_with_the_same_rank),
        cmocka_unit_test(a_dead_owner_loses_its_leases),
        cmocka_unit_test(closing_ends_what_is_not_attached),
        cmocka_unit_test(attaching_to_what_is_being_closed),
        cmocka_unit_test(closing_ends_no_lease_of_another_generation),
        cmocka_unit_test(progress_never_goes_down),
        cmocka_unit_test(what_renews_an_export),
        cmocka_unit_test(a_full_table_is_swept_once),
        cmocka_unit_test(half_a_begin_and_half_an_end),
        cmocka_unit_test(the_checker_finds_and_repairs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
