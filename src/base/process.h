/*
 * Who a process is, in one 64-bit number: its pid and the time it was started. A pid alone is given out again after a
 * death; both together are not. 0 names nobody.
 *
 * proc(5), /proc/PID/stat: field 3 is the state, field 20 the number of threads, field 22 the start time in clock ticks
 * since boot. Linux has at most 2^22 pids (PID_MAX_LIMIT in include/linux/threads.h), which leaves 42 bits for ticks.
 * Numbers can be compared only within one pid namespace and one time namespace.
 */
#ifndef BASE_PROCESS_H
#define BASE_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

#include "tpview/status.h"

/* The calling process; correct after fork() too. 0 when /proc does not tell (tpv_process_of says why). */
uint64_t tpv_process_self(void);

/* The process that has `pid` now. TPV_ERR_NOT_FOUND when there is none or it has ended and waits to be reaped;
 * TPV_ERR_SYSTEM when /proc cannot be read or hides it (hidepid). */
tpv_status_t tpv_process_of(int32_t pid, uint64_t *process);

/* Whether it still lives. True when /proc cannot tell: nobody is declared dead on a guess. False for 0. */
bool tpv_process_alive(uint64_t process);

int32_t tpv_process_pid(uint64_t process);

#endif
