/* Checkpoints for tests of views: the index of a model of any shape, and small files with bytes. */
#ifndef COMMON_VIEW_FIXTURE_H
#define COMMON_VIEW_FIXTURE_H

#include <stddef.h>

#include "tpview/view.h"

/* An index that grows; test_index_finish makes an artifact of it by way of a manifest. */
typedef struct test_index {
    tpv_artifact_t *draft;
} test_index_t;

void test_index_begin(test_index_t *index);
/* `shape` ends with a 0 that is not part of it; name is a printf format. */
void test_index_add(test_index_t *index, tpv_dtype_t dtype, const uint64_t *shape, const char *name, ...)
    __attribute__((format(printf, 4, 5)));
#define TEST_SHAPE(...) ((const uint64_t[]){__VA_ARGS__, 0})
#define TEST_SCALAR ((const uint64_t[]){0})
tpv_artifact_t *test_index_finish(test_index_t *index, const tpv_model_config_t *config);

/* What a model of the llama family looks like. */
typedef struct test_model {
    tpv_model_config_t config;
    bool head_norms;       /* q_norm and k_norm */
    bool attention_bias;   /* of q, k and v */
    bool block_scales;     /* FP8 weights with weight_scale_inv of 128 x 128 blocks */
    bool tensor_scales;    /* FP8 weights with a scalar weight_scale and input_scale */
    bool no_head;          /* the file has no lm_head */
    uint64_t experts;      /* qwen3_moe: in place of the MLP */
    uint64_t expert_size;  /* intermediate size of one */
    const char *leave_out; /* a tensor that is missing, or NULL */
} test_model_t;

test_model_t test_qwen3_14b(void);
test_model_t test_qwen3_32b(void);
test_model_t test_qwen3_06b(void); /* tied embeddings */
test_model_t test_llama(void);     /* 2 layers, 8 heads, 2 kv heads of 64 */

tpv_artifact_t *test_model_index(const test_model_t *model);

/* Plan with the built-in plan, or fail the test. */
tpv_view_t *test_plan(const tpv_artifact_t *artifact, uint32_t tp_size, uint32_t tp_rank, bool fuse);

/* The output of that name; fails the test when there is none. */
const tpv_output_t *test_output(const tpv_view_t *view, const char *name);

/* A tensor for test_file. */
typedef struct test_tensor {
    const char *name;
    tpv_dtype_t dtype;
    uint32_t dims;
    uint64_t shape[TPV_MAX_DIMS];
} test_tensor_t;

/*
 * Write a .safetensors file below a new temporary folder, fill it with pseudo-random bytes and open it. `path`, of at
 * least 64 bytes, gets its name; test_file_remove ends file and folder.
 */
tpv_artifact_t *test_file(const test_tensor_t *tensors, size_t count, uint64_t seed, char *path);
void test_file_remove(const char *path);

/* Pseudo-random numbers (xorshift64*). */
uint64_t test_random(uint64_t *state);

#endif
