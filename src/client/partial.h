/* A file that appears under its name only when it is whole; until then its name ends in ".partial". */
#ifndef CLIENT_PARTIAL_H
#define CLIENT_PARTIAL_H

#include <stddef.h>
#include <stdint.h>

#include "tpview/status.h"

typedef struct tpv_partial {
    char *name;
    int descriptor;
    size_t bytes;
    uint8_t *map; /* all of the file, for writing */
} tpv_partial_t;

/*
 * Create `path` with room for `bytes` (more than 0) and begin it with `head`. TPV_ERR_REFUSED while somebody else
 * writes it (a leftover of a killed process is taken over), TPV_ERR_NO_SPACE, TPV_ERR_SYSTEM, TPV_ERR_NO_MEMORY. On an
 * error too, *partial is to be ended.
 */
tpv_status_t tpv_partial_begin(tpv_partial_t *partial, const char *path, size_t bytes, const void *head,
                               size_t head_bytes);

/* Give the file its name when `status` is TPV_OK, else remove it. Returns the first failure. */
tpv_status_t tpv_partial_end(tpv_partial_t *partial, const char *path, tpv_status_t status);

#endif
