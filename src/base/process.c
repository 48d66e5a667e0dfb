#include "base/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"

#define TICK_BITS 42
#define TICK_MASK ((UINT64_C(1) << TICK_BITS) - 1)

/* Set by any thread, all to the same value; a forked child finds its parent's number and replaces it. */
static _Atomic uint64_t self;

int32_t tpv_process_pid(uint64_t process) {
    return (int32_t)(process >> TICK_BITS);
}

/* /proc does not show it: mounted with hidepid, it shows no process that the caller may not trace. */
static tpv_status_t explain_missing(int32_t pid) {
    if (pid <= 0 || (kill(pid, 0) != 0 && errno == ESRCH))
        return tpv_error_set(TPV_ERR_NOT_FOUND, "no process has pid %d", pid);
    /* A pidfd is readable once the process has ended (pidfd_open(2)). */
    struct pollfd ended = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
    bool dead = ended.fd >= 0 && poll(&ended, 1, 0) == 1;
    if (ended.fd >= 0) close(ended.fd);
    if (dead) return tpv_error_set(TPV_ERR_NOT_FOUND, "process %d has ended", pid);
    return tpv_error_set(TPV_ERR_SYSTEM, "/proc does not show process %d, which is there", pid);
}

tpv_status_t tpv_process_of(int32_t pid, uint64_t *process) {
    char path[48];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) return explain_missing(pid);
    if (fd < 0) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "%s", path);
    char text[1024];
    ssize_t length = read(fd, text, sizeof text - 1);
    int error = errno;
    close(fd);
    if (length < 0 && error == ESRCH) return tpv_error_set(TPV_ERR_NOT_FOUND, "process %d has just ended", pid);
    if (length < 0) return tpv_error_set_errno(TPV_ERR_SYSTEM, error, "%s", path);
    text[length] = '\0';
    /* Field 2 is the name in parentheses and may contain anything, so count from the last one. */
    const char *rest = strrchr(text, ')');
    char state = 0;
    long long threads = 0;
    unsigned long long ticks = 0;
    if (!rest || sscanf(rest + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %lld %*d %llu",
                        &state, &threads, &ticks) != 3)
        return tpv_error_set(TPV_ERR_SYSTEM, "%s has another form than proc(5) says", path);
    /* A zombie with threads is one whose first thread has returned while others go on. */
    if ((state == 'Z' || state == 'X') && threads <= 1)
        return tpv_error_set(TPV_ERR_NOT_FOUND, "process %d has ended", pid);
    *process = (uint64_t)(uint32_t)pid << TICK_BITS | (ticks & TICK_MASK);
    return TPV_OK;
}

uint64_t tpv_process_self(void) {
    uint64_t known = atomic_load_explicit(&self, memory_order_relaxed);
    int32_t pid = (int32_t)getpid();
    if (known && tpv_process_pid(known) == pid) return known;
    uint64_t found = 0;
    if (tpv_process_of(pid, &found) != TPV_OK) return 0;
    atomic_store_explicit(&self, found, memory_order_relaxed);
    return found;
}

bool tpv_process_alive(uint64_t process) {
    if (process == 0) return false;
    uint64_t present = 0;
    tpv_status_t status = tpv_process_of(tpv_process_pid(process), &present);
    if (status == TPV_OK) return present == process;
    return status != TPV_ERR_NOT_FOUND;
}
