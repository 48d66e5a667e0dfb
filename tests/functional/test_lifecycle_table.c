/* The table's file: made once, refused when it is not ours, and the public read side on it. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/process.h"
#include "common/fake_table.h"

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
        {offsetof(tpv_table_header_t, pid_namespace), 8, TPV_ERR_UNSUPPORTED, "pid namespace"},
        {offsetof(tpv_table_header_t, time_namespace), 8, TPV_ERR_UNSUPPORTED, "time namespace"},
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

static void a_table_of_an_earlier_boot_is_replaced(void **state) {
    (void)state;
    tpv_table_t *table = open_table();
    uint64_t epoch = table->header->epoch;
    fake_ready(table, 1);
    tpv_table_close(table);
    patch(offsetof(tpv_table_header_t, boot_id), "00000000", 8);
    patch(offsetof(tpv_table_header_t, export_bytes), "\1", 1); /* an earlier build's, too */
    assert_int_equal(tpv_table_open(name, TPV_OPEN_WRITE, &table), TPV_ERR_NOT_FOUND);
    tpv_lease_info_t *leases;
    size_t count;
    assert_int_equal(tpv_leases_read(name, &leases, &count), TPV_OK);
    assert_int_equal(count, 0);
    table = open_table();
    assert_int_not_equal(table->header->epoch, epoch);
    assert_int_equal(tpv_slots_used(&table->exports), 0);
    tpv_table_close(table);
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

static void who_a_process_is(void **state) {
    (void)state;
    uint64_t self = tpv_process_self(), other;
    assert_int_equal(tpv_process_pid(self), getpid());
    assert_true(tpv_process_alive(self));
    assert_false(tpv_process_alive(self + 1)); /* the same pid, started at another time */
    assert_false(tpv_process_alive(0));
    assert_int_equal(tpv_process_of(getpid(), &other), TPV_OK);
    assert_true(other == self);
    assert_int_equal(tpv_process_of(0x3fffff, &other), TPV_ERR_NOT_FOUND);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(it_is_made_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bad_names_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_not_ours_alone_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_foreign_layout_is_refused_by_name, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_table_of_an_earlier_boot_is_replaced, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_public_list, set_up, tear_down),
        cmocka_unit_test(who_a_process_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
