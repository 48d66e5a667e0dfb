/* Files of exports in real shared memory: their names, what is refused, what is left over, a full folder, and processes
 * that are killed at any moment. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/id.h"
#include "common/child.h"
#include "common/fake_table.h"
#include "lifecycle/file.h"

#define BYTES ((uint64_t)256 << 10)
#define MS TPV_NS_PER_MS
#define WORKERS 6

static char name[33];
static tpv_table_t *table;

static int set_up(void **state) {
    (void)state;
    snprintf(name, sizeof name, "files-%d", (int)getpid());
    return tpv_table_open(name, TPV_OPEN_CREATE, &table) == TPV_OK ? 0 : -1;
}

/* How many files there are besides the table. */
static int count_files(void) {
    int count = 0;
    DIR *folder = opendir(TPV_SHARED_FOLDER);
    assert_non_null(folder);
    for (const struct dirent *entry; (entry = readdir(folder));) {
        size_t length = strlen(strrchr(table->path, '/') + 1);
        count += strncmp(entry->d_name, strrchr(table->path, '/') + 1, length) == 0 && entry->d_name[length] == '.';
    }
    closedir(folder);
    return count;
}

static int tear_down(void **state) {
    (void)state;
    int left = count_files();
    tpv_table_close(table);
    return tpv_table_remove(name) == TPV_OK && left == 0 ? 0 : -1;
}

static tpv_export_role_t find(unsigned view, tpv_export_t *export) {
    tpv_export_key_t key = fake_key(view);
    tpv_export_role_t role;
    assert_int_equal(tpv_export_acquire(table, &key, TPV_DEADLINE_NEVER, export, &role), TPV_OK);
    return role;
}

/* Every byte of view `view` says so. */
static tpv_status_t fill_and_publish(tpv_export_t export, unsigned view, uint64_t bytes, int64_t ttl_ns) {
    int fd;
    tpv_status_t status = tpv_export_file_create(&fd);
    if (status != TPV_OK) return status;
    if (posix_fallocate(fd, 0, (off_t)bytes) != 0) {
        close(fd);
        return TPV_ERR_NO_SPACE;
    }
    char *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    memset(map, (int)view, bytes);
    munmap(map, bytes);
    status = tpv_export_file_publish(table, export, fd, bytes, ttl_ns);
    close(fd);
    return status;
}

static tpv_export_t make(unsigned view, uint64_t bytes, int64_t ttl_ns) {
    tpv_export_t export;
    assert_int_equal(find(view, &export), TPV_EXPORT_PREPARE);
    assert_int_equal(fill_and_publish(export, view, bytes, ttl_ns), TPV_OK);
    return export;
}

static void retire(tpv_export_t export) {
    assert_int_equal(tpv_export_withdraw(table, export), TPV_OK);
    assert_int_equal(tpv_export_close(table, export), TPV_OK);
    assert_int_equal(tpv_export_free(table, export), TPV_OK);
}

static void a_name_is_used_once(void **state) {
    (void)state;
    char first[TPV_EXPORT_PATH_MAX], second[TPV_EXPORT_PATH_MAX];
    struct stat info;
    tpv_export_t export = make(1, BYTES, 60 * FAKE_SECOND);
    tpv_export_file_path(table, export, first);
    assert_int_equal(lstat(first, &info), 0);
    assert_true(S_ISREG(info.st_mode));
    assert_int_equal(info.st_mode & 07777, 0600);
    assert_int_equal(info.st_size, BYTES);
    assert_true((uint64_t)info.st_blocks * 512 >= BYTES);
    retire(export);
    assert_int_equal(lstat(first, &info), -1);
    export = make(1, BYTES, 60 * FAKE_SECOND);
    tpv_export_file_path(table, export, second);
    assert_string_not_equal(first, second);
    retire(export);
}

static void what_does_not_fit_is_refused(void **state) {
    (void)state;
    char path[TPV_EXPORT_PATH_MAX], other[TPV_EXPORT_PATH_MAX + 8];
    tpv_export_t export = make(1, BYTES, 60 * FAKE_SECOND);
    tpv_export_file_path(table, export, path);
    snprintf(other, sizeof other, "%s-other", path);
    int fd;
    assert_int_equal(tpv_export_file_open(table, export, BYTES, &fd), TPV_OK);
    assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
    close(fd);
    assert_int_equal(tpv_export_file_open(table, export, BYTES + 1, &fd), TPV_ERR_FORMAT);
    assert_int_equal(truncate(path, (off_t)BYTES - 1), 0);
    assert_int_equal(tpv_export_file_open(table, export, BYTES, &fd), TPV_ERR_FORMAT);
    assert_int_equal(truncate(path, (off_t)BYTES), 0);
    assert_int_equal(chmod(path, 0644), 0);
    assert_int_equal(tpv_export_file_open(table, export, BYTES, &fd), TPV_ERR_PERMISSION);
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(rename(path, other), 0);
    assert_int_equal(symlink(other, path), 0);
    assert_int_equal(tpv_export_file_open(table, export, BYTES, &fd), TPV_ERR_PERMISSION);
    unlink(path);
    assert_int_equal(tpv_export_file_open(table, export, BYTES, &fd), TPV_ERR_NOT_FOUND);
    unlink(other);
    retire(export);
}

/* The name was taken: nothing is published over it. */
static void a_name_that_is_taken(void **state) {
    (void)state;
    char path[TPV_EXPORT_PATH_MAX];
    tpv_export_t export;
    assert_int_equal(find(1, &export), TPV_EXPORT_PREPARE);
    tpv_export_file_path(table, export, path);
    close(open(path, O_CREAT | O_EXCL | O_RDWR, 0600));
    assert_int_equal(fill_and_publish(export, 1, BYTES, FAKE_SECOND), TPV_ERR_SYSTEM);
    assert_int_equal(fake_export_state(table, export), TPV_EXPORT_PENDING);
    unlink(path);
    assert_int_equal(fill_and_publish(export, 1, BYTES, FAKE_SECOND), TPV_OK);
    retire(export);
    assert_int_equal(fill_and_publish(export, 1, BYTES, FAKE_SECOND), TPV_ERR_STALE);
    assert_int_equal(count_files(), 0);
}

static void collect(void *user, const char *text) {
    char *all = user;
    snprintf(all + strlen(all), 1024 - strlen(all), "%s\n", text);
}

static void what_is_left_over_is_found_and_removed(void **state) {
    (void)state;
    char path[TPV_EXPORT_PATH_MAX], kept[TPV_EXPORT_PATH_MAX], text[1024] = "";
    tpv_export_t ready = make(1, BYTES, 60 * FAKE_SECOND), lost = make(2, BYTES, 60 * FAKE_SECOND);
    tpv_export_file_path(table, ready, kept);
    tpv_export_file_path(table, lost, path);
    unlink(path);
    /* Of an earlier use of a slot; of a slot that was never used; of another table of this name. */
    static const struct {
        uint64_t epoch_change;
        uint32_t slot;
        uint64_t generation;
    } left[] = {{0, 0, 0}, {0, 4000, 1}, {1, 0, 1}};
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s.%016llx.%u.%llu", table->path,
                 (unsigned long long)(table->header->epoch ^ left[i].epoch_change), left[i].slot,
                 (unsigned long long)left[i].generation);
        close(open(path, O_CREAT | O_EXCL | O_RDWR, 0600));
    }
    /* Somebody else's, though it looks alike. */
    char foreign[TPV_EXPORT_PATH_MAX];
    snprintf(foreign, sizeof foreign, "%s.0.1.2.x", table->path);
    close(open(foreign, O_CREAT | O_EXCL | O_RDWR, 0600));

    uint32_t findings = 0;
    assert_int_equal(tpv_table_check(table, false, collect, text, &findings), TPV_OK);
    assert_int_equal(findings, 4);
    assert_non_null(strstr(text, "without an export"));
    assert_non_null(strstr(text, "of a ready export is gone"));
    assert_int_equal(count_files(), 5);
    assert_int_equal(tpv_table_check(table, true, NULL, NULL, &findings), TPV_OK);
    assert_int_equal(findings, 4);
    assert_int_equal(tpv_table_check(table, false, NULL, NULL, &findings), TPV_OK);
    assert_int_equal(findings, 0);
    assert_int_equal(access(kept, F_OK), 0);
    assert_int_equal(access(foreign, F_OK), 0);
    assert_int_equal(fake_export_state(table, lost), TPV_EXPORT_DRAINING);
    unlink(foreign);
    retire(ready);
    retire(lost);
}

/* ---- a full folder ---- */

#define VIEW ((uint64_t)4 << 20)

/* In a child with a /dev/shm of its own: the table's 5.7 MiB and room for three views. */
static int in_a_small_folder(void *unused) {
    (void)unused;
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", TPV_SHARED_FOLDER, "tmpfs", 0, "size=20m") != 0)
        return 77;
    CHILD_CHECK(tpv_table_open(name, TPV_OPEN_CREATE, &table) == TPV_OK);
    tpv_export_t view[4], again;
    for (unsigned i = 0; i < 3; i++)
        view[i] = make(i, VIEW, 60 * FAKE_SECOND);
    CHILD_CHECK(find(3, &view[3]) == TPV_EXPORT_PREPARE);
    CHILD_CHECK(fill_and_publish(view[3], 3, VIEW, FAKE_SECOND) == TPV_ERR_NO_SPACE);
    /* View 0 is in use and would be the first to go; 1 is the longest idle of the rest. */
    tpv_lease_request_t request = fake_request(1, TPV_DEADLINE_NEVER);
    tpv_lease_t lease;
    CHILD_CHECK(tpv_lease_begin(table, view[0], &request, &lease) == TPV_OK);
    CHILD_CHECK(!tpv_export_files_make_room(table, 3 * VIEW)); /* too much: nothing goes */
    CHILD_CHECK(count_files() == 3);
    CHILD_CHECK(tpv_export_files_make_room(table, VIEW));
    CHILD_CHECK(count_files() == 2);
    CHILD_CHECK(fill_and_publish(view[3], 3, VIEW, 60 * FAKE_SECOND) == TPV_OK);
    CHILD_CHECK(find(0, &again) == TPV_EXPORT_USE && find(2, &again) == TPV_EXPORT_USE);
    CHILD_CHECK(find(3, &again) == TPV_EXPORT_USE);
    CHILD_CHECK(tpv_table_counter(table, TPV_COUNT_EXPORTS_EVICTED) == 1);
    CHILD_CHECK(find(1, &again) == TPV_EXPORT_PREPARE);
    return 0;
}

static void a_full_folder(void **state) {
    (void)state;
    int result = child_wait(child_start(in_a_small_folder, NULL), 60);
    if (result == 77) skip(); /* mounting needs rights */
    assert_int_equal(result, 0);
}

/* ---- deaths ---- */

static int64_t life_ns;

/* Ask for one of three views again and again; fetch or find it; read every byte under a lease. */
static int work(void *argument) {
    unsigned seed = (unsigned)(uintptr_t)argument;
    for (;;) {
        unsigned view = (unsigned)rand_r(&seed) % 3 + 1;
        tpv_export_key_t key = fake_key(view);
        tpv_export_t export;
        tpv_export_role_t role;
        tpv_table_sweep(table, NULL);
        CHILD_CHECK(tpv_export_acquire(table, &key, tpv_deadline_in(60), &export, &role) == TPV_OK);
        if (role == TPV_EXPORT_PREPARE) CHILD_CHECK(fill_and_publish(export, view, BYTES, life_ns) == TPV_OK);
        uint8_t id[TPV_ID_BYTES];
        char text[TPV_ID_TEXT];
        CHILD_CHECK(tpv_id_random(id) == TPV_OK);
        tpv_hex_encode(id, sizeof id, text);
        tpv_lease_request_t request = {.lease_id = text, .ttl_ns = TPV_DEADLINE_NEVER, .tp_size = 1};
        tpv_lease_t lease;
        tpv_status_t status = tpv_lease_begin(table, export, &request, &lease);
        if (status == TPV_OK) {
            status = tpv_lease_attach(table, lease);
            int fd;
            if (status == TPV_OK) {
                CHILD_CHECK(tpv_export_file_open(table, export, BYTES, &fd) == TPV_OK);
                const unsigned char *map = mmap(NULL, BYTES, PROT_READ, MAP_SHARED, fd, 0);
                close(fd);
                CHILD_CHECK(map != MAP_FAILED);
                for (uint64_t i = 0; i < BYTES; i++)
                    CHILD_CHECK(map[i] == view);
                munmap((void *)map, BYTES);
            }
            tpv_lease_end(table, lease);
        }
        CHILD_CHECK(status == TPV_OK || status == TPV_ERR_STALE || status == TPV_ERR_REFUSED);
    }
}

static void nothing_is_left_whoever_is_killed(void **state) {
    (void)state;
    const char *rounds = getenv("ROUNDS"), *first = getenv("SEED");
    unsigned seed = first ? (unsigned)atoi(first) : 1;
    pid_t worker[WORKERS];
    life_ns = MS / 5; /* so that much is fetched, and many die at it */
    for (int i = 0; i < WORKERS; i++)
        worker[i] = child_start(work, (void *)(uintptr_t)(seed + (unsigned)i));
    for (int round = rounds ? atoi(rounds) : 200; round > 0; round--) {
        int victim = rand_r(&seed) % WORKERS, status;
        usleep((useconds_t)rand_r(&seed) % 5000);
        kill(worker[victim], SIGKILL);
        assert_int_equal(waitpid(worker[victim], &status, 0), worker[victim]);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        worker[victim] = child_start(work, (void *)(uintptr_t)seed);
    }
    for (int i = 0; i < WORKERS; i++) {
        int status;
        kill(worker[i], SIGKILL);
        assert_int_equal(waitpid(worker[i], &status, 0), worker[i]);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    }
    print_message("%llu fetched, %llu found, %llu waited, %llu taken over, %llu expired\n",
                  (unsigned long long)tpv_table_counter(table, TPV_COUNT_EXPORTS_PUBLISHED),
                  (unsigned long long)tpv_table_counter(table, TPV_COUNT_EXPORTS_REUSED),
                  (unsigned long long)tpv_table_counter(table, TPV_COUNT_EXPORTS_COALESCED),
                  (unsigned long long)tpv_table_counter(table, TPV_COUNT_EXPORTS_TAKEN_OVER),
                  (unsigned long long)tpv_table_counter(table, TPV_COUNT_EXPORTS_EXPIRED));
    assert_int_equal(fake_findings(table, false), 0);
    tpv_table_sweep(table, NULL); /* the leases of the dead, from whose end on the time runs */
    int64_t over = tpv_clock_ns() + life_ns;
    while (tpv_clock_ns() < over)
        usleep(500);
    tpv_table_sweep(table, NULL);
    assert_int_equal(fake_findings(table, false), 0);
    for (uint32_t i = 0; i < tpv_slots_used(&table->exports); i++)
        assert_int_equal(tpv_word_load(&tpv_slots_at(&table->exports, i)->word) & 7, TPV_EXPORT_FREE);
    assert_int_equal(count_files(), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_name_is_used_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_does_not_fit_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_name_that_is_taken, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_left_over_is_found_and_removed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_full_folder, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nothing_is_left_whoever_is_killed, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
