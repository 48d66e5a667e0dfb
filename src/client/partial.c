#include "client/partial.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

/* Nobody else writes to the same name: the lock goes with the process, so a leftover of a killed one is taken over. */
static tpv_status_t create(tpv_partial_t *partial, const char *path) {
    if (asprintf(&partial->name, "%s.partial", path) < 0) {
        partial->name = NULL;
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the name of %s", path);
    }
    partial->descriptor = open(partial->name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (partial->descriptor < 0) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot create %s", partial->name);
    struct stat opened, named;
    if (flock(partial->descriptor, LOCK_EX | LOCK_NB) != 0 || fstat(partial->descriptor, &opened) != 0 ||
        stat(partial->name, &named) != 0 || opened.st_ino != named.st_ino) {
        close(partial->descriptor);
        partial->descriptor = -1;
        return tpv_error_set(TPV_ERR_REFUSED, "%s is being written by another fetch", partial->name);
    }
    return TPV_OK;
}

static tpv_status_t fill(tpv_partial_t *partial, const void *head, size_t head_bytes) {
    if (ftruncate(partial->descriptor, 0) != 0)
        return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot empty %s", partial->name);
    /* Blocks now: a disk that fills up later would raise SIGBUS in the mapping. */
    int error = posix_fallocate(partial->descriptor, 0, (off_t)partial->bytes);
    if (error)
        return tpv_error_set_errno(error == ENOSPC || error == EDQUOT || error == EFBIG ? TPV_ERR_NO_SPACE
                                                                                        : TPV_ERR_SYSTEM,
                                   error, "no room for %zu bytes of %s", partial->bytes, partial->name);
    void *map = mmap(NULL, partial->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, partial->descriptor, 0);
    if (map == MAP_FAILED) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot map %s", partial->name);
    partial->map = map;
    memcpy(partial->map, head, head_bytes);
    return TPV_OK;
}

tpv_status_t tpv_partial_begin(tpv_partial_t *partial, const char *path, size_t bytes, const void *head,
                               size_t head_bytes) {
    *partial = (tpv_partial_t){.descriptor = -1, .bytes = bytes};
    TPV_TRY(create(partial, path));
    return fill(partial, head, head_bytes);
}

tpv_status_t tpv_partial_end(tpv_partial_t *partial, const char *path, tpv_status_t status) {
    if (status == TPV_OK && rename(partial->name, path) != 0)
        status = tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot rename %s to %s", partial->name, path);
    if (partial->map) munmap(partial->map, partial->bytes);
    if (partial->descriptor >= 0) {
        if (status != TPV_OK) unlink(partial->name);
        close(partial->descriptor);
    }
    free(partial->name);
    return status;
}
