#include "core/profiler.h"

#include "ncclnet/profiler.h"

static _Atomic(ncclProfilerCallback_t) current;

void tpv_profiler_set(ncclProfilerCallback_t callback) {
    if (callback) atomic_store_explicit(&current, callback, memory_order_release);
}

void tpv_profiler_begin(tpv_request_t *request, bool receives, int count, const size_t *sizes, const int *tags,
                        void **parents) {
    ncclProfilerCallback_t callback = atomic_load_explicit(&current, memory_order_acquire);
    request->event_count = 0;
    if (!callback || !parents) return;
    for (int i = 0; i < count; i++) {
        request->events[i] = NULL;
        if (!parents[i]) continue;
        tpview_profiler_event_v1_t event = {.receives = receives, .tag = tags[i], .size = sizes[i]};
        (void)callback(&request->events[i], NCCL_PROFILER_NET_EVENT_START, parents[i], TPVIEW_PROFILER_ID, &event);
    }
    request->event_count = (uint8_t)count;
}

void tpv_profiler_end(tpv_request_t *request) {
    ncclProfilerCallback_t callback = atomic_load_explicit(&current, memory_order_acquire);
    for (int i = 0; i < request->event_count; i++)
        if (request->events[i])
            (void)callback(&request->events[i], NCCL_PROFILER_NET_EVENT_STOP, NULL, TPVIEW_PROFILER_ID, NULL);
    request->event_count = 0;
}
