/* Plan files and view specs from outside: whatever they say, there is a view that is whole or an error. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "artifact/artifact.h"
#include "tpview/view.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static tpv_artifact_t *make_index(void) {
    static const tpv_tensor_t tensors[] = {
        {.name = "a.weight", .dtype = TPV_DTYPE_BF16, .dims = 2, .shape = {8, 12}},
        {.name = "a.bias", .dtype = TPV_DTYPE_BF16, .dims = 1, .shape = {8}},
        {.name = "layers.0.block_sparse_moe.experts.0.w1.weight", .dtype = TPV_DTYPE_BF16, .dims = 2, .shape = {8, 4}},
        {.name = "layers.0.mlp.experts.gate_up_proj", .dtype = TPV_DTYPE_BF16, .dims = 3, .shape = {2, 8, 6}},
        {.name = "g.g_idx", .dtype = TPV_DTYPE_I32, .dims = 1, .shape = {64}},
        {.name = "g.qweight", .dtype = TPV_DTYPE_I32, .dims = 2, .shape = {8, 32}},
        {.name = "g.qzeros", .dtype = TPV_DTYPE_I32, .dims = 2, .shape = {2, 4}},
        {.name = "g.scales", .dtype = TPV_DTYPE_F16, .dims = 2, .shape = {2, 32}},
        {.name = "layers.0.mlp.experts.down_proj_blocks", .dtype = TPV_DTYPE_U8, .dims = 4, .shape = {2, 8, 2, 16}},
        {.name = "layers.0.mlp.experts.down_proj_scales", .dtype = TPV_DTYPE_U8, .dims = 3, .shape = {2, 8, 2}},
        {.name = "n", .dtype = TPV_DTYPE_F4, .dims = 2, .shape = {4, 8}},
        {.name = "q_proj.weight", .dtype = TPV_DTYPE_F8_E4M3, .dims = 2, .shape = {16, 8}},
        {.name = "q_proj.weight_scale_inv", .dtype = TPV_DTYPE_F32, .dims = 2, .shape = {2, 1}},
        {.name = "s", .dtype = TPV_DTYPE_F32},
    };
    tpv_artifact_t *artifact = tpv_artifact_create();
    if (!artifact) abort();
    artifact->config = (tpv_model_config_t){.present = true,
                                            .model_type = "llama",
                                            .num_attention_heads = 4,
                                            .num_hidden_layers = 1,
                                            .weight_block_size = {8, 8}};
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++)
        if (tpv_artifact_add(artifact, &tensors[i]) != TPV_OK) abort();
    if (tpv_artifact_seal(artifact) != TPV_OK) abort();
    return artifact;
}

/* The canonical text must give the same view. */
static void check_again(const tpv_artifact_t *artifact, const tpv_view_t *view) {
    tpv_view_t *again = NULL;
    const char *json = tpv_view_json(view);
    if (tpv_view_from_json(artifact, json, strlen(json), &again) != TPV_OK) abort();
    if (strcmp(tpv_view_json(again), json) != 0 || strcmp(tpv_view_id(again), tpv_view_id(view)) != 0) abort();
    tpv_view_free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static tpv_artifact_t *artifact;
    if (!artifact) artifact = make_index();
    tpv_plan_options_t options = {.tp_size = 2, .tp_rank = 1, .plan = (const char *)data, .plan_length = size};
    for (int way = 0; way < 3; way++) {
        tpv_view_t *view = NULL;
        options.fuse = way == 1;
        options.ep_size = way == 2 ? 2 : 0;
        if (tpv_view_plan(artifact, &options, &view) == TPV_OK) check_again(artifact, view);
        tpv_view_free(view);
    }
    return 0;
}
