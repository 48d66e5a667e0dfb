/* The service's export cache by itself: what it must not give out again, and which exports go first. */
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
#include "common/view_fixture.h"
#include "service/store.h"

#define CHUNK 4096
#define OK(call)                                                                                                       \
    do {                                                                                                               \
        if ((call) != TPV_OK) fail_msg("%s: %s", #call, tpv_error_message());                                          \
    } while (0)

/* Two versions of one model, and a store. */
typedef struct {
    char path[2][64];
    tpv_entry_t *entry[2];
    tpv_table_t *table;
    tpv_metrics_t metrics;
    tpv_store_t *store;
} room_t;

static tpv_entry_t *open_entry(int version, uint64_t seed, char *path) {
    static const test_tensor_t matrix = {"matrix", TPV_DTYPE_U8, 2, {256, 256}};
    char definition[128];
    tpv_entry_t *entry = NULL;
    tpv_artifact_close(test_file(&matrix, 1, seed, path));
    snprintf(definition, sizeof definition, "m@%d=%s", version, path);
    OK(tpv_entry_create(definition, &entry));
    OK(tpv_entry_open(entry, 1, NULL, NULL));
    return entry;
}

static void open_store(room_t *room, uint64_t budget) {
    tpv_store_options_t options = {.table = room->table,
                                   .metrics = &room->metrics,
                                   .chunk_bytes = CHUNK,
                                   .budget = budget,
                                   .ttl_ns = 3600 * TPV_NS_PER_SECOND};
    memset(&room->metrics, 0, sizeof room->metrics);
    OK(tpv_store_open(&options, &room->store));
}

static int setup(void **state) {
    room_t *room = calloc(1, sizeof *room);
    for (int i = 0; i < 2; i++)
        room->entry[i] = open_entry(i + 1, 7 + (uint64_t)i, room->path[i]);
    OK(tpv_table_open(NULL, TPV_OPEN_CREATE, &room->table));
    *state = room;
    return 0;
}

static int teardown(void **state) {
    room_t *room = *state;
    tpv_store_close(room->store);
    tpv_table_close(room->table);
    for (int i = 0; i < 2; i++) {
        tpv_entry_release(room->entry[i]);
        test_file_remove(room->path[i]);
    }
    free(room);
    return 0;
}

/* Columns [column, column + 128) of the matrix: no run of it is as long as a chunk, so it has to be gathered. */
static tpv_view_t *columns(const tpv_entry_t *entry, unsigned column) {
    char spec[512];
    tpv_view_t *view = NULL;
    snprintf(spec, sizeof spec,
             "{\"format\":\"tpview-view-1\",\"outputs\":[{\"name\":\"part\",\"dtype\":\"U8\",\"shape\":[256,128],"
             "\"pieces\":[{\"tensor\":\"matrix\",\"sizes\":[256,128],\"strides\":[256,1],\"offset\":%u}]}]}",
             column);
    OK(tpv_view_from_json(entry->artifact, spec, strlen(spec), &view));
    return view;
}

/* Use an export; whether it was there already. */
static tpv_stored_t *use(const room_t *room, int version, unsigned column, bool *reused) {
    tpv_stored_t *stored = NULL;
    tpv_entry_t *entry = room->entry[version - 1];
    OK(tpv_store_acquire(room->store, entry, columns(entry, column), tpv_deadline_in(60), &stored, reused));
    return stored;
}

/* Use it and let it go; whether it was there already. */
static bool visit(const room_t *room, int version, unsigned column) {
    bool reused;
    tpv_store_release(room->store, use(room, version, column, &reused));
    return reused;
}

/* A budget that keeps so many of the exports above, the share for staging aside. */
static uint64_t budget_for(room_t *room, unsigned exports) {
    bool reused;
    open_store(room, UINT64_C(1) << 30);
    tpv_stored_t *stored = use(room, 1, 0, &reused);
    uint64_t each = stored->reserved;
    tpv_store_release(room->store, stored);
    tpv_store_close(room->store);
    room->store = NULL;
    return 2 * (exports * each + each / 2);
}

static void superseded_goes_before_the_longest_unmoved(void **state) {
    room_t *room = *state;
    open_store(room, budget_for(room, 2));
    assert_false(visit(room, 2, 0)); /* of the new version, and unmoved for longest */
    assert_false(visit(room, 1, 0));
    tpv_store_supersede(room->store, room->entry[1]);
    assert_false(visit(room, 2, 128)); /* no room */
    assert_true(visit(room, 2, 0));
    assert_true(visit(room, 2, 128));
    assert_int_equal(room->metrics.evicted[TPV_EVICTED_SUPERSEDED], 1);
    assert_int_equal(room->metrics.evicted[TPV_EVICTED_ROOM], 0);
}

static void the_longest_unmoved_goes(void **state) {
    room_t *room = *state;
    open_store(room, budget_for(room, 2));
    assert_false(visit(room, 1, 0));
    assert_false(visit(room, 1, 64));
    assert_false(visit(room, 1, 128));
    assert_true(visit(room, 1, 64));
    assert_true(visit(room, 1, 128));
    assert_int_equal(room->metrics.evicted[TPV_EVICTED_ROOM], 1);
}

/* Somebody else's lease keeps an export that had to go: it is neither freed nor given out while that lasts. */
static void withdrawn_is_not_found_again(void **state) {
    room_t *room = *state;
    bool reused;
    open_store(room, budget_for(room, 1));
    tpv_stored_t *kept = use(room, 1, 0, &reused);
    tpv_export_t old = kept->export;
    uint64_t reserved = kept->reserved;
    tpv_lease_request_t request = {.lease_id = "0123456789abcdef0123456789abcdef",
                                   .ttl_ns = 3600 * TPV_NS_PER_SECOND,
                                   .remote_host = "",
                                   .remote_pid = 1,
                                   .tp_size = 1};
    tpv_lease_t lease;
    OK(tpv_lease_begin(room->table, old, &request, &lease));
    OK(tpv_lease_attach(room->table, lease));
    tpv_store_release(room->store, kept);
    assert_false(visit(room, 1, 128)); /* wants its room, and does without */
    assert_int_equal(room->metrics.budget_used, reserved);
    assert_true(kept->withdrawn);

    tpv_stored_t *again = use(room, 1, 0, &reused);
    assert_false(reused);
    assert_ptr_not_equal(again, kept);
    request.lease_id = "fedcba9876543210fedcba9876543210";
    tpv_lease_t second;
    OK(tpv_lease_begin(room->table, again->export, &request, &second));
    tpv_lease_end(room->table, second);
    tpv_store_release(room->store, again);

    tpv_lease_end(room->table, lease);
    tpv_store_sweep(room->store);
    assert_int_equal(room->metrics.evicted[TPV_EVICTED_WITHDRAWN], 1);
}

static void what_is_offered_no_more_goes_with_its_last_reader(void **state) {
    room_t *room = *state;
    bool reused;
    open_store(room, UINT64_C(1) << 30);
    tpv_stored_t *read = use(room, 1, 0, &reused);
    assert_false(visit(room, 1, 128));
    assert_false(visit(room, 2, 0));
    tpv_store_withdraw(room->store, room->entry[0]);
    tpv_store_sweep(room->store);
    assert_int_equal(room->metrics.evicted[TPV_EVICTED_WITHDRAWN], 1);
    assert_int_equal(read->users, 1);
    /* Nor does the table let anybody in, such as a fetch that found the entry just before. */
    tpv_lease_request_t request = {.lease_id = "0123456789abcdef0123456789abcdef",
                                   .ttl_ns = 3600 * TPV_NS_PER_SECOND,
                                   .remote_host = "",
                                   .remote_pid = 1,
                                   .tp_size = 1};
    tpv_lease_t lease;
    assert_int_not_equal(tpv_lease_begin(room->table, read->export, &request, &lease), TPV_OK);
    tpv_store_release(room->store, read);
    assert_int_equal(room->metrics.evicted[TPV_EVICTED_WITHDRAWN], 2);
    assert_true(visit(room, 2, 0));
}

/* As services in two containers have that share a table: their process ids may be the same. */
static void another_store_has_exports_of_its_own(void **state) {
    room_t *room = *state;
    tpv_store_t *first, *second;
    bool reused;
    open_store(room, UINT64_C(1) << 30);
    first = room->store;
    open_store(room, UINT64_C(1) << 30);
    second = room->store;
    tpv_stored_t *theirs = use(room, 1, 0, &reused);
    room->store = first;
    tpv_stored_t *ours = use(room, 1, 0, &reused);
    assert_false(reused);
    assert_true(ours->export.slot != theirs->export.slot || ours->export.generation != theirs->export.generation);
    tpv_store_release(first, ours);
    tpv_store_release(second, theirs);
    tpv_store_close(second);
    assert_true(visit(room, 1, 0));
}

#define ASKERS 4

/* One of those that ask for the same view at the same moment. */
typedef struct {
    const room_t *room;
    tpv_view_t *view;
    pthread_barrier_t *barrier;
    tpv_stored_t *stored;
    tpv_status_t status;
    bool reused;
} asker_t;

static void *ask(void *argument) {
    asker_t *asker = argument;
    pthread_barrier_wait(asker->barrier);
    asker->status = tpv_store_acquire(asker->room->store, asker->room->entry[0], asker->view, tpv_deadline_in(60),
                                      &asker->stored, &asker->reused);
    return NULL;
}

static void those_who_ask_at_once_share_one(void **state) {
    room_t *room = *state;
    pthread_barrier_t barrier;
    open_store(room, UINT64_C(4) << 30);
    pthread_barrier_init(&barrier, NULL, ASKERS);
    for (unsigned column = 0; column <= 128; column++) {
        asker_t askers[ASKERS];
        pthread_t threads[ASKERS];
        unsigned made = 0;
        for (int i = 0; i < ASKERS; i++) {
            askers[i] = (asker_t){.room = room, .view = columns(room->entry[0], column), .barrier = &barrier};
            assert_int_equal(pthread_create(&threads[i], NULL, ask, &askers[i]), 0);
        }
        for (int i = 0; i < ASKERS; i++)
            pthread_join(threads[i], NULL);
        for (int i = 0; i < ASKERS; i++) {
            assert_int_equal(askers[i].status, TPV_OK);
            assert_ptr_equal(askers[i].stored, askers[0].stored);
            made += !askers[i].reused;
            tpv_store_release(room->store, askers[i].stored);
        }
        assert_int_equal(made, 1);
    }
    pthread_barrier_destroy(&barrier);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(superseded_goes_before_the_longest_unmoved, setup, teardown),
        cmocka_unit_test_setup_teardown(the_longest_unmoved_goes, setup, teardown),
        cmocka_unit_test_setup_teardown(withdrawn_is_not_found_again, setup, teardown),
        cmocka_unit_test_setup_teardown(another_store_has_exports_of_its_own, setup, teardown),
        cmocka_unit_test_setup_teardown(those_who_ask_at_once_share_one, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_offered_no_more_goes_with_its_last_reader, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
