/* Plans of transformers as they stand: names of the model against names on disk, and words as its loader reads them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "common/view_fixture.h"

#define FILE_OF(rules) "{\"format\":\"tpview-plan-1\",\"transformers_tp_plan\":" rules "}"

static tpv_status_t plan_of(const tpv_artifact_t *artifact, const char *plan, uint32_t size, uint32_t rank,
                            tpv_view_t **view) {
    tpv_plan_options_t options = {.tp_size = size, .tp_rank = rank, .plan = plan, .plan_length = strlen(plan)};
    return tpv_view_plan(artifact, &options, view);
}

static void refused(const tpv_artifact_t *artifact, const char *plan, const char *message) {
    tpv_view_t *view = NULL;
    assert_int_not_equal(plan_of(artifact, plan, 2, 1, &view), TPV_OK);
    assert_string_equal(tpv_error_message(), message);
}

/* Rank 1 of 2 gets of `name` these rows and columns of the last two axes. */
static void shape_is(const tpv_artifact_t *artifact, const char *plan, const char *name, uint64_t rows,
                     uint64_t columns) {
    tpv_view_t *view = NULL;
    if (plan_of(artifact, plan, 2, 1, &view) != TPV_OK) fail_msg("%s: %s", plan, tpv_error_message());
    const tpv_output_t *output = test_output(view, name);
    uint64_t found[2] = {output->shape[output->dims - 2], output->shape[output->dims - 1]};
    if (found[0] != rows || found[1] != columns)
        fail_msg("%s: [%llu, %llu], expected [%llu, %llu]", name, (unsigned long long)found[0],
                 (unsigned long long)found[1], (unsigned long long)rows, (unsigned long long)columns);
    tpv_view_free(view);
}

static tpv_artifact_t *index_of(const char *const *names, const uint64_t *shape) {
    test_index_t index;
    tpv_model_config_t config = {0};
    test_index_begin(&index);
    for (; *names; names++)
        test_index_add(&index, TPV_DTYPE_BF16, shape, "%s", *names);
    return test_index_finish(&index, &config);
}

/* A module has one name in the plan, whatever stands before its layers on disk. */
static void beginnings_of_names(void **state) {
    (void)state;
    static const char *const beginnings[] = {
        "", "model.", "model.language_model.", "language_model.model.", "backbone.", "transformer."};
    static const char *const plans[] = {
        FILE_OF("{\"layers.*.mlp.up_proj\":\"colwise\"}"),
        FILE_OF("{\"model.layers.*.mlp.up_proj\":\"colwise\"}"),
        FILE_OF("{\"model.language_model.layers.*.mlp.up_proj\":\"colwise\"}"),
        FILE_OF(
            "{\"base_model_tp_plan\":{\"layers.*.mlp.up_proj\":\"colwise\"},\"tp_plan\":{\"lm_head\":\"replicate\"}}"),
    };
    for (size_t i = 0; i < sizeof beginnings / sizeof *beginnings; i++) {
        char name[100];
        snprintf(name, sizeof name, "%slayers.7.mlp.up_proj.weight", beginnings[i]);
        tpv_artifact_t *artifact =
            index_of((const char *const[]){name, "visual.layers.7.mlp.up_proj.weight", NULL}, TEST_SHAPE(8, 12));
        for (size_t k = 0; k < sizeof plans / sizeof *plans; k++) {
            shape_is(artifact, plans[k], name, 4, 12);
            shape_is(artifact, plans[k], "visual.layers.7.mlp.up_proj.weight", 8, 12);
        }
        tpv_artifact_close(artifact);
    }
}

/* Experts are one stack in the model and one by one on disk. */
static void experts_that_are_apart_on_disk(void **state) {
    (void)state;
    static const char plan[] = FILE_OF("{\"model.layers.*.mlp.experts.gate_up_proj\":\"packed_colwise\","
                                       "\"model.layers.*.mlp.experts.down_proj\":\"rowwise\","
                                       "\"model.layers.*.mlp.experts\":\"moe_tp_experts\"}");
    static const char *const names[][4] = {
        {"model.layers.1.mlp.experts.3.gate_proj.weight", "model.layers.1.mlp.experts.3.up_proj.weight",
         "model.layers.1.mlp.experts.3.down_proj.weight", NULL},
        {"model.layers.1.block_sparse_moe.experts.3.w1.weight", "model.layers.1.block_sparse_moe.experts.3.w3.weight",
         "model.layers.1.block_sparse_moe.experts.3.w2.weight", NULL},
    };
    for (int i = 0; i < 2; i++) {
        tpv_artifact_t *artifact = index_of(names[i], TEST_SHAPE(8, 12));
        shape_is(artifact, plan, names[i][0], 4, 12);
        shape_is(artifact, plan, names[i][1], 4, 12);
        shape_is(artifact, plan, names[i][2], 8, 6);
        tpv_artifact_close(artifact);
    }
    tpv_artifact_t *artifact = index_of(names[0], TEST_SHAPE(8, 12));
    refused(
        artifact, FILE_OF("{\"layers.*.mlp.experts.gate_up_proj\":\"grouped_gemm\"}"),
        "model.layers.1.mlp.experts.3.gate_proj.weight: rule \"layers.*.mlp.experts.gate_up_proj\": \"grouped_gemm\" "
        "cuts a stack of experts, which are tensors of their own on disk: expected a word that cuts or replicates");
    refused(
        artifact, FILE_OF("{\"layers.*.mlp.experts.gate_up_proj\":\"colwise\"}"),
        "model.layers.1.mlp.experts.3.gate_proj.weight: rule \"layers.*.mlp.experts.gate_up_proj\": \"colwise\" does "
        "not tell how those tensors are cut that are one in the model: expected a word that cuts or replicates");
    tpv_artifact_close(artifact);
}

/* Experts are one by one in the model (transformers 4) and one stack on disk. */
static void experts_that_are_stacked_on_disk(void **state) {
    (void)state;
    tpv_artifact_t *artifact =
        index_of((const char *const[]){"model.layers.1.mlp.experts.gate_up_proj", NULL}, TEST_SHAPE(4, 16, 12));
    shape_is(
        artifact,
        FILE_OF("{\"layers.*.mlp.experts.*.gate_proj\":\"colwise\",\"layers.*.mlp.experts.*.up_proj\":\"colwise\"}"),
        "model.layers.1.mlp.experts.gate_up_proj", 8, 12);
    shape_is(artifact,
             FILE_OF("{\"layers.*.block_sparse_moe.experts.*.w1\":\"colwise\","
                     "\"layers.*.block_sparse_moe.experts.*.w3\":\"colwise\","
                     "\"layers.*.block_sparse_moe.experts.*\":\"local\",\"layers.*.block_sparse_moe\":\"gather\"}"),
             "model.layers.1.mlp.experts.gate_up_proj", 8, 12);
    refused(artifact, FILE_OF("{\"layers.*.mlp.experts.*.gate_proj\":\"local_colwise\"}"),
            "model.layers.1.mlp.experts.gate_up_proj: rule \"layers.*.mlp.experts.*.gate_proj\": \"local_colwise\" is "
            "not said of all the tensors that are one on disk: expected a word that cuts or replicates");
    tpv_artifact_close(artifact);
}

/* The halves of gate and up, not of the input. */
static void experts_that_are_stacked_the_other_way_round(void **state) {
    (void)state;
    static const char plan[] = FILE_OF("{\"layers.*.mlp.experts.gate_up_proj\":\"packed_colwise\","
                                       "\"layers.*.mlp.experts.down_proj\":\"rowwise\"}");
    for (int transposed = 0; transposed < 2; transposed++) {
        test_index_t index;
        tpv_model_config_t config = {0};
        test_index_begin(&index);
        test_index_add(&index, TPV_DTYPE_BF16, transposed ? TEST_SHAPE(4, 20, 16) : TEST_SHAPE(4, 16, 20),
                       "layers.0.mlp.experts.gate_up_proj");
        test_index_add(&index, TPV_DTYPE_BF16, transposed ? TEST_SHAPE(4, 8, 20) : TEST_SHAPE(4, 20, 8),
                       "layers.0.mlp.experts.down_proj");
        tpv_artifact_t *artifact = test_index_finish(&index, &config);
        if (transposed) {
            refused(
                artifact, plan,
                "layers.0.mlp.experts.down_proj: axis 2 has 20 steps, which are not half the 20 of axis 1 of "
                "layers.0.mlp.experts.gate_up_proj: the experts are stacked as [experts, in, out] and not [experts, "
                "out, in], or the other way round; give a plan file with packed_rowwise for gate_up_proj and colwise "
                "for down_proj");
        } else {
            shape_is(artifact, plan, "layers.0.mlp.experts.gate_up_proj", 8, 20);
            shape_is(artifact, plan, "layers.0.mlp.experts.down_proj", 20, 4);
        }
        tpv_artifact_close(artifact);
    }
}

/* `*` is a layer's or an expert's number: "local" on the experts' container is not about the stack in it. */
static void stars_are_numbers(void **state) {
    (void)state;
    tpv_artifact_t *artifact = index_of(
        (const char *const[]){"model.layers.1.mlp.experts.down_proj", "model.layers.1.mlp.up_proj.weight", NULL},
        TEST_SHAPE(8, 12));
    static const char plan[] = FILE_OF("{\"layers.*.mlp.*\":\"local\",\"layers.*.mlp.experts.*\":\"local\","
                                       "\"layers.*.mlp.up_proj\":\"rowwise\"}");
    shape_is(artifact, plan, "model.layers.1.mlp.experts.down_proj", 8, 12);
    shape_is(artifact, plan, "model.layers.1.mlp.up_proj.weight", 8, 6);
    refused(artifact, FILE_OF("{\"layers.*.mlp.up_proj\":\"local\"}"),
            "model.layers.1.mlp.up_proj.weight: rule \"layers.*.mlp.up_proj\": \"local\" divides the values by "
            "tp_size, which is not a slice: expected a word that cuts or replicates");
    tpv_artifact_close(artifact);
}

/* As DTensor's Shard: what does not divide leaves the last rank less, heads are not asked for, vectors are not packed.
 */
static void shares_are_those_of_transformers(void **state) {
    (void)state;
    test_index_t index;
    tpv_model_config_t config = {0};
    test_index_begin(&index);
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(6, 5), "layers.0.self_attn.k_proj.weight");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(4, 7), "layers.0.self_attn.o_proj.weight");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(8), "layers.0.mlp.gate_up_proj.bias");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(8, 3), "layers.0.mlp.gate_up_proj.weight");
    test_index_add(&index, TPV_DTYPE_BF16, TEST_SHAPE(8), "layers.0.self_attn.sinks");
    tpv_artifact_t *artifact = test_index_finish(&index, &config);
    static const char plan[] =
        FILE_OF("{\"layers.*.self_attn.k_proj\":\"colwise\",\"layers.*.self_attn.o_proj\":\"rowwise\","
                "\"layers.*.mlp.gate_up_proj\":\"packed_colwise\",\"layers.*.self_attn.sinks\":\"local_rowwise\"}");
    static const struct {
        const char *name;
        uint64_t axis, extent[4];
    } cases[] = {{"layers.0.self_attn.k_proj.weight", 0, {2, 2, 2, 0}},
                 {"layers.0.self_attn.o_proj.weight", 1, {2, 2, 2, 1}},
                 {"layers.0.mlp.gate_up_proj.bias", 0, {2, 2, 2, 2}},
                 {"layers.0.self_attn.sinks", 0, {2, 2, 2, 2}}};
    for (uint32_t rank = 0; rank < 4; rank++) {
        tpv_view_t *view = NULL;
        if (plan_of(artifact, plan, 4, rank, &view) != TPV_OK) fail_msg("%s", tpv_error_message());
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
            assert_int_equal(test_output(view, cases[i].name)->shape[cases[i].axis], cases[i].extent[rank]);
        if (rank == 1)
            assert_non_null(strstr(tpv_view_json(view), "{\"offset\":2,\"sizes\":[2],\"strides\":[1],\"tensor\":"
                                                        "\"layers.0.mlp.gate_up_proj.bias\""));
        tpv_view_free(view);
    }
    tpv_artifact_close(artifact);
}

static void faults(void **state) {
    (void)state;
    tpv_artifact_t *artifact = index_of((const char *const[]){"x.q.weight", NULL}, TEST_SHAPE(8, 12));
    static const struct {
        const char *plan, *message;
    } cases[] = {
        {FILE_OF("[]"), "plan file: transformers' plan must be an object of rules"},
        {FILE_OF("{\"q\":1}"), "plan file: rule \"q\": expected a word"},
        {FILE_OF("{\"tp_plan\":{},\"q\":\"colwise\"}"), "plan file: transformers' plan: unknown key \"q\""},
        {FILE_OF("{\"q\":\"row\"}"),
         "plan file: rule \"q\": unknown word \"row\": expected one such as colwise, rowwise, packed_colwise, "
         "embedding_rowwise, vocab_parallel or replicate"},
        {FILE_OF("{\"q\":\"colwise\"}"),
         "transformers' plan matches no tensor of the checkpoint: the names on disk are not those of the model; give "
         "\"names\" and \"prefixes\" in a plan file"},
        {"{\"format\":\"tpview-plan-1\",\"transformers_tp_plan\":{},\"heads\":{}}",
         "plan file: \"transformers_tp_plan\" does not go with \"heads\": expected one of them"},
        {"{\"format\":\"tpview-plan-1\",\"transformers_tp_plan\":{},\"names\":[{\"model\":[\"a\",\"b\"],"
         "\"disk\":[\"c\",\"d\"]}]}",
         "plan file: names[0]: \"model\" and \"disk\" must be lists of 1 to 4 names, one of them of one"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused(artifact, cases[i].plan, cases[i].message);
    /* What the file says of names and beginnings goes before what is built in. */
    shape_is(artifact,
             "{\"format\":\"tpview-plan-1\",\"transformers_tp_plan\":{\"model.query\":\"colwise\"},"
             "\"prefixes\":[\"x.\",\"model.\"],\"names\":[{\"model\":[\"query\"],\"disk\":[\"q\"]}]}",
             "x.q.weight", 4, 12);
    tpv_artifact_close(artifact);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(beginnings_of_names),
        cmocka_unit_test(experts_that_are_apart_on_disk),
        cmocka_unit_test(experts_that_are_stacked_on_disk),
        cmocka_unit_test(experts_that_are_stacked_the_other_way_round),
        cmocka_unit_test(stars_are_numbers),
        cmocka_unit_test(shares_are_those_of_transformers),
        cmocka_unit_test(faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
