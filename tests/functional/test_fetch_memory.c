/* tpv_fetch into a program's own memory, from a service in the same program: which bytes are written, and that the end
 * is told to the source. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/error.h"
#include "client/transfer.h"
#include "common/test_files.h"
#include "common/view_fixture.h"
#include "service/service.h"
#include "tpview/tpview.h"

#define GUARD 64
#define DIRT 0xa5
#define LIMIT_S 60 /* on a loaded machine too */
#define OK(call)                                                                                                       \
    do {                                                                                                               \
        if ((call) != TPV_OK) fail_msg("%s: %s", #call, tpv_error_message());                                          \
    } while (0)

/* Two matrices and padding, mixed so that chunks of 4 KiB hold some of each; "wide" is cut by columns. */
static const char spec[] =
    "{\"format\":\"tpview-view-1\",\"outputs\":["
    "{\"name\":\"padded\",\"dtype\":\"U8\",\"shape\":[100,100],\"pieces\":["
    "{\"tensor\":\"tall\",\"sizes\":[90,100]},{\"zero\":true,\"sizes\":[10,100],\"to\":{\"offset\":9000}}]},"
    "{\"name\":\"part\",\"dtype\":\"U8\",\"shape\":[64,300],\"pieces\":["
    "{\"zero\":true,\"sizes\":[64,44],\"to\":{\"strides\":[300,1],\"offset\":256}},"
    "{\"tensor\":\"wide\",\"sizes\":[64,256],\"strides\":[512,1],\"offset\":256,\"to\":{\"strides\":[300,1]}}]}]}";

typedef struct {
    char file[64], *folder, address[128];
    tpv_artifact_t *local, *remote;
    tpv_view_t *view;
    tpv_service_t *service;
    tpv_source_t *source;
} host_t;

static host_t *start(uint64_t budget) {
    static const test_tensor_t tensors[] = {{"tall", TPV_DTYPE_U8, 2, {90, 100}}, {"wide", TPV_DTYPE_U8, 2, {64, 512}}};
    host_t *host = calloc(1, sizeof *host);
    char definition[128];
    tpv_entry_t *entry = NULL;
    host->folder = test_folder_make();
    host->local = test_file(tensors, 2, 5, host->file);
    snprintf(definition, sizeof definition, "m@1=%s", host->file);
    snprintf(host->address, sizeof host->address, "unix:%s", test_path(host->folder, "s.sock"));
    OK(tpv_entry_create(definition, &entry));
    OK(tpv_entry_open(entry, 1, NULL, NULL));
    /* Nothing but the acknowledgement may end a lease within the test's time. */
    tpv_service_options_t options = {.unix_path = host->address + strlen("unix:"),
                                     .idle_s = 75,
                                     .threads = 1,
                                     .max_fetches = 4,
                                     .lease_ttl_s = 3600,
                                     .export_ttl_s = 3600,
                                     .budget = budget};
    OK(tpv_service_open(&options, &entry, 1, &host->service));
    tpv_entry_release(entry);
    OK(tpv_source_open(host->address, NULL, &host->source));
    OK(tpv_source_artifact(host->source, "m", 20, &host->remote));
    OK(tpv_view_from_json(host->remote, spec, strlen(spec), &host->view));
    return host;
}

static void end(host_t *host) {
    tpv_view_free(host->view);
    tpv_artifact_close(host->remote);
    tpv_source_close(host->source);
    tpv_service_stop(host->service, 5);
    tpv_service_close(host->service);
    tpv_artifact_close(host->local);
    test_file_remove(host->file);
    test_folder_remove(host->folder);
    free(host);
}

/* Fetch into dirty memory: every byte of the view is right and none beside it was touched. */
static void fetch_right(host_t *host, const tpv_fetch_options_t *options, bool canonical) {
    size_t bytes = tpv_view_stats(host->view).bytes;
    uint8_t *memory = malloc(bytes + 2 * GUARD), *expected = malloc(bytes);
    tpv_view_t *local = NULL;
    tpv_fetch_result_t result;
    memset(memory, DIRT, bytes + 2 * GUARD);
    OK(tpv_view_from_json(host->local, spec, strlen(spec), &local));
    OK(tpv_view_gather(local, host->local, 0, bytes, expected));
    tpv_view_free(local);
    OK(tpv_fetch(host->source, host->remote, host->view, options, memory + GUARD, &result));
    assert_memory_equal(memory + GUARD, expected, bytes);
    for (size_t i = 0; i < GUARD; i++)
        assert_true(memory[i] == DIRT && memory[GUARD + bytes + i] == DIRT);
    assert_true(result.canonical == canonical);
    assert_int_equal(result.needed_bytes, bytes);
    free(memory);
    free(expected);
}

static void dirty_memory_is_written_whole(void **state) {
    (void)state;
    host_t *host = start(UINT64_C(64) << 20);
    fetch_right(host, &(tpv_fetch_options_t){.deadline_s = LIMIT_S, .chunk_bytes = 4096}, false);
    end(host);
}

/* Into tensors that lie as an engine has them: rows with room between them, the other one transposed and backwards.
 * Every element is where it belongs, and no byte beside them was touched. */
static void fetch_scattered(host_t *host, const tpv_fetch_options_t *options) {
    enum { PITCH = 113, WIDTH = 300, HEIGHT = 64 };
    size_t bytes = tpv_view_stats(host->view).bytes;
    uint8_t *expected = malloc(bytes), *padded = malloc(100 * PITCH), *part = malloc(WIDTH * HEIGHT + 2 * GUARD);
    tpv_view_t *local = NULL;
    tpv_fetch_result_t result;
    memset(padded, DIRT, 100 * PITCH);
    memset(part, DIRT, WIDTH * HEIGHT + 2 * GUARD);
    OK(tpv_view_from_json(host->local, spec, strlen(spec), &local));
    OK(tpv_view_gather(local, host->local, 0, bytes, expected));
    tpv_view_free(local);
    const tpv_destination_t destinations[] = {
        {.data = padded, .strides = {PITCH, 1}},
        {.data = part + GUARD + WIDTH * HEIGHT - 1, .strides = {-1, -HEIGHT}},
    };
    OK(tpv_fetch_tensors(host->source, host->remote, host->view, options, destinations, &result));
    for (size_t row = 0; row < 100; row++)
        for (size_t i = 0; i < PITCH; i++)
            assert_int_equal(padded[row * PITCH + i], i < 100 ? expected[row * 100 + i] : DIRT);
    for (size_t row = 0; row < HEIGHT; row++)
        for (size_t i = 0; i < WIDTH; i++)
            assert_int_equal(part[GUARD + WIDTH * HEIGHT - 1 - row - i * HEIGHT], expected[10000 + row * WIDTH + i]);
    for (size_t i = 0; i < GUARD; i++)
        assert_true(part[i] == DIRT && part[GUARD + WIDTH * HEIGHT + i] == DIRT);
    free(expected);
    free(padded);
    free(part);
}

/* ---- a sink that is slower than the wire ---- */

typedef struct {
    tpv_sink_t sink;
    atomic_ullong taken;
    uint64_t at_finish;
} slow_sink_t;

static tpv_status_t slow_begin(tpv_sink_t *sink) {
    (void)sink;
    return TPV_OK;
}

static tpv_status_t slow_take(tpv_sink_t *sink, uint64_t offset, const void *data, size_t length) {
    (void)offset, (void)data;
    usleep(20000); /* the slowness itself */
    atomic_fetch_add(&((slow_sink_t *)sink)->taken, length);
    return TPV_OK;
}

static tpv_status_t slow_finish(tpv_sink_t *sink) {
    ((slow_sink_t *)sink)->at_finish = atomic_load(&((slow_sink_t *)sink)->taken);
    return TPV_OK;
}

static void slow_abandon(tpv_sink_t *sink) {
    (void)sink;
    fail();
}

/* The fetch is over when the sink has everything, not when everything has arrived. */
static void a_slow_sink_gets_everything(void **state) {
    (void)state;
    static const tpv_sink_kind_t kind = {
        .begin = slow_begin, .take = slow_take, .finish = slow_finish, .abandon = slow_abandon};
    host_t *host = start(UINT64_C(64) << 20);
    for (uint32_t chunk = 4096; chunk <= 64 << 10; chunk *= 4) {
        slow_sink_t slow = {.sink = {.kind = &kind}};
        tpv_fetch_result_t result;
        const tpv_fetch_options_t options = {.chunk_bytes = chunk, .workers = 3};
        OK(tpv_fetch_into(host->source, host->remote, host->view, &options, tpv_deadline_in(LIMIT_S), &slow.sink,
                          &result));
        assert_int_equal(slow.at_finish, tpv_view_stats(host->view).bytes);
    }
    end(host);
}

static void tensors_of_an_engine(void **state) {
    (void)state;
    static const int32_t workers[] = {0, TPV_WORKERS_NONE, 1, 5};
    for (size_t i = 0; i < sizeof workers / sizeof *workers; i++) {
        host_t *host = start(UINT64_C(64) << 20);
        fetch_scattered(host,
                        &(tpv_fetch_options_t){.deadline_s = LIMIT_S, .chunk_bytes = 4096, .workers = workers[i]});
        fetch_right(host, &(tpv_fetch_options_t){.deadline_s = LIMIT_S, .chunk_bytes = 4097, .workers = workers[i]},
                    false);
        end(host);
    }
    host_t *host = start(4096); /* by whole tensors */
    fetch_scattered(host, &(tpv_fetch_options_t){.deadline_s = LIMIT_S, .chunk_bytes = 4096});
    end(host);
}

static void tensors_that_cannot_be(void **state) {
    (void)state;
    host_t *host = start(UINT64_C(64) << 20);
    uint8_t *memory = malloc(64 << 10);
    tpv_fetch_result_t result;
    const tpv_fetch_options_t options = {.deadline_s = LIMIT_S};
    const struct {
        tpv_destination_t second;
        const char *word;
    } cases[] = {{{.data = NULL, .strides = {300, 1}}, "no destination"},
                 {{.data = memory, .strides = {0, 1}}, "stride 0"},
                 {{.data = memory, .strides = {INT64_MAX / 64, 1}}, "too large"},
                 {{.data = memory, .strides = {INT64_MIN, 1}}, "too large"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tpv_destination_t destinations[] = {{.data = memory, .strides = {100, 1}}, cases[i].second};
        assert_int_equal(tpv_fetch_tensors(host->source, host->remote, host->view, &options, destinations, &result),
                         TPV_ERR_ARGUMENT);
        if (!strstr(tpv_error_message(), cases[i].word)) fail_msg("%s", tpv_error_message());
    }
    free(memory);
    end(host);
}

/* The source cannot hold the view: whole tensors are cut here, and padding is nobody's but ours. */
static void dirty_memory_is_written_whole_by_whole_tensors(void **state) {
    (void)state;
    host_t *host = start(4096);
    fetch_right(host, &(tpv_fetch_options_t){.deadline_s = LIMIT_S, .chunk_bytes = 4096}, true);
    end(host);
}

static size_t count_leases(void) {
    tpv_lease_info_t *leases = NULL;
    size_t count = 0;
    OK(tpv_leases_read(NULL, &leases, &count));
    free(leases);
    return count;
}

/* Neither a deadline nor a closed connection would end these leases: only the acknowledgement does. */
static void the_end_is_acknowledged(void **state) {
    (void)state;
    for (int whole_tensors = 0; whole_tensors < 2; whole_tensors++) {
        host_t *host = start(whole_tensors ? 4096 : UINT64_C(64) << 20);
        fetch_right(host, &(tpv_fetch_options_t){.chunk_bytes = 4096}, whole_tensors);
        for (int64_t until = tpv_deadline_in(LIMIT_S); count_leases() > 0; usleep(1000))
            assert_false(tpv_deadline_passed(until));
        end(host);
    }
}

static bool stop_at_once(void *user, uint64_t done, uint64_t total) {
    (void)user, (void)done, (void)total;
    return false;
}

/* A request that is not answered yet is broken off, so that the source sees it; the connection can be used again. */
static void what_is_cancelled_is_told_to_the_source(void **state) {
    (void)state;
    host_t *host = start(UINT64_C(64) << 20);
    uint8_t *memory = malloc(tpv_view_stats(host->view).bytes);
    tpv_fetch_result_t result;
    tpv_fetch_options_t options = {.chunk_bytes = 4096, .progress = stop_at_once};
    assert_int_equal(tpv_fetch(host->source, host->remote, host->view, &options, memory, &result), TPV_ERR_CANCELLED);
    free(memory);
    for (int64_t until = tpv_deadline_in(LIMIT_S); count_leases() > 0; usleep(1000))
        assert_false(tpv_deadline_passed(until));
    fetch_right(host, &(tpv_fetch_options_t){.deadline_s = LIMIT_S, .chunk_bytes = 4096}, false);
    end(host);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dirty_memory_is_written_whole),
        cmocka_unit_test(dirty_memory_is_written_whole_by_whole_tensors),
        cmocka_unit_test(a_slow_sink_gets_everything),
        cmocka_unit_test(tensors_of_an_engine),
        cmocka_unit_test(tensors_that_cannot_be),
        cmocka_unit_test(the_end_is_acknowledged),
        cmocka_unit_test(what_is_cancelled_is_told_to_the_source),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
