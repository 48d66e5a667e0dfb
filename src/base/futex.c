#include "base/futex.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"

tpv_status_t tpv_futex_wait(const void *word, uint32_t expected, int64_t deadline_ns) {
    struct timespec at = {0};
    struct timespec *limit = NULL;
    if (deadline_ns != TPV_DEADLINE_NEVER) {
        /* The kernel refuses negative times; they have passed. */
        int64_t ns = deadline_ns > 0 ? deadline_ns : 0;
        at.tv_sec = (time_t)(ns / TPV_NS_PER_SECOND);
        at.tv_nsec = (long)(ns % TPV_NS_PER_SECOND);
        limit = &at;
    }
    if (syscall(SYS_futex, word, FUTEX_WAIT_BITSET, expected, limit, NULL, FUTEX_BITSET_MATCH_ANY) == 0) return TPV_OK;
    if (errno == EAGAIN || errno == EINTR) return TPV_OK;
    if (errno == ETIMEDOUT) return tpv_error_set(TPV_ERR_DEADLINE, "the deadline passed in a wait on shared memory");
    return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "futex wait");
}

void tpv_futex_wake(const void *word) {
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}
