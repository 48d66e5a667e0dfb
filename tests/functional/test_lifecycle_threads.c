/* The table under many threads of one process, which is what the service is: those who fetch, one who sweeps, one who
 * checks, and one who reads the public list. Mostly for the thread sanitizer. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "common/fake_table.h"

#define FETCHERS 4
#define FETCHES 2000

static char name[33];
static tpv_table_t *table;
static atomic_bool over;
static atomic_int faults;

static void must(bool condition, const char *what) {
    if (condition) return;
    fprintf(stderr, "%s: %s\n", what, tpv_error_message());
    atomic_fetch_add(&faults, 1);
}

static void fetch(unsigned *seed, unsigned number) {
    char view_id[33], lease_id[33];
    snprintf(view_id, sizeof view_id, "%032x", (unsigned)rand_r(seed) % 2);
    snprintf(lease_id, sizeof lease_id, "%016x%016x", *seed, number);
    tpv_export_key_t key = {
        .artifact_id = "0123456789abcdef0123456789abcdef", .view_id = view_id, .device = "host", .label = "model@1"};
    tpv_export_t export;
    tpv_export_role_t role;
    must(tpv_export_acquire(table, &key, tpv_deadline_in(60), &export, &role) == TPV_OK, "acquire");
    if (role == TPV_EXPORT_PREPARE) must(tpv_export_publish(table, export, 1, FAKE_SECOND) == TPV_OK, "publish");
    tpv_lease_request_t request = {.lease_id = lease_id, .ttl_ns = 60 * FAKE_SECOND, .bytes_total = 10, .tp_size = 1};
    tpv_lease_t lease;
    tpv_status_t status = tpv_lease_begin(table, export, &request, &lease);
    if (status == TPV_OK) {
        status = tpv_lease_attach(table, lease);
        for (unsigned i = 1; status == TPV_OK && i <= 10; i++)
            status = tpv_lease_progress(table, lease, i);
        /* Once attached nothing but we ends it. */
        if (status == TPV_OK) must(tpv_lease_end(table, lease), "end");
    }
    must(status == TPV_OK || status == TPV_ERR_STALE || status == TPV_ERR_REFUSED, "lease");
    if (rand_r(seed) % 4 != 0) return;
    status = tpv_export_withdraw(table, export);
    if (status == TPV_OK) status = tpv_export_close(table, export);
    if (status == TPV_OK) status = tpv_export_wait_idle(table, export, tpv_deadline_in(60));
    if (status == TPV_OK) status = tpv_export_free(table, export);
    must(status == TPV_OK || status == TPV_ERR_STALE, "retire");
}

static void *fetch_many(void *user) {
    unsigned seed = (unsigned)(uintptr_t)user;
    for (unsigned i = 0; i < FETCHES; i++)
        fetch(&seed, i);
    return NULL;
}

static void *sweep(void *user) {
    (void)user;
    while (!atomic_load(&over)) {
        tpv_sweep_report_t report;
        tpv_table_sweep(table, &report);
        must(report.leases_orphaned + report.leases_expired + report.leases_revoked == 0, "sweep");
        usleep(100);
    }
    return NULL;
}

static void tell(void *user, const char *text) {
    (void)user;
    fprintf(stderr, "finding: %s\n", text);
}

static void *check(void *user) {
    (void)user;
    while (!atomic_load(&over)) {
        uint32_t findings = 0;
        tpv_status_t status = tpv_table_check(table, false, tell, NULL, &findings);
        must((status == TPV_OK || status == TPV_ERR_REFUSED) && findings == 0, "check");
        usleep(100);
    }
    return NULL;
}

static void *list(void *user) {
    (void)user;
    while (!atomic_load(&over)) {
        tpv_lease_info_t *leases;
        size_t count;
        must(tpv_leases_read(name, &leases, &count) == TPV_OK, "list");
        for (size_t i = 0; i < count; i++) {
            bool whole = strcmp(leases[i].artifact, "model@1") == 0 && leases[i].bytes_total == 10 &&
                         leases[i].bytes_done <= 10 && leases[i].pid == getpid() && leases[i].tp_size == 1 &&
                         leases[i].expires_in_s > 0 && leases[i].expires_in_s < 61;
            must(whole && leases[i].state >= TPV_EXPORT_READY && leases[i].state <= TPV_EXPORT_CLOSED, "a mixed copy");
        }
        free(leases);
        usleep(100);
    }
    return NULL;
}

static void everything_at_once(void **state) {
    (void)state;
    snprintf(name, sizeof name, "threads-%d", (int)getpid());
    assert_int_equal(tpv_table_open(name, TPV_OPEN_CREATE, &table), TPV_OK);
    pthread_t fetchers[FETCHERS], others[3];
    for (uintptr_t i = 0; i < FETCHERS; i++)
        assert_int_equal(pthread_create(&fetchers[i], NULL, fetch_many, (void *)(i + 1)), 0);
    assert_int_equal(pthread_create(&others[0], NULL, sweep, NULL), 0);
    assert_int_equal(pthread_create(&others[1], NULL, check, NULL), 0);
    assert_int_equal(pthread_create(&others[2], NULL, list, NULL), 0);
    for (int i = 0; i < FETCHERS; i++)
        pthread_join(fetchers[i], NULL);
    atomic_store(&over, true);
    for (int i = 0; i < 3; i++)
        pthread_join(others[i], NULL);
    assert_int_equal(tpv_table_remove(name), TPV_OK);
    assert_int_equal(atomic_load(&faults), 0);
    assert_int_equal(fake_findings(table, false), 0);
    assert_true(tpv_table_counter(table, TPV_COUNT_LEASES_ENDED) > FETCHES);
    for (uint32_t i = 0; i < tpv_slots_used(&table->leases); i++)
        assert_int_equal(fake_lease_state(table, (tpv_lease_t){.slot = i}), TPV_LEASE_FREE);
    tpv_table_close(table);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(everything_at_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
