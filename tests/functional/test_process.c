/* Who a process is and whether it lives, also where /proc hides it. */
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/process.h"
#include "common/child.h"

#define LIMIT_S 60
#define CANNOT_HIDE 77
#define SOMEBODY 65534

static int wait_for_a_signal(void *argument) {
    (void)argument;
    for (;;)
        pause();
    return 0;
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

static void an_ended_process_is_dead_before_it_is_reaped(void **state) {
    (void)state;
    pid_t child = child_start(wait_for_a_signal, NULL);
    uint64_t process;
    assert_int_equal(tpv_process_of(child, &process), TPV_OK);
    assert_true(tpv_process_alive(process));
    kill(child, SIGKILL);
    assert_int_equal(waitid(P_PID, (id_t)child, &(siginfo_t){0}, WEXITED | WNOWAIT), 0);
    assert_false(tpv_process_alive(process));
    assert_int_equal(child_wait(child, LIMIT_S), -1);
    assert_false(tpv_process_alive(process));
}

typedef struct {
    uint64_t living, ended, reaped;
} seen_t;

/* As another user would with a hardened /proc, proc(5): hidepid. */
static int look_where_they_are_hidden(void *argument) {
    const seen_t *seen = argument;
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("proc", "/proc", "proc", 0, "hidepid=2") != 0 || setresgid(SOMEBODY, SOMEBODY, SOMEBODY) != 0 ||
        setresuid(SOMEBODY, SOMEBODY, SOMEBODY) != 0)
        return CANNOT_HIDE;
    char path[32];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)tpv_process_pid(seen->living));
    CHILD_CHECK(access(path, F_OK) != 0); /* else this shows nothing */
    uint64_t other;
    CHILD_CHECK(tpv_process_of(tpv_process_pid(seen->living), &other) == TPV_ERR_SYSTEM);
    CHILD_CHECK(tpv_process_alive(seen->living));
    CHILD_CHECK(!tpv_process_alive(seen->ended));
    CHILD_CHECK(!tpv_process_alive(seen->reaped));
    /* What file capabilities do: its /proc files belong to root. */
    CHILD_CHECK(prctl(PR_SET_DUMPABLE, 0) == 0);
    CHILD_CHECK(tpv_process_pid(tpv_process_self()) == getpid());
    CHILD_CHECK(tpv_process_alive(tpv_process_self()));
    return 0;
}

static void who_is_hidden_is_not_dead(void **state) {
    (void)state;
    pid_t ended = child_start(wait_for_a_signal, NULL), reaped = child_start(wait_for_a_signal, NULL);
    seen_t seen = {.living = tpv_process_self()};
    assert_int_equal(tpv_process_of(ended, &seen.ended), TPV_OK);
    assert_int_equal(tpv_process_of(reaped, &seen.reaped), TPV_OK);
    kill(ended, SIGKILL);
    kill(reaped, SIGKILL);
    assert_int_equal(waitid(P_PID, (id_t)ended, &(siginfo_t){0}, WEXITED | WNOWAIT), 0);
    assert_int_equal(child_wait(reaped, LIMIT_S), -1);
    int result = child_wait(child_start(look_where_they_are_hidden, &seen), LIMIT_S);
    assert_int_equal(child_wait(ended, LIMIT_S), -1);
    if (result == CANNOT_HIDE) skip();
    assert_int_equal(result, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_a_process_is),
        cmocka_unit_test(an_ended_process_is_dead_before_it_is_reaped),
        cmocka_unit_test(who_is_hidden_is_not_dead),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
