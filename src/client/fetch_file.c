#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/error.h"
#include "tpview/fetch.h"

/* The output under its temporary name. */
typedef struct {
    char *name;
    int descriptor;
    size_t bytes;
    uint8_t *map;
} partial_t;

/* Nobody else writes to the same name: the lock goes with the process, so a leftover of a killed one is taken over. */
static tpv_status_t partial_create(partial_t *partial, const char *path) {
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

static tpv_status_t partial_fill(partial_t *partial, const void *header, size_t header_bytes) {
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
    memcpy(partial->map, header, header_bytes);
    return TPV_OK;
}

static tpv_status_t partial_finish(partial_t *partial, const char *path) {
    if (rename(partial->name, path) != 0)
        return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot rename %s to %s", partial->name, path);
    return TPV_OK;
}

static void partial_close(partial_t *partial, tpv_status_t status) {
    if (partial->map) munmap(partial->map, partial->bytes);
    if (partial->descriptor >= 0) {
        if (status != TPV_OK) unlink(partial->name);
        close(partial->descriptor);
    }
    free(partial->name);
}

static char *make_metadata(const tpv_artifact_t *artifact, const tpv_view_t *view, const tpv_fetch_options_t *options) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *stream = open_memstream(&text, &bytes);
    if (!stream) return NULL;
    fprintf(stream, "format%cpt%cartifact_id%c%s%cview_id%c%s%ctp_rank%c%u%ctp_size%c%u%c", 0, 0, 0,
            tpv_artifact_id(artifact), 0, 0, tpv_view_id(view), 0, 0, options->tp_rank, 0, 0,
            options->tp_size ? options->tp_size : 1, 0);
    if (fclose(stream) != 0) return NULL;
    return text; /* and open_memstream's own zero ends the list */
}

tpv_status_t tpv_fetch_file(tpv_source_t *source, const tpv_artifact_t *artifact, const tpv_view_t *view,
                            const tpv_fetch_options_t *options, const char *path, tpv_fetch_result_t *result) {
    void *header = NULL;
    size_t header_bytes = 0;
    uint64_t bytes = 0;
    partial_t partial = {.descriptor = -1};
    char *metadata = make_metadata(artifact, view, options);
    tpv_status_t status = metadata ? tpv_view_safetensors_header(view, metadata, &header, &header_bytes)
                                   : tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the header of %s", path);
    free(metadata);
    if (status != TPV_OK) return status;
    if (!tpv_add_fits(header_bytes, tpv_view_stats(view).bytes, &bytes)) {
        status = tpv_error_set(TPV_ERR_PLAN, "the view is too long for a file");
        goto end;
    }
    partial.bytes = bytes;
    status = partial_create(&partial, path);
    if (status == TPV_OK) status = partial_fill(&partial, header, header_bytes);
    if (status == TPV_OK) status = tpv_fetch(source, artifact, view, options, partial.map + header_bytes, result);
    if (status == TPV_OK) status = partial_finish(&partial, path);
    partial_close(&partial, status);
end:
    free(header);
    return status;
}
