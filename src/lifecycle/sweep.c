#include "lifecycle/sweep.h"

#include <string.h>

#include "base/clock.h"
#include "base/futex.h"
#include "lifecycle/count.h"
#include "lifecycle/export.h"
#include "lifecycle/words.h"

/* Most slots belong to few processes; each is asked about once in a sweep. */
#define KNOWN 64

typedef struct {
    const tpv_table_t *table;
    uint64_t process[KNOWN];
    bool alive[KNOWN];
} census_t;

static bool lives(census_t *census, uint64_t process) {
    uint32_t at = (uint32_t)((process * UINT64_C(0x9e3779b97f4a7c15)) >> 58) % KNOWN;
    if (census->process[at] != process) {
        census->process[at] = process;
        census->alive[at] = census->table->alive(process);
    }
    return census->alive[at];
}

static bool move_lease(tpv_lease_slot_t *lease, uint64_t word, tpv_lease_state_t state) {
    return tpv_word_cas(&lease->head.word, &word, tpv_lease_word_to(word, state));
}

static void end_if_over(census_t *census, uint32_t slot, int64_t now_ns, tpv_sweep_report_t *report) {
    const tpv_table_t *table = census->table;
    tpv_lease_slot_t *lease = tpv_table_lease(table, slot);
    uint64_t word = tpv_word_load(&lease->head.word);
    tpv_lease_state_t state = tpv_lease_word_state(word);
    tpv_lease_record_t record;
    if (!tpv_lease_is_held(state) || !tpv_lease_record_read(lease, tpv_word_load(&lease->head.generation), &record))
        return;
    /* From here on every CAS is from `word`: if the lease was renewed or ended since, it fails, and rightly so. */
    bool expired = tpv_lease_word_deadline_ms(word) != TPV_LEASE_DEADLINE_MAX &&
                   now_ns / TPV_NS_PER_MS >= tpv_lease_word_deadline_ms(word);
    uint32_t *reason = NULL;
    tpv_counter_t counter = TPV_COUNT_LEASES_ORPHANED;
    if (!lives(census, record.owner)) {
        reason = &report->leases_orphaned;
    } else if (state == TPV_LEASE_GRANTED && expired) {
        reason = &report->leases_expired;
        counter = TPV_COUNT_LEASES_EXPIRED;
    } else if (state == TPV_LEASE_GRANTED && record.export_slot < table->exports.count &&
               tpv_export_word_state(tpv_word_load(
                   &tpv_table_export(table, (uint32_t)record.export_slot)->head.word)) == TPV_EXPORT_CLOSED) {
        reason = &report->leases_closed;
        counter = TPV_COUNT_LEASES_CLOSED;
    } else if (state == TPV_LEASE_ATTACHED && expired) {
        if (!move_lease(lease, word, TPV_LEASE_REVOKED)) return;
        report->leases_revoked++;
        tpv_table_count(table, TPV_COUNT_LEASES_REVOKED);
        return;
    }
    if (!reason) return;
    /* Its holder read until it died, which is found out now: the time of the export runs from here. */
    if (state == TPV_LEASE_ATTACHED && record.export_slot < table->exports.count)
        tpv_word_store(&tpv_table_export(table, (uint32_t)record.export_slot)->moved_ns, (uint64_t)now_ns);
    if (!move_lease(lease, word, TPV_LEASE_ENDING)) return;
    ++*reason;
    tpv_table_count(table, counter);
    tpv_lease_settle(table, slot);
}

static void sweep_leases(census_t *census, tpv_sweep_report_t *report) {
    int64_t now_ns = census->table->now();
    uint32_t used = tpv_slots_used(&census->table->leases);
    for (uint32_t i = 0; i < used; i++) {
        tpv_lease_settle(census->table, i);
        end_if_over(census, i, now_ns, report);
        tpv_slot_forget_dead(census->table, &census->table->leases, tpv_slots_at(&census->table->leases, i));
    }
}

/* FREE from `word`, which has no leases. */
static bool free_export(const tpv_table_t *table, uint32_t slot, uint64_t word) {
    tpv_export_slot_t *export = tpv_table_export(table, slot);
    tpv_export_settle_step(table, slot, word);
    if (!tpv_word_cas(&export->head.word, &word, tpv_export_word_next(word, TPV_EXPORT_FREE, 0, 0))) return false;
    tpv_futex_wake(&export->head.word);
    return true;
}

/* The preparing process died: take its place and give up. Waiters then agree on a new one. */
static bool abandon_for(const tpv_table_t *table, uint32_t slot, uint64_t dead) {
    tpv_export_slot_t *export = tpv_table_export(table, slot);
    if (!tpv_word_cas(&export->head.actor, &dead, table->self())) return false;
    /* As the actor we have a slot whose generation stands still. */
    tpv_export_t handle = {.slot = slot, .generation = tpv_word_load(&export->head.generation)};
    /* It may have given its file a name just before it died. */
    if (tpv_export_word_state(tpv_word_load(&export->head.word)) == TPV_EXPORT_PENDING &&
        table->erase(table, slot, handle.generation) && tpv_export_abandon(table, handle) == TPV_OK)
        return true;
    tpv_slot_release(&export->head);
    return false;
}

static bool retire(const tpv_table_t *table, tpv_export_t handle) {
    return tpv_export_withdraw(table, handle) == TPV_OK && tpv_export_close(table, handle) == TPV_OK &&
           tpv_export_free(table, handle) == TPV_OK;
}

static void sweep_export(census_t *census, uint32_t slot, tpv_sweep_report_t *report) {
    const tpv_table_t *table = census->table;
    tpv_export_slot_t *export = tpv_table_export(table, slot);
    uint64_t word = tpv_word_load(&export->head.word);
    tpv_export_t handle = {.slot = slot, .generation = tpv_word_load(&export->head.generation)};
    uint64_t actor = tpv_word_load(&export->head.actor);
    bool freed = false;
    switch (tpv_export_word_state(word)) {
    case TPV_EXPORT_FREE:
        break;
    case TPV_EXPORT_PENDING:
        freed = !lives(census, actor) && abandon_for(table, slot, actor);
        break;
    case TPV_EXPORT_FAILED:
        freed = (int64_t)tpv_word_load(&export->retry_ns) <= table->now() && free_export(table, slot, word);
        if (freed) tpv_table_count(table, TPV_COUNT_EXPORTS_FREED);
        break;
    default: {
        uint64_t owner = tpv_word_load(&export->owner);
        if (tpv_word_load(&export->head.word) != word) break;
        if (owner != TPV_OWNER_FILE)
            freed = !lives(census, owner) && retire(table, handle);
        else if (tpv_export_word_state(word) != TPV_EXPORT_READY ||
                 tpv_export_withdraw_idle(table, handle, TPV_EXPORT_EXPIRED))
            freed = retire(table, handle);
        break;
    }
    }
    report->exports_freed += freed;
    tpv_slot_forget_dead(table, &table->exports, &export->head);
}

void tpv_leases_sweep(const tpv_table_t *table, tpv_sweep_report_t *report) {
    tpv_sweep_report_t own = {0};
    census_t census = {.table = table};
    sweep_leases(&census, report ? report : &own);
}

void tpv_table_sweep(const tpv_table_t *table, tpv_sweep_report_t *report) {
    tpv_sweep_report_t own;
    if (!report) report = &own;
    memset(report, 0, sizeof *report);
    census_t census = {.table = table};
    sweep_leases(&census, report);
    uint32_t used = tpv_slots_used(&table->exports);
    for (uint32_t i = 0; i < used; i++)
        sweep_export(&census, i, report);
}
