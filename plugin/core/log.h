/* Lines in NCCL's own log, each beginning with "NET/TPView : ". They go to the logger that NCCL gave to init; before
 * that they are dropped. Safe from any thread. A failure is logged once, where it is first decided. */
#ifndef CORE_LOG_H
#define CORE_LOG_H

#include "ncclnet/common.h"

void tpv_net_log_set(ncclDebugLogger_t logger);

void tpv_net_log(ncclDebugLogLevel level, const char *where, int line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* NCCL's macros give a WARN its file and an INFO its function (src/include/debug.h at v2.28.9). */
#define TPV_NET_WARN(...) tpv_net_log(NCCL_LOG_WARN, __FILE__, __LINE__, __VA_ARGS__)
#define TPV_NET_INFO(...) tpv_net_log(NCCL_LOG_INFO, __func__, __LINE__, __VA_ARGS__)

#endif
