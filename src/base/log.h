/*
 * Log lines on stderr in the manner of NCCL_DEBUG, one a call: time (UTC), process, level, message; or, with
 * TPVIEW_LOG_FORMAT=json, a JSON object of "time", "level", "pid" and "message". The level comes from TPVIEW_DEBUG
 * (see params.h). Whatever a message quotes, its line stays one line of UTF-8 without control characters (text.h). A
 * failure is logged once, where it is first decided.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>

/* Values of TPVIEW_LOG_FORMAT. */
enum { TPV_LOG_TEXT, TPV_LOG_JSON };

typedef enum tpv_log_level { TPV_LOG_NONE, TPV_LOG_WARN, TPV_LOG_INFO, TPV_LOG_TRACE } tpv_log_level_t;

bool tpv_log_enabled(tpv_log_level_t level);
void tpv_log_write(tpv_log_level_t level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define TPV_LOG(level, ...)                                                                                            \
    do {                                                                                                               \
        if (tpv_log_enabled(level)) tpv_log_write(level, __VA_ARGS__);                                                 \
    } while (0)
#define TPV_WARN(...) TPV_LOG(TPV_LOG_WARN, __VA_ARGS__)
#define TPV_INFO(...) TPV_LOG(TPV_LOG_INFO, __VA_ARGS__)
#define TPV_TRACE(...) TPV_LOG(TPV_LOG_TRACE, __VA_ARGS__)

#endif
