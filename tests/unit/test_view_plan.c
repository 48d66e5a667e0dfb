/* TP rules: words, patterns, plan files, and every reason for which a plan is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/view_fixture.h"
#include "view/plan_rules.h"

static void plan_refused(const tpv_artifact_t *artifact, tpv_plan_options_t options, tpv_status_t status,
                         const char *message) {
    tpv_view_t *view = (tpv_view_t *)1;
    if (options.plan) options.plan_length = strlen(options.plan);
    assert_int_equal(tpv_view_plan(artifact, &options, &view), status);
    assert_null(view);
    assert_string_equal(tpv_error_message(), message);
}

static void model_refused(const test_model_t *model, tpv_plan_options_t options, const char *message) {
    tpv_artifact_t *artifact = test_model_index(model);
    plan_refused(artifact, options, TPV_ERR_PLAN, message);
    tpv_artifact_close(artifact);
}

static tpv_view_t *plan_with(const tpv_artifact_t *artifact, const char *plan, uint32_t size, uint32_t rank,
                             bool fuse) {
    tpv_plan_options_t options = {
        .tp_size = size, .tp_rank = rank, .fuse = fuse, .plan = plan, .plan_length = strlen(plan)};
    tpv_view_t *view = NULL;
    if (tpv_view_plan(artifact, &options, &view) != TPV_OK) fail_msg("%s: %s", plan, tpv_error_message());
    return view;
}

static void patterns(void **state) {
    (void)state;
    static const struct {
        const char *pattern, *name;
        bool matches;
    } cases[] = {
        {"layers.*.self_attn.q_proj", "model.layers.11.self_attn.q_proj", true},
        {"layers.*.self_attn.q_proj", "layers.11.self_attn.q_proj", true},
        {"layers.*.self_attn.q_proj", "x.layers.11.self_attn.q_proj", false},
        {"layers.*.self_attn.q_proj", "layers.1.1.self_attn.q_proj", false},
        {"layers.*.self_attn.q_proj", "layers.11.self_attn.q_projx", false},
        {"model.layers.*", "model.layers.0", true},
        {"model.layers.*", "model.layers.0.x", false},
        {"model.layers.**", "model.layers.0.x", true},
        {"**.q_proj", "a.b.c.q_proj", true},
        {"**.q_proj", "q_proj", false},
        {"**q_proj", "q_proj", true},
        {"**.experts.*.w?", "a.b.experts.12.w2", true},
        {"**.experts.*.w?", "a.b.experts.12.w", false},
        {"a?c", "a.c", false},
        {"**a.*b", "xa.ya.zb", true},
        {"**a.*b.**c", "a.xb.a.yb.zc", true},
        {"*", "", true},
        {"", "", true},
        {"", "x", false},
        {"**", "anything.at.all", true},
        {"*.*", "a.b", true},
        {"*.*", "a.b.c", false},
        {"l*y*r", "layer", true},
        {"l*y*r", "lay.er", false},
    };
    const tpv_rules_t rules = {.prefixes = {"model."}, .prefix_count = 1};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (tpv_rules_match(&rules, cases[i].pattern, cases[i].name) != cases[i].matches)
            fail_msg("%s on %s", cases[i].pattern, cases[i].name);
}

/* m [8, 12], v [8], stack [4, 6, 8], model.layers.N.mlp.down_proj [4, 8] */
static tpv_artifact_t *small_index(void) {
    test_index_t index;
    test_index_begin(&index);
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(8, 12), "m.weight");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(8), "m.bias");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(4, 6, 8), "stack");
    return test_index_finish(&index, NULL);
}

static void shape_is(const tpv_view_t *view, const char *name, uint32_t dims, uint64_t a, uint64_t b, uint64_t c) {
    const tpv_output_t *output = test_output(view, name);
    assert_int_equal(output->dims, dims);
    assert_int_equal(output->shape[0], a);
    if (dims > 1) assert_int_equal(output->shape[1], b);
    if (dims > 2) assert_int_equal(output->shape[2], c);
}

static void words(void **state) {
    (void)state;
    static const struct {
        const char *word;
        uint64_t m[2], bias, stack[3];
    } cases[] = {
        {"replicate", {8, 12}, 8, {4, 6, 8}},
        {"sequence_parallel", {8, 12}, 8, {4, 6, 8}},
        {"replicated_with_grad_allreduce", {8, 12}, 8, {4, 6, 8}},
        {"gather", {8, 12}, 8, {4, 6, 8}},
        {"ep_router", {8, 12}, 8, {4, 6, 8}},
        {"moe_tp_experts", {8, 12}, 8, {4, 6, 8}},
        {"mla_kv_a_proj", {8, 12}, 8, {4, 6, 8}},
        {"colwise", {4, 12}, 4, {4, 3, 8}},
        {"colwise_rep", {4, 12}, 4, {4, 3, 8}},
        {"colwise_gather_output", {4, 12}, 4, {4, 3, 8}},
        {"local_colwise", {4, 12}, 4, {4, 3, 8}},
        {"rowwise", {8, 6}, 8, {4, 6, 4}},
        {"rowwise_rep", {8, 6}, 8, {4, 6, 4}},
        {"rowwise_split_input", {8, 6}, 8, {4, 6, 4}},
        {"local_rowwise", {8, 6}, 8, {4, 6, 4}},
        {"embedding_rowwise", {4, 12}, 4, {2, 6, 8}},
        {"grouped_gemm", {4, 12}, 4, {2, 6, 8}},
        {"embedding_colwise", {8, 6}, 8, {4, 6, 4}},
        {"packed_rowwise", {8, 6}, 8, {4, 6, 4}},
        {"local_packed_rowwise", {8, 6}, 8, {4, 6, 4}},
        {"vocab_parallel", {4, 12}, 4, {2, 6, 8}},
    };
    tpv_artifact_t *artifact = small_index();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char plan[200];
        snprintf(plan, sizeof plan, "{\"format\":\"tpview-plan-1\",\"tp_plan\":{\"m\":\"%s\",\"stack\":\"%s\"}}",
                 cases[i].word, cases[i].word);
        tpv_view_t *view = plan_with(artifact, plan, 2, 1, false);
        shape_is(view, "m.weight", 2, cases[i].m[0], cases[i].m[1], 0);
        shape_is(view, "m.bias", 1, cases[i].bias, 0, 0);
        shape_is(view, "stack", 3, cases[i].stack[0], cases[i].stack[1], cases[i].stack[2]);
        tpv_view_free(view);
    }
    tpv_artifact_close(artifact);
}

/* Each half of the packed axis is cut on its own. */
static void packed_words(void **state) {
    (void)state;
    tpv_artifact_t *artifact = small_index();
    tpv_view_t *view = plan_with(artifact,
                                 "{\"format\":\"tpview-plan-1\",\"tp_plan\":{\"m\":\"packed_colwise\"},"
                                 "\"default\":\"replicate\"}",
                                 4, 3, false);
    shape_is(view, "m.weight", 2, 2, 12, 0);
    assert_non_null(strstr(tpv_view_json(view), "{\"offset\":36,\"sizes\":[12],\"strides\":[1],\"tensor\":\"m.weight\","
                                                "\"to\":{\"offset\":0,\"strides\":[1]}}"));
    assert_non_null(strstr(tpv_view_json(view), "{\"offset\":84,\"sizes\":[12],\"strides\":[1],\"tensor\":\"m.weight\","
                                                "\"to\":{\"offset\":12,\"strides\":[1]}}"));
    assert_non_null(strstr(tpv_view_json(view), "{\"offset\":7,\"sizes\":[],\"strides\":[],\"tensor\":\"m.bias\","
                                                "\"to\":{\"offset\":1,\"strides\":[]}}"));
    tpv_view_free(view);
    view = plan_with(artifact,
                     "{\"format\":\"tpview-plan-1\",\"tp_plan\":{\"m\":\"packed_rowwise\"},\"default\":\"replicate\"}",
                     3, 2, false);
    assert_non_null(
        strstr(tpv_view_json(view),
               "{\"offset\":4,\"sizes\":[8,2],\"strides\":[12,1],\"tensor\":\"m.weight\",\"to\":{\"offset\":0,"
               "\"strides\":[4,1]}}"));
    assert_non_null(
        strstr(tpv_view_json(view),
               "{\"offset\":10,\"sizes\":[8,2],\"strides\":[12,1],\"tensor\":\"m.weight\",\"to\":{\"offset\":2,"
               "\"strides\":[4,1]}}"));
    tpv_view_free(view);
    tpv_artifact_close(artifact);
}

static void plan_file_faults(void **state) {
    (void)state;
    static const struct {
        const char *plan;
        tpv_status_t status;
        const char *message;
    } faults[] = {
        {"nonsense", TPV_ERR_FORMAT, "plan file: bad JSON at byte 0: expected an object"},
        {"{}", TPV_ERR_FORMAT,
         "plan file: \"format\" is missing: expected \"tpview-plan-1\", or \"tpview-view-1\" for a view"},
        {"{\"format\":\"tpview-plan-2\"}", TPV_ERR_FORMAT,
         "plan file: format \"tpview-plan-2\", expected \"tpview-plan-1\" or \"tpview-view-1\""},
        {"{\"format\":\"tpview-plan-1\",\"rules\":{}}", TPV_ERR_FORMAT, "plan file: plan: unknown key \"rules\""},
        {"{\"format\":\"tpview-plan-1\",\"tp_plan\":[]}", TPV_ERR_FORMAT,
         "plan file: \"tp_plan\" must be an object of at most 4096 rules"},
        {"{\"format\":\"tpview-plan-1\",\"tp_plan\":{\"m\":1}}", TPV_ERR_FORMAT,
         "plan file: rule \"m\": expected a word"},
        {"{\"format\":\"tpview-plan-1\",\"tp_plan\":{\"m\":\"sideways\"}}", TPV_ERR_FORMAT,
         "plan file: rule \"m\": unknown word \"sideways\": expected one such as colwise, rowwise, packed_colwise, "
         "embedding_rowwise, vocab_parallel or replicate"},
        {"{\"format\":\"tpview-plan-1\",\"tp_plan\":{\"m\":\"local\"}}", TPV_ERR_PLAN,
         "m.bias: rule \"m\": \"local\" divides the values by tp_size, which is not a slice: expected a word that "
         "cuts or replicates"},
        {"{\"format\":\"tpview-plan-1\",\"tp_plan\":{},\"default\":\"skip\"}", TPV_ERR_FORMAT,
         "plan file: \"default\" is \"skip\", expected \"error\" or \"replicate\""},
        {"{\"format\":\"tpview-plan-1\",\"tp_plan\":{},\"heads\":{\"m\":8}}", TPV_ERR_FORMAT,
         "plan file: m: expected a JSON object"},
        {"{\"format\":\"tpview-plan-1\",\"tp_plan\":{},\"heads\":{\"m\":{}}}", TPV_ERR_FORMAT,
         "plan file: heads of \"m\": \"count\" is missing"},
        {"{\"format\":\"tpview-plan-1\",\"tp_plan\":{\"m\":\"colwise\",\"m\":\"rowwise\"}}", TPV_ERR_FORMAT,
         "plan file: bad JSON: the name \"m\" appears twice"},
        {"{\"format\":\"tpview-plan-1\",\"tp_plan\":{\"m\":\"replicate\"}}", TPV_ERR_PLAN,
         "stack: no rule of the plan matches it, and \"default\" is not \"replicate\""},
        {"{\"format\":\"tpview-plan-1\",\"tp_plan\":{\"m\":\"colwise\",\"*\":\"rowwise\"}}", TPV_ERR_PLAN,
         "m.bias: the rules \"m\": colwise and \"*\": rowwise both match it"},
        {"{\"format\":\"tpview-plan-1\",\"tp_plan\":{\"m\":\"colwise_rep\",\"*\":\"colwise\"}}", TPV_ERR_PLAN,
         "m.bias: the rules \"m\": colwise_rep and \"*\": colwise both match it"},
        {"{\"format\":\"tpview-plan-1\"}", TPV_ERR_PLAN,
         "plan file: the checkpoint has no config.json that tells its model_type: give a plan file"},
        {"{\"format\":\"tpview-plan-1\",\"tp_plan\":{\"**\":\"colwise\"}}", TPV_ERR_PLAN,
         "m.weight: 8 rows do not divide by tp_size 3"},
        {"{\"format\":\"tpview-plan-1\",\"tp_plan\":{\"m\":\"packed_colwise\",\"stack\":\"replicate\"}}", TPV_ERR_PLAN,
         "m.weight: two packed halves of 8 rows do not divide by tp_size 3"},
        {"{\"format\":\"tpview-plan-1\",\"tp_plan\":{\"**\":\"vocab_parallel\"}}", TPV_ERR_PLAN,
         "m.weight: 8 rows, padded to 64, do not divide by tp_size 3"},
        {"{\"format\":\"tpview-plan-1\",\"tp_plan\":{\"m\":\"rowwise\",\"stack\":\"rowwise\"}}", TPV_ERR_PLAN,
         "stack: 8 columns do not divide by tp_size 3"},
        {"{\"format\":\"tpview-plan-1\",\"tp_plan\":{\"m\":\"rowwise\",\"stack\":\"replicate\"},"
         "\"heads\":{\"m\":{\"count\":4}}}",
         TPV_ERR_PLAN, "m.weight: 4 heads do not divide by tp_size 3"},
        {"{\"format\":\"tpview-plan-1\",\"tp_plan\":{\"m\":\"rowwise\",\"stack\":\"replicate\"},"
         "\"heads\":{\"m\":{\"count\":5}}}",
         TPV_ERR_PLAN, "m.weight: 12 columns do not divide into 5 heads"},
        {"{\"format\":\"tpview-plan-1\",\"tp_plan\":{\"m\":\"colwise\",\"stack\":\"replicate\"},"
         "\"heads\":{\"m\":{\"count\":2,\"replicate\":true}}}",
         TPV_ERR_PLAN, "m.weight: 2 heads cannot be replicated evenly over tp_size 3"},
    };
    tpv_artifact_t *artifact = small_index();
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        plan_refused(artifact, (tpv_plan_options_t){.tp_size = 3, .plan = faults[i].plan}, faults[i].status,
                     faults[i].message);
    tpv_artifact_close(artifact);
}

static void arguments(void **state) {
    (void)state;
    tpv_artifact_t *artifact = small_index();
    plan_refused(artifact, (tpv_plan_options_t){.tp_size = 0}, TPV_ERR_ARGUMENT,
                 "tp_size 0 is out of range: expected 1 to 1024");
    plan_refused(artifact, (tpv_plan_options_t){.tp_size = 1025}, TPV_ERR_ARGUMENT,
                 "tp_size 1025 is out of range: expected 1 to 1024");
    plan_refused(artifact, (tpv_plan_options_t){.tp_size = 4, .tp_rank = 4}, TPV_ERR_ARGUMENT,
                 "tp_rank 4 is out of range: expected less than tp_size 4");
    plan_refused(artifact, (tpv_plan_options_t){.tp_size = 2}, TPV_ERR_PLAN,
                 "the checkpoint has no config.json that tells its model_type: give a plan file");
    tpv_artifact_close(artifact);
}

static void heads_of_a_plan_file(void **state) {
    (void)state;
    tpv_artifact_t *artifact = small_index();
    tpv_view_t *view =
        plan_with(artifact,
                  "{\"format\":\"tpview-plan-1\",\"tp_plan\":{\"m\":\"colwise\",\"stack\":\"replicate\"},"
                  "\"heads\":{\"m\":{\"count\":2,\"replicate\":true}}}",
                  6, 4, false);
    shape_is(view, "m.weight", 2, 4, 12, 0);
    assert_non_null(strstr(tpv_view_json(view), "{\"offset\":4,\"sizes\":[4],\"strides\":[1],\"tensor\":\"m.bias\""));
    tpv_view_free(view);
    tpv_artifact_close(artifact);
}

/* Hugging Face's own plan for the family, with what it leaves out, gives the built-in plan's view. */
static void a_plan_of_hugging_face(void **state) {
    (void)state;
    test_model_t model = test_llama();
    tpv_artifact_t *artifact = test_model_index(&model);
    const char *plan = "{\"format\":\"tpview-plan-1\",\"default\":\"replicate\",\"tp_plan\":{"
                       "\"layers.*.self_attn.q_proj\":\"colwise\",\"layers.*.self_attn.k_proj\":\"colwise\","
                       "\"layers.*.self_attn.v_proj\":\"colwise\",\"layers.*.self_attn.o_proj\":\"rowwise\","
                       "\"layers.*.mlp.gate_proj\":\"colwise\",\"layers.*.mlp.up_proj\":\"colwise\","
                       "\"layers.*.mlp.down_proj\":\"rowwise\",\"lm_head\":\"colwise_gather_output\","
                       "\"model.embed_tokens.weight\":\"embedding_rowwise\"}}";
    for (uint32_t size = 1; size <= 8; size *= 2) {
        tpv_view_t *a = plan_with(artifact, plan, size, size - 1, size == 2);
        tpv_view_t *b = test_plan(artifact, size, size - 1, size == 2);
        assert_string_equal(tpv_view_json(a), tpv_view_json(b));
        assert_string_equal(tpv_view_id(a), tpv_view_id(b));
        tpv_view_free(a);
        tpv_view_free(b);
    }
    /* Without "tp_plan" the built-in rules stay. */
    tpv_view_t *a = plan_with(artifact, "{\"format\":\"tpview-plan-1\",\"default\":\"replicate\"}", 2, 0, false);
    tpv_view_t *b = test_plan(artifact, 2, 0, false);
    assert_string_equal(tpv_view_id(a), tpv_view_id(b));
    /* A plan file may be a view that was planned before. */
    tpv_view_t *c = plan_with(artifact, tpv_view_json(b), 2, 0, false);
    assert_string_equal(tpv_view_id(c), tpv_view_id(b));
    plan_refused(artifact, (tpv_plan_options_t){.tp_size = 2, .fuse = true, .plan = tpv_view_json(b)}, TPV_ERR_ARGUMENT,
                 "the plan file is an explicit view, which says itself what is fused: expected no request to fuse");
    tpv_view_free(a);
    tpv_view_free(b);
    tpv_view_free(c);
    tpv_artifact_close(artifact);
}

static void fusing_needs_all_parts_alike(void **state) {
    (void)state;
    test_model_t model = test_llama();
    tpv_artifact_t *artifact = test_model_index(&model);
    /* No half of a module: without a rule that cuts all three, they stay apart. */
    static const char *const plans[] = {"\"**.q_proj\":\"colwise\",\"**.k_proj\":\"colwise\"",
                                        "\"**.k_proj\":\"colwise\""};
    for (size_t i = 0; i < sizeof plans / sizeof *plans; i++) {
        char text[256];
        snprintf(text, sizeof text, "{\"format\":\"tpview-plan-1\",\"default\":\"replicate\",\"tp_plan\":{%s}}",
                 plans[i]);
        tpv_plan_options_t options = {.tp_size = 2, .fuse = true, .plan = text, .plan_length = strlen(text)};
        tpv_view_t *fused = NULL, *apart = NULL;
        assert_int_equal(tpv_view_plan(artifact, &options, &fused), TPV_OK);
        options.fuse = false;
        assert_int_equal(tpv_view_plan(artifact, &options, &apart), TPV_OK);
        assert_string_equal(tpv_view_id(fused), tpv_view_id(apart));
        tpv_view_free(fused);
        tpv_view_free(apart);
    }
    tpv_artifact_close(artifact);
    test_index_t index;
    test_index_begin(&index);
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(8, 4), "k_proj.weight");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(8, 6), "q_proj.weight");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(8, 4), "v_proj.weight");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(8, 4), "gate_proj.weight");
    test_index_add(&index, TPV_DTYPE_F8_E4M3, TEST_SHAPE(8, 4), "up_proj.weight");
    test_index_add(&index, TPV_DTYPE_F32, TEST_SCALAR, "up_proj.weight_scale");
    artifact = test_index_finish(&index, NULL);
    const char *plan = "{\"format\":\"tpview-plan-1\",\"tp_plan\":{\"*\":\"colwise\"},\"heads\":{\"*\":{\"count\":0}}}";
    tpv_view_t *view = plan_with(artifact, plan, 2, 1, true);
    assert_int_equal(tpv_view_output_count(view), 6);
    shape_is(view, "q_proj.weight", 2, 4, 6, 0);
    shape_is(view, "gate_proj.weight", 2, 4, 4, 0);
    for (size_t i = 0; i < 6; i++) {
        const char *of = tpv_view_output(view, i)->name, *apart = tpv_view_apart(view, i);
        assert_non_null(apart);
        assert_string_equal(apart, strstr(of, "gate") || strstr(of, "up")
                                       ? "its projections have several dtypes"
                                       : "the parameters of its projections have several shapes");
    }
    assert_null(tpv_view_apart(view, 6));
    tpv_view_free(view);
    tpv_artifact_close(artifact);
    /* Experts behind one another are no matrix of both, also where nothing is cut; nor is one scale a row of others. */
    test_index_begin(&index);
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(2, 6, 4), "experts.gate_proj.weight");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(2, 6, 4), "experts.up_proj.weight");
    test_index_add(&index, TPV_DTYPE_F8_E4M3, TEST_SHAPE(8, 4), "gate_proj.weight");
    test_index_add(&index, TPV_DTYPE_F32, TEST_SHAPE(8, 1), "gate_proj.weight_scale");
    test_index_add(&index, TPV_DTYPE_F8_E4M3, TEST_SHAPE(8, 4), "up_proj.weight");
    test_index_add(&index, TPV_DTYPE_F32, TEST_SHAPE(1, 1), "up_proj.weight_scale");
    artifact = test_index_finish(&index, NULL);
    for (uint32_t size = 1; size <= 2; size++) {
        view = plan_with(artifact, "{\"format\":\"tpview-plan-1\",\"tp_plan\":{\"**\":\"colwise\"}}", size, 0, true);
        assert_int_equal(tpv_view_output_count(view), 6);
        tpv_view_free(view);
    }
    tpv_artifact_close(artifact);
    /* Scales of the key and value cache are no part of what is fused. */
    test_index_begin(&index);
    test_index_add(&index, TPV_DTYPE_F32, TEST_SCALAR, "k_proj.k_scale");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(4, 4), "k_proj.weight");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(8, 4), "q_proj.weight");
    test_index_add(&index, TPV_DTYPE_F32, TEST_SCALAR, "v_proj.v_scale");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(4, 4), "v_proj.weight");
    artifact = test_index_finish(&index, NULL);
    view = plan_with(artifact, plan, 2, 1, true);
    assert_int_equal(tpv_view_output_count(view), 3);
    shape_is(view, "qkv_proj.weight", 2, 8, 4, 0);
    assert_int_equal(test_output(view, "k_proj.k_scale")->dims, 0);
    for (size_t i = 0; i < 3; i++)
        assert_null(tpv_view_apart(view, i));
    tpv_view_free(view);
    tpv_artifact_close(artifact);
}

static void built_in_plans_that_do_not_divide(void **state) {
    (void)state;
    test_model_t model = test_qwen3_14b();
    model.config.num_hidden_layers = 1;
    /* 17408 divides by 16, 40 heads do not. */
    model_refused(&model, (tpv_plan_options_t){.tp_size = 16},
                  "model.layers.0.self_attn.o_proj.weight: 40 heads do not divide by tp_size 16");
    model_refused(&model, (tpv_plan_options_t){.tp_size = 16, .fuse = true},
                  "model.layers.0.self_attn.q_proj.weight: 40 heads do not divide by tp_size 16");
    model_refused(&model, (tpv_plan_options_t){.tp_size = 3},
                  "lm_head.weight: 151936 rows, padded to 151936, do not divide by tp_size 3");
    model.config.intermediate_size = 17400;
    model_refused(&model, (tpv_plan_options_t){.tp_size = 16},
                  "model.layers.0.mlp.down_proj.weight: 17400 columns do not divide by tp_size 16");

    model = test_llama();
    model.config.num_attention_heads = 12; /* 42 rows each, and 3 key/value heads */
    model.config.num_key_value_heads = 3;
    model.config.head_dim = 42;
    model.config.vocab_size = 64 * 24;
    model_refused(&model, (tpv_plan_options_t){.tp_size = 4},
                  "model.layers.0.self_attn.k_proj.weight: 3 heads cannot be replicated evenly over tp_size 4");
    model_refused(&model, (tpv_plan_options_t){.tp_size = 2},
                  "model.layers.0.self_attn.k_proj.weight: 3 heads do not divide by tp_size 2");
}

static void heads_that_config_json_denies(void **state) {
    (void)state;
    test_model_t model = test_llama();
    tpv_artifact_t *right = test_model_index(&model);
    test_index_t index;
    test_index_begin(&index);
    for (size_t i = 0; i < tpv_artifact_tensor_count(right); i++) {
        const tpv_tensor_t *tensor = tpv_artifact_tensor(right, i);
        test_index_add(&index, tensor->dtype, tensor->shape, "%s", tensor->name);
    }
    model.config.head_dim = 32;
    tpv_artifact_t *artifact = test_index_finish(&index, &model.config);
    plan_refused(artifact, (tpv_plan_options_t){.tp_size = 2}, TPV_ERR_PLAN,
                 "model.layers.0.self_attn.k_proj.weight: 128 rows are not 2 heads of 32");
    tpv_artifact_close(artifact);
    tpv_artifact_close(right);
}

static void missing_and_unknown_tensors(void **state) {
    (void)state;
    test_model_t model = test_llama();
    model.leave_out = "model.layers.1.mlp.up_proj.weight";
    model_refused(&model, (tpv_plan_options_t){.tp_size = 2},
                  "model.layers.1.mlp.up_proj.weight: missing in the checkpoint");
    model = test_llama();
    model.no_head = true;
    model_refused(&model, (tpv_plan_options_t){.tp_size = 2}, "lm_head.weight: missing in the checkpoint");
    model = test_llama();
    model.attention_bias = true;
    model.leave_out = "model.layers.1.self_attn.v_proj.bias";
    model_refused(&model, (tpv_plan_options_t){.tp_size = 2, .fuse = true},
                  "model.layers.1.self_attn.v_proj.bias: missing in the checkpoint, "
                  "model.layers.1.self_attn.qkv_proj.bias needs it");
    model.leave_out = "model.layers.1.self_attn.q_proj.bias";
    model_refused(&model, (tpv_plan_options_t){.tp_size = 2, .fuse = true},
                  "model.layers.1.self_attn.q_proj.bias: missing in the checkpoint, "
                  "model.layers.1.self_attn.qkv_proj.bias needs it");
    model = test_llama();
    model.head_norms = true; /* not part of llama */
    model_refused(&model, (tpv_plan_options_t){.tp_size = 2},
                  "model.layers.0.self_attn.k_norm.weight: no rule of the plan matches it, and \"default\" is not "
                  "\"replicate\"");
    strcpy(model.config.model_type, "martian");
    model_refused(
        &model, (tpv_plan_options_t){.tp_size = 2},
        "model_type \"martian\" has no built-in plan (\"tpview plan --families\" lists those there are): give a "
        "plan file");
    model = test_llama();
    model.config.num_hidden_layers = 0;
    model_refused(
        &model, (tpv_plan_options_t){.tp_size = 2},
        "config.json does not tell \"num_hidden_layers\", which the plan needs (at most 100000): give a plan file");
}

static void quantisation_blocks(void **state) {
    (void)state;
    test_model_t model = test_qwen3_32b();
    model.config.num_hidden_layers = 1;
    model.config.weight_block_size[0] = model.config.weight_block_size[1] = 128;
    model.block_scales = true;
    tpv_artifact_t *artifact = test_model_index(&model);
    tpv_view_free(test_plan(artifact, 8, 7, true));
    tpv_artifact_close(artifact);
    model_refused(&model, (tpv_plan_options_t){.tp_size = 16, .tp_rank = 1},
                  "model.layers.0.mlp.down_proj.weight_scale_inv: the slice [1600, 3200) of "
                  "model.layers.0.mlp.down_proj.weight has an edge inside of a quantisation block of 128 columns "
                  "(tp_size 16)");
    /* Not told, the shapes leave no choice; told otherwise than they are, they are blocks all the same. */
    model.config.weight_block_size[0] = model.config.weight_block_size[1] = 0;
    artifact = test_model_index(&model);
    tpv_view_free(test_plan(artifact, 8, 7, true));
    tpv_artifact_close(artifact);
    model_refused(&model, (tpv_plan_options_t){.tp_size = 16, .tp_rank = 1},
                  "model.layers.0.mlp.down_proj.weight_scale_inv: the slice [1600, 3200) of "
                  "model.layers.0.mlp.down_proj.weight has an edge inside of a quantisation block of 128 columns "
                  "(tp_size 16)");
    /* 3 * 64 rows of q end inside of a block: whole, they can be sent, but not with k below them. */
    model = test_llama();
    model.config.hidden_size = 256;
    model.config.num_attention_heads = 3;
    model.config.num_key_value_heads = 3;
    model.config.head_dim = 64;
    model.config.weight_block_size[0] = model.config.weight_block_size[1] = 128;
    model.block_scales = true;
    artifact = test_model_index(&model);
    tpv_view_t *view = test_plan(artifact, 1, 0, true);
    shape_is(view, "model.layers.0.self_attn.q_proj.weight", 2, 192, 256, 0);
    shape_is(view, "model.layers.0.self_attn.q_proj.weight_scale_inv", 2, 2, 2, 0);
    test_output(view, "model.layers.0.mlp.gate_up_proj.weight_scale_inv");
    tpv_view_free(view);
    tpv_artifact_close(artifact);
}

/* a: GPTQ with 4 bits, [out 64, in 128] in groups of 32; b: a scale alone; c: what no format has beside a weight. */
static tpv_artifact_t *packed_index(void) {
    test_index_t index;
    test_index_begin(&index);
    test_index_add(&index, TPV_DTYPE_I32, TEST_SHAPE(128), "x.a.g_idx");
    test_index_add(&index, TPV_DTYPE_I32, TEST_SHAPE(16, 64), "x.a.qweight");
    test_index_add(&index, TPV_DTYPE_I32, TEST_SHAPE(4, 8), "x.a.qzeros");
    test_index_add(&index, TPV_DTYPE_F16, TEST_SHAPE(4, 64), "x.a.scales");
    test_index_add(&index, TPV_DTYPE_F32, TEST_SHAPE(4, 8), "x.b.weight_scale");
    test_index_add(&index, TPV_DTYPE_U8, TEST_SHAPE(64, 1), "x.c.weight");
    test_index_add(&index, TPV_DTYPE_F32, TEST_SHAPE(2), "x.c.weight.absmax");
    test_index_add(&index, TPV_DTYPE_U8, TEST_SHAPE(64), "x.c.weight.quant_state.bitsandbytes__nf4");
    test_index_add(&index, TPV_DTYPE_I8, TEST_SHAPE(8, 8), "x.d.weight");
    test_index_add(&index, TPV_DTYPE_F32, TEST_SHAPE(8), "x.d.SCB");
    test_index_add(&index, TPV_DTYPE_U8, TEST_SCALAR, "x.d.weight_format");
    test_index_add(&index, TPV_DTYPE_U8, TEST_SHAPE(16, 64), "x.e.weight");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(1), "x.e.weight_scale");
    test_index_add(&index, TPV_DTYPE_F32, TEST_SHAPE(1), "x.self_attn.k_scale");
    return test_index_finish(&index, NULL);
}

#define PLAN(rules) "{\"format\":\"tpview-plan-1\",\"tp_plan\":{" rules "},\"default\":\"replicate\"}"
#define STRICT(rules) "{\"format\":\"tpview-plan-1\",\"tp_plan\":{" rules "}}"
#define OTHERS "\"x.b\":\"replicate\",\"x.c\":\"replicate\",\"x.d\":\"replicate\",\"x.e\":\"replicate\","

static void parameters_named_in_full_are_cut_together(void **state) {
    (void)state;
    tpv_artifact_t *artifact = packed_index();
    static const struct {
        const char *plan, *message;
    } cases[] = {
        {PLAN("\"x.a.qweight\":\"rowwise\""), "x.a.qweight: the plan cuts it rowwise, but x.a.qzeros not: parameters "
                                              "of a quantised module are cut together"},
        {PLAN("\"x.a.scales\":\"rowwise\",\"x.a.qweight\":\"rowwise\""),
         "x.a.qweight: the plan cuts it rowwise, but x.a.qzeros not: parameters of a quantised module are cut "
         "together"},
        {PLAN("\"x.a.qweight\":\"rowwise\",\"x.a.scales\":\"colwise\",\"x.a.qzeros\":\"rowwise\""),
         "x.a.qweight: the plan cuts it rowwise, but x.a.scales otherwise: parameters of a quantised module are cut "
         "together"},
        {PLAN("\"x.a.scales\":\"rowwise\""), "x.a.scales: the plan cuts it rowwise, but x.a.qweight not: parameters of "
                                             "a quantised module are cut together"},
        /* The words of the module speak of the weight, those of a parameter of its own axes. */
        {PLAN("\"x.a\":\"colwise\",\"x.a.qweight\":\"colwise\""),
         "x.a.g_idx: the plan cuts it colwise, but x.a.qweight otherwise: parameters of a quantised module are cut "
         "together"},
        {STRICT("\"x.b\":\"colwise\",\"x.a\":\"replicate\""),
         "x.b.weight_scale: cannot be cut colwise: there is no x.b.weight that its scales belong to"},
        {STRICT("\"x.a\":\"replicate\",\"x.b\":\"replicate\",\"x.c\":\"colwise\""),
         "x.c.weight: cannot be cut colwise: x.c.weight.absmax: bitsandbytes and other formats that keep a weight as a "
         "row of blocks, or in an order that a value tells, cannot be cut"},
        {STRICT("\"x.a\":\"replicate\",\"x.b\":\"replicate\",\"x.c\":\"replicate\",\"x.d\":\"rowwise\""),
         "x.d.SCB: cannot be cut rowwise: x.d.SCB: bitsandbytes and other formats that keep a weight as a row of "
         "blocks, "
         "or in an order that a value tells, cannot be cut"},
        {STRICT("\"x.?\":\"replicate\",\"x.e.*\":\"colwise\""),
         "x.e.weight: cannot be cut colwise: how the bytes of x.e.weight are packed is not known"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        plan_refused(artifact, (tpv_plan_options_t){.tp_size = 2, .plan = cases[i].plan}, TPV_ERR_PLAN,
                     cases[i].message);
    static const char *const good[] = {
        PLAN("\"x.a.qweight\":\"rowwise\",\"x.a.scales\":\"rowwise\",\"x.a.qzeros\":\"rowwise\""),
        STRICT(OTHERS "\"x.a.*\":\"colwise\""), STRICT(OTHERS "\"x.a\":\"colwise\"")};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        tpv_view_t *view = plan_with(artifact, good[i], 2, 1, false);
        shape_is(view, "x.a.qweight", 2, 16, 32, 0);
        shape_is(view, "x.a.qzeros", 2, 4, 4, 0);
        shape_is(view, "x.a.scales", 2, 4, 32, 0);
        shape_is(view, "x.a.g_idx", 1, 128, 0, 0);
        shape_is(view, "x.self_attn.k_scale", 1, 1, 0, 0);
        tpv_view_free(view);
    }
    /* At tp_size 1 all is whole, and so is with "default": "replicate" what cannot be cut. */
    tpv_view_free(plan_with(artifact, STRICT("\"**\":\"colwise\""), 1, 0, false));
    tpv_view_t *view = plan_with(artifact, PLAN("\"x.c\":\"colwise\",\"x.d\":\"rowwise\""), 4, 3, false);
    shape_is(view, "x.c.weight", 2, 64, 1, 0);
    shape_is(view, "x.c.weight.absmax", 1, 2, 0, 0);
    shape_is(view, "x.d.SCB", 1, 8, 0, 0);
    tpv_view_free(view);
    tpv_artifact_close(artifact);
}

static void scales_of_channels(void **state) {
    (void)state;
    test_index_t index;
    test_index_begin(&index);
    test_index_add(&index, TPV_DTYPE_F8_E4M3, TEST_SHAPE(16, 8), "col.weight");
    test_index_add(&index, TPV_DTYPE_F32, TEST_SHAPE(16, 1), "col.weight_scale");
    test_index_add(&index, TPV_DTYPE_F8_E4M3, TEST_SHAPE(16, 8), "row.weight");
    test_index_add(&index, TPV_DTYPE_F32, TEST_SHAPE(16), "row.weight_scale");
    test_index_add(&index, TPV_DTYPE_F32, TEST_SCALAR, "row.input_scale");
    tpv_artifact_t *artifact = test_index_finish(&index, NULL);
    tpv_view_t *view = plan_with(
        artifact, "{\"format\":\"tpview-plan-1\",\"tp_plan\":{\"col\":\"colwise\",\"row\":\"rowwise\"}}", 4, 3, false);
    shape_is(view, "col.weight_scale", 2, 4, 1, 0);
    shape_is(view, "row.weight_scale", 1, 16, 0, 0);
    assert_int_equal(test_output(view, "row.input_scale")->dims, 0);
    tpv_view_free(view);
    tpv_artifact_close(artifact);
}

static void tied_embeddings_cut_in_two_ways(void **state) {
    (void)state;
    test_model_t model = test_qwen3_06b();
    model.config.num_hidden_layers = 1;
    tpv_artifact_t *artifact = test_model_index(&model);
    plan_refused(artifact,
                 (tpv_plan_options_t){.tp_size = 2,
                                      .plan = "{\"format\":\"tpview-plan-1\",\"default\":\"replicate\",\"tp_plan\":{"
                                              "\"lm_head\":\"colwise_rep\",\"embed_tokens\":\"replicate\"}}"},
                 TPV_ERR_PLAN,
                 "lm_head.weight: config.json ties it to model.embed_tokens.weight, but the plan cuts it colwise_rep "
                 "and the embedding replicate");
    plan_refused(artifact,
                 (tpv_plan_options_t){.tp_size = 2,
                                      .plan = "{\"format\":\"tpview-plan-1\",\"default\":\"replicate\",\"tp_plan\":{"
                                              "\"lm_head\":\"colwise_rep\"}}"},
                 TPV_ERR_PLAN,
                 "lm_head.weight: config.json ties it to model.embed_tokens.weight, but the plan cuts it colwise_rep "
                 "and the embedding replicate");
    tpv_view_free(plan_with(artifact,
                            "{\"format\":\"tpview-plan-1\",\"default\":\"replicate\",\"tp_plan\":{"
                            "\"lm_head\":\"colwise_rep\",\"embed_tokens\":\"embedding_rowwise\"}}",
                            2, 0, false));
    tpv_artifact_close(artifact);
}

#define PLAN_OF(rest) "{\"format\":\"tpview-plan-1\",\"default\":\"replicate\"," rest "}"

/* [out, in, kernel]: the outputs are not where a matrix has them. */
static void convolutions(void **state) {
    (void)state;
    test_index_t index;
    tpv_model_config_t config = {0};
    test_index_begin(&index);
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(8, 4, 1), "a.pointwise.weight");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(8, 4, 3), "a.conv1.weight");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(8, 4, 3), "a.proj.weight");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(8), "a.proj.bias");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(8, 4, 2, 2), "a.patch.weight");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(8, 4, 6), "a.input_linear.weight");
    tpv_artifact_t *artifact = test_index_finish(&index, &config);
    static const char *const modules[] = {"pointwise", "conv1", "proj", "patch"};
    static const char *const words[] = {"colwise", "rowwise", "packed_colwise", "colwise_gather_output"};
    for (size_t i = 0; i < sizeof modules / sizeof *modules; i++) {
        char plan[200], message[200];
        for (size_t k = 0; k < sizeof words / sizeof *words; k++) {
            snprintf(plan, sizeof plan, PLAN_OF("\"tp_plan\":{\"a.%s\":\"%s\"}"), modules[i], words[k]);
            snprintf(
                message, sizeof message,
                "a.%s.weight: \"%s\" is for matrices, and this is a convolution's weight [out, in, kernel]: expected "
                "\"grouped_gemm\", which cuts axis 0, or \"replicate\"",
                modules[i], words[k]);
            /* A bias goes with its weight, and comes first. */
            if (strcmp(modules[i], "proj") == 0 && k != 1) {
                tpv_view_t *view = NULL;
                tpv_plan_options_t options = {.tp_size = 2, .plan = plan, .plan_length = strlen(plan)};
                assert_int_equal(tpv_view_plan(artifact, &options, &view), TPV_ERR_PLAN);
            } else {
                plan_refused(artifact, (tpv_plan_options_t){.tp_size = 2, .plan = plan}, TPV_ERR_PLAN, message);
            }
        }
        snprintf(plan, sizeof plan, PLAN_OF("\"tp_plan\":{\"a.%s.weight\":\"grouped_gemm\"}"), modules[i]);
        tpv_view_t *view = plan_with(artifact, plan, 2, 1, false);
        snprintf(message, sizeof message, "a.%s.weight", modules[i]);
        assert_int_equal(test_output(view, message)->shape[0], 4);
        tpv_view_free(view);
    }
    /* A stack of matrices is none. */
    tpv_view_t *view = plan_with(artifact, PLAN_OF("\"tp_plan\":{\"a.input_linear\":\"colwise\"}"), 2, 1, false);
    shape_is(view, "a.input_linear.weight", 3, 8, 2, 6);
    tpv_view_free(view);
    tpv_artifact_close(artifact);
}

/* q, k and v in one are cut each on its own as config.json tells; where it does not, that is to be told. */
static void several_projections_in_one(void **state) {
    (void)state;
    test_index_t index;
    tpv_model_config_t config = {
        .present = true, .model_type = "test", .num_attention_heads = 4, .num_key_value_heads = 2, .head_dim = 2};
    test_index_begin(&index);
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(16, 6), "a.qkv_proj.weight");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(16, 6), "a.query_key_value.weight");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(16, 6), "a.gate_up_proj.weight");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(16, 6), "vision.a.qkv_proj.weight");
    tpv_artifact_t *artifact = test_index_finish(&index, &config);
    tpv_view_t *view = plan_with(artifact, PLAN_OF("\"tp_plan\":{\"a.qkv_proj\":\"colwise\"}"), 2, 1, false);
    shape_is(view, "a.qkv_proj.weight", 2, 8, 6, 0);
    /* Rows 4 to 8 of q, 10 to 12 of k, 14 to 16 of v. */
    assert_non_null(strstr(tpv_view_json(view), "\"pieces\":[{\"offset\":24,\"sizes\":[24]"));
    assert_non_null(strstr(tpv_view_json(view), "{\"offset\":60,\"sizes\":[12]"));
    assert_non_null(strstr(tpv_view_json(view), "{\"offset\":84,\"sizes\":[12]"));
    tpv_view_free(view);
    static const char *const unknown[] = {"a.query_key_value", "a.gate_up_proj", "vision.a.qkv_proj"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        char plan[200], message[300];
        snprintf(plan, sizeof plan, PLAN_OF("\"tp_plan\":{\"%s\":\"colwise\"}"), unknown[i]);
        snprintf(
            message, sizeof message,
            "%s.weight: several projections in one tensor, and nothing tells how they lie in it: give it under "
            "\"packs\" or \"heads\" in a plan file (\"count\": 0 to cut it evenly), or a packed word for two halves",
            unknown[i]);
        plan_refused(artifact, (tpv_plan_options_t){.tp_size = 2, .plan = plan}, TPV_ERR_PLAN, message);
        static const char *const told[] = {
            PLAN_OF("\"heads\":{\"%s\":{\"count\":0}},\"tp_plan\":{\"%s\":\"colwise\"}"),
            PLAN_OF("\"packs\":{\"%s\":{\"parts\":[{\"size\":8},{}]}},\"tp_plan\":{\"%s\":\"colwise\"}"),
            PLAN_OF("\"about\":\"%s\",\"tp_plan\":{\"%s\":\"packed_colwise\"}"),
            PLAN_OF("\"about\":\"%s\",\"tp_plan\":{\"%s\":\"colwise_gather_output\"}"),
        };
        /* A vision tower's qkv_proj is not two halves. */
        for (size_t k = 0; k < sizeof told / sizeof *told; k++) {
            char name[64];
            snprintf(plan, sizeof plan, told[k], unknown[i], unknown[i]);
            snprintf(name, sizeof name, "%s.weight", unknown[i]);
            view = plan_with(artifact, plan, 2, 1, false);
            shape_is(view, name, 2, 8, 6, 0);
            tpv_view_free(view);
        }
    }
    tpv_artifact_close(artifact);
}

/* A variant may ask for a shape; the first that fits counts. */
static void variants_by_shape(void **state) {
    (void)state;
    tpv_artifact_t *artifact = small_index();
    static const struct {
        const char *variants;
        uint64_t rows, columns;
    } cases[] = {
        {"[{\"word\":\"colwise\",\"shape\":[8,12]},\"rowwise\"]", 4, 12},
        {"[{\"word\":\"colwise\",\"shape\":[null,12]},\"rowwise\"]", 4, 12},
        {"[{\"word\":\"colwise\",\"shape\":[12,8]},\"rowwise\"]", 8, 6},
        {"[{\"word\":\"colwise\",\"shape\":[12,null]},{\"word\":\"rowwise\",\"shape\":[12]}]", 8, 6},
        {"[{\"word\":\"colwise\",\"shape\":[null,8,12]},\"rowwise\"]", 8, 6},
        {"[{\"word\":\"colwise\",\"shape\":[\"not_in_config\",12]},\"rowwise\"]", 8, 6},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char plan[300];
        snprintf(plan, sizeof plan, PLAN_OF("\"tp_plan\":{\"m.weight\":%s}"), cases[i].variants);
        tpv_view_t *view = plan_with(artifact, plan, 2, 1, false);
        shape_is(view, "m.weight", 2, cases[i].rows, cases[i].columns, 0);
        tpv_view_free(view);
    }
    plan_refused(
        artifact,
        (tpv_plan_options_t){.tp_size = 2, .plan = PLAN_OF("\"tp_plan\":{\"m\":{\"word\":\"colwise\",\"shape\":8}}")},
        TPV_ERR_FORMAT, "plan file: m: \"shape\" must be a list of at most 8 lengths, null for any");
    tpv_artifact_close(artifact);
}

/* Each embedded plan is free of faults, for each model_type that it names, and no model_type has two. */
static void every_family_can_be_read(void **state) {
    (void)state;
    const char *name, *text;
    for (size_t i = 0; (name = tpv_plan_family(i, &text)); i++) {
        json_t *plan = json_loads(text, JSON_REJECT_DUPLICATES, NULL), *types = json_object_get(plan, "model_types");
        assert_true(json_array_size(types) > 0);
        size_t index;
        json_t *type;
        json_array_foreach(types, index, type) {
            json_t *facts = json_pack("{s:O}", "model_type", type);
            tpv_rules_t rules = {0};
            if (tpv_rules_of_family(facts, &rules) != TPV_OK) fail_msg("%s: %s", name, tpv_error_message());
            assert_string_equal(rules.family, name);
            assert_true(rules.rule_count > 0);
            tpv_rules_clear(&rules);
            json_decref(facts);
        }
        json_decref(plan);
    }
    assert_null(tpv_plan_family(100000, NULL));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_family_can_be_read),
        cmocka_unit_test(patterns),
        cmocka_unit_test(words),
        cmocka_unit_test(packed_words),
        cmocka_unit_test(plan_file_faults),
        cmocka_unit_test(arguments),
        cmocka_unit_test(heads_of_a_plan_file),
        cmocka_unit_test(a_plan_of_hugging_face),
        cmocka_unit_test(fusing_needs_all_parts_alike),
        cmocka_unit_test(built_in_plans_that_do_not_divide),
        cmocka_unit_test(heads_that_config_json_denies),
        cmocka_unit_test(missing_and_unknown_tensors),
        cmocka_unit_test(quantisation_blocks),
        cmocka_unit_test(parameters_named_in_full_are_cut_together),
        cmocka_unit_test(scales_of_channels),
        cmocka_unit_test(tied_embeddings_cut_in_two_ways),
        cmocka_unit_test(convolutions),
        cmocka_unit_test(several_projections_in_one),
        cmocka_unit_test(variants_by_shape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
