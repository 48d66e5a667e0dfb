#include "common/fake_table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lifecycle/words.h"

int64_t fake_now;
uint64_t fake_self;
static uint64_t dead;

static int64_t now(void) {
    return fake_now;
}

static uint64_t self(void) {
    return fake_self;
}

static bool alive(uint64_t process) {
    return process != 0 && !(dead >> process & 1);
}

void fake_kill(uint64_t process) {
    dead |= UINT64_C(1) << process;
}

tpv_table_t *fake_table_new(uint32_t export_slots, uint32_t lease_slots) {
    size_t bytes = tpv_table_bytes(export_slots, lease_slots);
    void *memory = aligned_alloc(TPV_CACHE_LINE, bytes);
    tpv_table_t *table = calloc(1, sizeof *table);
    assert_true(memory && table);
    memset(memory, 0, bytes);
    tpv_table_format(memory, export_slots, lease_slots);
    tpv_table_attach(table, memory);
    table->now = now;
    table->self = self;
    table->alive = alive;
    fake_now = 1000 * FAKE_SECOND;
    fake_self = 1;
    dead = 0;
    return table;
}

void fake_table_free(tpv_table_t *table) {
    free(table->header);
    free(table);
}

tpv_export_key_t fake_key(unsigned view) {
    static char ids[8][33];
    static unsigned next;
    char *id = ids[next++ % 8];
    snprintf(id, 33, "%032x", view);
    return (tpv_export_key_t){
        .artifact_id = "0123456789abcdef0123456789abcdef", .view_id = id, .device = "host", .label = "model@1"};
}

tpv_lease_request_t fake_request(unsigned lease, int64_t ttl_ns) {
    static char ids[8][33];
    static unsigned next;
    char *id = ids[next++ % 8];
    snprintf(id, 33, "%032x", lease);
    return (tpv_lease_request_t){.lease_id = id,
                                 .ttl_ns = ttl_ns,
                                 .bytes_total = 1000,
                                 .remote_host = "rank-host",
                                 .remote_pid = 7,
                                 .tp_size = 4};
}

tpv_export_t fake_ready(const tpv_table_t *table, unsigned view) {
    tpv_export_key_t key = fake_key(view);
    tpv_export_t export;
    tpv_export_role_t role;
    assert_int_equal(tpv_export_find(table, &key, &export, &role), TPV_OK);
    assert_int_equal(role, TPV_EXPORT_PREPARE);
    assert_int_equal(tpv_export_publish(table, export, 1000, 60 * FAKE_SECOND), TPV_OK);
    return export;
}

static void tell(void *user, const char *text) {
    (void)user;
    print_message("finding: %s\n", text);
}

uint32_t fake_findings(const tpv_table_t *table, bool repair) {
    uint32_t findings = 0;
    assert_int_equal(tpv_table_check(table, repair, tell, NULL, &findings), TPV_OK);
    return findings;
}

tpv_export_state_t fake_export_state(const tpv_table_t *table, tpv_export_t export) {
    return tpv_export_word_state(tpv_word_load(&tpv_table_export(table, export.slot)->head.word));
}

uint32_t fake_active(const tpv_table_t *table, tpv_export_t export) {
    return tpv_export_word_active(tpv_word_load(&tpv_table_export(table, export.slot)->head.word));
}

tpv_lease_state_t fake_lease_state(const tpv_table_t *table, tpv_lease_t lease) {
    return tpv_lease_word_state(tpv_word_load(&tpv_table_lease(table, lease.slot)->head.word));
}
