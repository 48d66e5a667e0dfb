/* The chunks of a fetch as its mover gets them: each digest is that of its bytes, whoever prepared them. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/xxh3.h"
#include "common/view_fixture.h"
#include "service/feeder.h"

#define ROWS 256
#define COLUMNS 256
#define WHOLE "[256,256],\"strides\":[256,1],\"offset\":0"
#define LEFT "[256,128],\"strides\":[256,1],\"offset\":0"
#define MOVERS 3
#define LIMIT_S 60

typedef struct {
    char path[64];
    tpv_entry_t *entry;
    tpv_table_t *table;
    tpv_metrics_t metrics;
    tpv_store_t *store;
    tpv_pool_t *pool;
} room_t;

static int setup(void **state) {
    static const test_tensor_t matrix = {"matrix", TPV_DTYPE_U8, 2, {ROWS, COLUMNS}};
    room_t *room = calloc(1, sizeof *room);
    char definition[128];
    tpv_artifact_close(test_file(&matrix, 1, 5, room->path));
    snprintf(definition, sizeof definition, "m@1=%s", room->path);
    assert_int_equal(tpv_entry_create(definition, &room->entry), TPV_OK);
    assert_int_equal(tpv_entry_open(room->entry, 1, NULL, NULL), TPV_OK);
    assert_int_equal(tpv_table_open(NULL, TPV_OPEN_CREATE, &room->table), TPV_OK);
    assert_int_equal(tpv_pool_open(3, &room->pool), TPV_OK);
    *state = room;
    return 0;
}

static int teardown(void **state) {
    room_t *room = *state;
    tpv_pool_close(room->pool);
    tpv_table_close(room->table);
    tpv_entry_release(room->entry);
    test_file_remove(room->path);
    free(room);
    return 0;
}

typedef struct {
    room_t *room;
    const char *sizes;
    uint32_t chunk_bytes; /* of the fetch */
    const char *fault;    /* NULL: all was right */
} mover_t;

/* All chunks of one fetch, the window's slots in their turn, each kept until its slot is wanted again. */
static const char *drain(const tpv_stream_t *stream, tpv_feeder_t *feeder) {
    tpv_chunks_t chunks = tpv_feeder_chunks(feeder);
    int64_t deadline = tpv_deadline_in(LIMIT_S);
    for (uint64_t i = 0; i < tpv_stream_chunks(stream); i++) {
        const void *data = NULL;
        uint64_t digest = 0;
        while (!data) {
            if (chunks.get(chunks.user, (uint32_t)(i % chunks.window), i, &data, &digest) != TPV_OK) return "an error";
            if (tpv_deadline_passed(deadline)) return "a chunk that never came";
        }
        if (digest != XXH3_64bits(data, tpv_stream_chunk_length(stream, i))) return "a digest of other bytes";
        chunks.release(chunks.user, (uint32_t)(i % chunks.window));
    }
    while (!tpv_feeder_idle(feeder))
        if (tpv_deadline_passed(deadline)) return "a pool thread that never ended";
    return NULL;
}

static void *fetch(void *argument) {
    mover_t *mover = argument;
    room_t *room = mover->room;
    char spec[512];
    tpv_view_t *view = NULL;
    tpv_stored_t *stored = NULL;
    tpv_feeder_t *feeder = NULL;
    bool reused;
    snprintf(spec, sizeof spec,
             "{\"format\":\"tpview-view-1\",\"outputs\":[{\"name\":\"part\",\"dtype\":\"U8\",\"shape\":[256,%d],"
             "\"pieces\":[{\"tensor\":\"matrix\",\"sizes\":%s}]}]}",
             strstr(mover->sizes, "128") ? 128 : 256, mover->sizes);
    mover->fault = "no export";
    if (tpv_view_from_json(room->entry->artifact, spec, strlen(spec), &view) != TPV_OK ||
        tpv_store_acquire(room->store, room->entry, view, tpv_deadline_in(LIMIT_S), &stored, &reused) != TPV_OK)
        return NULL;
    tpv_stream_t stream = {.comms = 1, .bytes = tpv_view_stats(stored->view).bytes};
    stream.chunk_bytes = tpv_feeder_chunk_bytes(stored, mover->chunk_bytes, 1);
    uint64_t staging = tpv_feeder_staging(room->store, stored, &stream);
    if (tpv_feeder_open(room->pool, room->store, &room->metrics, stored, &stream, staging, &feeder) == TPV_OK)
        mover->fault = drain(&stream, feeder);
    tpv_feeder_close(feeder);
    tpv_store_release(room->store, stored);
    return NULL;
}

/* Some fetches at once, of a view that nobody has prepared yet, again and again. */
static void fetch_at_once(room_t *room, const char *sizes, uint64_t budget, const uint32_t chunk_bytes[MOVERS]) {
    for (int round = 0; round < 60; round++) {
        tpv_store_options_t options = {.table = room->table,
                                       .metrics = &room->metrics,
                                       .chunk_bytes = 64 << 10,
                                       .budget = budget,
                                       .ttl_ns = 3600 * TPV_NS_PER_SECOND};
        assert_int_equal(tpv_store_open(&options, &room->store), TPV_OK);
        pthread_t threads[MOVERS];
        mover_t movers[MOVERS];
        for (int i = 0; i < MOVERS; i++) {
            movers[i] = (mover_t){.room = room, .sizes = sizes, .chunk_bytes = chunk_bytes[i]};
            assert_int_equal(pthread_create(&threads[i], NULL, fetch, &movers[i]), 0);
        }
        for (int i = 0; i < MOVERS; i++)
            pthread_join(threads[i], NULL);
        tpv_store_close(room->store);
        for (int i = 0; i < MOVERS; i++)
            if (movers[i].fault) fail_msg("round %d, mover %d: %s", round, i, movers[i].fault);
    }
}

static const uint32_t ALL[MOVERS] = {64 << 10, 64 << 10, 64 << 10}, PARTS[MOVERS] = {4096, 4096, 4096},
                      MIXED[MOVERS] = {64 << 10, 4096, 8192};

static void runs_of_a_file(void **state) {
    fetch_at_once(*state, WHOLE, 64 << 20, ALL);
    fetch_at_once(*state, WHOLE, 64 << 20, PARTS);
    fetch_at_once(*state, WHOLE, 64 << 20, MIXED);
}

static void gathered_and_kept(void **state) {
    fetch_at_once(*state, LEFT, 64 << 20, ALL);
    fetch_at_once(*state, LEFT, 64 << 20, PARTS);
    fetch_at_once(*state, LEFT, 64 << 20, MIXED);
}

static void gathered_by_each(void **state) {
    fetch_at_once(*state, LEFT, 4096, PARTS);
    fetch_at_once(*state, LEFT, 4096, MIXED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(runs_of_a_file, setup, teardown),
        cmocka_unit_test_setup_teardown(gathered_and_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(gathered_by_each, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
