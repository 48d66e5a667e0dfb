/* The TPVIEW_* environment: one table (params.c) gives each name its type, default, bounds and sentence. `--help-env`
 * and docs/environment.md are made from it. Values are read once, at first use, and parsed strictly. */
#ifndef BASE_PARAMS_H
#define BASE_PARAMS_H

#include <stdint.h>
#include <stdio.h>

#include "tpview/status.h"

typedef enum tpv_param {
    TPV_PARAM_DEBUG,
    TPV_PARAM_LOG_FORMAT,
    TPV_PARAM_NAMESPACE,
    TPV_PARAM_CACHE_DIR,
    TPV_PARAM_COMMS,
    TPV_PARAM_CHUNK_BYTES,
    TPV_PARAM_THREADS,
    TPV_PARAM_WORKERS,
    TPV_PARAM_BUDGET,
    TPV_PARAM_EXPORT_TTL,
    TPV_PARAM_SHARED_TTL,
    TPV_PARAM_SOURCE_TIMEOUT,
    TPV_PARAM_COUNT
} tpv_param_t;

int64_t tpv_param_int(tpv_param_t param);
/* "" when the parameter has no value. Static storage. */
const char *tpv_param_string(tpv_param_t param);

/* Check every value and warn of unknown TPVIEW_ names. TPV_ERR_ARGUMENT names the first bad variable; calls of the
 * two functions above fall back to its default. */
tpv_status_t tpv_params_check(void);

/* Write the table as Markdown. */
void tpv_params_print(FILE *stream);

/* Parse a whole number with an optional K, M, G or T suffix (powers of 1024) in [low, high]. `what` is for the message.
 * TPV_ERR_ARGUMENT otherwise. */
tpv_status_t tpv_parse_int(const char *what, const char *text, int64_t low, int64_t high, int64_t *value);

#endif
