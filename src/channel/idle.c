#include "channel/idle.h"

#include <poll.h>
#include <sched.h>
#include <stddef.h>
#include <time.h>

#include "base/clock.h"

#define YIELDS 16
#define FIRST_SLEEP_NS 20000
#define LONGEST_SLEEP_NS TPV_NS_PER_MS
#define ROUNDS_PER_STEP 8

bool tpv_idle_wait(tpv_idle_t *idle, bool moved, int fd, int64_t deadline) {
    if (moved) {
        idle->rounds = 0;
        return false;
    }
    unsigned round = idle->rounds++;
    if (round < YIELDS) {
        sched_yield();
        return false;
    }
    unsigned step = (round - YIELDS) / ROUNDS_PER_STEP;
    int64_t sleep = step < 6 ? (int64_t)FIRST_SLEEP_NS << step : LONGEST_SLEEP_NS;
    int64_t left = tpv_deadline_left(deadline);
    if (left < sleep) sleep = left;
    struct timespec time = {.tv_nsec = sleep};
    struct pollfd descriptor = {.fd = fd, .events = POLLIN};
    return ppoll(&descriptor, 1, &time, NULL) > 0;
}
