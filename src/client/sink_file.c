/* The file sink: verified chunks are written behind the header of a safetensors file. */
#include <stdio.h>
#include <stdlib.h>

#include "base/checked.h"
#include "client/partial.h"
#include "client/transfer.h"

typedef struct {
    tpv_sink_t sink;
    const char *path;
    void *header;
    size_t header_bytes, bytes; /* bytes of the whole file */
    bool sync;
    tpv_partial_t partial;
} file_sink_t;

static tpv_status_t begin(tpv_sink_t *sink) {
    file_sink_t *file = (file_sink_t *)sink;
    return tpv_partial_begin(&file->partial, file->path, file->bytes, file->header, file->header_bytes);
}

static tpv_status_t take(tpv_sink_t *sink, uint64_t offset, const void *data, size_t length) {
    file_sink_t *file = (file_sink_t *)sink;
    return tpv_partial_write(&file->partial, file->header_bytes + offset, data, length);
}

static tpv_status_t finish(tpv_sink_t *sink) {
    file_sink_t *file = (file_sink_t *)sink;
    return tpv_partial_end(&file->partial, file->path, file->sync, TPV_OK);
}

static void abandon(tpv_sink_t *sink) {
    file_sink_t *file = (file_sink_t *)sink;
    tpv_partial_end(&file->partial, file->path, file->sync, TPV_ERR_CANCELLED);
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
    static const tpv_sink_kind_t kind = {.begin = begin, .take = take, .finish = finish, .abandon = abandon};
    file_sink_t file = {.sink = {.kind = &kind}, .path = path, .sync = !options->no_sync};
    int64_t deadline = tpv_fetch_deadline(options);
    uint64_t bytes = 0;
    char *metadata = make_metadata(artifact, view, options);
    tpv_status_t status = metadata ? tpv_view_safetensors_header(view, metadata, &file.header, &file.header_bytes)
                                   : tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the header of %s", path);
    free(metadata);
    if (status == TPV_OK && !tpv_add_fits(file.header_bytes, tpv_view_stats(view).bytes, &bytes))
        status = tpv_error_set(TPV_ERR_PLAN, "the view is too long for a file");
    file.bytes = bytes;
    if (status == TPV_OK) status = tpv_fetch_into(source, artifact, view, options, deadline, &file.sink, result);
    free(file.header);
    return status;
}
