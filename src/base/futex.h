/*
 * Waiting for a word in shared memory to change, between threads and between processes.
 *
 * futex(2): FUTEX_WAIT_BITSET takes an absolute CLOCK_MONOTONIC time; without FUTEX_PRIVATE_FLAG the word is found by
 * the file behind its mapping, so processes that map the same file meet there. The kernel compares the word and goes to
 * sleep in one step: a change before the comparison is seen, a wake after it is received, so none gets lost.
 */
#ifndef BASE_FUTEX_H
#define BASE_FUTEX_H

#include <stdint.h>

#include "tpview/status.h"

/*
 * Sleep while *word is `expected`, until somebody wakes the word or `deadline_ns` (base/clock.h) passes. TPV_OK also
 * when the word differs already, on a signal and for no reason at all: look at the word again. TPV_ERR_DEADLINE;
 * TPV_ERR_SYSTEM when the kernel refuses.
 */
tpv_status_t tpv_futex_wait(const void *word, uint32_t expected, int64_t deadline_ns);

/* Wake everybody who sleeps on *word. The caller has changed it before. */
void tpv_futex_wake(const void *word);

#endif
