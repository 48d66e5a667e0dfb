/* The control API's JSON: a fetch request, then the view spec in it against a small index. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "artifact/artifact.h"
#include "service/request.h"
#include "tpview/view.h"

static tpv_artifact_t *small_index(void) {
    tpv_artifact_t *artifact = tpv_artifact_create();
    tpv_tensor_t matrix = {.name = "w", .dtype = TPV_DTYPE_BF16, .dims = 2, .shape = {8, 16}};
    tpv_tensor_t vector = {.name = "b", .dtype = TPV_DTYPE_F4, .dims = 1, .shape = {32}};
    if (!artifact || tpv_artifact_add(artifact, &matrix) != TPV_OK || tpv_artifact_add(artifact, &vector) != TPV_OK ||
        tpv_artifact_seal(artifact) != TPV_OK)
        abort();
    return artifact;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static tpv_artifact_t *artifact;
    if (!artifact) artifact = small_index();
    tpv_request_t request;
    if (tpv_request_parse((const char *)data, size, &request) == TPV_OK) {
        tpv_view_t *view = NULL;
        if (tpv_view_from_json(artifact, request.view, request.view_length, &view) == TPV_OK) {
            /* What is accepted has a canonical form that is accepted as the same view. */
            tpv_view_t *again = NULL;
            const char *json = tpv_view_json(view);
            if (tpv_view_from_json(artifact, json, strlen(json), &again) != TPV_OK) abort();
            if (strcmp(tpv_view_id(view), tpv_view_id(again)) != 0) abort();
            tpv_view_free(again);
        }
        tpv_view_free(view);
    }
    tpv_request_clear(&request);
    return 0;
}
