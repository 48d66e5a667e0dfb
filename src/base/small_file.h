/* Whole small files: plans, tokens, certificates, keys. */
#ifndef BASE_SMALL_FILE_H
#define BASE_SMALL_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "tpview/status.h"

/* Read what `path` names, at most `limit` bytes, with a zero behind; the caller frees *text. With `is_secret` its mode
 * must keep it to its owner. TPV_ERR_NOT_FOUND, TPV_ERR_PERMISSION, TPV_ERR_FORMAT when it is longer, TPV_ERR_SYSTEM,
 * TPV_ERR_NO_MEMORY. */
tpv_status_t tpv_small_file_read(const char *path, size_t limit, bool is_secret, char **text, size_t *length);

#endif
