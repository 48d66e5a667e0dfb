/* Guarded reads: a fault ends the guarded function and nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/guard.h"

#define PAGES 4

typedef struct {
    const volatile char *memory;
    size_t at;
    char copy[512];
    int ran;
} work_t;

static size_t page;

/* A mapping of PAGES pages of 'x' whose file has only `left` pages any more. */
static char *mapping_of_truncated_file(size_t left) {
    int descriptor = memfd_create("guard", MFD_CLOEXEC);
    assert_true(descriptor >= 0);
    assert_int_equal(ftruncate(descriptor, (off_t)(PAGES * page)), 0);
    char *memory = mmap(NULL, PAGES * page, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    assert_ptr_not_equal(memory, MAP_FAILED);
    memset(memory, 'x', PAGES * page);
    assert_int_equal(ftruncate(descriptor, (off_t)(left * page)), 0);
    close(descriptor);
    return memory;
}

static void read_one(void *user) {
    work_t *work = user;
    work->ran++;
    work->copy[0] = work->memory[work->at];
}

static void copy_some(void *user) {
    work_t *work = user;
    work->ran++;
    memcpy(work->copy, (const char *)(uintptr_t)work->memory + work->at, sizeof work->copy);
}

static void faults_are_told_and_the_thread_goes_on(void **state) {
    (void)state;
    char *memory = mapping_of_truncated_file(2);
    work_t work = {.memory = memory};
    tpv_guard_fault_t fault;
    for (int round = 0; round < 3; round++) {
        work.at = page + 7;
        assert_int_equal(tpv_guard_run(read_one, &work, &fault), TPV_OK);
        assert_int_equal(work.copy[0], 'x');
        assert_null(fault.address);
        work.at = 2 * page + 7;
        assert_int_equal(tpv_guard_run(read_one, &work, &fault), TPV_ERR_FORMAT);
        assert_ptr_equal(fault.address, memory + 2 * page + 7);
        work.at = 3 * page;
        assert_int_equal(tpv_guard_run(copy_some, &work, &fault), TPV_ERR_FORMAT);
        assert_in_range((uintptr_t)fault.address, (uintptr_t)memory + 3 * page, (uintptr_t)memory + 4 * page - 1);
    }
    assert_int_equal(work.ran, 9);
    munmap(memory, PAGES * page);
}

static void nest(void *user) {
    tpv_guard_fault_t fault;
    work_t *work = user;
    work_t inner = *work;
    assert_int_equal(tpv_guard_run(read_one, &inner, &fault), TPV_ERR_FORMAT);
    work->ran = 100;
    read_one(work);
}

static void guards_nest(void **state) {
    (void)state;
    char *memory = mapping_of_truncated_file(0);
    work_t work = {.memory = memory};
    tpv_guard_fault_t fault;
    assert_int_equal(tpv_guard_run(nest, &work, &fault), TPV_ERR_FORMAT);
    assert_int_equal(work.ran, 101); /* the outer body went on behind the inner fault, then met its own */
    munmap(memory, PAGES * page);
}

static void *guard_in_thread(void *user) {
    work_t work = {.memory = user};
    uintptr_t good = 0;
    for (int round = 0; round < 200; round++) {
        tpv_guard_fault_t fault;
        work.at = 0;
        good += tpv_guard_run(copy_some, &work, &fault) == TPV_OK;
        work.at = page * (size_t)(1 + round % 3);
        good += tpv_guard_run(copy_some, &work, &fault) == TPV_ERR_FORMAT;
    }
    return (void *)good;
}

static void threads_fault_independently(void **state) {
    (void)state;
    char *memory = mapping_of_truncated_file(1);
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, guard_in_thread, memory), 0);
    for (size_t i = 0; i < 4; i++) {
        void *good = NULL;
        assert_int_equal(pthread_join(threads[i], &good), 0);
        assert_int_equal((uintptr_t)good, 400);
    }
    munmap(memory, PAGES * page);
}

static void exit_with_nine(int number) {
    (void)number;
    _exit(9);
}

/* How a child ends that uses a guard and then reads a lost page without one. */
static int unguarded_fault(void (*earlier)(int), bool replace_after) {
    char *memory = mapping_of_truncated_file(0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGBUS, earlier);
        work_t work = {.memory = memory};
        tpv_guard_fault_t fault;
        if (tpv_guard_run(read_one, &work, &fault) != TPV_ERR_FORMAT) _exit(1);
        if (replace_after) {
            signal(SIGBUS, exit_with_nine); /* as a library that comes later might */
            if (tpv_guard_run(read_one, &work, &fault) != TPV_ERR_FORMAT) _exit(2);
        }
        read_one(&work);
        _exit(3);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    munmap(memory, PAGES * page);
    return status;
}

static void other_faults_reach_the_earlier_handler(void **state) {
    (void)state;
    int status = unguarded_fault(exit_with_nine, false);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 9);
    status = unguarded_fault(SIG_DFL, false);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGBUS);
    status = unguarded_fault(SIG_IGN, false); /* the kernel does not let a fault be ignored */
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGBUS);
}

static void a_handler_that_came_later_is_kept_too(void **state) {
    (void)state;
    int status = unguarded_fault(SIG_DFL, true);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 9);
}

static void send_sigbus(void *user) {
    (void)user;
    raise(SIGBUS);
}

static void a_signal_that_was_sent_is_no_fault(void **state) {
    (void)state;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGBUS, exit_with_nine);
        tpv_guard_fault_t fault;
        tpv_guard_run(send_sigbus, NULL, &fault);
        _exit(1);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 9);
}

int main(void) {
    page = (size_t)sysconf(_SC_PAGESIZE);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(faults_are_told_and_the_thread_goes_on),
        cmocka_unit_test(guards_nest),
        cmocka_unit_test(threads_fault_independently),
        cmocka_unit_test(other_faults_reach_the_earlier_handler),
        cmocka_unit_test(a_handler_that_came_later_is_kept_too),
        cmocka_unit_test(a_signal_that_was_sent_is_no_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
