/* Where programs of one user meet when no address is given, and who may have made that folder. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/default_socket.h"
#include "base/error.h"
#include "common/child.h"

#define LIMIT_S 60

static char folder[64];

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/tpview-test-XXXXXX");
    return mkdtemp(folder) && setenv("XDG_RUNTIME_DIR", folder, 1) == 0 ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    unsetenv("XDG_RUNTIME_DIR");
    return rmdir(folder);
}

static void the_users_runtime_folder_is_used(void **state) {
    (void)state;
    char path[TPV_SOCKET_PATH_MAX], expected[TPV_SOCKET_PATH_MAX];
    snprintf(expected, sizeof expected, "%s/tpviewd.sock", folder);
    for (int make = 0; make <= 1; make++) {
        assert_int_equal(tpv_default_socket(make, path), TPV_OK);
        assert_string_equal(path, expected);
    }
}

static void a_folder_that_others_may_write_to_is_refused(void **state) {
    (void)state;
    static const mode_t modes[] = {0770, 0702, 01777};
    char path[TPV_SOCKET_PATH_MAX];
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        assert_int_equal(chmod(folder, modes[i]), 0);
        assert_int_equal(tpv_default_socket(false, path), TPV_ERR_PERMISSION);
        assert_non_null(strstr(tpv_error_message(), folder));
        assert_non_null(strstr(tpv_error_message(), "chmod 700"));
    }
    assert_int_equal(chmod(folder, 0755), 0);
    assert_int_equal(tpv_default_socket(false, path), TPV_OK);
}

static void a_runtime_folder_must_be_there_and_fit(void **state) {
    (void)state;
    char path[TPV_SOCKET_PATH_MAX], lost[96], too_long[256] = {0};
    snprintf(lost, sizeof lost, "%s/none", folder);
    setenv("XDG_RUNTIME_DIR", lost, 1);
    assert_int_equal(tpv_default_socket(false, path), TPV_OK); /* connecting says that nobody is there */
    assert_int_equal(tpv_default_socket(true, path), TPV_ERR_SYSTEM);
    assert_non_null(strstr(tpv_error_message(), lost));
    memset(too_long, 'x', 200);
    setenv("XDG_RUNTIME_DIR", too_long, 1);
    assert_int_equal(tpv_default_socket(false, path), TPV_ERR_ARGUMENT);
}

/* ---- in /tmp, as a user that the machine does not have ---- */

typedef struct {
    uid_t uid;
    char folder[32], link[40];
} stranger_t;

static int in_a_folder_of_its_own(void *argument) {
    const stranger_t *s = argument;
    char path[TPV_SOCKET_PATH_MAX], expected[TPV_SOCKET_PATH_MAX];
    struct stat info;
    snprintf(expected, sizeof expected, "%s/tpviewd.sock", s->folder);
    CHILD_CHECK(setresuid(s->uid, s->uid, s->uid) == 0);
    umask(0);
    CHILD_CHECK(tpv_default_socket(false, path) == TPV_OK && strcmp(path, expected) == 0);
    CHILD_CHECK(access(s->folder, F_OK) != 0);
    for (int i = 0; i < 2; i++) {
        CHILD_CHECK(tpv_default_socket(true, path) == TPV_OK && strcmp(path, expected) == 0);
        CHILD_CHECK(lstat(s->folder, &info) == 0 && (info.st_mode & 07777) == 0700 && info.st_uid == s->uid);
    }
    CHILD_CHECK(chmod(s->folder, 0777) == 0);
    CHILD_CHECK(tpv_default_socket(false, path) == TPV_ERR_PERMISSION);
    CHILD_CHECK(tpv_default_socket(true, path) == TPV_ERR_PERMISSION);
    CHILD_CHECK(rename(s->folder, s->link) == 0 && chmod(s->link, 0700) == 0 && symlink(s->link, s->folder) == 0);
    CHILD_CHECK(tpv_default_socket(true, path) == TPV_ERR_PERMISSION);
    CHILD_CHECK(strstr(tpv_error_message(), "not a folder"));
    CHILD_CHECK(unlink(s->folder) == 0 && rmdir(s->link) == 0);
    return 0;
}

static int in_a_squatted_one(void *argument) {
    const stranger_t *s = argument;
    char path[TPV_SOCKET_PATH_MAX];
    CHILD_CHECK(setresuid(s->uid, s->uid, s->uid) == 0);
    for (int make = 0; make <= 1; make++) {
        CHILD_CHECK(tpv_default_socket(make, path) == TPV_ERR_PERMISSION);
        CHILD_CHECK(strstr(tpv_error_message(), "belongs to user 0"));
        CHILD_CHECK(strstr(tpv_error_message(), "XDG_RUNTIME_DIR"));
    }
    return 0;
}

static void without_one_a_folder_in_tmp_is_made(void **state) {
    (void)state;
    unsetenv("XDG_RUNTIME_DIR");
    if (geteuid() != 0) skip(); /* cannot be somebody else */
    stranger_t s = {.uid = 2000000000u + (uid_t)getpid()};
    snprintf(s.folder, sizeof s.folder, "/tmp/tpview-%u", (unsigned)s.uid);
    snprintf(s.link, sizeof s.link, "%s-x", s.folder);
    assert_int_equal(child_wait(child_start(in_a_folder_of_its_own, &s), LIMIT_S), 0);
    assert_int_equal(mkdir(s.folder, 0755), 0);
    int result = child_wait(child_start(in_a_squatted_one, &s), LIMIT_S);
    assert_int_equal(rmdir(s.folder), 0);
    assert_int_equal(result, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_users_runtime_folder_is_used, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_folder_that_others_may_write_to_is_refused, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_runtime_folder_must_be_there_and_fit, make_folder, remove_folder),
        cmocka_unit_test(without_one_a_folder_in_tmp_is_made),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
