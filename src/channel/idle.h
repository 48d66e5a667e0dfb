/* What a duty cycle does when nothing moved: yield first, then sleep, longer and longer up to a millisecond, so that an
 * idle transfer costs next to no CPU and a busy one next to no delay. */
#ifndef CHANNEL_IDLE_H
#define CHANNEL_IDLE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct tpv_idle {
    unsigned rounds; /* since something moved */
} tpv_idle_t;

/* Once for each round. Returns at once if `moved`. Otherwise never sleeps past `deadline` (base/clock.h), and wakes
 * when `fd` (-1: none) is readable or closed; true then. */
bool tpv_idle_wait(tpv_idle_t *idle, bool moved, int fd, int64_t deadline);

#endif
