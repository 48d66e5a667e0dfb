/* Events for NCCL's profiler, see include/ncclnet/profiler.h. Without a profiler, NCCL's callback returns at once. */
#ifndef CORE_PROFILER_H
#define CORE_PROFILER_H

#include "core/comm.h"

/* NULL leaves the present one, as every communicator of a process gives the same. */
void tpv_profiler_set(ncclProfilerCallback_t callback);

/* A request of `count` messages is posted. `parents` may be NULL, or have NULLs. */
void tpv_profiler_begin(tpv_request_t *request, bool receives, int count, const size_t *sizes, const int *tags,
                        void **parents);

/* It is done. */
void tpv_profiler_end(tpv_request_t *request);

#endif
