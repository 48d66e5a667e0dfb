#include "core/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

/* The latest init's logger; every communicator of a process gives the same one. */
static _Atomic(ncclDebugLogger_t) current;

void tpv_net_log_set(ncclDebugLogger_t logger) {
    if (logger) atomic_store_explicit(&current, logger, memory_order_release);
}

void tpv_net_log(ncclDebugLogLevel level, const char *where, int line, const char *format, ...) {
    ncclDebugLogger_t logger = atomic_load_explicit(&current, memory_order_acquire);
    if (!logger) return;
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    /* NCCL prints a warning whatever the chosen subsystems are. */
    unsigned long flags = level == NCCL_LOG_WARN ? ~0UL : (unsigned long)(NCCL_INIT | NCCL_NET);
    logger(level, flags, where, line, "NET/TPView : %s", text);
}
