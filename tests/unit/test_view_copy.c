/* Strided copies and the gather where offsets need more than 32 bits, on either side. Only a few pages of the memory
 * and of the file that are named here exist. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/view_fixture.h"
#include "view/copy.h"
#include "view/view.h"

#define GIB (UINT64_C(1) << 30)
#define BYTES (14 * GIB)

static char *reserve(void) {
    char *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        puts("skipped: this system gives no address space of 14 GiB");
        skip();
    }
    return memory;
}

/* Byte `k` of run `number`; never 0. */
static char mark(uint64_t number, uint64_t k) {
    return (char)(1 + (number * 37 + k * 11) % 251);
}

typedef struct {
    tpv_level_t levels[3];
    uint32_t count;
    uint64_t run;
} box_t;

/* `visit` each run of the box, with its number and its two offsets. */
static void each_run(const box_t *box, void (*visit)(const box_t *, uint64_t, char *, char *), char *to, char *from) {
    uint64_t counts[3] = {1, 1, 1}, number = 0;
    for (uint32_t i = 0; i < box->count; i++)
        counts[i] = box->levels[i].count;
    for (uint64_t a = 0; a < counts[0]; a++)
        for (uint64_t b = 0; b < counts[1]; b++)
            for (uint64_t c = 0; c < counts[2]; c++) {
                const tpv_level_t *l = box->levels;
                visit(box, number++, to + a * l[0].to + b * l[1].to + c * l[2].to,
                      from + a * l[0].from + b * l[1].from + c * l[2].from);
            }
}

static void put(const box_t *box, uint64_t number, char *to, char *from) {
    memset(to, 0, box->run);
    for (uint64_t k = 0; k < box->run; k++)
        from[k] = mark(number, k);
}

static void must_be_copied(const box_t *box, uint64_t number, char *to, char *from) {
    (void)from;
    for (uint64_t k = 0; k < box->run; k++)
        assert_int_equal(to[k], mark(number, k));
}

static void must_be_zero(const box_t *box, uint64_t number, char *to, char *from) {
    (void)number, (void)from;
    for (uint64_t k = 0; k < box->run; k++)
        assert_int_equal(to[k], 0);
}

#define FAR (5 * GIB + 4096)
#define NEAR 64

/* One, two and three levels, of which one at a time, or the number of bytes, goes beyond 4 GiB; elements, short and
 * long runs; and boxes that are transposed. */
static void boxes_wider_than_4_gib(void **state) {
    (void)state;
    char *to = reserve(), *from = reserve();
    static const uint64_t runs[] = {1, 2, 4, 8, 16, 48};
    for (size_t r = 0; r < sizeof runs / sizeof *runs; r++) {
        uint64_t run = runs[r];
        const box_t boxes[] = {
            {{{
                 3,
                 FAR,
                 NEAR,
             }},
             1,
             run},
            {{{3, NEAR, FAR}}, 1, run},
            {{{2, FAR, FAR}, {3, 4096, 8192}}, 2, run},
            {{{3, 4096, 8192}, {2, FAR, FAR}}, 2, run},
            {{{3, run, FAR}, {2, 4096, run}}, 2, run},
            {{{3, run, 4096}, {2, FAR, run}}, 2, run},
            {{{2, 4096, FAR}, {2, 65536, 65536}, {3, NEAR, NEAR}}, 3, run},
            {{{2, FAR, 4096}, {2, 65536, 65536}, {3, NEAR, NEAR}}, 3, run},
            {{{2, NEAR, NEAR}, {2, FAR, FAR}, {3, 4096, 4096}}, 3, run},
        };
        for (size_t i = 0; i < sizeof boxes / sizeof *boxes; i++) {
            const box_t *box = &boxes[i];
            each_run(box, put, to, from);
            tpv_copy_box(to, from, box->levels, box->count, box->levels[0].count, box->run);
            each_run(box, must_be_copied, to, from);
            tpv_zero_box(to, box->levels, box->count, box->levels[0].count, box->run);
            each_run(box, must_be_zero, to, from);
        }
    }
    munmap(to, BYTES);
    munmap(from, BYTES);
}

/* ---- the gather ---- */

#define ROWS UINT64_C(1100)
#define COLUMNS (UINT64_C(8) << 20) /* bytes: half of a row is a rank's */
#define HALF (COLUMNS / 2)

static const char header[] = "{\"m\":{\"dtype\":\"U8\",\"shape\":[1100,8388608],\"data_offsets\":[0,9227468800]}}";

static tpv_artifact_t *sparse_file(char *path) {
    strcpy(path, "/tmp/tpview-view-XXXXXX");
    assert_non_null(mkdtemp(path));
    strcat(path, "/model.safetensors");
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    uint64_t length = sizeof header - 1;
    assert_int_equal(fwrite(&length, sizeof length, 1, file), 1);
    assert_int_equal(fwrite(header, length, 1, file), 1);
    assert_int_equal(fflush(file), 0);
    if (ftruncate(fileno(file), (off_t)(sizeof length + length + ROWS * COLUMNS)) != 0) {
        fclose(file);
        test_file_remove(path);
        puts("skipped: /tmp takes no sparse file of 9 GiB");
        skip();
    }
    /* The first and the last byte of both halves of every row. */
    for (uint64_t row = 0; row < ROWS; row++)
        for (uint64_t at = 0; at < 4; at++) {
            char byte = mark(row, at);
            uint64_t column = (at / 2) * HALF + (at % 2) * (HALF - 1);
            assert_int_equal(pwrite(fileno(file), &byte, 1, (off_t)(sizeof length + length + row * COLUMNS + column)),
                             1);
        }
    assert_int_equal(fclose(file), 0);
    tpv_artifact_t *artifact = NULL;
    if (tpv_artifact_open(path, &artifact) != TPV_OK) fail_msg("%s", tpv_error_message());
    return artifact;
}

#define SPEC                                                                                                           \
    "{\"format\":\"tpview-view-1\",\"outputs\":[{\"name\":\"o\",\"dtype\":\"U8\",\"shape\":[1100,4194304],\"pieces\":" \
    "["                                                                                                                \
    "{\"tensor\":\"m\",\"sizes\":[1100,4194304],\"strides\":[8388608,1],\"offset\":4194304}]}]}"

/* Windows of the dense form on both sides of 4 GiB, each from a place in the file that is twice as far. */
static void a_view_longer_than_4_gib(void **state) {
    (void)state;
    char path[64], *window = malloc(3 * HALF);
    tpv_artifact_t *artifact = sparse_file(path);
    tpv_view_t *view = NULL;
    tpv_plan_options_t options = {.tp_size = 1, .plan = SPEC, .plan_length = sizeof SPEC - 1};
    if (tpv_view_plan(artifact, &options, &view) != TPV_OK) fail_msg("%s", tpv_error_message());
    uint64_t bytes = tpv_view_stats(view).bytes;
    assert_true(bytes == ROWS * HALF && bytes > 4 * GIB);
    const uint64_t rows[] = {0, 1, 4 * GIB / HALF - 2, 4 * GIB / HALF - 1, 4 * GIB / HALF, ROWS - 1};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint64_t low = rows[i] * HALF, high = low + HALF;
        /* A whole row, and one that begins and ends in the middle of others. */
        for (uint64_t more = 0; more <= 1000; more += 1000) {
            uint64_t from = low >= more ? low - more : low, to = high + more <= bytes ? high + more : high;
            memset(window, 1, to - from);
            assert_int_equal(tpv_view_gather(view, artifact, from, to - from, window), TPV_OK);
            for (uint64_t at = from; at < to; at++) {
                uint64_t row = at / HALF, column = at % HALF;
                char expected = column == 0 ? mark(row, 2) : column == HALF - 1 ? mark(row, 3) : 0;
                if (window[at - from] != expected)
                    fail_msg("dense byte %llu is %d, expected %d", (unsigned long long)at, window[at - from], expected);
            }
        }
        const char *direct = tpv_view_direct(view, artifact, low, HALF);
        assert_ptr_equal(direct, (const char *)tpv_artifact_data(artifact, tpv_artifact_find(artifact, "m")) +
                                     rows[i] * COLUMNS + HALF);
        assert_int_equal(direct[0], mark(rows[i], 2));
        assert_int_equal(direct[HALF - 1], mark(rows[i], 3));
    }
    tpv_view_free(view);
    tpv_artifact_close(artifact);
    test_file_remove(path);
    free(window);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(boxes_wider_than_4_gib),
        cmocka_unit_test(a_view_longer_than_4_gib),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
