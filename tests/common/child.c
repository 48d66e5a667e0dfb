#include "common/child.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

pid_t child_start(int (*work)(void *argument), void *argument) {
    pid_t child = fork();
    if (child != 0) return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    _Exit(work(argument));
}

int child_wait(pid_t child, double seconds) {
    int64_t deadline = tpv_deadline_in(seconds);
    int status = 0;
    while (waitpid(child, &status, WNOHANG) == 0) {
        if (tpv_deadline_passed(deadline)) {
            kill(child, SIGKILL);
            waitpid(child, &status, 0);
            return -2;
        }
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void child_read(int fd, void *data, size_t size) {
    for (size_t got = 0; got < size;) {
        ssize_t count = read(fd, (char *)data + got, size - got);
        CHILD_CHECK(count > 0);
        got += (size_t)count;
    }
}

void child_write(int fd, const void *data, size_t size) {
    CHILD_CHECK(write(fd, data, size) == (ssize_t)size);
}
