/* Folders as Hugging Face lays them out: which files count, the index of shards, config.json. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/test_files.h"
#include "tpview/artifact.h"

#define INDEX "model.safetensors.index.json"
#define A_HEADER "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}"
#define B_HEADER                                                                                                       \
    "{\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"                                                  \
    "\"c\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[2,6]}}"

static char *folder;

static int make_folder(void **state) {
    (void)state;
    folder = test_folder_make();
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    test_folder_remove(folder);
    return 0;
}

/* Open the folder and compare the message; '@' in `expected` stands for the folder's path. */
static void expect_fault(tpv_status_t expected_status, const char *expected) {
    char text[4096];
    size_t length = 0;
    for (const char *c = expected; *c; c++)
        length +=
            (size_t)snprintf(text + length, sizeof text - length, *c == '@' ? "%s" : "%.1s", *c == '@' ? folder : c);
    tpv_artifact_t *artifact = (void *)1;
    tpv_status_t status = tpv_artifact_open(folder, &artifact);
    assert_string_equal(tpv_error_message(), text);
    assert_int_equal(status, expected_status);
    assert_null(artifact);
}

static tpv_artifact_t *open_folder(void) {
    tpv_artifact_t *artifact = NULL;
    tpv_status_t status = tpv_artifact_open(folder, &artifact);
    if (status != TPV_OK) print_error("%s\n", tpv_error_message());
    assert_int_equal(status, TPV_OK);
    return artifact;
}

static void write_shards(void) {
    test_safetensors_write(test_path(folder, "m-1.safetensors"), A_HEADER, 3, 1);
    test_safetensors_write(test_path(folder, "m-2.safetensors"), B_HEADER, 6, 2);
}

static void one_file(void **state) {
    (void)state;
    expect_fault(TPV_ERR_NOT_FOUND, "@: not a checkpoint: no .safetensors file and no " INDEX);
    test_safetensors_write(test_path(folder, "weights.safetensors"), A_HEADER, 3, 1);
    test_file_write_text(test_path(folder, "safetensors"), "no suffix");
    tpv_artifact_t *artifact = open_folder();
    assert_non_null(tpv_artifact_find(artifact, "a"));
    assert_false(tpv_artifact_config(artifact)->present);
    tpv_artifact_close(artifact);

    test_safetensors_write(test_path(folder, "other.safetensors"), B_HEADER, 6, 1);
    expect_fault(TPV_ERR_FORMAT, "@: 2 .safetensors files, but no " INDEX " that tells what they hold");
    test_safetensors_write(test_path(folder, "model.safetensors"), B_HEADER, 6, 1);
    artifact = open_folder();
    assert_null(tpv_artifact_find(artifact, "a"));
    assert_non_null(tpv_artifact_find(artifact, "b"));
    tpv_artifact_close(artifact);
}

static void shards_make_one_artifact(void **state) {
    (void)state;
    write_shards();
    /* Not in the index, so not in the artifact. */
    test_safetensors_write(test_path(folder, "consolidated.safetensors"), A_HEADER, 3, 1);
    test_file_write_text(test_path(folder, INDEX),
                         "{\"metadata\":{\"total_size\":9,\"x\":[1.5,null]},\"weight_map\":"
                         "{\"c\":\"m-2.safetensors\",\"a\":\"m-1.safetensors\",\"b\":\"m-2.safetensors\"}}");
    tpv_artifact_t *artifact = open_folder();
    assert_int_equal(tpv_artifact_tensor_count(artifact), 3);
    assert_int_equal(tpv_artifact_bytes(artifact), 9);
    const tpv_tensor_t *a = tpv_artifact_find(artifact, "a"), *b = tpv_artifact_find(artifact, "b"),
                       *c = tpv_artifact_find(artifact, "c");
    assert_int_equal(b->shard, c->shard);
    assert_int_not_equal(a->shard, b->shard);
    assert_int_equal(a->offset, 8 + strlen(A_HEADER));
    assert_int_equal(*(const uint8_t *)tpv_artifact_data(artifact, a), 1 >> 24);
    uint8_t third = (uint8_t)((2 + 2 * UINT32_C(2654435761)) >> 24); /* of the second file's data */
    assert_int_equal(*(const uint8_t *)tpv_artifact_data(artifact, c), third);
    tpv_artifact_close(artifact);
}

/* What opening the folder writes to stderr. */
static void open_and_read_warnings(tpv_artifact_t **artifact, char *text, size_t size) {
    FILE *file = tmpfile();
    assert_non_null(file);
    int before = dup(STDERR_FILENO);
    assert_true(dup2(fileno(file), STDERR_FILENO) >= 0);
    tpv_status_t status = tpv_artifact_open(folder, artifact);
    assert_true(dup2(before, STDERR_FILENO) >= 0);
    close(before);
    assert_int_equal(status, TPV_OK);
    rewind(file);
    text[fread(text, 1, size - 1, file)] = '\0';
    fclose(file);
}

static void assert_one_line(const char *text, const char *end) {
    size_t length = strlen(text), tail = strlen(end);
    assert_true(length > tail);
    assert_ptr_equal(strchr(text, '\n'), text + length - 1);
    if (strncmp(text + length - 1 - tail, end, tail) != 0) fail_msg("no \"%s\" in: %s", end, text);
}

#define LISTED "{\"weight_map\":{\"a\":\"./m-1.safetensors\",\"b\":\"m-2.safetensors\",\"c\":\"m-2.safetensors\"}}"

static void the_index_decides(void **state) {
    (void)state;
    char text[2048];
    tpv_artifact_t *artifact;
    write_shards();
    test_file_write_text(test_path(folder, INDEX), LISTED);
    test_file_write_text(test_path(folder, "._m-1.safetensors"), "what macOS leaves");
    open_and_read_warnings(&artifact, text, sizeof text);
    assert_string_equal(text, "");
    char digest[TPV_ID_CHARS];
    snprintf(digest, sizeof digest, "%s", tpv_artifact_index_digest(artifact));
    tpv_artifact_close(artifact);

    /* A stale copy of b and a leftover of another model in the first shard; other files beside. */
    test_safetensors_write(test_path(folder, "m-1.safetensors"),
                           "{\"b\":{\"dtype\":\"U8\",\"shape\":[7],\"data_offsets\":[0,7]},"
                           "\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[7,10]},"
                           "\"z\":{\"dtype\":\"F8_E4M3\",\"shape\":[2,2],\"data_offsets\":[10,14]}}",
                           14, 3);
    open_and_read_warnings(&artifact, text, sizeof text);
    assert_one_line(text, "ignored what the " INDEX " does not list: 2 tensors (\"b\" in m-1.safetensors, …)");
    assert_int_equal(tpv_artifact_tensor_count(artifact), 3);
    assert_int_equal(tpv_artifact_bytes(artifact), 9);
    assert_string_equal(tpv_artifact_index_digest(artifact), digest);
    const tpv_tensor_t *b = tpv_artifact_find(artifact, "b");
    assert_int_equal(b->bytes, 2);
    assert_int_equal(*(const uint8_t *)tpv_artifact_data(artifact, b), 2 >> 24);
    tpv_artifact_close(artifact);

    write_shards();
    test_safetensors_write(test_path(folder, "consolidated.safetensors"), A_HEADER, 3, 1);
    test_safetensors_write(test_path(folder, "model.safetensors"), A_HEADER, 3, 1);
    open_and_read_warnings(&artifact, text, sizeof text);
    assert_one_line(text, "ignored what the " INDEX " does not list: 2 files (model.safetensors, …)");
    assert_string_equal(tpv_artifact_index_digest(artifact), digest);
    tpv_artifact_close(artifact);
}

#define SHARDS "\"a\":\"m-1.safetensors\",\"b\":\"m-2.safetensors\",\"c\":\"m-2.safetensors\""

static const struct {
    const char *index;
    tpv_status_t status;
    const char *expected; /* behind "FOLDER/INDEX: " */
} index_faults[] = {
    {"", TPV_ERR_FORMAT, "bad JSON at byte 0: expected an object, found the end"},
    {"{}", TPV_ERR_FORMAT, "weight_map is missing or empty"},
    {"{\"weight_map\":{}}", TPV_ERR_FORMAT, "weight_map is missing or empty"},
    {"{\"weight_map\":[]}", TPV_ERR_FORMAT, "weight_map: bad JSON at byte 0: expected an object"},
    {"{\"weight_map\":{" SHARDS "},\"weight_map\":{" SHARDS "}}", TPV_ERR_FORMAT, "weight_map appears twice"},
    {"{\"metadata\":{\"a\":1,\"a\":2},\"weight_map\":{" SHARDS "}}", TPV_ERR_FORMAT,
     "metadata: bad JSON: the name \"a\" appears twice"},
    {"{\"weight_map\":{" SHARDS ",\"a\":\"m-1.safetensors\"}}", TPV_ERR_FORMAT, "tensor \"a\" appears twice"},
    {"{\"weight_map\":{" SHARDS ",\"a\":\"m-2.safetensors\"}}", TPV_ERR_FORMAT, "tensor \"a\" appears twice"},
    {"{\"weight_map\":{\"a\":1}}", TPV_ERR_FORMAT, "weight_map: tensor \"a\": its file is not a string"},
    {"{\"weight_map\":{\"a\":\"../m-1.safetensors\"}}", TPV_ERR_FORMAT,
     "weight_map: tensor \"a\": \"../m-1.safetensors\" is not the name of a .safetensors file in the same folder"},
    {"{\"weight_map\":{\"a\":\"/etc/m.safetensors\"}}", TPV_ERR_FORMAT,
     "weight_map: tensor \"a\": \"/etc/m.safetensors\" is not the name of a .safetensors file in the same folder"},
    {"{\"weight_map\":{\"a\":\".safetensors\"}}", TPV_ERR_FORMAT,
     "weight_map: tensor \"a\": \".safetensors\" is not the name of a .safetensors file in the same folder"},
    {"{\"weight_map\":{\"a\":\"pytorch_model.bin\"}}", TPV_ERR_FORMAT,
     "weight_map: tensor \"a\": \"pytorch_model.bin\" is not the name of a .safetensors file in the same folder"},
    {"{\"weight_map\":{" SHARDS ",\"d\":\"m-3.safetensors\"}}", TPV_ERR_NOT_FOUND,
     "cannot open @/m-3.safetensors: No such file or directory"},
    {"{\"weight_map\":{" SHARDS ",\"d\":\"m-2.safetensors\"}}", TPV_ERR_FORMAT,
     "tensor \"d\" is not in m-2.safetensors, which should hold it"},
    {"{\"weight_map\":{\"a\":\"m-2.safetensors\",\"b\":\"m-2.safetensors\",\"c\":\"m-1.safetensors\"}}", TPV_ERR_FORMAT,
     "tensor \"a\" lies in m-1.safetensors, but weight_map says m-2.safetensors"},
    {"{\"weight_map\":{" SHARDS ",\"e\":\"bad.safetensors\"}}", TPV_ERR_FORMAT,
     "@/bad.safetensors: the header does not begin with '{': not a safetensors file"},
    {"{\"weight_map\":{" SHARDS ",\"e\":\"twice.safetensors\"}}", TPV_ERR_FORMAT,
     "tensor \"e\" is not in twice.safetensors, which should hold it"},
    {"{\"weight_map\":{" SHARDS ",\"e\":\"folder.safetensors\"}}", TPV_ERR_FORMAT,
     "@/folder.safetensors: expected a regular file"},
    {"{\"weight_map\":{" SHARDS ",\"e\":\"pipe.safetensors\"}}", TPV_ERR_FORMAT,
     "@/pipe.safetensors: expected a regular file"},
};

static void each_fault_of_the_index_has_its_message(void **state) {
    (void)state;
    write_shards();
    test_safetensors_write(test_path(folder, "bad.safetensors"), "no", 0, 1);
    test_safetensors_write(test_path(folder, "twice.safetensors"), A_HEADER, 3, 1);
    assert_int_equal(mkdir(test_path(folder, "folder.safetensors"), 0700), 0);
    assert_int_equal(mkfifo(test_path(folder, "pipe.safetensors"), 0600), 0);
    for (size_t i = 0; i < sizeof index_faults / sizeof *index_faults; i++) {
        test_file_write_text(test_path(folder, INDEX), index_faults[i].index);
        char expected[1024];
        snprintf(expected, sizeof expected, "@/" INDEX ": %s", index_faults[i].expected);
        expect_fault(index_faults[i].status, expected);
    }
}

static void other_things_than_checkpoints(void **state) {
    (void)state;
    tpv_artifact_t *artifact = (void *)1;
    assert_int_equal(tpv_artifact_open(test_path(folder, "none"), &artifact), TPV_ERR_NOT_FOUND);
    assert_non_null(strstr(tpv_error_message(), "/none: No such file or directory"));
    assert_null(artifact);
    test_file_write_text(test_path(folder, "text"), "hello, this is no checkpoint");
    assert_int_equal(tpv_artifact_open(test_path(folder, "text/none"), &artifact), TPV_ERR_NOT_FOUND);
    assert_int_equal(tpv_artifact_open(test_path(folder, "text"), &artifact), TPV_ERR_FORMAT);
    assert_int_equal(mkfifo(test_path(folder, "pipe"), 0600), 0);
    assert_int_equal(tpv_artifact_open(test_path(folder, "pipe"), &artifact), TPV_ERR_FORMAT);
    assert_int_equal(tpv_artifact_open("/dev/null", &artifact), TPV_ERR_FORMAT);
    test_safetensors_write(test_path(folder, "secret.safetensors"), A_HEADER, 3, 1);
    if (geteuid() != 0) { /* root may read it all the same */
        assert_int_equal(chmod(test_path(folder, "secret.safetensors"), 0), 0);
        expect_fault(TPV_ERR_SYSTEM, "cannot open @/secret.safetensors: Permission denied");
    }
}

static void config_with(const char *json) {
    test_file_write_text(test_path(folder, "config.json"), json);
}

static void config_is_read(void **state) {
    (void)state;
    test_safetensors_write(test_path(folder, "model.safetensors"), A_HEADER, 3, 1);
    config_with("{\"architectures\":[\"Qwen3ForCausalLM\"],\"model_type\":\"qwen3\",\"hidden_size\":5120,"
                "\"intermediate_size\":17408,\"vocab_size\":151936,\"num_hidden_layers\":40,"
                "\"num_attention_heads\":40,\"num_key_value_heads\":8,\"head_dim\":null,\"rope_theta\":1e6,"
                "\"tie_word_embeddings\":true,\"quantization_config\":{\"quant_method\":\"fp8\","
                "\"weight_block_size\":[128,64],\"ignored_layers\":[\"x\"]}}");
    tpv_artifact_t *artifact = open_folder();
    const tpv_model_config_t expected = {.present = true,
                                         .model_type = "qwen3",
                                         .quant_method = "fp8",
                                         .hidden_size = 5120,
                                         .intermediate_size = 17408,
                                         .vocab_size = 151936,
                                         .num_hidden_layers = 40,
                                         .num_attention_heads = 40,
                                         .num_key_value_heads = 8,
                                         .weight_block_size = {128, 64},
                                         .tie_word_embeddings = true};
    assert_memory_equal(tpv_artifact_config(artifact), &expected, sizeof expected);
    tpv_artifact_close(artifact);

    config_with("{}");
    artifact = open_folder();
    const tpv_model_config_t empty = {.present = true};
    assert_memory_equal(tpv_artifact_config(artifact), &empty, sizeof empty);
    tpv_artifact_close(artifact);
}

static void sizes_come_from_text_config(void **state) {
    (void)state;
    test_safetensors_write(test_path(folder, "model.safetensors"), A_HEADER, 3, 1);
    config_with("{\"model_type\":\"llava\",\"hidden_size\":1,\"vocab_size\":32064,\"tie_word_embeddings\":true,"
                "\"text_config\":{\"model_type\":\"llama\",\"hidden_size\":4096,\"head_dim\":128,"
                "\"tie_word_embeddings\":false}}");
    tpv_artifact_t *artifact = open_folder();
    const tpv_model_config_t *config = tpv_artifact_config(artifact);
    assert_string_equal(config->model_type, "llava");
    assert_int_equal(config->hidden_size, 4096);
    assert_int_equal(config->vocab_size, 32064);
    assert_int_equal(config->head_dim, 128);
    assert_true(config->tie_word_embeddings); /* the top level wins, as in transformers 5 */
    tpv_artifact_close(artifact);
}

static const struct {
    const char *config, *expected;
} config_faults[] = {
    {"", "bad JSON: *"},
    {"{\"a\":nan}", "bad JSON: *"},
    {"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
     "this is a Git LFS pointer, not the file itself: fetch it with \"git lfs pull\""},
    {"[1]", "not an object"},
    {"{\"hidden_size\":1,\"hidden_size\":2}", "bad JSON: the name \"hidden_size\" appears twice"},
    {"{\"x\":{\"a\\\\\\\"b\":1,\"a\\\\\\\"b\":2}}", "bad JSON: the name \"a\\\\\\\"b\" appears twice"},
};

static void each_fault_of_the_config_has_its_message(void **state) {
    (void)state;
    test_safetensors_write(test_path(folder, "model.safetensors"), A_HEADER, 3, 1);
    for (size_t i = 0; i < sizeof config_faults / sizeof *config_faults; i++) {
        config_with(config_faults[i].config);
        char expected[1024];
        snprintf(expected, sizeof expected, "@/config.json: %s", config_faults[i].expected);
        if (expected[strlen(expected) - 1] != '*') {
            expect_fault(TPV_ERR_FORMAT, expected);
            continue;
        }
        tpv_artifact_t *artifact = NULL; /* jansson's wording stands in place of the star */
        assert_int_equal(tpv_artifact_open(folder, &artifact), TPV_ERR_FORMAT);
        assert_non_null(strstr(tpv_error_message(), "/config.json: bad JSON: "));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_file, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(the_index_decides, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(shards_make_one_artifact, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(each_fault_of_the_index_has_its_message, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(other_things_than_checkpoints, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(config_is_read, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(sizes_come_from_text_config, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(each_fault_of_the_config_has_its_message, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
