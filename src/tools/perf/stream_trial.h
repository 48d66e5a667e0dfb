/* The yardstick: a comm of the plugin alone, from a process that has the bytes in memory of its own, as a source has.
 */
#ifndef TOOLS_PERF_STREAM_TRIAL_H
#define TOOLS_PERF_STREAM_TRIAL_H

#include <stddef.h>
#include <stdint.h>

#include "tpview/status.h"

/* Stream `bytes` into `memory` in messages of `block` bytes. *seconds counts from the first to the last message. */
tpv_status_t tpv_stream_trial(const char *net, size_t block, uint64_t bytes, void *memory, double *seconds);

#endif
