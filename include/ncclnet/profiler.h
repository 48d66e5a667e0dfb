/*
 * Events of this net plugin, for profilers. NCCL hands them to the profiler plugin as ncclProfileNetPlugin events,
 * below the proxy step that the message belongs to (ncclProfilerCallback, src/plugin/profiler.cc at v2.26.2 to
 * v2.30.7): descriptor.netPlugin.id is TPVIEW_PROFILER_ID, descriptor.netPlugin.data points to a
 * tpview_profiler_event_v1_t that is valid during the call. An event begins when a message is posted and ends when test
 * has reported it.
 */
#ifndef NCCLNET_PROFILER_H
#define NCCLNET_PROFILER_H

#include <stdint.h>

/* The callback's `type` (src/include/nccl_common.h; these two since v2.26.2). */
#define NCCL_PROFILER_NET_EVENT_START 0
#define NCCL_PROFILER_NET_EVENT_STOP 1

/* Type in the high bits, version of the event in the low 16. NCCL has 1 (IB) and 2 (Socket); this is 'TP'. */
#define TPVIEW_PROFILER_TYPE (INT64_C(0x5450) << 16)
#define TPVIEW_PROFILER_ID (TPVIEW_PROFILER_TYPE | 1)

typedef struct {
    uint8_t receives; /* 0: a send, 1: a receive */
    int32_t tag;
    uint64_t size; /* bytes to send, or room for what is received */
} tpview_profiler_event_v1_t;

#endif
