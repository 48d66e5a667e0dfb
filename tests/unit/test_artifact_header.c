/* Safetensors headers: what is accepted, and a message of its own for each fault. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "common/test_files.h"
#include "tpview/artifact.h"

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

static void expect_fault(const char *path, const char *expected) {
    tpv_artifact_t *artifact = (void *)1;
    tpv_status_t status = tpv_artifact_open(path, &artifact);
    char text[2048], found[2048];
    snprintf(text, sizeof text, "%s: %s", path, expected);
    snprintf(found, sizeof found, "%s", tpv_error_message());
    /* What stands in place of a final star is jansson's wording. */
    size_t length = strlen(text);
    if (text[length - 1] == '*' && strlen(found) > length) strcpy(found + length - 1, "*");
    assert_string_equal(found, text);
    assert_int_equal(status, TPV_ERR_FORMAT);
    assert_null(artifact);
}

#define U8_1 "\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]"

static const struct {
    const char *header;
    uint64_t data_bytes;
    const char *expected;
} faults[] = {
    /* not a header at all */
    {"", 0, "the header does not begin with '{': not a safetensors file"},
    {" {}", 0, "the header does not begin with '{': not a safetensors file"},
    {"[]", 0, "the header does not begin with '{': not a safetensors file"},
    /* not JSON */
    {"{", 0, "header: bad JSON at byte 1: expected a name in quotes, found the end"},
    {"{}x", 0, "header: bad JSON at byte 2: expected nothing after the object"},
    {"{}{}", 0, "header: bad JSON at byte 2: expected nothing after the object"},
    {"{\"a\"", 0, "header: bad JSON at byte 4: expected ':', found the end"},
    {"{\"a", 0, "header: bad JSON at byte 3: expected the end of a string, found the end"},
    {"{\"a\\\"", 0, "header: bad JSON at byte 5: expected the end of a string, found the end"},
    {"{\"a\":", 0, "header: bad JSON at byte 5: expected the end of a value, found the end"},
    {"{\"a\":}", 0, "header: bad JSON at byte 5: expected a value"},
    {"{\"a\":,}", 0, "header: bad JSON at byte 5: expected a value"},
    {"{\"a\":{" U8_1 "}", 1, "header: bad JSON at byte 52: expected ',' or '}', found the end"},
    {"{\"a\":{" U8_1 "},}", 1, "header: bad JSON at byte 53: expected a name in quotes"},
    {"{\"a\":{" U8_1 "} 1}", 1, "header: bad JSON at byte 53: expected ',' or '}'"},
    {"{\"a\":{" U8_1, 1, "header: bad JSON at byte 51: expected the end of a value, found the end"},
    {"{\"a\":{" U8_1 "]}", 1, "header: tensor \"a\": bad JSON: *"},
    {"{\"a\":{\"dtype\":U8}}", 0, "header: tensor \"a\": bad JSON: *"},
    {"{\"a\":[[[[[[[[[[[[[[[[[[[[", 0, "header: bad JSON at byte 25: expected the end of a value, found the end"},
    /* names */
    {"{1:{" U8_1 "}}", 1, "header: bad JSON at byte 1: expected a name in quotes"},
    {"{\"a\\u0000b\":{" U8_1 "}}", 1, "header: the name at byte 1: bad JSON: a zero byte in a string"},
    {"{\"a\xff\":{" U8_1 "}}", 1, "header: the name at byte 1: bad JSON: invalid UTF-8"},
    {"{\"a\\x\":{" U8_1 "}}", 1, "header: the name at byte 1: bad JSON: *"},
    {"{\"a\":{" U8_1 "},\"a\":{" U8_1 "}}", 1, "tensor \"a\" appears twice"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"a\":{" U8_1 "}}", 1,
     "tensor \"a\" appears twice"},
    /* entries */
    {"{\"a\":7}", 0, "header: tensor \"a\": its entry is not an object"},
    {"{\"a\":null}", 0, "header: tensor \"a\": its entry is not an object"},
    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "header: tensor \"a\": dtype is missing"},
    {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "header: tensor \"a\": shape is missing"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "header: tensor \"a\": data_offsets is missing"},
    {"{\"a\":{" U8_1 ",\"dtype\":\"U8\"}}", 1, "header: tensor \"a\": bad JSON: the name \"dtype\" appears twice"},
    /* dtypes */
    {"{\"a\":{\"dtype\":\"U9\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
     "header: tensor \"a\": unknown dtype \"U9\": expected one of the safetensors format, such as BF16"},
    {"{\"a\":{\"dtype\":\"u8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
     "header: tensor \"a\": unknown dtype \"u8\": expected one of the safetensors format, such as BF16"},
    {"{\"a\":{\"dtype\":8,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "header: tensor \"a\": dtype is not a string"},
    {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2,
     "header: tensor \"a\": its 3 elements of F4 are not a whole number of bytes"},
    {"{\"a\":{\"dtype\":\"F6_E2M3\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2,
     "header: tensor \"a\": its 2 elements of F6_E2M3 are not a whole number of bytes"},
    /* shapes */
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":1,\"data_offsets\":[0,1]}}", 1, "header: tensor \"a\": shape is not an array"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,-1],\"data_offsets\":[0,1]}}", 1,
     "header: tensor \"a\": dim 1 of shape is not a non-negative integer"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]}}", 1,
     "header: tensor \"a\": dim 0 of shape is not a non-negative integer"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1e0],\"data_offsets\":[0,1]}}", 1,
     "header: tensor \"a\": dim 0 of shape is not a non-negative integer"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[\"1\"],\"data_offsets\":[0,1]}}", 1,
     "header: tensor \"a\": dim 0 of shape is not a non-negative integer"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[[1]],\"data_offsets\":[0,1]}}", 1,
     "header: tensor \"a\": dim 0 of shape is not a non-negative integer"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[18446744073709551617],\"data_offsets\":[0,1]}}", 1,
     "header: tensor \"a\": bad JSON: a number is too large: expected at most 9223372036854775807"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1,
     "header: tensor \"a\": shape has 9 dims: expected at most 8"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
     "header: tensor \"a\": the shape's size in bits overflows 64 bits"},
    {"{\"a\":{\"dtype\":\"F64\",\"shape\":[1152921504606846976],\"data_offsets\":[0,0]}}", 0,
     "header: tensor \"a\": the shape's size in bits overflows 64 bits"},
    /* would wrap to the 8 bytes that are there */
    {"{\"a\":{\"dtype\":\"F64\",\"shape\":[2305843009213693953],\"data_offsets\":[0,8]}}", 8,
     "header: tensor \"a\": the shape's size in bits overflows 64 bits"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0,4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
     "header: tensor \"a\": the shape's size in bits overflows 64 bits"},
    /* offsets */
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1,
     "header: tensor \"a\": data_offsets is not an array of two integers"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,1]}}", 1,
     "header: tensor \"a\": data_offsets is not an array of two integers"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":{\"0\":1}}}", 1,
     "header: tensor \"a\": data_offsets is not an array of two integers"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-1,0]}}", 1,
     "header: tensor \"a\": data_offsets has an item that is not a non-negative integer"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1.5]}}", 1,
     "header: tensor \"a\": data_offsets has an item that is not a non-negative integer"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,0]}}", 1,
     "header: tensor \"a\": data_offsets [1, 0] end before they begin"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,20]}}", 20,
     "header: tensor \"a\": shape and dtype F32 make 24 bytes, but data_offsets [0, 20] hold 20"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,0]}}", 0,
     "header: tensor \"a\": shape and dtype U8 make 1 bytes, but data_offsets [0, 0] hold 0"},
    /* places */
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2,
     "a gap of 1 bytes before tensor \"a\": expected it at offset 0, not 1"},
    {"{\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[5,7]},"
     "\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
     7, "a gap of 3 bytes before tensor \"b\": expected it at offset 2, not 5"},
    {"{\"a\":{" U8_1 "}}", 4, "3 bytes behind the last tensor: the header describes 1 data bytes, the file has 4"},
    {"{}", 4, "4 bytes behind the last tensor: the header describes 0 data bytes, the file has 4"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[3,7]}}",
     7, "tensor \"b\" overlaps tensor \"a\": it begins at offset 3, expected 4"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
     4, "tensor \"b\" overlaps tensor \"a\": it begins at offset 0, expected 4"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[2,2]}}",
     4, "tensor \"b\" overlaps tensor \"a\": it begins at offset 2, expected 4"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[9223372036854775803,9223372036854775807]}}",
     8, "tensor \"b\" begins at offset 9223372036854775803, outside of the data area of 8 bytes"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1024],\"data_offsets\":[0,1024]}}", 1000,
     "the file is truncated: its header describes 1024 data bytes, it has 1000"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1024],\"data_offsets\":[0,1024]}}", 0,
     "the file is truncated: its header describes 1024 data bytes, it has 0"},
    /* metadata */
    {"{\"__metadata__\":1}", 0, "header: __metadata__: bad JSON at byte 0: expected an object"},
    {"{\"__metadata__\":nul}", 0, "header: __metadata__: bad JSON at byte 0: expected an object"},
    {"{\"__metadata__\":{\"a\":1}}", 0, "header: __metadata__: the value of \"a\" is not a string"},
    {"{\"__metadata__\":{\"a\":[[[[[]]]]]}}", 0, "header: __metadata__: the value of \"a\" is not a string"},
    {"{\"__metadata__\":{\"a\":\"b\",\"a\":\"c\"}}", 0, "header: __metadata__: bad JSON: the name \"a\" appears twice"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "header: __metadata__ appears twice"},
};

static void each_fault_has_its_message(void **state) {
    (void)state;
    const char *path = test_path(folder, "bad.safetensors");
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        test_safetensors_write(path, faults[i].header, faults[i].data_bytes, 1);
        expect_fault(path, faults[i].expected);
    }
}

static void files_too_short_or_with_a_wild_length(void **state) {
    (void)state;
    const char *path = test_path(folder, "short.safetensors");
    test_file_write(path, "\2\0\0\0\0\0\0", 7);
    expect_fault(path, "the file has 7 bytes, too few for the 8 bytes of header length");
    test_file_write(path, "\0\0\0\0\0\0\0\0", 8);
    expect_fault(path, "the header does not begin with '{': not a safetensors file");
    test_file_write(path, "\3\0\0\0\0\0\0\0{}", 10);
    expect_fault(path, "the header length is 3, which reaches beyond the file's 10 bytes");
    test_file_write(path, "\1\xe1\xf5\5\0\0\0\0{}", 10);
    expect_fault(
        path,
        "the header length is 100000001: expected at most 100000000, the format's limit: this is no safetensors file");
    test_file_write(path, "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10);
    expect_fault(path, "the header length is 18446744073709551615: expected at most 100000000, the format's limit: "
                       "this is no safetensors file");
    test_file_write(path, "", 0);
    expect_fault(path, "the file is empty");
}

static void names_have_a_longest_length(void **state) {
    (void)state;
    const char *path = test_path(folder, "names.safetensors");
    char name[6 * TPV_MAX_NAME + 2], header[sizeof name + 100];
    tpv_artifact_t *artifact = NULL;

    memset(name, 'n', TPV_MAX_NAME);
    name[TPV_MAX_NAME] = '\0';
    snprintf(header, sizeof header, "{\"%s\":{" U8_1 "}}", name);
    test_safetensors_write(path, header, 1, 1);
    assert_int_equal(tpv_artifact_open(path, &artifact), TPV_OK);
    assert_non_null(tpv_artifact_find(artifact, name));
    tpv_artifact_close(artifact);

    snprintf(header, sizeof header, "{\"%sn\":{" U8_1 "}}", name);
    test_safetensors_write(path, header, 1, 1);
    expect_fault(path, "header: the name at byte 1 has 1025 bytes: expected at most 1024");

    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    snprintf(header, sizeof header, "{\"%s\":{" U8_1 "}}", name);
    test_safetensors_write(path, header, 1, 1);
    expect_fault(path, "header: the name at byte 1 is longer than 1024 bytes");
}

/* A tree of it would take a hundred times its size. */
static void a_header_made_to_fill_memory(void **state) {
    (void)state;
    const char *path = test_path(folder, "bomb.safetensors");
    size_t length = (size_t)30 << 20;
    char *header = malloc(length + 1);
    assert_non_null(header);
    memset(header, '[', length);
    header[length] = '\0';
    for (size_t i = 0; i < length - 2; i += 3)
        memcpy(header + i, "{},", 3);
    memcpy(header, "{\"a\":[", 6);
    memcpy(header + length - 6, "{}  ]}", 6);
    test_safetensors_write(path, header, 0, 1);
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    expect_fault(path, "header: tensor \"a\": a value of 31457274 bytes: expected at most 4096");
    memcpy(header, "{\"__metadata__\":{\"a\":\"\",\"b\":[", 29);
    memcpy(header + length - 7, "{}  ]}}", 7);
    test_safetensors_write(path, header, 0, 1);
    expect_fault(path, "header: __metadata__: the value of \"b\" is not a string");
    getrusage(RUSAGE_SELF, &after);
    assert_true(after.ru_maxrss - before.ru_maxrss < 512 << 10); /* KiB; the tree would take 2 GiB and more */
    free(header);
}

static void every_dtype(void **state) {
    (void)state;
    static const struct {
        const char *name;
        unsigned bits;
    } all[] = {{"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6},     {"F6_E3M2", 6},     {"U8", 8},   {"I8", 8},
               {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8},     {"F8_E4M3FNUZ", 8}, {"I16", 16}, {"U16", 16},
               {"F16", 16},    {"BF16", 16},   {"F8_E5M2FNUZ", 8}, {"I32", 32},        {"U32", 32}, {"F32", 32},
               {"C64", 64},    {"F64", 64},    {"I64", 64},        {"U64", 64}};
    assert_int_equal(sizeof all / sizeof *all, TPV_DTYPE_COUNT);
    const char *path = test_path(folder, "dtype.safetensors");
    for (size_t i = 0; i < TPV_DTYPE_COUNT; i++) {
        tpv_dtype_t dtype = TPV_DTYPE_COUNT;
        assert_int_equal(tpv_dtype_from_name(all[i].name, &dtype), TPV_OK);
        assert_string_equal(tpv_dtype_name(dtype), all[i].name);
        assert_int_equal(tpv_dtype_bits(dtype), all[i].bits);

        char header[200];
        uint64_t bytes = 3 * 4 * all[i].bits / 8; /* 12 elements of 6 bits are 9 bytes */
        snprintf(header, sizeof header, "{\"t\":{\"dtype\":\"%s\",\"shape\":[3,4],\"data_offsets\":[0,%llu]}}",
                 all[i].name, (unsigned long long)bytes);
        test_safetensors_write(path, header, bytes, 1);
        tpv_artifact_t *artifact = NULL;
        assert_int_equal(tpv_artifact_open(path, &artifact), TPV_OK);
        const tpv_tensor_t *tensor = tpv_artifact_find(artifact, "t");
        assert_non_null(tensor);
        assert_int_equal(tensor->dtype, dtype);
        assert_int_equal(tensor->bytes, bytes);
        tpv_artifact_close(artifact);
    }
    tpv_dtype_t dtype = TPV_DTYPE_I8;
    assert_int_equal(tpv_dtype_from_name("F12", &dtype), TPV_ERR_FORMAT);
    assert_int_equal(dtype, TPV_DTYPE_I8);
    assert_int_equal(tpv_dtype_bits(TPV_DTYPE_COUNT), 0);
}

static void order_scalars_and_empty_tensors(void **state) {
    (void)state;
    const char *path = test_path(folder, "good.safetensors");
    /* Listed in an order that is neither that of names nor that of places; empty tensors at every edge. */
    const char *header = "{\"z\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[4,7]},\n"
                         "\"__metadata__\":{\"format\":\"pt\",\"\\u00e9\":\"\\u0041\"},"
                         "\"e3\":{\"dtype\":\"F32\",\"shape\":[2,0],\"data_offsets\":[7,7]},"
                         "\"scalar\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
                         "\"e1\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},"
                         "\"\\u00e9\\n\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[4,4]},"
                         "\"e2\":{\"dtype\":\"U8\",\"shape\":[0,7],\"data_offsets\":[4,4]}}   \t";
    test_safetensors_write(path, header, 7, 99);
    tpv_artifact_t *artifact = NULL;
    assert_int_equal(tpv_artifact_open(path, &artifact), TPV_OK);
    static const char *const names[] = {"e1", "e2", "e3", "scalar", "z", "\xc3\xa9\n"};
    assert_int_equal(tpv_artifact_tensor_count(artifact), 6);
    for (size_t i = 0; i < 6; i++) {
        assert_string_equal(tpv_artifact_tensor(artifact, i)->name, names[i]);
        assert_ptr_equal(tpv_artifact_find(artifact, names[i]), tpv_artifact_tensor(artifact, i));
    }
    assert_null(tpv_artifact_tensor(artifact, 6));
    assert_null(tpv_artifact_find(artifact, "e"));
    assert_null(tpv_artifact_find(artifact, ""));
    assert_int_equal(tpv_artifact_bytes(artifact), 7);
    assert_false(tpv_artifact_config(artifact)->present);

    const tpv_tensor_t *scalar = tpv_artifact_find(artifact, "scalar"), *z = tpv_artifact_find(artifact, "z");
    assert_int_equal(scalar->dims, 0);
    assert_int_equal(scalar->bytes, 4);
    assert_int_equal(z->offset, 8 + strlen(header) + 4);
    for (uint32_t i = 0; i < 4; i++) {
        uint8_t expected = (uint8_t)((99 + i * UINT32_C(2654435761)) >> 24);
        assert_int_equal(((const uint8_t *)tpv_artifact_data(artifact, scalar))[i], expected);
    }
    assert_ptr_equal((const uint8_t *)tpv_artifact_data(artifact, scalar) + 4, tpv_artifact_data(artifact, z));
    tpv_artifact_close(artifact);

    test_safetensors_write(path, "{}", 0, 0);
    assert_int_equal(tpv_artifact_open(path, &artifact), TPV_OK);
    assert_int_equal(tpv_artifact_tensor_count(artifact), 0);
    assert_null(tpv_artifact_find(artifact, "a"));
    tpv_artifact_close(artifact);
    tpv_artifact_close(NULL);
}

static unsigned long long bytes_read_so_far(void) {
    FILE *stream = fopen("/proc/self/io", "r");
    unsigned long long bytes = 0;
    int found = stream ? fscanf(stream, "rchar: %llu", &bytes) : 0;
    if (stream) fclose(stream);
    return found == 1 ? bytes : 0;
}

static void opening_reads_no_data(void **state) {
    (void)state;
    const char *path = test_path(folder, "sparse.safetensors");
    test_safetensors_write_sparse(
        path, "{\"a\":{\"dtype\":\"BF16\",\"shape\":[4194304,4096],\"data_offsets\":[0,34359738368]}}",
        UINT64_C(34359738368));
    struct rusage before, after;
    unsigned long long read_before = bytes_read_so_far();
    getrusage(RUSAGE_SELF, &before);
    tpv_artifact_t *artifact = NULL;
    assert_int_equal(tpv_artifact_open(path, &artifact), TPV_OK);
    getrusage(RUSAGE_SELF, &after);
    assert_true(bytes_read_so_far() - read_before < 64 << 10);
    assert_true(after.ru_minflt + after.ru_majflt - before.ru_minflt - before.ru_majflt < 1000); /* pages */
    assert_int_equal(tpv_artifact_bytes(artifact), UINT64_C(34359738368));
    tpv_artifact_close(artifact);
}

/* As the safetensors package reads it: serde ignores fields that it does not know, and a null is no metadata. */
static void what_the_format_leaves_open(void **state) {
    (void)state;
    const char *path = test_path(folder, "open.safetensors");
    test_safetensors_write(path,
                           "{\"__metadata__\": null ,\"a\":{\"x\":[1,{\"y\":null}],\"dtype\":\"U8\",\"shape\":[1],"
                           "\"data_offsets\":[0,1]}}",
                           1, 1);
    tpv_artifact_t *artifact = NULL;
    assert_int_equal(tpv_artifact_open(path, &artifact), TPV_OK);
    assert_int_equal(tpv_artifact_tensor_count(artifact), 1);
    tpv_artifact_close(artifact);
}

static void a_pointer_of_git_lfs_is_called_one(void **state) {
    (void)state;
    const char *pointer = "version https://git-lfs.github.com/spec/v1\n"
                          "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";
    const char *path = test_path(folder, "pointer.safetensors");
    test_file_write_text(path, pointer);
    expect_fault(path, "this is a Git LFS pointer, not the file itself: fetch it with \"git lfs pull\"");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_fault_has_its_message),
        cmocka_unit_test(files_too_short_or_with_a_wild_length),
        cmocka_unit_test(names_have_a_longest_length),
        cmocka_unit_test(a_header_made_to_fill_memory),
        cmocka_unit_test(every_dtype),
        cmocka_unit_test(order_scalars_and_empty_tensors),
        cmocka_unit_test(what_the_format_leaves_open),
        cmocka_unit_test(a_pointer_of_git_lfs_is_called_one),
        cmocka_unit_test(opening_reads_no_data),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
