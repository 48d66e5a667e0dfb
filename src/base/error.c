#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"

static _Thread_local char message[TPV_ERROR_MAX];

static const char *const names[TPV_STATUS_COUNT] = {
    [TPV_OK] = "ok",
    [TPV_ERR_ARGUMENT] = "argument",
    [TPV_ERR_NOT_FOUND] = "not_found",
    [TPV_ERR_FORMAT] = "format",
    [TPV_ERR_PLAN] = "plan",
    [TPV_ERR_UNSUPPORTED] = "unsupported",
    [TPV_ERR_SYSTEM] = "system",
    [TPV_ERR_NO_MEMORY] = "no_memory",
    [TPV_ERR_NO_SPACE] = "no_space",
    [TPV_ERR_NET] = "net",
    [TPV_ERR_PEER] = "peer",
    [TPV_ERR_PROTOCOL] = "protocol",
    [TPV_ERR_DIGEST] = "digest",
    [TPV_ERR_DEADLINE] = "deadline",
    [TPV_ERR_REFUSED] = "refused",
    [TPV_ERR_STALE] = "stale",
    [TPV_ERR_PERMISSION] = "permission",
    [TPV_ERR_CANCELLED] = "cancelled",
    [TPV_ERR_INTERNAL] = "internal",
};

const char *tpv_status_name(tpv_status_t status) {
    return (unsigned)status < TPV_STATUS_COUNT ? names[status] : "unknown";
}

tpv_status_t tpv_status_from_name(const char *name) {
    for (int i = 0; i < TPV_STATUS_COUNT; i++)
        if (strcmp(names[i], name) == 0) return (tpv_status_t)i;
    return TPV_ERR_INTERNAL;
}

const char *tpv_error_message(void) {
    return message;
}

tpv_status_t tpv_error_set(tpv_status_t status, const char *format, ...) {
    char text[TPV_ERROR_MAX]; /* an argument may be the present message */
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    memcpy(message, text, sizeof message);
    tpv_text_clean(message); /* it may quote a file or a peer */
    return status;
}

tpv_status_t tpv_error_set_errno(tpv_status_t status, int error_number, const char *format, ...) {
    char text[TPV_ERROR_MAX];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    char buffer[128];
    const char *reason = strerror_r(error_number, buffer, sizeof buffer);
    return tpv_error_set(status, "%s: %s", text, reason);
}

tpv_status_t tpv_error_prefix(tpv_status_t status, const char *format, ...) {
    char text[TPV_ERROR_MAX];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return tpv_error_set(status, "%s: %s", text, message);
}
