/* Built-in plans against the figures of whole models. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/view_fixture.h"

static void shape_is(const tpv_view_t *view, const char *name, uint64_t rows, uint64_t columns) {
    const tpv_output_t *output = test_output(view, name);
    assert_int_equal(output->dims, columns ? 2 : 1);
    assert_int_equal(output->shape[0], rows);
    if (columns) assert_int_equal(output->shape[1], columns);
}

static void totals_are(const test_model_t *model, uint32_t tp_size, uint64_t bytes, uint64_t outputs, uint64_t runs) {
    tpv_artifact_t *artifact = test_model_index(model);
    for (uint32_t rank = 0; rank < tp_size; rank++) {
        tpv_view_t *view = test_plan(artifact, tp_size, rank, false);
        tpv_view_stats_t stats = tpv_view_stats(view);
        assert_int_equal(stats.bytes, bytes);
        assert_int_equal(stats.zeros, 0);
        assert_int_equal(stats.outputs, outputs);
        assert_int_equal(stats.records, outputs);
        assert_int_equal(stats.runs, runs);
        tpv_view_free(view);
    }
    tpv_artifact_close(artifact);
}

static void qwen3_14b_totals(void **state) {
    (void)state;
    test_model_t model = test_qwen3_14b();
    totals_are(&model, 1, 29536614400, 443, 443);
    totals_are(&model, 2, 14768732160, 443, 409963);
    totals_are(&model, 4, 7384791040, 443, 409963);
    totals_are(&model, 8, 3692820480, 443, 409963);
}

static void qwen3_32b_totals(void **state) {
    (void)state;
    test_model_t model = test_qwen3_32b();
    totals_are(&model, 1, 65524246528, 707, 707);
    totals_are(&model, 2, 32762800128, 707, 655939);
    totals_are(&model, 4, 16382076928, 707, 655939);
    totals_are(&model, 8, 8191715328, 707, 655939);
    totals_are(&model, 16, 4180420608, 707, 655939);
}

static void qwen3_14b_fused(void **state) {
    (void)state;
    test_model_t model = test_qwen3_14b();
    tpv_artifact_t *artifact = test_model_index(&model);
    tpv_view_t *view = test_plan(artifact, 4, 3, true);
    tpv_view_stats_t stats = tpv_view_stats(view);
    assert_int_equal(stats.bytes, 7384791040);
    assert_int_equal(stats.outputs, 443 - 3 * 40);
    assert_int_equal(stats.records, 443);
    shape_is(view, "model.layers.7.self_attn.qkv_proj.weight", 1280 + 256 + 256, 5120);
    shape_is(view, "model.layers.7.mlp.gate_up_proj.weight", 2 * 4352, 5120);
    shape_is(view, "model.layers.7.self_attn.o_proj.weight", 5120, 1280);
    shape_is(view, "model.layers.7.mlp.down_proj.weight", 5120, 4352);
    shape_is(view, "model.embed_tokens.weight", 37984, 5120);
    /* Rows of rank 3: q after three times 1280, then k, then v after three times 256. */
    assert_non_null(strstr(
        tpv_view_json(view),
        "{\"dtype\":\"BF16\",\"name\":\"model.layers.0.self_attn.qkv_proj.weight\",\"pieces\":["
        "{\"offset\":19660800,\"sizes\":[6553600],\"strides\":[1],\"tensor\":\"model.layers.0.self_attn.q_proj."
        "weight\","
        "\"to\":{\"offset\":0,\"strides\":[1]}},"
        "{\"offset\":3932160,\"sizes\":[1310720],\"strides\":[1],\"tensor\":\"model.layers.0.self_attn.k_proj.weight\","
        "\"to\":{\"offset\":6553600,\"strides\":[1]}},"
        "{\"offset\":3932160,\"sizes\":[1310720],\"strides\":[1],\"tensor\":\"model.layers.0.self_attn.v_proj.weight\","
        "\"to\":{\"offset\":7864320,\"strides\":[1]}}],\"shape\":[1792,5120]}"));
    /* A row-parallel slice is one record of two strides. */
    assert_non_null(strstr(tpv_view_json(view),
                           "{\"offset\":13056,\"sizes\":[5120,4352],\"strides\":[17408,1],\"tensor\":"
                           "\"model.layers.0.mlp.down_proj.weight\",\"to\":{\"offset\":0,\"strides\":[4352,1]}}"));
    tpv_view_free(view);
    tpv_artifact_close(artifact);
}

static void order_is_that_of_the_index(void **state) {
    (void)state;
    test_model_t model = test_qwen3_14b();
    model.config.num_hidden_layers = 1;
    tpv_artifact_t *artifact = test_model_index(&model);
    tpv_view_t *view = test_plan(artifact, 2, 0, true);
    static const char *const expected[] = {"lm_head.weight",
                                           "model.embed_tokens.weight",
                                           "model.layers.0.input_layernorm.weight",
                                           "model.layers.0.mlp.down_proj.weight",
                                           "model.layers.0.mlp.gate_up_proj.weight",
                                           "model.layers.0.post_attention_layernorm.weight",
                                           "model.layers.0.self_attn.k_norm.weight",
                                           "model.layers.0.self_attn.o_proj.weight",
                                           "model.layers.0.self_attn.q_norm.weight",
                                           "model.layers.0.self_attn.qkv_proj.weight",
                                           "model.norm.weight"};
    assert_int_equal(tpv_view_output_count(view), sizeof expected / sizeof *expected);
    uint64_t offset = 0;
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        const tpv_output_t *output = tpv_view_output(view, i);
        assert_string_equal(output->name, expected[i]);
        assert_int_equal(output->offset, offset);
        offset += output->bytes;
    }
    assert_int_equal(offset, tpv_view_stats(view).bytes);
    tpv_view_free(view);
    tpv_artifact_close(artifact);
}

static void kv_heads_are_replicated_beyond_their_number(void **state) {
    (void)state;
    test_model_t model = test_qwen3_32b();
    model.config.num_hidden_layers = 1;
    tpv_artifact_t *artifact = test_model_index(&model);
    for (uint32_t rank = 0; rank < 16; rank++) {
        tpv_view_t *view = test_plan(artifact, 16, rank, true);
        shape_is(view, "model.layers.0.self_attn.qkv_proj.weight", 4 * 128 + 128 + 128, 5120);
        char piece[200];
        snprintf(
            piece, sizeof piece,
            "{\"offset\":%u,\"sizes\":[655360],\"strides\":[1],\"tensor\":\"model.layers.0.self_attn.v_proj.weight\"",
            rank / 2 * 128 * 5120);
        assert_non_null(strstr(tpv_view_json(view), piece));
        tpv_view_free(view);
    }
    tpv_artifact_close(artifact);
}

static void tied_embeddings_are_sent_once(void **state) {
    (void)state;
    for (int in_file = 0; in_file < 2; in_file++) {
        test_model_t model = test_qwen3_06b();
        model.config.num_hidden_layers = in_file ? 1 : 28;
        test_index_t index;
        tpv_artifact_t *artifact;
        if (in_file) {
            /* The same model with a copy of the embeddings in the file. */
            tpv_artifact_t *plain = test_model_index(&model);
            test_index_begin(&index);
            for (size_t i = 0; i < tpv_artifact_tensor_count(plain); i++) {
                const tpv_tensor_t *tensor = tpv_artifact_tensor(plain, i);
                test_index_add(&index, tensor->dtype, tensor->shape, "%s", tensor->name);
            }
            test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(151936, 1024), "lm_head.weight");
            tpv_artifact_close(plain);
            artifact = test_index_finish(&index, &model.config);
        } else {
            artifact = test_model_index(&model);
            assert_int_equal(tpv_artifact_tensor_count(artifact), 310);
        }
        tpv_view_t *view = test_plan(artifact, 2, 1, false);
        const char *name, *target;
        shape_is(view, "model.embed_tokens.weight", 75968, 1024);
        if (in_file) {
            /* It may differ, so it is sent. */
            assert_false(tpv_view_alias(view, 0, &name, &target));
            shape_is(view, "lm_head.weight", 75968, 1024);
        } else {
            assert_true(tpv_view_alias(view, 0, &name, &target));
            assert_string_equal(name, "lm_head.weight");
            assert_string_equal(target, "model.embed_tokens.weight");
            assert_false(tpv_view_alias(view, 1, &name, &target));
            for (size_t i = 0; i < tpv_view_output_count(view); i++)
                assert_string_not_equal(tpv_view_output(view, i)->name, "lm_head.weight");
        }
        tpv_view_free(view);
        tpv_artifact_close(artifact);
    }
}

static void biases_follow_their_weights(void **state) {
    (void)state;
    test_model_t model = test_llama();
    strcpy(model.config.model_type, "qwen2");
    model.attention_bias = true;
    tpv_artifact_t *artifact = test_model_index(&model);
    tpv_view_t *view = test_plan(artifact, 4, 2, false);
    shape_is(view, "model.layers.1.self_attn.q_proj.bias", 128, 0);
    shape_is(view, "model.layers.1.self_attn.k_proj.bias", 64, 0); /* 2 heads on 4 ranks: one each, twice */
    assert_non_null(
        strstr(tpv_view_json(view),
               "{\"offset\":64,\"sizes\":[64],\"strides\":[1],\"tensor\":\"model.layers.1.self_attn.k_proj.bias\""));
    tpv_view_free(view);
    view = test_plan(artifact, 2, 1, true);
    shape_is(view, "model.layers.1.self_attn.qkv_proj.bias", 256 + 64 + 64, 0);
    shape_is(view, "model.layers.1.self_attn.qkv_proj.weight", 256 + 64 + 64, 512);
    tpv_view_free(view);
    tpv_artifact_close(artifact);
}

static void uneven_vocabulary_is_padded_with_zeros(void **state) {
    (void)state;
    test_model_t model = test_llama();
    model.config.vocab_size = 1001; /* padded to 1024 */
    tpv_artifact_t *artifact = test_model_index(&model);
    tpv_view_t *view = test_plan(artifact, 2, 0, false);
    shape_is(view, "lm_head.weight", 512, 512);
    assert_int_equal(tpv_view_stats(view).zeros, 0);
    tpv_view_free(view);
    view = test_plan(artifact, 2, 1, false);
    shape_is(view, "lm_head.weight", 512, 512);
    shape_is(view, "model.embed_tokens.weight", 512, 512);
    assert_int_equal(tpv_view_stats(view).zeros, 2 * 23 * 512 * 2);
    assert_non_null(
        strstr(tpv_view_json(view), "{\"sizes\":[11776],\"to\":{\"offset\":250368,\"strides\":[1]},\"zero\":true}"));
    tpv_view_free(view);
    tpv_artifact_close(artifact);

    /* What divides is not padded, and nothing is at tp_size 1. */
    artifact = test_model_index(&model);
    view = test_plan(artifact, 1, 0, false);
    shape_is(view, "lm_head.weight", 1001, 512);
    tpv_view_free(view);
    tpv_artifact_close(artifact);
    model.config.vocab_size = 1000;
    artifact = test_model_index(&model);
    view = test_plan(artifact, 8, 7, false);
    shape_is(view, "lm_head.weight", 125, 512);
    assert_int_equal(tpv_view_stats(view).zeros, 0);
    tpv_view_free(view);
    tpv_artifact_close(artifact);

    model.config.vocab_size = 65; /* padded to 128: the last rank of 8 has nothing but padding */
    artifact = test_model_index(&model);
    view = test_plan(artifact, 8, 7, false);
    shape_is(view, "lm_head.weight", 16, 512);
    assert_int_equal(tpv_view_stats(view).zeros, 2 * 16 * 512 * 2);
    tpv_view_free(view);
    tpv_artifact_close(artifact);
}

static void block_scales_are_cut_with_their_weights(void **state) {
    (void)state;
    test_model_t model = test_qwen3_14b();
    model.config.num_hidden_layers = 1;
    model.config.weight_block_size[0] = model.config.weight_block_size[1] = 128;
    model.block_scales = true;
    tpv_artifact_t *artifact = test_model_index(&model);
    tpv_view_t *view = test_plan(artifact, 8, 1, false);
    shape_is(view, "model.layers.0.mlp.down_proj.weight_scale_inv", 40, 17);
    shape_is(view, "model.layers.0.mlp.gate_proj.weight_scale_inv", 17, 40);
    shape_is(view, "model.layers.0.self_attn.o_proj.weight_scale_inv", 40, 5);
    shape_is(view, "model.layers.0.self_attn.k_proj.weight_scale_inv", 1, 40);
    tpv_view_free(view);
    view = test_plan(artifact, 8, 1, true);
    shape_is(view, "model.layers.0.self_attn.qkv_proj.weight_scale_inv", 5 + 1 + 1, 40);
    shape_is(view, "model.layers.0.mlp.gate_up_proj.weight_scale_inv", 34, 40);
    tpv_view_free(view);
    tpv_artifact_close(artifact);
}

static void tensor_scales_fill_slots(void **state) {
    (void)state;
    test_model_t model = test_llama();
    model.tensor_scales = true;
    tpv_artifact_t *artifact = test_model_index(&model);
    tpv_view_t *view = test_plan(artifact, 2, 1, false);
    assert_int_equal(test_output(view, "model.layers.0.self_attn.o_proj.weight_scale")->dims, 0);
    tpv_view_free(view);
    view = test_plan(artifact, 2, 1, true);
    shape_is(view, "model.layers.0.self_attn.qkv_proj.weight_scale", 3, 0);
    shape_is(view, "model.layers.0.self_attn.qkv_proj.input_scale", 3, 0);
    shape_is(view, "model.layers.0.mlp.gate_up_proj.weight_scale", 2, 0);
    tpv_view_free(view);
    tpv_artifact_close(artifact);
}

static void experts_are_cut_each(void **state) {
    (void)state;
    test_model_t model = test_llama();
    strcpy(model.config.model_type, "qwen3_moe");
    model.head_norms = true;
    model.experts = 16;
    model.expert_size = 256;
    tpv_artifact_t *artifact = test_model_index(&model);
    tpv_view_t *view = test_plan(artifact, 4, 1, true);
    shape_is(view, "model.layers.1.mlp.gate.weight", 16, 512);
    shape_is(view, "model.layers.1.mlp.experts.11.gate_up_proj.weight", 128, 512);
    shape_is(view, "model.layers.1.mlp.experts.11.down_proj.weight", 512, 64);
    tpv_view_free(view);
    tpv_artifact_close(artifact);

    model.leave_out = "model.layers.1.mlp.experts.15.up_proj.weight";
    artifact = test_model_index(&model);
    tpv_plan_options_t options = {.tp_size = 4};
    assert_int_equal(tpv_view_plan(artifact, &options, &view), TPV_ERR_PLAN);
    assert_string_equal(tpv_error_message(), "model.layers.1.mlp.experts.15.up_proj.weight: missing in the checkpoint");
    tpv_artifact_close(artifact);
}

static void mixtral_experts(void **state) {
    (void)state;
    tpv_model_config_t config = test_llama().config;
    strcpy(config.model_type, "mixtral");
    config.num_hidden_layers = 1;
    test_index_t index;
    test_index_begin(&index);
    static const char *const vectors[] = {"model.norm.weight", "model.layers.0.input_layernorm.weight",
                                          "model.layers.0.post_attention_layernorm.weight"};
    for (int i = 0; i < 3; i++)
        test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(512), "%s", vectors[i]);
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(1024, 512), "lm_head.weight");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(1024, 512), "model.embed_tokens.weight");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(512, 512), "model.layers.0.self_attn.q_proj.weight");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(128, 512), "model.layers.0.self_attn.k_proj.weight");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(128, 512), "model.layers.0.self_attn.v_proj.weight");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(512, 512), "model.layers.0.self_attn.o_proj.weight");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(2, 512), "model.layers.0.block_sparse_moe.gate.weight");
    for (int expert = 0; expert < 2; expert++)
        for (int part = 1; part <= 3; part++)
            test_index_add(&index, TPV_DTYPE_BF16, part == 2 ? TEST_SHAPE(512, 1536) : TEST_SHAPE(1536, 512),
                           "model.layers.0.block_sparse_moe.experts.%d.w%d.weight", expert, part);
    tpv_artifact_t *artifact = test_index_finish(&index, &config);
    tpv_view_t *view = test_plan(artifact, 2, 1, true);
    shape_is(view, "model.layers.0.block_sparse_moe.experts.1.w13.weight", 1536, 512);
    shape_is(view, "model.layers.0.block_sparse_moe.experts.1.w2.weight", 512, 768);
    /* The second half of the rows of w1 (gate), then that of w3 (up); of w2 the second half of the columns. */
    assert_non_null(
        strstr(tpv_view_json(view),
               "{\"dtype\":\"BF16\",\"name\":\"model.layers.0.block_sparse_moe.experts.1.w13.weight\",\"pieces\":["
               "{\"offset\":393216,\"sizes\":[393216],\"strides\":[1],\"tensor\":\"model.layers.0.block_sparse_moe."
               "experts.1.w1."
               "weight\",\"to\":{\"offset\":0,\"strides\":[1]}},"
               "{\"offset\":393216,\"sizes\":[393216],\"strides\":[1],\"tensor\":\"model.layers.0.block_sparse_moe."
               "experts.1.w3."
               "weight\",\"to\":{\"offset\":393216,\"strides\":[1]}}],\"shape\":[1536,512]}"));
    assert_non_null(
        strstr(tpv_view_json(view),
               "{\"dtype\":\"BF16\",\"name\":\"model.layers.0.block_sparse_moe.experts.1.w2.weight\",\"pieces\":["
               "{\"offset\":768,\"sizes\":[512,768],\"strides\":[1536,1],\"tensor\":\"model.layers.0.block_sparse_moe."
               "experts.1.w2."
               "weight\",\"to\":{\"offset\":0,\"strides\":[768,1]}}],\"shape\":[512,768]}"));
    tpv_view_free(view);
    tpv_artifact_close(artifact);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(qwen3_14b_totals),
        cmocka_unit_test(qwen3_32b_totals),
        cmocka_unit_test(qwen3_14b_fused),
        cmocka_unit_test(order_is_that_of_the_index),
        cmocka_unit_test(kv_heads_are_replicated_beyond_their_number),
        cmocka_unit_test(tied_embeddings_are_sent_once),
        cmocka_unit_test(biases_follow_their_weights),
        cmocka_unit_test(uneven_vocabulary_is_padded_with_zeros),
        cmocka_unit_test(block_scales_are_cut_with_their_weights),
        cmocka_unit_test(tensor_scales_fill_slots),
        cmocka_unit_test(experts_are_cut_each),
        cmocka_unit_test(mixtral_experts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
