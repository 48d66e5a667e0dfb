/* Monotonic time in nanoseconds. */
#ifndef CORE_CLOCK_H
#define CORE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define TPV_NS_PER_SECOND INT64_C(1000000000)
#define TPV_NS_PER_MS INT64_C(1000000)
#define TPV_NS_PER_US INT64_C(1000)

static inline int64_t tpv_clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * TPV_NS_PER_SECOND + now.tv_nsec;
}

#endif
