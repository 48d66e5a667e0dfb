/* Log lines on stderr in the manner of NCCL_DEBUG. The level comes from TPVIEW_DEBUG (see params.h). A failure is
 * logged once, where it is first decided. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>

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
