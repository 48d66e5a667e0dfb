/* The chunks of a fetch as its mover gets them: each digest is that of its bytes, whoever prepared them. */
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

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
#define RIGHT "[256,128],\"strides\":[256,1],\"offset\":128"
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

typedef struct {
    tpv_stored_t *stored;
    tpv_stream_t stream;
    tpv_feeder_t *feeder;
} opened_t;

static bool open_fetch(room_t *room, const char *sizes, uint32_t chunk_bytes, opened_t *opened) {
    char spec[512];
    tpv_view_t *view = NULL;
    bool reused;
    *opened = (opened_t){0};
    snprintf(spec, sizeof spec,
             "{\"format\":\"tpview-view-1\",\"outputs\":[{\"name\":\"part\",\"dtype\":\"U8\",\"shape\":[256,%d],"
             "\"pieces\":[{\"tensor\":\"matrix\",\"sizes\":%s}]}]}",
             strstr(sizes, ",128]") ? 128 : 256, sizes);
    if (tpv_view_from_json(room->entry->artifact, spec, strlen(spec), &view) != TPV_OK ||
        tpv_store_acquire(room->store, room->entry, view, tpv_deadline_in(LIMIT_S), &opened->stored, &reused) != TPV_OK)
        return false;
    opened->stream = (tpv_stream_t){.comms = 1, .bytes = tpv_view_stats(opened->stored->view).bytes};
    opened->stream.chunk_bytes = tpv_feeder_chunk_bytes(opened->stored, chunk_bytes, 1);
    uint64_t staging = tpv_feeder_staging(room->store, opened->stored, &opened->stream);
    return tpv_feeder_open(room->pool, room->store, &room->metrics, opened->stored, &opened->stream, staging,
                           &opened->feeder) == TPV_OK;
}

static void close_fetch(room_t *room, const opened_t *opened) {
    tpv_feeder_close(opened->feeder);
    if (opened->stored) tpv_store_release(room->store, opened->stored);
}

static void *fetch(void *argument) {
    mover_t *mover = argument;
    opened_t opened;
    bool is_open = open_fetch(mover->room, mover->sizes, mover->chunk_bytes, &opened);
    mover->fault = is_open ? drain(&opened.stream, opened.feeder) : "no export";
    close_fetch(mover->room, &opened);
    return NULL;
}

static void open_store(room_t *room, uint32_t chunk_bytes, uint64_t budget) {
    tpv_store_options_t options = {.table = room->table,
                                   .metrics = &room->metrics,
                                   .chunk_bytes = chunk_bytes,
                                   .budget = budget,
                                   .ttl_ns = 3600 * TPV_NS_PER_SECOND};
    assert_int_equal(tpv_store_open(&options, &room->store), TPV_OK);
}

/* Some fetches at once, of a view that nobody has prepared yet, again and again. */
static void fetch_at_once(room_t *room, const char *sizes, uint64_t budget, const uint32_t chunk_bytes[MOVERS]) {
    for (int round = 0; round < 60; round++) {
        open_store(room, 64 << 10, budget);
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

typedef struct {
    tpv_job_t job;
    sem_t open;
} gate_t;

static void pass_gate(tpv_job_t *job) {
    sem_wait(&((gate_t *)((char *)job - offsetof(gate_t, job)))->open);
}

static bool is_there(const opened_t *opened, uint32_t slot) {
    tpv_chunks_t chunks = tpv_feeder_chunks(opened->feeder);
    const void *data = NULL;
    uint64_t digest = 0;
    return chunks.get(chunks.user, slot, slot, &data, &digest) == TPV_OK && data;
}

/* One thread, held at a gate, and a second gate in a queue of its own behind the chunks: between the gates each fetch
 * has one turn. */
static void fetches_take_turns(void **state) {
    room_t *room = *state;
    gate_t gates[2] = {{.job = {.run = pass_gate}}, {.job = {.run = pass_gate}}};
    tpv_job_queue_t own = {0};
    opened_t busy, small;
    tpv_pool_close(room->pool);
    assert_int_equal(tpv_pool_open(1, &room->pool), TPV_OK);
    open_store(room, 4096, 64 << 20);
    for (int i = 0; i < 2; i++)
        sem_init(&gates[i].open, 0, 0);
    tpv_pool_submit(room->pool, NULL, &gates[0].job);
    /* Nothing is asserted while a gate is shut: the pool could not be closed. */
    bool opened = open_fetch(room, LEFT, 4096, &busy) && open_fetch(room, RIGHT, 4096, &small), early = false;
    for (uint32_t slot = 0; opened && slot < 4; slot++)
        early |= is_there(&busy, slot);
    if (opened) early |= is_there(&small, 0);
    tpv_pool_submit(room->pool, &own, &gates[1].job);
    sem_post(&gates[0].open);
    int64_t deadline = tpv_deadline_in(LIMIT_S);
    bool came = !opened;
    while (!came && !tpv_deadline_passed(deadline))
        came = is_there(&small, 0);
    bool first = opened && is_there(&busy, 0), second = opened && is_there(&busy, 1);
    sem_post(&gates[1].open);
    assert_true(opened);
    while ((!tpv_feeder_idle(busy.feeder) || !tpv_feeder_idle(small.feeder)) && !tpv_deadline_passed(deadline))
        sched_yield();
    for (uint32_t slot = 0; slot < 4; slot++)
        assert_true(is_there(&busy, slot));
    close_fetch(room, &busy);
    close_fetch(room, &small);
    tpv_store_close(room->store);
    for (int i = 0; i < 2; i++)
        sem_destroy(&gates[i].open);
    assert_false(early);
    assert_true(came);
    assert_true(first);
    assert_false(second);
}

/* A plugin that does not take files makes a fetch want staging late: where there is no memory for it, what was reserved
 * of the budget is given back at once, and the next try may succeed. */
static void staging_that_cannot_be_mapped(void **state) {
    room_t *room = *state;
    opened_t opened;
    size_t regions = 0;
    struct rlimit all, none;
    open_store(room, 64 << 10, 64 << 20);
    assert_true(open_fetch(room, WHOLE, 64 << 10, &opened));
    tpv_chunks_t chunks = tpv_feeder_chunks(opened.feeder);
    tpv_feeder_regions(opened.feeder, &regions);
    assert_int_equal(chunks.refused(chunks.user, 0, regions - 1), TPV_OK);
    unsigned long long used = atomic_load(&room->metrics.budget_used);
    const void *data = NULL;
    uint64_t digest = 0;
    assert_int_equal(getrlimit(RLIMIT_AS, &all), 0);
    none = all;
    none.rlim_cur = 1;
    assert_int_equal(setrlimit(RLIMIT_AS, &none), 0);
    tpv_status_t status = chunks.get(chunks.user, 0, 0, &data, &digest);
    assert_int_equal(setrlimit(RLIMIT_AS, &all), 0);
    assert_int_equal(status, TPV_ERR_NO_MEMORY);
    assert_int_equal(atomic_load(&room->metrics.budget_used), used);
    const char *fault = drain(&opened.stream, opened.feeder);
    close_fetch(room, &opened);
    tpv_store_close(room->store);
    assert_null(fault);
    assert_int_equal(atomic_load(&room->metrics.budget_used), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(runs_of_a_file, setup, teardown),
        cmocka_unit_test_setup_teardown(gathered_and_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(gathered_by_each, setup, teardown),
        cmocka_unit_test_setup_teardown(fetches_take_turns, setup, teardown),
        cmocka_unit_test_setup_teardown(staging_that_cannot_be_mapped, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
