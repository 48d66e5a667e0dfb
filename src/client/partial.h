/* A file that appears under its name only when it is whole; until then its name ends in ".partial". */
#ifndef CLIENT_PARTIAL_H
#define CLIENT_PARTIAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tpview/status.h"

typedef struct tpv_partial {
    char *name;
    int descriptor;
    size_t bytes;
} tpv_partial_t;

/*
 * Whether `path` may become an output: absent or a regular file (a rename would replace a device, a FIFO or a link by
 * a file), in a folder that may be written to. TPV_ERR_ARGUMENT for another kind of file, TPV_ERR_SYSTEM. Any thread.
 */
tpv_status_t tpv_partial_check(const char *path);

/*
 * Create `path` with room for `bytes` (more than 0) and begin it with `head`. What tpv_partial_check says, and
 * TPV_ERR_REFUSED while somebody else writes it or for a leftover that may be somebody else's (one of a killed process
 * of the same user is taken over, where the file system has flock to tell), TPV_ERR_NO_SPACE, TPV_ERR_SYSTEM,
 * TPV_ERR_NO_MEMORY. On an error too, *partial is to be ended.
 */
tpv_status_t tpv_partial_begin(tpv_partial_t *partial, const char *path, size_t bytes, const void *head,
                               size_t head_bytes);

/* Write to bytes [offset, offset + length). Any thread, several at once. TPV_ERR_NO_SPACE, TPV_ERR_SYSTEM. */
tpv_status_t tpv_partial_write(const tpv_partial_t *partial, uint64_t offset, const void *data, size_t length);

/*
 * Give the file its name when `status` is TPV_OK, else remove it. `sync`: its bytes are on the disk before it has the
 * name, and the name is when this returns. Returns the first failure; TPV_ERR_REFUSED when somebody removed, replaced
 * or truncated the file while it was written. A failure after the name was given leaves the file.
 */
tpv_status_t tpv_partial_end(tpv_partial_t *partial, const char *path, bool sync, tpv_status_t status);

#endif
