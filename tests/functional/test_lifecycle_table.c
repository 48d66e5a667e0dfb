/* The table's file: made once, refused when it is not ours, and the public read side on it. */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/child.h"
#include "common/fake_table.h"
#include "lifecycle/file.h"

static char name[33];
static char path[96];

static int set_up(void **state) {
    (void)state;
    snprintf(name, sizeof name, "table-%d", (int)getpid());
    snprintf(path, sizeof path, "/dev/shm/tpview-%s-%u", name, (unsigned)geteuid());
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    return unlink(path) == 0 || access(path, F_OK) != 0 ? 0 : -1;
}

static tpv_table_t *open_table(void) {
    tpv_table_t *table;
    assert_int_equal(tpv_table_open(name, TPV_OPEN_CREATE, &table), TPV_OK);
    return table;
}

static void it_is_made_once(void **state) {
    (void)state;
    tpv_table_t *table, *again;
    assert_int_equal(tpv_table_open(name, TPV_OPEN_WRITE, &table), TPV_ERR_NOT_FOUND);
    assert_int_equal(tpv_table_open(name, TPV_OPEN_READ, &table), TPV_ERR_NOT_FOUND);
    table = open_table();
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 07777, 0600);
    assert_int_equal(info.st_nlink, 1);
    assert_int_equal(info.st_size, tpv_table_bytes(TPV_EXPORT_SLOTS, TPV_LEASE_SLOTS));
    again = open_table();
    assert_int_equal(again->header->epoch, table->header->epoch);
    tpv_export_t export = fake_ready(table, 1);
    tpv_export_info_t seen;
    assert_int_equal(tpv_export_read(again, export, &seen), TPV_OK);
    tpv_table_close(again);
    tpv_table_close(table);
    table = open_table();
    assert_int_equal(tpv_export_read(table, export, &seen), TPV_OK);
    tpv_table_close(table);
    assert_int_equal(tpv_table_remove(name), TPV_OK);
    assert_int_equal(tpv_table_remove(name), TPV_OK);
    assert_int_equal(access(path, F_OK), -1);
}

static void bad_names_are_refused(void **state) {
    (void)state;
    static const char *const bad[] = {"", "a/b", "../x", "a b", "0123456789012345678901234567890123"};
    tpv_table_t *table;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(tpv_table_open(bad[i], TPV_OPEN_CREATE, &table), TPV_ERR_ARGUMENT);
}

static void what_is_not_ours_alone_is_refused(void **state) {
    (void)state;
    tpv_table_t *table = open_table();
    tpv_table_close(table);
    assert_int_equal(chmod(path, 0644), 0);
    assert_int_equal(tpv_table_open(name, TPV_OPEN_CREATE, &table), TPV_ERR_PERMISSION);
    assert_non_null(strstr(tpv_error_message(), "mode 0644"));
    unlink(path);
    char target[128];
    snprintf(target, sizeof target, "%s-target", path);
    close(open(target, O_CREAT | O_RDWR, 0600));
    assert_int_equal(symlink(target, path), 0);
    assert_int_equal(tpv_table_open(name, TPV_OPEN_CREATE, &table), TPV_ERR_PERMISSION);
    assert_non_null(strstr(tpv_error_message(), "symbolic link"));
    unlink(target);
    unlink(path);
    assert_int_equal(mkdir(path, 0600), 0);
    assert_int_not_equal(tpv_table_open(name, TPV_OPEN_CREATE, &table), TPV_OK);
    rmdir(path);
}

/* Anybody may take the name first. */
static void a_table_of_another_user_is_told_with_its_owner(void **state) {
    (void)state;
    tpv_table_t *table;
    close(open(path, O_CREAT | O_RDWR, 0600));
    if (chown(path, 1234, 1234) != 0) { /* needs root */
        unlink(path);
        skip();
    }
    assert_int_equal(tpv_table_open(name, TPV_OPEN_CREATE, &table), TPV_ERR_PERMISSION);
    assert_non_null(strstr(tpv_error_message(), path));
    assert_non_null(strstr(tpv_error_message(), "belongs to user 1234"));
    assert_non_null(strstr(tpv_error_message(), "TPVIEW_NAMESPACE"));
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_size, 0);
    unlink(path);
}

/* Change the header of the table's file. */
static void patch(size_t offset, const void *bytes, size_t count) {
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, count, (off_t)offset), count);
    close(fd);
}

static void a_foreign_layout_is_refused_by_name(void **state) {
    (void)state;
    static const struct {
        size_t offset, bytes;
        tpv_status_t status;
        const char *text;
    } faults[] = {
        {offsetof(tpv_table_header_t, magic), 8, TPV_ERR_FORMAT, "magic"},
        {offsetof(tpv_table_header_t, signature), 8, TPV_ERR_FORMAT, "layout signature"},
        {offsetof(tpv_table_header_t, header_bytes), 4, TPV_ERR_FORMAT, "header's size"},
        {offsetof(tpv_table_header_t, export_slots), 4, TPV_ERR_FORMAT, "number of export slots"},
        {offsetof(tpv_table_header_t, export_bytes), 4, TPV_ERR_FORMAT, "size of an export slot"},
        {offsetof(tpv_table_header_t, lease_slots), 4, TPV_ERR_FORMAT, "number of lease slots"},
        {offsetof(tpv_table_header_t, lease_bytes), 4, TPV_ERR_FORMAT, "size of a lease slot"},
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        tpv_table_t *table = open_table();
        tpv_table_close(table);
        patch(faults[i].offset, "\x01\x02\x03\x04\x05\x06\x07\x08", faults[i].bytes);
        assert_int_equal(tpv_table_open(name, TPV_OPEN_CREATE, &table), faults[i].status);
        assert_non_null(strstr(tpv_error_message(), faults[i].text));
        tpv_lease_info_t *leases;
        size_t count;
        assert_int_equal(tpv_leases_read(name, &leases, &count), faults[i].status);
        unlink(path);
    }
    int fd = open(path, O_CREAT | O_RDWR, 0600);
    assert_int_equal(write(fd, "short", 5), 5);
    close(fd);
    tpv_table_t *table;
    assert_int_equal(tpv_table_open(name, TPV_OPEN_CREATE, &table), TPV_ERR_FORMAT);
    assert_non_null(strstr(tpv_error_message(), "5 bytes"));
    unlink(path);
    table = open_table();
    tpv_table_close(table);
    assert_int_equal(truncate(path, 1 << 20), 0);
    assert_int_equal(tpv_table_open(name, TPV_OPEN_CREATE, &table), TPV_ERR_FORMAT);
    assert_non_null(strstr(tpv_error_message(), "length"));
}

/* ---- tables of another boot or container ---- */

static const struct {
    size_t offset;
    const char *what;
} places[] = {
    {offsetof(tpv_table_header_t, boot_id), "boot"},
    {offsetof(tpv_table_header_t, pid_namespace), "pid namespace"},
    {offsetof(tpv_table_header_t, time_namespace), "time namespace"},
};

static void move_elsewhere(size_t place) {
    patch(places[place].offset, "01234567", 8);
}

static void assert_refused(size_t place) {
    static const tpv_open_t modes[] = {TPV_OPEN_READ, TPV_OPEN_WRITE, TPV_OPEN_CREATE};
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        tpv_table_t *table;
        assert_int_equal(tpv_table_open(name, modes[i], &table), TPV_ERR_UNSUPPORTED);
        assert_non_null(strstr(tpv_error_message(), places[place].what));
        assert_non_null(strstr(tpv_error_message(), "TPVIEW_NAMESPACE"));
    }
    tpv_lease_info_t *leases;
    size_t count;
    assert_int_equal(tpv_leases_read(name, &leases, &count), TPV_ERR_UNSUPPORTED);
}

static void an_abandoned_table_is_replaced(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        tpv_table_t *table = open_table();
        uint64_t epoch = table->header->epoch;
        tpv_export_t export = fake_ready(table, 1);
        char view[TPV_EXPORT_PATH_MAX];
        tpv_export_file_path(table, export, view);
        close(open(view, O_CREAT | O_RDWR, 0600));
        tpv_table_close(table);
        move_elsewhere(i);
        if (i == 0) patch(offsetof(tpv_table_header_t, export_bytes), "\1", 1); /* an earlier build's, too */
        assert_int_equal(tpv_table_open(name, TPV_OPEN_READ, &table), TPV_ERR_STALE);
        assert_int_equal(tpv_table_open(name, TPV_OPEN_WRITE, &table), TPV_ERR_STALE);
        tpv_lease_info_t *leases;
        size_t count;
        assert_int_equal(tpv_leases_read(name, &leases, &count), TPV_OK);
        assert_int_equal(count, 0);
        assert_int_equal(access(view, F_OK), 0);
        table = open_table();
        assert_int_not_equal(table->header->epoch, epoch);
        assert_int_equal(tpv_slots_used(&table->exports), 0);
        assert_int_equal(access(view, F_OK), -1);
        tpv_table_close(table);
    }
}

static void a_living_stranger_keeps_its_table(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        tpv_table_t *held = open_table(), *again = open_table();
        move_elsewhere(i);
        assert_refused(i);
        tpv_table_close(held);
        assert_refused(i);
        tpv_table_close(again);
        tpv_table_close(open_table());
    }
}

static int hold(void *argument) {
    (void)argument;
    for (;;)
        pause();
    return 0;
}

/* A forked child goes on with the table, and a death without a word ends its claim. */
static void a_forked_child_holds_it_until_it_is_killed(void **state) {
    (void)state;
    tpv_table_t *table = open_table();
    uint64_t epoch = table->header->epoch;
    pid_t child = child_start(hold, NULL);
    tpv_table_close(table);
    move_elsewhere(1);
    assert_refused(1);
    kill(child, SIGKILL);
    assert_int_equal(child_wait(child, 30), -1);
    table = open_table();
    assert_int_not_equal(table->header->epoch, epoch);
    tpv_table_close(table);
}

/* Somebody who looks on keeps no table: it has nothing in it. */
static void a_reader_is_no_holder(void **state) {
    (void)state;
    tpv_table_t *table = open_table(), *reader;
    assert_int_equal(tpv_table_open(name, TPV_OPEN_READ, &reader), TPV_OK);
    tpv_table_close(table);
    move_elsewhere(1);
    tpv_table_close(open_table());
    tpv_table_close(reader);
}

/* ---- at the same time ---- */

/* In place of the C library's in this program, so that something can happen right before or after: once. */
typedef void (*event_t)(void);
static _Atomic event_t before_unlink, after_fstat; /* any thread takes it */

static void happen(_Atomic event_t *event) {
    event_t now = atomic_exchange(event, NULL);
    if (now) now();
}

int unlink(const char *file) {
    happen(&before_unlink);
    return unlinkat(AT_FDCWD, file, 0);
}

int fstat(int fd, struct stat *info) {
    int result = fstatat(fd, "", info, AT_EMPTY_PATH);
    happen(&after_fstat);
    return result;
}

static bool is_the_one(const tpv_table_t *table) {
    struct stat present, mapped;
    return stat(path, &present) == 0 && fstat(table->claim, &mapped) == 0 && present.st_ino == mapped.st_ino;
}

static void open_while_replaced(void) {
    tpv_table_t *table;
    assert_int_equal(tpv_table_open(name, TPV_OPEN_CREATE, &table), TPV_ERR_REFUSED);
    assert_non_null(strstr(tpv_error_message(), "being replaced"));
}

/* A second one would take away what the first has put in its place. */
static void one_at_a_time_replaces_it(void **state) {
    (void)state;
    tpv_table_close(open_table());
    move_elsewhere(1);
    before_unlink = open_while_replaced;
    tpv_table_t *table = open_table();
    assert_null(before_unlink);
    assert_true(is_the_one(table));
    tpv_table_close(table);
}

static void take_the_name_away(void) {
    assert_int_equal(unlink(path), 0);
}

/* It was free when it was looked at, and replaced by others before it was claimed. */
static void what_was_replaced_before_the_claim_is_not_used(void **state) {
    (void)state;
    tpv_table_close(open_table());
    after_fstat = take_the_name_away;
    tpv_table_t *table = open_table();
    assert_null(after_fstat);
    assert_true(is_the_one(table));
    tpv_table_close(table);
}

#define TAKERS 8
#define ROUNDS 50

static pthread_barrier_t start;

static void *take_over(void *argument) {
    tpv_table_t **table = argument;
    for (int i = 0; i < ROUNDS; i++) {
        pthread_barrier_wait(&start);
        *table = NULL;
        if (tpv_table_open(name, TPV_OPEN_CREATE, table) != TPV_OK) print_error("%s\n", tpv_error_message());
        pthread_barrier_wait(&start);
        pthread_barrier_wait(&start); /* looked at */
        tpv_table_close(*table);
    }
    return NULL;
}

static void many_who_replace_it_at_once_meet_in_one(void **state) {
    (void)state;
    pthread_t threads[TAKERS];
    tpv_table_t *tables[TAKERS];
    tpv_table_close(open_table());
    pthread_barrier_init(&start, NULL, TAKERS + 1);
    for (int i = 0; i < TAKERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, take_over, &tables[i]), 0);
    for (int round = 0; round < ROUNDS; round++) {
        move_elsewhere(1);
        pthread_barrier_wait(&start);
        pthread_barrier_wait(&start);
        for (int i = 0; i < TAKERS; i++)
            assert_true(tables[i] && is_the_one(tables[i]));
        pthread_barrier_wait(&start);
    }
    for (int i = 0; i < TAKERS; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&start);
}

static void the_public_list(void **state) {
    (void)state;
    tpv_lease_info_t *leases = NULL;
    size_t count = 7;
    assert_int_equal(tpv_leases_read(name, &leases, &count), TPV_OK);
    assert_int_equal(count, 0);
    assert_null(leases);
    assert_int_equal(tpv_leases_read("a/b", &leases, &count), TPV_ERR_ARGUMENT);

    tpv_table_t *table = open_table();
    tpv_export_t export = fake_ready(table, 5);
    tpv_lease_t held[20];
    for (unsigned i = 0; i < 20; i++) {
        tpv_lease_request_t request = fake_request(100 + i, 50 * FAKE_SECOND);
        request.tp_rank = i;
        request.tp_size = 32;
        assert_int_equal(tpv_lease_begin(table, export, &request, &held[i]), TPV_OK);
    }
    assert_int_equal(tpv_lease_attach(table, held[3]), TPV_OK);
    assert_int_equal(tpv_lease_progress(table, held[3], 321), TPV_OK);
    assert_true(tpv_lease_end(table, held[0]));
    assert_int_equal(tpv_export_withdraw(table, export), TPV_OK);
    assert_int_equal(tpv_leases_read(name, &leases, &count), TPV_OK);
    assert_int_equal(count, 19);
    const tpv_lease_info_t *info = &leases[2];
    assert_string_equal(info->lease_id, "00000000000000000000000000000067");
    assert_string_equal(info->artifact, "model@1");
    assert_string_equal(info->artifact_id, "0123456789abcdef0123456789abcdef");
    assert_string_equal(info->view_id, "00000000000000000000000000000005");
    assert_string_equal(info->device, "host");
    assert_string_equal(info->host, "rank-host");
    assert_int_equal(info->state, TPV_EXPORT_DRAINING);
    assert_int_equal(info->lease_state, TPV_LEASE_ATTACHED);
    assert_int_equal(leases[3].lease_state, TPV_LEASE_GRANTED);
    assert_int_equal(info->generation, export.generation);
    assert_int_equal(info->pid, getpid());
    assert_int_equal(info->alive, 1);
    assert_int_equal(info->rank_pid, 7);
    assert_int_equal(info->tp_rank, 3);
    assert_int_equal(info->tp_size, 32);
    assert_int_equal(info->bytes_done, 321);
    assert_int_equal(info->bytes_total, 1000);
    assert_true(info->age_s >= 0 && info->age_s < 40);
    assert_true(info->expires_in_s > 5 && info->expires_in_s < 51);
    free(leases);
    tpv_table_close(table);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(it_is_made_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bad_names_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_not_ours_alone_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_table_of_another_user_is_told_with_its_owner, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_foreign_layout_is_refused_by_name, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_abandoned_table_is_replaced, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_living_stranger_keeps_its_table, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_forked_child_holds_it_until_it_is_killed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_reader_is_no_holder, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_at_a_time_replaces_it, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_was_replaced_before_the_claim_is_not_used, set_up, tear_down),
        cmocka_unit_test_setup_teardown(many_who_replace_it_at_once_meet_in_one, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_public_list, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
