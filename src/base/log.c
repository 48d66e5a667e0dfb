#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/params.h"

static const char *const level_names[] = {"NONE", "WARN", "INFO", "TRACE"};

bool tpv_log_enabled(tpv_log_level_t level) {
    return (int64_t)level <= tpv_param_int(TPV_PARAM_DEBUG);
}

void tpv_log_write(tpv_log_level_t level, const char *format, ...) {
    char line[1280];
    int length = snprintf(line, sizeof line, "tpview %d %s ", (int)getpid(), level_names[level]);
    va_list arguments;
    va_start(arguments, format);
    int more = vsnprintf(line + length, sizeof line - (size_t)length - 1, format, arguments);
    va_end(arguments);
    if (more > 0) length += more;
    if (length > (int)sizeof line - 2) length = (int)sizeof line - 2;
    line[length++] = '\n';
    /* One write keeps lines of several processes apart; there is nowhere to report a failure to. */
    ssize_t written = write(STDERR_FILENO, line, (size_t)length);
    (void)written;
}
