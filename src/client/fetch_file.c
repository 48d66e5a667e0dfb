#include <stdio.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/error.h"
#include "client/partial.h"
#include "tpview/fetch.h"

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
    tpv_partial_t partial;
    char *metadata = make_metadata(artifact, view, options);
    tpv_status_t status = metadata ? tpv_view_safetensors_header(view, metadata, &header, &header_bytes)
                                   : tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the header of %s", path);
    free(metadata);
    if (status != TPV_OK) return status;
    if (!tpv_add_fits(header_bytes, tpv_view_stats(view).bytes, &bytes)) {
        status = tpv_error_set(TPV_ERR_PLAN, "the view is too long for a file");
        goto end;
    }
    status = tpv_partial_begin(&partial, path, bytes, header, header_bytes);
    if (status == TPV_OK) status = tpv_fetch(source, artifact, view, options, partial.map + header_bytes, result);
    status = tpv_partial_end(&partial, path, status);
end:
    free(header);
    return status;
}
