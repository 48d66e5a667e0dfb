/* Gathering from files: arguments, the large strided forms, places without a copy, and files that change. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include <cmocka.h>

#include "common/view_fixture.h"
#include "view/view.h"

#define ROWS 700
#define COLUMNS 900

static const test_tensor_t tensors[] = {
    {"a", TPV_DTYPE_BF16, 2, {ROWS, COLUMNS}},
    {"b", TPV_DTYPE_BF16, 2, {ROWS, COLUMNS}},
    {"c", TPV_DTYPE_F64, 2, {40, 50}},
};

typedef struct {
    char path[64];
    tpv_artifact_t *artifact;
} file_t;

static int open_file(void **state) {
    static file_t file;
    file.artifact = test_file(tensors, 3, 99, file.path);
    *state = &file;
    return 0;
}

static int close_file(void **state) {
    file_t *file = *state;
    tpv_artifact_close(file->artifact);
    test_file_remove(file->path);
    return 0;
}

static const char *data_of(const file_t *file, const char *name) {
    return tpv_artifact_data(file->artifact, tpv_artifact_find(file->artifact, name));
}

static tpv_view_t *plan(const file_t *file, const char *text, uint32_t size, uint32_t rank) {
    tpv_view_t *view = NULL;
    tpv_plan_options_t options = {.tp_size = size, .tp_rank = rank, .plan = text, .plan_length = strlen(text)};
    if (tpv_view_plan(file->artifact, &options, &view) != TPV_OK) fail_msg("%s", tpv_error_message());
    return view;
}

#define ROWWISE "{\"format\":\"tpview-plan-1\",\"tp_plan\":{\"*\":\"rowwise\"}}"
#define REPLICATE "{\"format\":\"tpview-plan-1\",\"tp_plan\":{},\"default\":\"replicate\"}"

/* Every rank's part of a row-parallel slice, in chunks of all sizes, against a copy row by row. */
static void row_parallel_slices(void **state) {
    const file_t *file = *state;
    uint64_t seed = 5;
    for (uint32_t rank = 0; rank < 2; rank++) {
        tpv_view_t *view = plan(file, ROWWISE, 2, rank);
        assert_int_equal(tpv_view_stats(view).records, 3);
        assert_int_equal(tpv_view_stats(view).runs, 2 * ROWS + 40);
        size_t bytes = tpv_view_stats(view).bytes, run = COLUMNS;
        char *expected = malloc(bytes), *dense = malloc(bytes), *at = expected;
        for (const char *name = "ab"; *name; name++)
            for (size_t row = 0; row < ROWS; row++, at += run)
                memcpy(at, data_of(file, *name == 'a' ? "a" : "b") + row * 2 * COLUMNS + rank * run, run);
        for (size_t row = 0; row < 40; row++, at += 200)
            memcpy(at, data_of(file, "c") + row * 400 + rank * 200, 200);
        assert_ptr_equal(at, expected + bytes);
        for (size_t chunk = 1000; chunk < 2 * bytes; chunk = chunk * 3 + test_random(&seed) % 7) {
            memset(dense, 0, bytes);
            for (size_t low = 0; low < bytes; low += chunk) {
                size_t length = bytes - low < chunk ? bytes - low : chunk;
                assert_int_equal(tpv_view_gather(view, file->artifact, low, length, dense + low), TPV_OK);
            }
            assert_memory_equal(dense, expected, bytes);
        }
        free(expected);
        free(dense);
        tpv_view_free(view);
    }
}

/* A transposed matrix, larger than a tile in both dims and a multiple of it in none. */
static void transposed(void **state) {
    const file_t *file = *state;
    const char *text =
        "{\"format\":\"tpview-view-1\",\"outputs\":[{\"name\":\"t\",\"dtype\":\"BF16\",\"shape\":[900,700],"
        "\"pieces\":[{\"tensor\":\"a\",\"sizes\":[900,700],\"strides\":[1,900]}]}]}";
    tpv_view_t *view = plan(file, text, 1, 0);
    size_t bytes = tpv_view_stats(view).bytes;
    uint16_t *dense = malloc(bytes);
    const uint16_t *source = (const uint16_t *)(const void *)data_of(file, "a");
    assert_int_equal(tpv_view_gather(view, file->artifact, 0, bytes, dense), TPV_OK);
    for (size_t i = 0; i < COLUMNS; i++)
        for (size_t k = 0; k < ROWS; k++)
            if (memcmp(&dense[i * ROWS + k], (const char *)source + 2 * (k * COLUMNS + i), 2) != 0)
                fail_msg("element %zu, %zu", i, k);
    free(dense);
    tpv_view_free(view);
}

/* Digests that are computed on the way are those of the bytes, for few long runs and for many short ones. */
static void digests_on_the_way(void **state) {
    const file_t *file = *state;
    char many[40000], *end = many;
    end += sprintf(end, "{\"format\":\"tpview-view-1\",\"outputs\":[{\"name\":\"o\",\"dtype\":\"BF16\","
                        "\"shape\":[700,900],\"pieces\":[");
    for (int i = 0; i < COLUMNS; i += 5)
        end += sprintf(end,
                       "%s{\"tensor\":\"a\",\"sizes\":[700,5],\"strides\":[900,1],\"offset\":%d,"
                       "\"to\":{\"strides\":[900,1],\"offset\":%d}}",
                       i ? "," : "", COLUMNS - 5 - i, i);
    sprintf(end, "]}]}");
    const char *const texts[] = {
        ROWWISE, REPLICATE, many,
        "{\"format\":\"tpview-view-1\",\"outputs\":[{\"name\":\"t\",\"dtype\":\"BF16\",\"shape\":[900,700],"
        "\"pieces\":[{\"tensor\":\"a\",\"sizes\":[900,700],\"strides\":[1,900]}]}]}"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        tpv_view_t *view = plan(file, texts[i], 1, 0);
        size_t bytes = tpv_view_stats(view).bytes;
        char *expected = malloc(bytes), *dense = malloc(bytes);
        assert_int_equal(tpv_view_gather(view, file->artifact, 0, bytes, expected), TPV_OK);
        for (size_t low = 0; low < bytes; low += bytes / 3 + 7) {
            size_t length = bytes - low < 700001 ? bytes - low : 700001;
            uint64_t digest = 0;
            memset(dense, 0, bytes);
            assert_int_equal(tpv_view_gather_digest(view, file->artifact, low, length, dense, &digest), TPV_OK);
            assert_memory_equal(dense, expected + low, length);
            assert_int_equal(digest, XXH3_64bits(expected + low, length));
        }
        free(expected);
        free(dense);
        tpv_view_free(view);
    }
}

static void places_without_a_copy(void **state) {
    const file_t *file = *state;
    const char *a = data_of(file, "a");
    uint64_t bytes = 2 * ROWS * COLUMNS;
    tpv_view_t *view = plan(file, REPLICATE, 4, 1);
    assert_ptr_equal(tpv_view_direct(view, file->artifact, 0, bytes), a);
    assert_ptr_equal(tpv_view_direct(view, file->artifact, 12345, 6789), a + 12345);
    /* The tensors lie one behind the other in the file as in the view. */
    assert_ptr_equal(tpv_view_direct(view, file->artifact, 0, 2 * bytes + 16000), a);
    assert_null(tpv_view_direct(view, file->artifact, 0, 2 * bytes + 16001));
    assert_null(tpv_view_direct(view, file->artifact, 0, 0));
    tpv_view_free(view);
    view = plan(file, ROWWISE, 2, 1);
    assert_ptr_equal(tpv_view_direct(view, file->artifact, 0, 900), a + 900);
    assert_ptr_equal(tpv_view_direct(view, file->artifact, 1801, 899), a + 2 * 1800 + 901);
    assert_null(tpv_view_direct(view, file->artifact, 899, 2));
    tpv_view_free(view);
    view = plan(file, "{\"format\":\"tpview-plan-1\",\"tp_plan\":{\"a\":\"vocab_parallel\"},\"default\":\"replicate\"}",
                8, 7);
    /* 700 rows, padded to 704, are 88 for each rank: the last has 84, and zeros that lie nowhere. */
    assert_ptr_equal(tpv_view_direct(view, file->artifact, 0, 84 * 1800), a + 616 * 1800);
    assert_null(tpv_view_direct(view, file->artifact, 84 * 1800, 1));
    assert_null(tpv_view_direct(view, file->artifact, 0, 84 * 1800 + 1));
    tpv_view_free(view);
}

static void bad_arguments(void **state) {
    const file_t *file = *state;
    char byte = 'x';
    tpv_view_t *view = plan(file, REPLICATE, 1, 0);
    uint64_t bytes = tpv_view_stats(view).bytes;
    assert_int_equal(tpv_view_gather(view, file->artifact, bytes, 0, &byte), TPV_OK);
    assert_int_equal(tpv_view_gather(view, file->artifact, bytes, 1, &byte), TPV_ERR_ARGUMENT);
    assert_int_equal(tpv_view_gather(view, file->artifact, bytes + 1, 0, &byte), TPV_ERR_ARGUMENT);
    assert_int_equal(tpv_view_gather(view, file->artifact, 1, UINT64_MAX, &byte), TPV_ERR_ARGUMENT);
    assert_null(tpv_view_direct(view, file->artifact, bytes, 1));
    assert_int_equal(byte, 'x');

    /* The same index without bytes, and another one. */
    test_index_t index;
    test_index_begin(&index);
    for (int i = 0; i < 3; i++)
        test_index_add(&index, tensors[i].dtype, tensors[i].shape, "%s", tensors[i].name);
    tpv_artifact_t *empty = test_index_finish(&index, NULL);
    assert_int_equal(tpv_view_gather(view, empty, 0, 1, &byte), TPV_ERR_ARGUMENT);
    assert_string_equal(tpv_error_message(), "the artifact is an index without data");
    assert_null(tpv_view_direct(view, empty, 0, 1));
    tpv_artifact_close(empty);
    char path[64];
    tpv_artifact_t *other = test_file(tensors, 2, 1, path);
    assert_int_equal(tpv_view_gather(view, other, 0, 1, &byte), TPV_ERR_ARGUMENT);
    assert_non_null(strstr(tpv_error_message(), "the view was made for index "));
    tpv_artifact_close(other);
    test_file_remove(path);

    /* A file with the same names, dtypes and shapes will do. */
    char second_path[64];
    other = test_file(tensors, 3, 12345, second_path);
    assert_int_equal(tpv_view_gather(view, other, 0, 1, &byte), TPV_OK);
    assert_int_equal(byte, *(const char *)tpv_artifact_data(other, tpv_artifact_tensor(other, 0)));
    tpv_artifact_close(other);
    test_file_remove(second_path);
    tpv_view_free(view);
}

static void a_truncated_file(void **state) {
    (void)state;
    char path[64];
    tpv_artifact_t *artifact = test_file(tensors, 3, 3, path);
    const file_t file = {.artifact = artifact};
    tpv_view_t *view = plan(&file, ROWWISE, 2, 0);
    uint64_t bytes = tpv_view_stats(view).bytes;
    char *dense = malloc(bytes);
    assert_int_equal(tpv_view_gather(view, artifact, 0, bytes, dense), TPV_OK);
    assert_int_equal(truncate(path, 100000), 0);
    assert_int_equal(tpv_view_gather(view, artifact, 0, bytes, dense), TPV_ERR_FORMAT);
    assert_non_null(strstr(tpv_error_message(), path));
    /* Even where the bytes are still there. */
    assert_int_equal(tpv_view_gather(view, artifact, 0, 1000, dense), TPV_ERR_FORMAT);
    assert_non_null(strstr(tpv_error_message(), path));
    free(dense);
    tpv_view_free(view);
    tpv_artifact_close(artifact);
    test_file_remove(path);
}

typedef struct {
    const file_t *file;
    const tpv_view_t *view;
    const char *expected;
    uint64_t seed;
    bool good;
} reader_t;

static void *read_ranges(void *user) {
    reader_t *reader = user;
    uint64_t bytes = tpv_view_stats(reader->view).bytes;
    char *dense = malloc(bytes);
    reader->good = true;
    for (int i = 0; i < 20 && reader->good; i++) {
        uint64_t low = (test_random(&reader->seed) >> 8) % bytes;
        uint64_t length = (test_random(&reader->seed) >> 8) % (bytes - low) + 1;
        reader->good = tpv_view_gather(reader->view, reader->file->artifact, low, length, dense) == TPV_OK &&
                       memcmp(dense, reader->expected + low, length) == 0;
    }
    free(dense);
    return NULL;
}

static void threads_gather_at_the_same_time(void **state) {
    const file_t *file = *state;
    tpv_view_t *view = plan(file, ROWWISE, 2, 1);
    uint64_t bytes = tpv_view_stats(view).bytes;
    char *expected = malloc(bytes);
    assert_int_equal(tpv_view_gather(view, file->artifact, 0, bytes, expected), TPV_OK);
    pthread_t threads[4];
    reader_t readers[4];
    for (size_t i = 0; i < 4; i++) {
        readers[i] = (reader_t){.file = file, .view = view, .expected = expected, .seed = i + 1};
        assert_int_equal(pthread_create(&threads[i], NULL, read_ranges, &readers[i]), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_true(readers[i].good);
    }
    free(expected);
    tpv_view_free(view);
}

/* The header, the dense form behind it: a safetensors file, read back by the checkpoint reader. */
static void a_file_of_the_dense_form(void **state) {
    const file_t *file = *state;
    static const char text[] =
        "{\"format\":\"tpview-view-1\",\"outputs\":["
        "{\"name\":\"z \\\"quoted\\\"\",\"dtype\":\"BF16\",\"shape\":[700,450],\"pieces\":["
        "{\"tensor\":\"b\",\"sizes\":[700,450]}]},"
        "{\"name\":\"none\",\"dtype\":\"F4\",\"shape\":[0,3],\"pieces\":[]},"
        "{\"name\":\"scalar\",\"dtype\":\"F64\",\"shape\":[],\"pieces\":["
        "{\"tensor\":\"c\",\"sizes\":[],\"strides\":[],\"offset\":7}]}],\"aliases\":{\"y\":\"scalar\"}}";
    tpv_view_t *view = plan(file, text, 1, 0);
    void *header;
    size_t header_bytes;
    assert_int_equal(tpv_view_safetensors_header(view, "format\0pt\0tp_rank\0003\0", &header, &header_bytes), TPV_OK);
    uint64_t length;
    memcpy(&length, header, sizeof length);
    assert_int_equal(header_bytes % 64, 0);
    assert_int_equal(length + 8, header_bytes);
    static const char expected[] =
        "{\"__metadata__\":{\"format\":\"pt\",\"tp_rank\":\"3\",\"tpview.aliases\":\"{\\\"y\\\":\\\"scalar\\\"}\"},"
        "\"z \\\"quoted\\\"\":{\"dtype\":\"BF16\",\"shape\":[700,450],\"data_offsets\":[0,630000]},"
        "\"none\":{\"dtype\":\"F4\",\"shape\":[0,3],\"data_offsets\":[630000,630000]},"
        "\"scalar\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[630000,630008]}}";
    assert_memory_equal((char *)header + 8, expected, sizeof expected - 1);
    for (size_t i = 8 + sizeof expected - 1; i < header_bytes; i++)
        assert_int_equal(((char *)header)[i], ' ');

    char folder[] = "/tmp/tpview-view-XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/out.safetensors", folder);
    size_t bytes = tpv_view_stats(view).bytes;
    char *dense = malloc(bytes);
    assert_int_equal(tpv_view_gather(view, file->artifact, 0, bytes, dense), TPV_OK);
    FILE *out = fopen(path, "wb");
    fwrite(header, 1, header_bytes, out);
    fwrite(dense, 1, bytes, out);
    assert_int_equal(fclose(out), 0);
    tpv_artifact_t *copy = NULL;
    if (tpv_artifact_open(path, &copy) != TPV_OK) fail_msg("%s", tpv_error_message());
    assert_int_equal(tpv_artifact_tensor_count(copy), 3);
    const tpv_tensor_t *scalar = tpv_artifact_find(copy, "scalar");
    assert_memory_equal(tpv_artifact_data(copy, scalar), data_of(file, "c") + 56, 8);
    tpv_artifact_close(copy);
    unlink(path);
    rmdir(folder);
    free(dense);
    free(header);

    assert_int_equal(tpv_view_safetensors_header(view, NULL, &header, &header_bytes), TPV_OK);
    assert_non_null(strstr((char *)header + 8, "\"__metadata__\":{\"tpview.aliases\":"));
    free(header);
    tpv_view_free(view);
    view = plan(file, "{\"format\":\"tpview-view-1\",\"outputs\":[]}", 1, 0);
    assert_int_equal(tpv_view_safetensors_header(view, NULL, &header, &header_bytes), TPV_OK);
    assert_int_equal(header_bytes, 64);
    assert_memory_equal((char *)header + 8, "{}  ", 4);
    free(header);
    tpv_view_free(view);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(row_parallel_slices),
        cmocka_unit_test(transposed),
        cmocka_unit_test(digests_on_the_way),
        cmocka_unit_test(places_without_a_copy),
        cmocka_unit_test(bad_arguments),
        cmocka_unit_test(a_truncated_file),
        cmocka_unit_test(threads_gather_at_the_same_time),
        cmocka_unit_test(a_file_of_the_dense_form),
    };
    return cmocka_run_group_tests(tests, open_file, close_file);
}
