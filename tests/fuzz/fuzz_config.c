/* config.json from any bytes, as Python's json reads it. What is read must be the same again after a manifest has
 * carried it, and a plan that is made by it is made or refused with a reason. */
#include <stdlib.h>
#include <string.h>

#include "artifact/artifact.h"
#include "artifact/config.h"
#include "artifact/json_python.h"
#include "base/error.h"
#include "tpview/view.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool good) {
    if (!good) abort();
}

static const struct {
    const char *name;
    int dims;
    int64_t shape[2];
} tensors[] = {
    {"lm_head.weight", 2, {64, 32}},
    {"model.embed_tokens.weight", 2, {64, 32}},
    {"model.layers.0.input_layernorm.weight", 1, {32}},
    {"model.layers.0.mlp.down_proj.weight", 2, {32, 64}},
    {"model.layers.0.mlp.gate_proj.weight", 2, {64, 32}},
    {"model.layers.0.mlp.up_proj.weight", 2, {64, 32}},
    {"model.layers.0.self_attn.k_proj.weight", 2, {16, 32}},
    {"model.layers.0.self_attn.o_proj.weight", 2, {32, 32}},
    {"model.layers.0.self_attn.q_proj.weight", 2, {32, 32}},
    {"model.layers.0.self_attn.v_proj.weight", 2, {16, 32}},
};

static tpv_artifact_t *make_model(void) {
    tpv_artifact_t *model = tpv_artifact_create();
    uint64_t offset = 0;
    require(model != NULL);
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        tpv_tensor_t tensor = {
            .name = tensors[i].name, .dtype = TPV_DTYPE_BF16, .dims = tensors[i].dims, .offset = offset, .bytes = 2};
        for (int dim = 0; dim < tensors[i].dims; dim++) {
            tensor.shape[dim] = tensors[i].shape[dim];
            tensor.bytes *= (uint64_t)tensors[i].shape[dim];
        }
        offset += tensor.bytes;
        require(tpv_artifact_add(model, &tensor) == TPV_OK);
    }
    require(tpv_artifact_seal(model) == TPV_OK);
    tpv_artifact_set_id(model, "00112233445566778899aabbccddeeff");
    return model;
}

static void check_fields(const json_t *json) {
    tpv_model_config_t read, again;
    if (tpv_config_read(json, &read) != TPV_OK) return;
    json_t *shown = tpv_config_json(&read);
    require(shown != NULL && tpv_config_read(shown, &again) == TPV_OK);
    require(again.unusable == read.unusable);
    json_t *twice = tpv_config_json(&again);
    require(json_equal(shown, twice));
    json_decref(twice);
    json_decref(shown);
}

static char *manifest_of(const tpv_artifact_t *model) {
    char *text = NULL;
    require(tpv_artifact_manifest(model, &text) == TPV_OK);
    return text;
}

/* The rank's plan is made from the manifest, and must be the source's. */
static void check_plan(const tpv_artifact_t *model, const tpv_artifact_t *copy, bool fuse) {
    tpv_plan_options_t options = {.tp_size = 2, .tp_rank = 1, .fuse = fuse};
    tpv_view_t *here = NULL, *there = NULL;
    tpv_status_t status = tpv_view_plan(model, &options, &here);
    require(status == TPV_OK || *tpv_error_message());
    require(tpv_view_plan(copy, &options, &there) == status);
    if (status == TPV_OK) require(strcmp(tpv_view_id(here), tpv_view_id(there)) == 0);
    tpv_view_free(there);
    tpv_view_free(here);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    json_t *json = NULL;
    tpv_json_text_t text = {(const char *)data, size};
    if (tpv_json_parse_python(text, size, &json) != TPV_OK) {
        require(json == NULL && *tpv_error_message());
        return 0;
    }
    check_fields(json);
    tpv_artifact_t *model = make_model(), *copy = NULL;
    if (tpv_artifact_set_config(model, json) == TPV_OK) {
        char *first = manifest_of(model);
        require(tpv_artifact_from_manifest(first, strlen(first), &copy) == TPV_OK);
        char *second = manifest_of(copy);
        require(strcmp(first, second) == 0);
        free(second);
        free(first);
        check_plan(model, copy, false);
        check_plan(model, copy, true);
        tpv_artifact_close(copy);
    }
    tpv_artifact_close(model);
    json_decref(json);
    return 0;
}
