/* Monotonic time and deadlines, both in nanoseconds. A deadline is an absolute monotonic time. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define TPV_NS_PER_SECOND INT64_C(1000000000)
#define TPV_NS_PER_MS INT64_C(1000000)
#define TPV_DEADLINE_NEVER INT64_MAX

static inline int64_t tpv_clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * TPV_NS_PER_SECOND + now.tv_nsec;
}

/* `seconds` from now; zero and less have passed already, and what is too far to represent never comes. */
static inline int64_t tpv_deadline_in(double seconds) {
    int64_t now = tpv_clock_ns();
    if (!(seconds > 0)) return now;
    if (seconds >= 9e9) return TPV_DEADLINE_NEVER;
    int64_t ns = (int64_t)(seconds * (double)TPV_NS_PER_SECOND);
    return ns > TPV_DEADLINE_NEVER - now ? TPV_DEADLINE_NEVER : now + ns;
}

static inline bool tpv_deadline_passed(int64_t deadline) {
    return deadline != TPV_DEADLINE_NEVER && tpv_clock_ns() >= deadline;
}

/* What is left, never negative; TPV_DEADLINE_NEVER stays as it is. */
static inline int64_t tpv_deadline_left(int64_t deadline) {
    if (deadline == TPV_DEADLINE_NEVER) return TPV_DEADLINE_NEVER;
    int64_t left = deadline - tpv_clock_ns();
    return left > 0 ? left : 0;
}

#endif
