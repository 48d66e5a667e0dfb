/* Random views against a reference that goes element by element: whether they are whole, and what they gather. */
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

#define MAX_PIECES 64
#define MAX_ELEMENTS 4096

typedef struct {
    bool zero;
    uint32_t dims;
    uint64_t sizes[TPV_MAX_DIMS], from[TPV_MAX_DIMS], to[TPV_MAX_DIMS];
    uint64_t from_offset, to_offset;
} piece_t;

typedef struct {
    uint32_t dims;
    uint64_t shape[TPV_MAX_DIMS], elements;
    size_t count;
    piece_t pieces[MAX_PIECES];
} random_view_t;

static uint64_t below(uint64_t *seed, uint64_t limit) {
    return (test_random(seed) >> 11) % limit;
}

/* A part of the output's index space: `count` indices from `start` on, `step` apart, in each dim. */
typedef struct {
    uint64_t start[4], step[4], count[4];
} part_t;

static void add_part(random_view_t *view, const part_t *part, uint64_t tensor_elements, uint64_t *seed) {
    piece_t *piece = &view->pieces[view->count++];
    *piece = (piece_t){.zero = below(seed, 6) == 0};
    uint64_t stride = 1;
    for (uint32_t i = view->dims; i-- > 0;) {
        piece->to_offset += part->start[i] * stride;
        uint64_t size = part->count[i], to = part->step[i] * stride;
        stride *= view->shape[i];
        /* Sometimes as two dims, which the canonical form must put together again. */
        uint64_t factor = size % 3 == 0 ? 3 : size % 2 == 0 ? 2 : 1;
        if (factor > 1 && below(seed, 3) == 0) {
            piece->sizes[piece->dims] = factor;
            piece->to[piece->dims++] = to;
            size /= factor;
            to *= factor;
        }
        piece->sizes[piece->dims] = size;
        piece->to[piece->dims++] = to;
    }
    for (uint32_t i = piece->dims; i > 1; i--) { /* in any order */
        uint32_t k = (uint32_t)below(seed, i);
        uint64_t size = piece->sizes[i - 1], to = piece->to[i - 1];
        piece->sizes[i - 1] = piece->sizes[k];
        piece->to[i - 1] = piece->to[k];
        piece->sizes[k] = size;
        piece->to[k] = to;
    }
    /* Any source strides that stay inside: often those of a slice, so that there are long runs as well. */
    uint64_t last = 0;
    for (uint32_t i = 0; i < piece->dims; i++) {
        uint64_t stride_from = below(seed, 2) ? piece->to[i] : below(seed, 40);
        if (piece->sizes[i] > 1 && last + (piece->sizes[i] - 1) * stride_from >= tensor_elements) stride_from = 0;
        piece->from[i] = stride_from;
        last += (piece->sizes[i] - 1) * stride_from;
    }
    piece->from_offset = below(seed, tensor_elements - last);
}

static void split(random_view_t *view, part_t part, unsigned depth, uint64_t tensor_elements, uint64_t *seed) {
    uint32_t dim = (uint32_t)below(seed, view->dims);
    uint64_t count = part.count[dim];
    if (depth == 0 || count < 2 || view->count + (1u << depth) > MAX_PIECES || below(seed, 8) == 0) {
        add_part(view, &part, tensor_elements, seed);
        return;
    }
    part_t first = part, second = part;
    if (below(seed, 3) == 0) { /* every second one */
        first.step[dim] *= 2;
        second.step[dim] *= 2;
        second.start[dim] += part.step[dim];
        first.count[dim] = (count + 1) / 2;
        second.count[dim] = count / 2;
    } else {
        uint64_t cut = 1 + below(seed, count - 1);
        first.count[dim] = cut;
        second.count[dim] = count - cut;
        second.start[dim] += cut * part.step[dim];
    }
    split(view, first, depth - 1, tensor_elements, seed);
    split(view, second, depth - 1, tensor_elements, seed);
}

static void make_random(random_view_t *view, uint64_t tensor_elements, uint64_t *seed) {
    *view = (random_view_t){.dims = 1 + (uint32_t)below(seed, 4), .elements = 1};
    part_t all;
    for (uint32_t i = 0; i < view->dims; i++) {
        uint64_t limit = MAX_ELEMENTS / view->elements;
        view->shape[i] = 1 + below(seed, limit > 40 ? 40 : limit);
        if (view->dims == 1) view->shape[i] = 1 + below(seed, MAX_ELEMENTS);
        view->elements *= view->shape[i];
        all.start[i] = 0;
        all.step[i] = 1;
        all.count[i] = view->shape[i];
    }
    split(view, all, (unsigned)below(seed, 6), tensor_elements, seed);
}

static void print_numbers(FILE *stream, const char *key, const uint64_t *values, uint32_t count) {
    fprintf(stream, "\"%s\":[", key);
    for (uint32_t i = 0; i < count; i++)
        fprintf(stream, "%s%llu", i ? "," : "", (unsigned long long)values[i]);
    fputc(']', stream);
}

static char *print_view(const random_view_t *view, const char *dtype) {
    char *text = NULL;
    size_t length;
    FILE *stream = open_memstream(&text, &length);
    /* A first output, so that the second does not begin at 0. */
    fprintf(stream,
            "{\"format\":\"tpview-view-1\",\"outputs\":[{\"name\":\"a\",\"dtype\":\"U8\",\"shape\":[3],\"pieces\":["
            "{\"zero\":true,\"sizes\":[3]}]},{\"name\":\"b\",\"dtype\":\"%s\",",
            dtype);
    print_numbers(stream, "shape", view->shape, view->dims);
    fputs(",\"pieces\":[", stream);
    for (size_t i = 0; i < view->count; i++) {
        const piece_t *piece = &view->pieces[i];
        fputs(i ? ",{" : "{", stream);
        print_numbers(stream, "sizes", piece->sizes, piece->dims);
        fputs(",\"to\":{", stream);
        print_numbers(stream, "strides", piece->to, piece->dims);
        fprintf(stream, ",\"offset\":%llu},", (unsigned long long)piece->to_offset);
        if (piece->zero) {
            fputs("\"zero\":true}", stream);
            continue;
        }
        print_numbers(stream, "strides", piece->from, piece->dims);
        fprintf(stream, ",\"offset\":%llu,\"tensor\":\"t\"}", (unsigned long long)piece->from_offset);
    }
    fputs("]}]}", stream);
    fclose(stream);
    return text;
}

static unsigned char written[MAX_ELEMENTS]; /* how often, by the latest reference() */

/* Write every element of every piece, one by one. Returns whether each was inside and written exactly once. */
static bool reference(const random_view_t *view, const char *tensor, size_t element, char *dense) {
    memset(written, 0, sizeof written);
    bool whole = true;
    for (size_t p = 0; p < view->count; p++) {
        const piece_t *piece = &view->pieces[p];
        uint64_t index[TPV_MAX_DIMS] = {0};
        for (;;) {
            uint64_t from = piece->from_offset, to = piece->to_offset;
            for (uint32_t i = 0; i < piece->dims; i++) {
                from += index[i] * piece->from[i];
                to += index[i] * piece->to[i];
            }
            if (to >= view->elements || written[to]++) {
                whole = false;
            } else if (piece->zero) {
                memset(dense + to * element, 0, element);
            } else {
                memcpy(dense + to * element, tensor + from * element, element);
            }
            uint32_t i = 0;
            while (i < piece->dims && ++index[i] == piece->sizes[i])
                index[i++] = 0;
            if (i == piece->dims) break;
        }
    }
    for (uint64_t i = 0; i < view->elements; i++)
        whole = whole && written[i] == 1;
    return whole;
}

static const struct {
    tpv_dtype_t dtype;
    const char *name;
    size_t bytes;
} kinds[] = {{TPV_DTYPE_U8, "U8", 1},
             {TPV_DTYPE_BF16, "BF16", 2},
             {TPV_DTYPE_F32, "F32", 4},
             {TPV_DTYPE_F64, "F64", 8},
             {TPV_DTYPE_BF16, "BF16", 2}};

/* Every chunk that is told to be one run or zeros is; and each that can be told to be one run, is. */
static void check_chunks(const tpv_view_t *view, const tpv_artifact_t *artifact, const char *expected,
                         uint32_t length) {
    tpv_chunk_table_t table;
    uint64_t gathered = 0;
    assert_int_equal(tpv_chunk_table_make(view, artifact, length, TPV_DEADLINE_NEVER, &table), TPV_OK);
    assert_int_equal(table.count, (table.bytes + length - 1) / length);
    for (uint64_t i = 0; i < table.count; i++) {
        const tpv_chunk_source_t *source = &table.sources[i];
        const char *bytes = expected + i * length;
        uint64_t size = table.bytes - i * length < length ? table.bytes - i * length : length;
        const char *direct = tpv_view_direct(view, artifact, i * length, size);
        switch (source->kind) {
        case TPV_CHUNK_RUN:
            assert_true(source->offset <= artifact->files[source->file].state.size - size);
            assert_memory_equal(artifact->files[source->file].mapping + source->offset, bytes, size);
            break;
        case TPV_CHUNK_ZEROS:
            for (uint64_t k = 0; k < size; k++)
                assert_int_equal(bytes[k], 0);
            break;
        case TPV_CHUNK_GATHERED:
            assert_null(direct);
            assert_int_equal(source->offset, gathered++);
            break;
        }
    }
    assert_int_equal(table.gathered, gathered);
    tpv_chunk_table_clear(&table);
}

static void random_views_gather_what_the_reference_does(void **state) {
    (void)state;
    enum { TENSOR_ELEMENTS = 6000 };
    uint64_t seed = 20240601;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        test_tensor_t tensor = {"t", kinds[k].dtype, 2, {60, 100}};
        char path[64];
        tpv_artifact_t *artifact = test_file(&tensor, 1, seed, path);
        const char *data = tpv_artifact_data(artifact, tpv_artifact_tensor(artifact, 0));
        size_t element = kinds[k].bytes;
        for (int round = 0; round < 150; round++) {
            random_view_t random;
            char expected[3 + MAX_ELEMENTS * 8] = {0};
            make_random(&random, TENSOR_ELEMENTS, &seed);
            assert_true(reference(&random, data, element, expected + 3));
            char *json = print_view(&random, kinds[k].name);
            tpv_view_t *view = NULL, *again = NULL;
            if (tpv_view_from_json(artifact, json, strlen(json), &view) != TPV_OK)
                fail_msg("%s\n%s", tpv_error_message(), json);
            uint64_t bytes = 3 + random.elements * element;
            assert_int_equal(tpv_view_stats(view).bytes, bytes);
            const char *text = tpv_view_json(view);
            assert_int_equal(tpv_view_from_json(artifact, text, strlen(text), &again), TPV_OK);
            assert_string_equal(tpv_view_json(again), text);
            assert_string_equal(tpv_view_id(again), tpv_view_id(view));
            tpv_view_free(again);

            char *dense = malloc(bytes);
            for (int range = 0; range < 40; range++) {
                uint64_t low = range ? below(&seed, bytes + 1) : 0;
                uint64_t length = range ? below(&seed, bytes - low + 1) : bytes;
                memset(dense, 0xa5, bytes);
                assert_int_equal(tpv_view_gather(view, artifact, low, length, dense), TPV_OK);
                if (memcmp(dense, expected + low, length) != 0)
                    fail_msg("bytes %llu to %llu of %s", (unsigned long long)low, (unsigned long long)(low + length),
                             json);
                for (uint64_t i = length; i < bytes; i++)
                    assert_int_equal((unsigned char)dense[i], 0xa5);
                const char *direct = tpv_view_direct(view, artifact, low, length);
                if (!direct) continue;
                assert_true(direct >= data && direct + length <= data + TENSOR_ELEMENTS * element);
                assert_memory_equal(direct, expected + low, length);
            }
            check_chunks(view, artifact, expected, (uint32_t)(1 + below(&seed, 64)));
            free(dense);
            free(json);
            tpv_view_free(view);
        }
        tpv_artifact_close(artifact);
        test_file_remove(path);
    }
}

/* Damage a view in a random way that may or may not leave it whole. */
static void damage(random_view_t *view, uint64_t *seed) {
    piece_t *piece = &view->pieces[below(seed, view->count)];
    uint32_t dim = piece->dims ? (uint32_t)below(seed, piece->dims) : 0;
    switch (below(seed, 6)) {
    case 0:
        *piece = view->pieces[--view->count];
        break;
    case 1:
        if (view->count < MAX_PIECES) view->pieces[view->count++] = *piece;
        break;
    case 2:
        piece->to_offset += 1 + below(seed, 3);
        break;
    case 3:
        if (piece->to_offset > 0) piece->to_offset--;
        break;
    case 4:
        if (piece->dims) piece->to[dim] += 1 + below(seed, 2);
        break;
    default:
        if (piece->dims) piece->sizes[dim] += 1;
    }
}

static void damaged_views_are_refused(void **state) {
    (void)state;
    uint64_t seed = 4711;
    test_index_t index;
    test_index_begin(&index);
    test_index_add(&index, TPV_DTYPE_U8, TEST_SHAPE(1u << 20), "t");
    tpv_artifact_t *artifact = test_index_finish(&index, NULL);
    char *tensor = calloc(1, 1u << 20), *dense = malloc(MAX_ELEMENTS);
    unsigned refused = 0, accepted = 0, named = 0;
    for (int round = 0; round < 4000; round++) {
        random_view_t random;
        make_random(&random, 5000, &seed);
        damage(&random, &seed);
        bool whole = reference(&random, tensor, 1, dense);
        char *json = print_view(&random, "U8");
        tpv_view_t *view = NULL;
        tpv_status_t status = tpv_view_from_json(artifact, json, strlen(json), &view);
        if (status != (whole ? TPV_OK : TPV_ERR_PLAN))
            fail_msg("whole: %d, status: %s, %s\n%s", whole, tpv_status_name(status), tpv_error_message(), json);
        unsigned long long first, last;
        const char *text = tpv_error_message();
        bool hole = !whole && sscanf(text, "output b: no piece writes elements %llu to %llu", &first, &last) == 2;
        const char *range = whole || hole ? NULL : strstr(text, "elements ");
        if (range && sscanf(range, "elements %llu to %llu", &first, &last) != 2) range = NULL;
        named += hole || range;
        for (unsigned long long i = first; (hole || range) && i <= last; i++)
            if (hole ? written[i] != 0 : written[i] < 2) fail_msg("element %llu: %s\n%s", i, text, json);
        *(whole ? &accepted : &refused) += 1;
        tpv_view_free(view);
        free(json);
    }
    free(tensor);
    free(dense);
    tpv_artifact_close(artifact);
    assert_true(refused > 2000 && accepted > 50 && named > 1000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_views_gather_what_the_reference_does),
        cmocka_unit_test(damaged_views_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
