#include "common/view_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "artifact/artifact.h"

void test_index_begin(test_index_t *index) {
    index->draft = tpv_artifact_create();
    assert_non_null(index->draft);
}

void test_index_add(test_index_t *index, tpv_dtype_t dtype, const uint64_t *shape, const char *name, ...) {
    char text[TPV_MAX_NAME + 1];
    va_list arguments;
    va_start(arguments, name);
    vsnprintf(text, sizeof text, name, arguments);
    va_end(arguments);
    tpv_tensor_t tensor = {.name = text, .dtype = dtype};
    while (shape[tensor.dims])
        tensor.shape[tensor.dims] = shape[tensor.dims], tensor.dims++;
    assert_int_equal(tpv_artifact_add(index->draft, &tensor), TPV_OK);
}

tpv_artifact_t *test_index_finish(test_index_t *index, const tpv_model_config_t *config) {
    char *manifest = NULL;
    tpv_artifact_t *artifact = NULL;
    if (config) index->draft->config = *config;
    assert_int_equal(tpv_artifact_seal(index->draft), TPV_OK);
    tpv_artifact_set_id(index->draft, "0123456789abcdef0123456789abcdef");
    assert_int_equal(tpv_artifact_manifest(index->draft, &manifest), TPV_OK);
    if (tpv_artifact_from_manifest(manifest, strlen(manifest), &artifact) != TPV_OK)
        fail_msg("manifest: %s", tpv_error_message());
    free(manifest);
    tpv_artifact_close(index->draft);
    return artifact;
}

static const tpv_model_config_t qwen3 = {.present = true,
                                         .model_type = "qwen3",
                                         .hidden_size = 5120,
                                         .intermediate_size = 17408,
                                         .vocab_size = 151936,
                                         .num_hidden_layers = 40,
                                         .num_attention_heads = 40,
                                         .num_key_value_heads = 8,
                                         .head_dim = 128};

test_model_t test_qwen3_14b(void) {
    return (test_model_t){.config = qwen3, .head_norms = true};
}

test_model_t test_qwen3_32b(void) {
    test_model_t model = test_qwen3_14b();
    model.config.intermediate_size = 25600;
    model.config.num_hidden_layers = 64;
    model.config.num_attention_heads = 64;
    return model;
}

test_model_t test_qwen3_06b(void) {
    test_model_t model = test_qwen3_14b();
    model.config.hidden_size = 1024;
    model.config.intermediate_size = 3072;
    model.config.num_hidden_layers = 28;
    model.config.num_attention_heads = 16;
    model.config.tie_word_embeddings = true;
    return model;
}

test_model_t test_llama(void) {
    return (test_model_t){.config = {.present = true,
                                     .model_type = "llama",
                                     .hidden_size = 512,
                                     .intermediate_size = 1536,
                                     .vocab_size = 1024,
                                     .num_hidden_layers = 2,
                                     .num_attention_heads = 8,
                                     .num_key_value_heads = 2}};
}

/* One projection with what belongs to it. */
static void add_projection(test_index_t *index, const test_model_t *model, const char *name, uint64_t rows,
                           uint64_t columns, bool bias) {
    bool quantised = model->block_scales || model->tensor_scales;
    char text[256];
#define ADD(dtype, shape, leaf)                                                                                        \
    do {                                                                                                               \
        snprintf(text, sizeof text, "%s." leaf, name);                                                                 \
        if (!model->leave_out || strcmp(text, model->leave_out) != 0) test_index_add(index, dtype, shape, "%s", text); \
    } while (0)
    ADD(quantised ? TPV_DTYPE_F8_E4M3 : TPV_DTYPE_BF16, TEST_SHAPE(rows, columns), "weight");
    if (bias) ADD(TPV_DTYPE_BF16, TEST_SHAPE(rows), "bias");
    if (model->block_scales)
        ADD(TPV_DTYPE_F32, TEST_SHAPE((rows + 127) / 128, (columns + 127) / 128), "weight_scale_inv");
    if (model->tensor_scales) {
        ADD(TPV_DTYPE_F32, TEST_SCALAR, "weight_scale");
        ADD(TPV_DTYPE_F32, TEST_SCALAR, "input_scale");
    }
#undef ADD
}

tpv_artifact_t *test_model_index(const test_model_t *model) {
    const tpv_model_config_t *config = &model->config;
    uint64_t hidden = config->hidden_size, heads = config->num_attention_heads;
    uint64_t head_dim = config->head_dim ? config->head_dim : hidden / heads;
    uint64_t q = heads * head_dim, kv = config->num_key_value_heads * head_dim;
    test_index_t index;
    test_index_begin(&index);
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(config->vocab_size, hidden), "model.embed_tokens.weight");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(hidden), "model.norm.weight");
    if (!model->no_head && !config->tie_word_embeddings)
        test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(config->vocab_size, hidden), "lm_head.weight");
    for (uint64_t layer = 0; layer < config->num_hidden_layers; layer++) {
        char name[128];
        int at = snprintf(name, sizeof name, "model.layers.%llu.", (unsigned long long)layer);
#define NAMED(text) (strcpy(name + at, text), name)
        test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(hidden), "%s", NAMED("input_layernorm.weight"));
        test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(hidden), "%s", NAMED("post_attention_layernorm.weight"));
        if (model->head_norms) {
            test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(head_dim), "%s", NAMED("self_attn.q_norm.weight"));
            test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(head_dim), "%s", NAMED("self_attn.k_norm.weight"));
        }
        add_projection(&index, model, NAMED("self_attn.q_proj"), q, hidden, model->attention_bias);
        add_projection(&index, model, NAMED("self_attn.k_proj"), kv, hidden, model->attention_bias);
        add_projection(&index, model, NAMED("self_attn.v_proj"), kv, hidden, model->attention_bias);
        add_projection(&index, model, NAMED("self_attn.o_proj"), hidden, q, false);
        if (model->experts == 0) {
            add_projection(&index, model, NAMED("mlp.gate_proj"), config->intermediate_size, hidden, false);
            add_projection(&index, model, NAMED("mlp.up_proj"), config->intermediate_size, hidden, false);
            add_projection(&index, model, NAMED("mlp.down_proj"), hidden, config->intermediate_size, false);
            continue;
        }
        test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(model->experts, hidden), "%s", NAMED("mlp.gate.weight"));
        for (uint64_t expert = 0; expert < model->experts; expert++) {
            char part[160];
            int end = snprintf(part, sizeof part, "%smlp.experts.%llu.", NAMED(""), (unsigned long long)expert);
            strcpy(part + end, "gate_proj");
            add_projection(&index, model, part, model->expert_size, hidden, false);
            strcpy(part + end, "up_proj");
            add_projection(&index, model, part, model->expert_size, hidden, false);
            strcpy(part + end, "down_proj");
            add_projection(&index, model, part, hidden, model->expert_size, false);
        }
#undef NAMED
    }
    return test_index_finish(&index, config);
}

tpv_view_t *test_plan(const tpv_artifact_t *artifact, uint32_t tp_size, uint32_t tp_rank, bool fuse) {
    tpv_view_t *view = NULL;
    tpv_plan_options_t options = {.tp_size = tp_size, .tp_rank = tp_rank, .fuse = fuse};
    if (tpv_view_plan(artifact, &options, &view) != TPV_OK) fail_msg("plan: %s", tpv_error_message());
    return view;
}

const tpv_output_t *test_output(const tpv_view_t *view, const char *name) {
    for (size_t i = 0; i < tpv_view_output_count(view); i++)
        if (strcmp(tpv_view_output(view, i)->name, name) == 0) return tpv_view_output(view, i);
    fail_msg("no output %s", name);
    return NULL;
}

uint64_t test_random(uint64_t *state) {
    uint64_t x = *state ? *state : 88172645463325252u;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * UINT64_C(2685821657736338717);
}

static uint64_t bytes_of(const test_tensor_t *tensor) {
    uint64_t bits = tpv_dtype_bits(tensor->dtype);
    for (uint32_t i = 0; i < tensor->dims; i++)
        bits *= tensor->shape[i];
    return bits / 8;
}

static void write_file(FILE *file, const test_tensor_t *tensors, size_t count, uint64_t seed) {
    char *header = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&header, &length);
    uint64_t offset = 0;
    fputc('{', stream);
    for (size_t i = 0; i < count; i++) {
        fprintf(stream, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", tensors[i].name,
                tpv_dtype_name(tensors[i].dtype));
        for (uint32_t k = 0; k < tensors[i].dims; k++)
            fprintf(stream, "%s%llu", k ? "," : "", (unsigned long long)tensors[i].shape[k]);
        fprintf(stream, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)offset,
                (unsigned long long)(offset + bytes_of(&tensors[i])));
        offset += bytes_of(&tensors[i]);
    }
    fputc('}', stream);
    fclose(stream);
    uint64_t header_length = length;
    fwrite(&header_length, sizeof header_length, 1, file);
    fwrite(header, 1, length, file);
    free(header);
    for (uint64_t i = 0; i < offset; i++)
        fputc((int)(test_random(&seed) >> 56), file);
}

tpv_artifact_t *test_file(const test_tensor_t *tensors, size_t count, uint64_t seed, char *path) {
    strcpy(path, "/tmp/tpview-view-XXXXXX");
    assert_non_null(mkdtemp(path));
    strcat(path, "/model.safetensors");
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    write_file(file, tensors, count, seed);
    assert_int_equal(fclose(file), 0);
    tpv_artifact_t *artifact = NULL;
    if (tpv_artifact_open(path, &artifact) != TPV_OK) fail_msg("open: %s", tpv_error_message());
    return artifact;
}

void test_file_remove(const char *path) {
    char folder[64];
    unlink(path);
    snprintf(folder, sizeof folder, "%.*s", (int)(strrchr(path, '/') - path), path);
    rmdir(folder);
}
