/* A file that appears whole or not at all: what may be replaced, what may be taken over, on file systems that lack
 * locks or reservations. Those are stood in for by a flock and a fallocate of this program. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "client/partial.h"
#include "common/test_files.h"

#define TEXT "the whole of it"
#define BYTES (sizeof TEXT - 1)

/* What the next call of each shall fail with; 0: nothing. */
static int flock_error, fallocate_error;
static unsigned fallocate_calls;

int flock(int fd, int operation) {
    if (flock_error) {
        errno = flock_error;
        return -1;
    }
    return (int)syscall(SYS_flock, fd, operation);
}

int fallocate(int fd, int mode, off_t offset, off_t bytes) {
    fallocate_calls++;
    if (fallocate_error) {
        errno = fallocate_error;
        return -1;
    }
    return (int)syscall(SYS_fallocate, fd, mode, offset, bytes);
}

static char *folder;
static char path[4096], partial_path[4128];

static int make_folder(void **state) {
    (void)state;
    flock_error = fallocate_error = 0;
    fallocate_calls = 0;
    folder = test_folder_make();
    snprintf(path, sizeof path, "%s/view.safetensors", folder);
    snprintf(partial_path, sizeof partial_path, "%s.partial", path);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    test_folder_remove(folder);
    return 0;
}

static void assert_contents(const char *file, const char *text) {
    char found[64] = "";
    int fd = open(file, O_RDONLY);
    assert_true(fd >= 0);
    ssize_t length = read(fd, found, sizeof found - 1);
    close(fd);
    assert_int_equal(length, strlen(text));
    assert_string_equal(found, text);
}

static tpv_status_t write_whole(void) {
    tpv_partial_t partial;
    tpv_status_t status = tpv_partial_begin(&partial, path, BYTES, TEXT, 4);
    if (status == TPV_OK) status = tpv_partial_write(&partial, 4, &TEXT[4], BYTES - 4);
    return tpv_partial_end(&partial, path, true, status);
}

static void assert_refused(tpv_status_t status, const char *word) {
    assert_int_equal(write_whole(), status);
    if (!strstr(tpv_error_message(), word)) fail_msg("no \"%s\" in: %s", word, tpv_error_message());
}

static void test_new_and_regular(void **state) {
    (void)state;
    assert_int_equal(write_whole(), TPV_OK);
    assert_contents(path, TEXT);
    test_file_write_text(path, "what was there before, which is longer");
    assert_int_equal(write_whole(), TPV_OK);
    assert_contents(path, TEXT);
    assert_int_equal(test_folder_count(folder), 1);
}

static void test_error_leaves_nothing(void **state) {
    (void)state;
    tpv_partial_t partial;
    test_file_write_text(path, "before");
    assert_int_equal(tpv_partial_begin(&partial, path, BYTES, TEXT, BYTES), TPV_OK);
    assert_int_equal(test_folder_count(folder), 2);
    assert_int_equal(tpv_partial_end(&partial, path, true, TPV_ERR_PEER), TPV_ERR_PEER);
    assert_contents(path, "before");
    assert_int_equal(test_folder_count(folder), 1);
}

/* ---- what a rename must not replace ---- */

static void assert_target_stays(mode_t type, const char *word) {
    struct stat info;
    assert_refused(TPV_ERR_ARGUMENT, word);
    assert_int_equal(tpv_partial_check(path), TPV_ERR_ARGUMENT);
    assert_int_equal(lstat(path, &info), 0);
    assert_int_equal(info.st_mode & S_IFMT, type);
    assert_int_equal(access(partial_path, F_OK), -1);
}

static void test_folder_target(void **state) {
    (void)state;
    assert_int_equal(mkdir(path, 0700), 0);
    assert_target_stays(S_IFDIR, "folder");
    strcat(path, "/");
    assert_target_stays(S_IFDIR, "folder");
}

static void test_name_of_a_folder_that_is_not_there(void **state) {
    (void)state;
    strcat(path, "/");
    assert_refused(TPV_ERR_ARGUMENT, "folder");
    assert_int_equal(test_folder_count(folder), 0);
}

static void test_fifo_target(void **state) {
    (void)state;
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_target_stays(S_IFIFO, "FIFO");
}

static void test_link_target(void **state) {
    (void)state;
    const char *to = test_path(folder, "target");
    test_file_write_text(to, "target");
    assert_int_equal(symlink(to, path), 0);
    assert_target_stays(S_IFLNK, "link");
    assert_contents(to, "target");
    assert_int_equal(unlink(to), 0);
    assert_target_stays(S_IFLNK, "link"); /* that leads nowhere */
}

static void test_socket_target(void **state) {
    (void)state;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) skip();
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    close(fd);
    assert_target_stays(S_IFSOCK, "socket");
}

static void test_device_target(void **state) {
    (void)state;
    if (mknod(path, S_IFCHR | 0600, 1 << 8 | 3) != 0) skip(); /* the null device; needs root */
    assert_target_stays(S_IFCHR, "device");
}

static void test_target_that_changes_meanwhile(void **state) {
    (void)state;
    tpv_partial_t partial;
    assert_int_equal(tpv_partial_begin(&partial, path, BYTES, TEXT, BYTES), TPV_OK);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(tpv_partial_end(&partial, path, true, TPV_OK), TPV_ERR_ARGUMENT);
    struct stat info;
    assert_int_equal(lstat(path, &info), 0);
    assert_true(S_ISFIFO(info.st_mode));
    assert_int_equal(test_folder_count(folder), 1);
}

static void test_folder_is_missing(void **state) {
    (void)state;
    snprintf(path, sizeof path, "%s/nowhere/view", folder);
    assert_refused(TPV_ERR_SYSTEM, strerror(ENOENT));
    char file[4096];
    snprintf(file, sizeof file, "%s/file", folder);
    test_file_write_text(file, "");
    snprintf(path, sizeof path, "%s/file/view", folder);
    assert_refused(TPV_ERR_SYSTEM, strerror(ENOTDIR));
}

/* ---- what lies under the name with ".partial" ---- */

static void test_leftover_is_taken_over(void **state) {
    (void)state;
    test_file_write_text(partial_path, "a leftover of a killed process, longer than the view");
    assert_int_equal(write_whole(), TPV_OK);
    assert_contents(path, TEXT);
    assert_int_equal(test_folder_count(folder), 1);
}

static void test_two_at_once(void **state) {
    (void)state;
    tpv_partial_t partial;
    assert_int_equal(tpv_partial_begin(&partial, path, BYTES, TEXT, BYTES), TPV_OK);
    assert_refused(TPV_ERR_REFUSED, "another fetch");
    assert_int_equal(tpv_partial_end(&partial, path, true, TPV_OK), TPV_OK);
    assert_contents(path, TEXT);
}

static void test_leftover_of_another_user(void **state) {
    (void)state;
    test_file_write_text(partial_path, "of another");
    if (chown(partial_path, 1234, 1234) != 0) skip(); /* needs root */
    assert_refused(TPV_ERR_REFUSED, "1234");
    assert_contents(partial_path, "of another");
}

static void test_leftover_with_another_name(void **state) {
    (void)state;
    const char *precious = test_path(folder, "precious");
    test_file_write_text(precious, "precious");
    assert_int_equal(link(precious, partial_path), 0);
    assert_refused(TPV_ERR_REFUSED, "2 names");
    assert_contents(precious, "precious");
}

static void test_link_as_leftover(void **state) {
    (void)state;
    const char *precious = test_path(folder, "precious");
    test_file_write_text(precious, "precious");
    assert_int_equal(symlink(precious, partial_path), 0);
    assert_refused(TPV_ERR_REFUSED, "symbolic link");
    assert_contents(precious, "precious");
}

static void test_fifo_as_leftover(void **state) {
    (void)state;
    assert_int_equal(mkfifo(partial_path, 0600), 0);
    assert_refused(TPV_ERR_REFUSED, "FIFO");
}

static void test_removed_or_replaced_meanwhile(void **state) {
    (void)state;
    tpv_partial_t partial;
    assert_int_equal(tpv_partial_begin(&partial, path, BYTES, TEXT, BYTES), TPV_OK);
    assert_int_equal(unlink(partial_path), 0);
    test_file_write_text(partial_path, "of another");
    assert_int_equal(tpv_partial_end(&partial, path, true, TPV_OK), TPV_ERR_REFUSED);
    assert_contents(partial_path, "of another");
    assert_int_equal(access(path, F_OK), -1);
}

/* Bytes that were written are lost, also when the last bytes are written after that. */
static void test_truncated_meanwhile(void **state) {
    (void)state;
    static const int errors[] = {0, EOPNOTSUPP}; /* of fallocate */
    for (size_t i = 0; i < 2; i++)
        for (int later = 0; later < 2; later++) {
            tpv_partial_t partial;
            fallocate_error = errors[i];
            assert_int_equal(tpv_partial_begin(&partial, path, BYTES, TEXT, BYTES), TPV_OK);
            assert_int_equal(truncate(partial_path, 4), 0);
            if (later) assert_int_equal(tpv_partial_write(&partial, 8, &TEXT[8], BYTES - 8), TPV_OK);
            assert_int_equal(tpv_partial_end(&partial, path, true, TPV_OK), TPV_ERR_REFUSED);
            if (!strstr(tpv_error_message(), "truncated")) fail_msg("%s", tpv_error_message());
            assert_int_equal(test_folder_count(folder), 0);
        }
}

/* ---- file systems that lack something ---- */

static void test_without_flock(void **state) {
    (void)state;
    static const int errors[] = {ENOSYS, ENOLCK, EOPNOTSUPP, EINVAL};
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        flock_error = errors[i];
        assert_int_equal(write_whole(), TPV_OK);
        assert_contents(path, TEXT);
    }
    /* Two at once, and a leftover, which cannot be told from one that is being written. */
    tpv_partial_t partial;
    assert_int_equal(tpv_partial_begin(&partial, path, BYTES, TEXT, BYTES), TPV_OK);
    assert_refused(TPV_ERR_REFUSED, "remove it");
    assert_int_equal(tpv_partial_end(&partial, path, true, TPV_OK), TPV_OK);
    assert_contents(path, TEXT);
}

static void test_flock_fails_otherwise(void **state) {
    (void)state;
    flock_error = EIO;
    assert_refused(TPV_ERR_SYSTEM, strerror(EIO));
    assert_int_equal(test_folder_count(folder), 0);
}

static void test_without_fallocate(void **state) {
    (void)state;
    static const int errors[] = {EOPNOTSUPP, ENOSYS};
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        fallocate_error = errors[i];
        fallocate_calls = 0;
        assert_int_equal(write_whole(), TPV_OK);
        assert_contents(path, TEXT);
        assert_int_equal(fallocate_calls, 1);
    }
    assert_int_equal(test_folder_count(folder), 1);
}

static void test_no_room(void **state) {
    (void)state;
    static const int errors[] = {ENOSPC, EDQUOT, EFBIG};
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        fallocate_error = errors[i];
        assert_refused(TPV_ERR_NO_SPACE, strerror(errors[i]));
    }
    fallocate_error = EIO;
    assert_refused(TPV_ERR_SYSTEM, strerror(EIO));
    assert_int_equal(test_folder_count(folder), 0);
}

int main(void) {
#define TEST(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        TEST(test_new_and_regular),
        TEST(test_error_leaves_nothing),
        TEST(test_folder_target),
        TEST(test_name_of_a_folder_that_is_not_there),
        TEST(test_fifo_target),
        TEST(test_link_target),
        TEST(test_socket_target),
        TEST(test_device_target),
        TEST(test_target_that_changes_meanwhile),
        TEST(test_folder_is_missing),
        TEST(test_leftover_is_taken_over),
        TEST(test_two_at_once),
        TEST(test_leftover_of_another_user),
        TEST(test_leftover_with_another_name),
        TEST(test_link_as_leftover),
        TEST(test_fifo_as_leftover),
        TEST(test_removed_or_replaced_meanwhile),
        TEST(test_truncated_meanwhile),
        TEST(test_without_flock),
        TEST(test_flock_fails_otherwise),
        TEST(test_without_fallocate),
        TEST(test_no_room),
    };
    return cmocka_run_group_tests_name("partial", tests, NULL, NULL);
}
