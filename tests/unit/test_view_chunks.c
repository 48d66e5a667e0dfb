/* The chunk table: of what kind chunks are, and that making it takes no more steps than records and chunks ask for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "artifact/artifact.h"
#include "base/clock.h"
#include "common/view_fixture.h"
#include "view/chunk_table.h"
#include "view/scatter.h"

#define ROWS 512
#define COLUMNS 1024
#define CHUNK 4096

typedef struct {
    char path[64];
    tpv_artifact_t *artifact;
} file_t;

static int open_file(void **state) {
    static const test_tensor_t tensors[] = {{"a", TPV_DTYPE_U8, 2, {ROWS, COLUMNS}},
                                            {"b", TPV_DTYPE_U8, 2, {ROWS, COLUMNS}}};
    static file_t file;
    file.artifact = test_file(tensors, 2, 3, file.path);
    assert_int_equal(tpv_artifact_map(file.artifact), TPV_OK);
    *state = &file;
    return 0;
}

static int close_file(void **state) {
    file_t *file = *state;
    tpv_artifact_close(file->artifact);
    test_file_remove(file->path);
    return 0;
}

static tpv_view_t *view_of(const file_t *file, const char *json) {
    tpv_view_t *view = NULL;
    if (tpv_view_from_json(file->artifact, json, strlen(json), &view) != TPV_OK) fail_msg("%s", tpv_error_message());
    return view;
}

static void kinds_of_chunks(void **state) {
    const file_t *file = *state;
    const tpv_tensor_t *a = tpv_artifact_find(file->artifact, "a");
    /* Eight rows of a, zeros for two chunks and a half, halves of four rows of a, the first of b. */
    tpv_view_t *view = view_of(
        file, "{\"format\":\"tpview-view-1\",\"outputs\":["
              "{\"name\":\"x\",\"dtype\":\"U8\",\"shape\":[20480],\"pieces\":["
              "{\"tensor\":\"a\",\"sizes\":[8192],\"strides\":[1],\"offset\":2048},"
              "{\"zero\":true,\"sizes\":[10240],\"to\":{\"offset\":8192}},"
              "{\"tensor\":\"a\",\"sizes\":[4,512],\"strides\":[1024,1],\"offset\":8192,\"to\":{\"offset\":18432,"
              "\"strides\":[512,1]}}]},"
              "{\"name\":\"y\",\"dtype\":\"U8\",\"shape\":[4097],\"pieces\":[{\"tensor\":\"b\",\"sizes\":[4097],"
              "\"strides\":[1]}]}]}");
    const tpv_tensor_t *b = tpv_artifact_find(file->artifact, "b");
    const tpv_chunk_source_t expected[] = {{TPV_CHUNK_RUN, a->shard, a->offset + 2048},
                                           {TPV_CHUNK_RUN, a->shard, a->offset + 2048 + CHUNK},
                                           {TPV_CHUNK_ZEROS, 0, 0},
                                           {TPV_CHUNK_ZEROS, 0, 0},
                                           {TPV_CHUNK_GATHERED, 0, 0},
                                           {TPV_CHUNK_RUN, b->shard, b->offset},
                                           {TPV_CHUNK_RUN, b->shard, b->offset + CHUNK}};
    tpv_chunk_table_t table;
    assert_int_equal(tpv_chunk_table_make(view, file->artifact, CHUNK, TPV_DEADLINE_NEVER, &table), TPV_OK);
    assert_int_equal(table.count, 7);
    assert_int_equal(table.gathered, 1);
    for (size_t i = 0; i < table.count; i++)
        if (table.sources[i].kind != expected[i].kind || table.sources[i].file != expected[i].file ||
            table.sources[i].offset != expected[i].offset)
            fail_msg("chunk %zu: kind %d, file %u, offset %llu", i, (int)table.sources[i].kind, table.sources[i].file,
                     (unsigned long long)table.sources[i].offset);
    tpv_chunk_table_clear(&table);
    tpv_view_free(view);
}

/* Numbers are neither in a file nor zeros: a chunk that has nothing else is gathered. */
static void chunks_of_numbers_are_gathered(void **state) {
    const file_t *file = *state;
    tpv_view_t *view = view_of(
        file, "{\"format\":\"tpview-view-1\",\"outputs\":["
              "{\"name\":\"x\",\"dtype\":\"U8\",\"shape\":[4096],\"pieces\":[{\"zero\":true,\"sizes\":[4096]}]},"
              "{\"name\":\"y\",\"dtype\":\"I64\",\"shape\":[2],\"pieces\":[{\"number\":5,\"sizes\":[1]},"
              "{\"number\":258,\"sizes\":[1],\"to\":{\"offset\":1}}]}]}");
    tpv_chunk_table_t table;
    assert_int_equal(tpv_chunk_table_make(view, file->artifact, CHUNK, TPV_DEADLINE_NEVER, &table), TPV_OK);
    assert_int_equal(table.count, 2);
    assert_int_equal(table.sources[0].kind, TPV_CHUNK_ZEROS);
    assert_int_equal(table.sources[1].kind, TPV_CHUNK_GATHERED);
    tpv_chunk_table_clear(&table);
    static const unsigned char bytes[16] = {5, 0, 0, 0, 0, 0, 0, 0, 2, 1};
    unsigned char *dense = malloc(4096 + 16);
    assert_non_null(dense);
    memset(dense, 0xee, 4096 + 16);
    tpv_view_scatter_fills(view, dense);
    assert_int_equal(dense[0] | dense[4095], 0);
    assert_memory_equal(dense + 4096, bytes, 16);
    free(dense);
    /* A range may begin and end inside of a number. */
    for (size_t first = 0; first < 16; first++) {
        for (size_t length = 1; first + length <= 16; length++) {
            unsigned char found[16];
            memset(found, 0xee, sizeof found);
            assert_int_equal(tpv_view_gather(view, file->artifact, 4096 + first, length, found), TPV_OK);
            assert_memory_equal(found, bytes + first, length);
            assert_null(tpv_view_direct(view, file->artifact, 4096 + first, length));
        }
    }
    tpv_view_free(view);
}

/* Column after column as a piece of its own; `turn` columns further in the view than in the tensor. */
static char *columns(unsigned width, unsigned turn) {
    size_t room = 256 + (size_t)(COLUMNS / width) * 160, length = 0;
    char *json = malloc(room);
    assert_non_null(json);
    length += (size_t)snprintf(json, room,
                               "{\"format\":\"tpview-view-1\",\"outputs\":[{\"name\":\"o\",\"dtype\":\"U8\",\"shape\":"
                               "[%d,%d],\"pieces\":[",
                               ROWS, COLUMNS);
    for (unsigned at = 0; at < COLUMNS; at += width)
        length += (size_t)snprintf(json + length, room - length,
                                   "%s{\"tensor\":\"a\",\"sizes\":[%d,%u],\"strides\":[%d,1],\"offset\":%u,\"to\":{"
                                   "\"strides\":[%d,1],\"offset\":%u}}",
                                   at ? "," : "", ROWS, width, COLUMNS, at, COLUMNS, (at + turn) % COLUMNS);
    snprintf(json + length, room - length, "]}]}");
    return json;
}

/* Every piece reaches over all chunks: looking at each chunk for each piece would be a hundred times as much. */
static void interleaved_pieces_are_linear(void **state) {
    const file_t *file = *state;
    char *json = columns(2, 2);
    tpv_view_t *view = view_of(file, json);
    tpv_chunk_table_t table;
    assert_int_equal(tpv_view_stats(view).records, COLUMNS / 2);
    assert_int_equal(tpv_chunk_table_make(view, file->artifact, CHUNK, TPV_DEADLINE_NEVER, &table), TPV_OK);
    assert_int_equal(table.gathered, table.count);
    assert_true(table.steps <= 16 * (table.count + COLUMNS / 2));
    tpv_chunk_table_clear(&table);
    tpv_view_free(view);
    free(json);
}

/* Many short pieces that make one run together take too many steps to tell; no chunk is told wrongly for that. */
static void steps_are_bounded(void **state) {
    const file_t *file = *state;
    char *json = columns(1, 0);
    tpv_view_t *view = view_of(file, json);
    tpv_chunk_table_t table;
    assert_int_equal(tpv_chunk_table_make(view, file->artifact, 64, TPV_DEADLINE_NEVER, &table), TPV_OK);
    assert_true(table.steps <= (UINT64_C(8) << 20) + 8);
    const tpv_tensor_t *a = tpv_artifact_find(file->artifact, "a");
    for (size_t i = 0; i < table.count; i++)
        if (table.sources[i].kind != TPV_CHUNK_GATHERED) assert_int_equal(table.sources[i].offset, a->offset + i * 64);
    tpv_chunk_table_clear(&table);
    tpv_view_free(view);
    free(json);
}

static void ends_at_the_deadline(void **state) {
    const file_t *file = *state;
    tpv_view_t *view = view_of(file, "{\"format\":\"tpview-view-1\",\"outputs\":[{\"name\":\"x\",\"dtype\":\"U8\","
                                     "\"shape\":[9],\"pieces\":[{\"tensor\":\"a\",\"sizes\":[9],\"strides\":[1]}]}]}");
    tpv_chunk_table_t table;
    assert_int_equal(tpv_chunk_table_make(view, file->artifact, CHUNK, tpv_deadline_in(0), &table), TPV_ERR_DEADLINE);
    tpv_chunk_table_clear(&table);
    tpv_view_free(view);
}

static void too_many_chunks(void **state) {
    const file_t *file = *state;
    tpv_view_t *view = view_of(file, "{\"format\":\"tpview-view-1\",\"outputs\":[{\"name\":\"x\",\"dtype\":\"U8\","
                                     "\"shape\":[4194305],\"pieces\":[{\"zero\":true,\"sizes\":[4194305]}]}]}");
    tpv_chunk_table_t table;
    assert_int_equal(tpv_chunk_table_make(view, file->artifact, 1, TPV_DEADLINE_NEVER, &table), TPV_ERR_ARGUMENT);
    tpv_chunk_table_clear(&table);
    assert_int_equal(tpv_chunk_table_make(view, file->artifact, 2, TPV_DEADLINE_NEVER, &table), TPV_OK);
    tpv_chunk_table_clear(&table);
    tpv_view_free(view);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kinds_of_chunks),
        cmocka_unit_test(interleaved_pieces_are_linear),
        cmocka_unit_test(chunks_of_numbers_are_gathered),
        cmocka_unit_test(interleaved_pieces_are_linear),
        cmocka_unit_test(steps_are_bounded),
        cmocka_unit_test(ends_at_the_deadline),
        cmocka_unit_test(too_many_chunks),
    };
    return cmocka_run_group_tests(tests, open_file, close_file);
}
