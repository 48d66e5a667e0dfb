/* The table under several processes, some of which are killed at any moment. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/process.h"
#include "common/fake_table.h"
#include "lifecycle/words.h"

#define MS TPV_NS_PER_MS
#define WORKERS 6
#define LIMIT_S 60 /* on a loaded machine too */

static char name[33];

static int set_up(void **state) {
    (void)state;
    snprintf(name, sizeof name, "procs-%d", (int)getpid());
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    return tpv_table_remove(name) == TPV_OK ? 0 : -1;
}

static tpv_table_t *open_table(void) {
    tpv_table_t *table = NULL;
    if (tpv_table_open(name, TPV_OPEN_CREATE, &table) != TPV_OK) {
        fprintf(stderr, "%s\n", tpv_error_message());
        _exit(9);
    }
    return table;
}

/* In a child: end it when `condition` does not hold. */
static void must(bool condition, const char *what) {
    if (condition) return;
    fprintf(stderr, "process %d: %s: %s\n", (int)getpid(), what, tpv_error_message());
    _exit(1);
}

/* fork(), and the child dies with this process: a failed test leaves nobody behind. */
static pid_t start(void) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) prctl(PR_SET_PDEATHSIG, SIGKILL);
    return child;
}

static int wait_for(pid_t child) {
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static uint32_t count_slots_in_use(const tpv_table_t *table) {
    uint32_t used = 0;
    for (uint32_t i = 0; i < tpv_slots_used(&table->exports); i++) {
        const tpv_slot_head_t *head = tpv_slots_at(&table->exports, i);
        used += (tpv_word_load(&head->word) & TPV_WORD_STATE_MASK) != 0 || tpv_word_load(&head->actor) != 0;
        used += tpv_export_word_active(tpv_word_load(&head->word)) != 0;
    }
    for (uint32_t i = 0; i < tpv_slots_used(&table->leases); i++) {
        const tpv_slot_head_t *head = tpv_slots_at(&table->leases, i);
        used += (tpv_word_load(&head->word) & TPV_WORD_STATE_MASK) != 0 || tpv_word_load(&head->actor) != 0;
    }
    return used;
}

/* Many creators at once: one table, and nothing else left in the folder. */
static void creators_at_the_same_time(void **state) {
    (void)state;
    for (int round = 0; round < 20; round++) {
        int gate[2], answers[2];
        assert_int_equal(pipe(gate), 0);
        assert_int_equal(pipe(answers), 0);
        pid_t children[8];
        for (int i = 0; i < 8; i++) {
            children[i] = start();
            if (children[i] == 0) {
                char go;
                close(gate[1]);
                must(read(gate[0], &go, 1) == 0, "gate");
                uint64_t epoch = open_table()->header->epoch;
                must(write(answers[1], &epoch, 8) == 8, "answer");
                _exit(0);
            }
        }
        close(gate[0]);
        close(gate[1]);
        uint64_t first = 0, epoch;
        for (int i = 0; i < 8; i++) {
            assert_int_equal(read(answers[0], &epoch, 8), 8);
            if (i == 0) first = epoch;
            assert_true(epoch == first);
        }
        for (int i = 0; i < 8; i++)
            assert_int_equal(wait_for(children[i]), 0);
        close(answers[0]);
        close(answers[1]);
        assert_int_equal(tpv_table_remove(name), TPV_OK);
    }
}

/* One of many gets to prepare; the rest waits and shares, though nobody looks at a clock. */
static void equal_requests_share_one_preparation(void **state) {
    (void)state;
    tpv_table_t *table = open_table();
    pid_t children[8];
    for (int i = 0; i < 8; i++) {
        children[i] = start();
        if (children[i] == 0) {
            tpv_export_key_t key = fake_key(1);
            tpv_export_t export;
            tpv_export_role_t role;
            must(tpv_export_acquire(table, &key, tpv_deadline_in(LIMIT_S), &export, &role) == TPV_OK, "acquire");
            if (role == TPV_EXPORT_PREPARE) {
                /* Others come meanwhile; should none come in a second, the counter below tells. */
                int64_t until = tpv_deadline_in(1);
                while (tpv_table_counter(table, TPV_COUNT_EXPORTS_COALESCED) < 3 && !tpv_deadline_passed(until))
                    usleep(1000);
                must(tpv_export_publish(table, export, 1, FAKE_SECOND) == TPV_OK, "publish");
                pause(); /* the owner lives on */
            }
            _exit(0);
        }
    }
    /* Exactly one of them stays. */
    for (int done = 0; done < 7; done++) {
        int status;
        pid_t child = wait(&status);
        assert_true(child > 0);
        assert_int_equal(status, 0);
        for (int i = 0; i < 8; i++)
            if (children[i] == child) children[i] = 0;
    }
    assert_int_equal(tpv_table_counter(table, TPV_COUNT_EXPORTS_CREATED), 1);
    /* Counted after the others may go on. */
    for (int64_t until = tpv_deadline_in(LIMIT_S);
         tpv_table_counter(table, TPV_COUNT_EXPORTS_PUBLISHED) == 0 && !tpv_deadline_passed(until);)
        usleep(1000);
    assert_int_equal(tpv_table_counter(table, TPV_COUNT_EXPORTS_PUBLISHED), 1);
    assert_int_equal(
        tpv_table_counter(table, TPV_COUNT_EXPORTS_REUSED) + tpv_table_counter(table, TPV_COUNT_EXPORTS_COALESCED), 7);
    for (int i = 0; i < 8; i++) {
        if (children[i] == 0) continue;
        kill(children[i], SIGKILL);
        wait_for(children[i]);
    }
    tpv_table_sweep(table, NULL);
    assert_int_equal(count_slots_in_use(table), 0);
    tpv_table_close(table);
}

/* Waiters look whether it lives: without that, they would wait until their deadline. */
static void a_killed_preparer_is_followed(void **state) {
    (void)state;
    tpv_table_t *table = open_table();
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t first = start();
    if (first == 0) {
        tpv_export_key_t key = fake_key(1);
        tpv_export_t export;
        tpv_export_role_t role;
        must(tpv_export_find(table, &key, &export, &role) == TPV_OK && role == TPV_EXPORT_PREPARE, "find");
        must(write(ready[1], "x", 1) == 1, "tell");
        pause();
    }
    char byte;
    assert_int_equal(read(ready[0], &byte, 1), 1);
    pid_t waiters[4];
    for (int i = 0; i < 4; i++) {
        waiters[i] = start();
        if (waiters[i] == 0) {
            tpv_export_key_t key = fake_key(1);
            tpv_export_t export;
            tpv_export_role_t role;
            must(tpv_export_acquire(table, &key, tpv_deadline_in(LIMIT_S), &export, &role) == TPV_OK, "acquire");
            if (role == TPV_EXPORT_PREPARE)
                must(tpv_export_publish(table, export, 1, FAKE_SECOND) == TPV_OK, "publish");
            must(write(ready[1], role == TPV_EXPORT_PREPARE ? "p" : "u", 1) == 1, "tell");
            pause();
        }
    }
    while (tpv_table_counter(table, TPV_COUNT_EXPORTS_COALESCED) < 4)
        usleep(1000);
    int64_t start = tpv_clock_ns();
    kill(first, SIGKILL);
    wait_for(first);
    int prepared = 0;
    for (int i = 0; i < 4; i++) {
        assert_int_equal(read(ready[0], &byte, 1), 1);
        prepared += byte == 'p';
    }
    int64_t took = tpv_clock_ns() - start;
    print_message("taken over and shared after %lld ms\n", (long long)(took / MS));
    assert_int_equal(prepared, 1);
    assert_int_equal(tpv_table_counter(table, TPV_COUNT_EXPORTS_TAKEN_OVER), 1);
    for (int i = 0; i < 4; i++) {
        kill(waiters[i], SIGKILL);
        wait_for(waiters[i]);
    }
    tpv_table_sweep(table, NULL);
    assert_int_equal(count_slots_in_use(table), 0);
    close(ready[0]);
    close(ready[1]);
    tpv_table_close(table);
}

static void waiting_ends_with_the_callers_deadline(void **state) {
    (void)state;
    tpv_table_t *table = open_table();
    tpv_export_key_t key = fake_key(1);
    tpv_export_t export;
    tpv_export_role_t role;
    assert_int_equal(tpv_export_find(table, &key, &export, &role), TPV_OK);
    int64_t start = tpv_clock_ns();
    assert_int_equal(tpv_export_wait(table, export, start + 250 * MS, &role), TPV_ERR_DEADLINE);
    assert_true(tpv_clock_ns() - start >= 250 * MS);
    tpv_table_close(table);
}

/* A drain waits for a lease that is held by a process that gets killed. */
static void draining_does_not_wait_for_the_dead(void **state) {
    (void)state;
    tpv_table_t *table = open_table();
    tpv_export_t export = fake_ready(table, 1);
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t holder = start();
    if (holder == 0) {
        tpv_lease_request_t request = fake_request(1, TPV_DEADLINE_NEVER);
        tpv_lease_t lease;
        must(tpv_lease_begin(table, export, &request, &lease) == TPV_OK, "begin");
        must(tpv_lease_attach(table, lease) == TPV_OK, "attach");
        must(write(ready[1], "x", 1) == 1, "tell");
        pause();
    }
    char byte;
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(tpv_export_withdraw(table, export), TPV_OK);
    assert_int_equal(tpv_export_close(table, export), TPV_OK);
    assert_int_equal(tpv_export_wait_idle(table, export, tpv_deadline_in(0.3)), TPV_ERR_DEADLINE);
    kill(holder, SIGKILL);
    /* Not waited for: a zombie is dead. */
    assert_int_equal(tpv_export_wait_idle(table, export, tpv_deadline_in(LIMIT_S)), TPV_OK);
    assert_int_equal(tpv_export_free(table, export), TPV_OK);
    wait_for(holder);
    close(ready[0]);
    close(ready[1]);
    tpv_table_close(table);
}

/* ---- random work and random deaths ---- */

static unsigned draw(unsigned *seed, unsigned below) {
    return (unsigned)rand_r(seed) % below;
}

/* Linger, so that deaths hit every stage. */
static void maybe_linger(unsigned *seed) {
    if (draw(seed, 8) == 0) usleep(draw(seed, 2000));
}

static void one_fetch(const tpv_table_t *table, unsigned *seed) {
    tpv_export_key_t key = fake_key(draw(seed, 3));
    tpv_export_t export;
    tpv_export_role_t role;
    tpv_status_t status = tpv_export_acquire(table, &key, tpv_deadline_in(LIMIT_S), &export, &role);
    if (status == TPV_ERR_CANCELLED) return; /* somebody failed it on purpose, below */
    must(status == TPV_OK, "acquire");
    if (role == TPV_EXPORT_PREPARE) {
        maybe_linger(seed);
        unsigned outcome = draw(seed, 8);
        if (outcome == 0) must(tpv_export_fail(table, export, TPV_ERR_CANCELLED, MS) == TPV_OK, "fail");
        if (outcome == 1) must(tpv_export_abandon(table, export) == TPV_OK, "abandon");
        if (outcome <= 1) return;
        must(tpv_export_publish(table, export, 1, FAKE_SECOND) == TPV_OK, "publish");
    }
    char id[33];
    snprintf(id, sizeof id, "%016x%08x%08x", (unsigned)getpid(), (unsigned)rand_r(seed), draw(seed, 4));
    tpv_lease_request_t request = fake_request(0, LIMIT_S * FAKE_SECOND);
    request.lease_id = id;
    tpv_lease_t lease;
    status = tpv_lease_begin(table, export, &request, &lease);
    if (status == TPV_OK) {
        maybe_linger(seed);
        status = tpv_lease_attach(table, lease);
        /* As long as it is attached, its export is there. */
        tpv_export_info_t info;
        for (unsigned i = 0; status == TPV_OK && i < draw(seed, 20); i++) {
            must(tpv_export_read(table, export, &info) == TPV_OK && info.active > 0, "export under a lease");
            maybe_linger(seed);
            status = tpv_lease_progress(table, lease, i);
        }
        if (status == TPV_OK) must(tpv_lease_end(table, lease), "end");
    }
    must(status == TPV_OK || status == TPV_ERR_STALE || status == TPV_ERR_REFUSED, "fetch");
    if (draw(seed, 4) != 0) return;
    /* Retire it, whoever made it. */
    status = tpv_export_withdraw(table, export);
    if (status == TPV_OK) status = tpv_export_close(table, export);
    if (status == TPV_OK) status = tpv_export_wait_idle(table, export, tpv_deadline_in(LIMIT_S));
    if (status == TPV_OK) status = tpv_export_free(table, export);
    must(status == TPV_OK || status == TPV_ERR_STALE, "retire");
}

static pid_t start_worker(const tpv_table_t *table, unsigned seed) {
    pid_t child = start();
    if (child != 0) return child;
    for (;;) {
        one_fetch(table, &seed);
        if (draw(&seed, 16) == 0) tpv_table_sweep(table, NULL);
    }
}

static void random_deaths_leave_nothing(void **state) {
    (void)state;
    tpv_table_t *table = open_table();
    const char *rounds_text = getenv("ROUNDS"), *seed_text = getenv("SEED");
    int rounds = rounds_text ? atoi(rounds_text) : 5;
    unsigned seed = seed_text ? (unsigned)atoi(seed_text) : (unsigned)tpv_clock_ns();
    print_message("seed %u\n", seed);
    for (int round = 0; round < rounds; round++) {
        pid_t workers[WORKERS];
        for (int i = 0; i < WORKERS; i++)
            workers[i] = start_worker(table, seed + (unsigned)(round * 1000 + i));
        for (int kills = 0; kills < 40; kills++) {
            usleep(draw(&seed, 10000));
            int victim = (int)draw(&seed, WORKERS);
            kill(workers[victim], SIGKILL);
            int status = wait_for(workers[victim]);
            assert_true(WIFSIGNALED(status));
            workers[victim] = start_worker(table, seed + (unsigned)(round * 1000 + kills + 100));
            /* At every instant, half-done steps and all. */
            assert_int_equal(fake_findings(table, false), 0);
        }
        for (int i = 0; i < WORKERS; i++) {
            kill(workers[i], SIGKILL);
            assert_true(WIFSIGNALED(wait_for(workers[i])));
        }
        usleep(2000); /* until failed exports may be tried again */
        tpv_table_sweep(table, NULL);
        assert_int_equal(fake_findings(table, false), 0);
        assert_int_equal(count_slots_in_use(table), 0);
    }
    print_message("%llu leases begun, %llu of dead owners; %llu exports created, %llu taken over, %llu freed\n",
                  (unsigned long long)tpv_table_counter(table, TPV_COUNT_LEASES_BEGUN),
                  (unsigned long long)tpv_table_counter(table, TPV_COUNT_LEASES_ORPHANED),
                  (unsigned long long)tpv_table_counter(table, TPV_COUNT_EXPORTS_CREATED),
                  (unsigned long long)tpv_table_counter(table, TPV_COUNT_EXPORTS_TAKEN_OVER),
                  (unsigned long long)tpv_table_counter(table, TPV_COUNT_EXPORTS_FREED));
    tpv_table_close(table);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(creators_at_the_same_time, set_up, tear_down),
        cmocka_unit_test_setup_teardown(equal_requests_share_one_preparation, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_killed_preparer_is_followed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(waiting_ends_with_the_callers_deadline, set_up, tear_down),
        cmocka_unit_test_setup_teardown(draining_does_not_wait_for_the_dead, set_up, tear_down),
        cmocka_unit_test_setup_teardown(random_deaths_leave_nothing, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
