/* A thread-local chain of error text: set where a failure is first decided, appended to on the way up. */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include "tpview/status.h"

#define TPV_ERROR_MAX 1024

/* Start a new message for `status` and return it. Control bytes in the result are replaced: text from outside may be
 * quoted in it. */
tpv_status_t tpv_error_set(tpv_status_t status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Like tpv_error_set, with ": " and the text of `error_number` behind. */
tpv_status_t tpv_error_set_errno(tpv_status_t status, int error_number, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Put "context: " before the present message and return `status` unchanged. */
tpv_status_t tpv_error_prefix(tpv_status_t status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The status whose name is `name`; TPV_ERR_INTERNAL for an unknown one (a newer peer's). */
tpv_status_t tpv_status_from_name(const char *name);

#define TPV_TRY(call)                                                                                                  \
    do {                                                                                                               \
        tpv_status_t try_status_ = (call);                                                                             \
        if (try_status_ != TPV_OK) return try_status_;                                                                 \
    } while (0)

#endif
