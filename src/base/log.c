#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/params.h"
#include "base/text.h"

#define MESSAGE_MAX 1200

static const char *const level_names[] = {"NONE", "WARN", "INFO", "TRACE"};

bool tpv_log_enabled(tpv_log_level_t level) {
    return (int64_t)level <= tpv_param_int(TPV_PARAM_DEBUG);
}

/* RFC 3339, in UTC. */
static void print_time(char text[40]) {
    struct timespec now;
    struct tm parts;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &parts);
    size_t length = strftime(text, 40, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(text + length, 40 - length, ".%03dZ", (int)(now.tv_nsec / 1000000));
}

/* `text` has no control bytes and is UTF-8: two characters are left to escape. */
static void escape(const char *text, char *escaped) {
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') *escaped++ = '\\';
        *escaped++ = *text;
    }
    *escaped = '\0';
}

void tpv_log_write(tpv_log_level_t level, const char *format, ...) {
    char text[MESSAGE_MAX], escaped[2 * MESSAGE_MAX], line[2 * MESSAGE_MAX + 128], time[40];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    tpv_text_clean(text);
    print_time(time);
    int length;
    if (tpv_param_int(TPV_PARAM_LOG_FORMAT) == TPV_LOG_JSON) {
        escape(text, escaped);
        length = snprintf(line, sizeof line, "{\"time\":\"%s\",\"level\":\"%s\",\"pid\":%d,\"message\":\"%s\"}\n", time,
                          level_names[level], (int)getpid(), escaped);
    } else {
        length = snprintf(line, sizeof line, "%s tpview %d %s %s\n", time, (int)getpid(), level_names[level], text);
    }
    /* One write keeps lines of several processes apart; there is nowhere to report a failure to. */
    ssize_t written = write(STDERR_FILENO, line, (size_t)length);
    (void)written;
}
