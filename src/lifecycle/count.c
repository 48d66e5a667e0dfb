#include "lifecycle/count.h"

#include <stddef.h>

#include "base/futex.h"
#include "lifecycle/words.h"

static uint64_t record_word(const tpv_lease_slot_t *lease, size_t offset) {
    return tpv_word_load(&lease->record[offset / 8]);
}

bool tpv_lease_record_read(const tpv_lease_slot_t *lease, uint64_t generation, tpv_lease_record_t *record) {
    tpv_words_load(record, lease->record, sizeof *record);
    return tpv_word_load(&lease->head.generation) == generation;
}

/* To GRANTED; fails when somebody else did it. */
static void grant(tpv_lease_slot_t *lease, uint64_t word) {
    int64_t deadline_ms = (int64_t)record_word(lease, offsetof(tpv_lease_record_t, granted_deadline_ms));
    tpv_word_cas(&lease->head.word, &word, tpv_lease_word_next(word, TPV_LEASE_GRANTED, deadline_ms));
}

static void let_go(tpv_lease_slot_t *lease, uint64_t word) {
    tpv_word_cas(&lease->head.word, &word, tpv_lease_word_to(word, TPV_LEASE_FREE));
}

void tpv_export_settle_step(const tpv_table_t *table, uint32_t slot, uint64_t word) {
    uint32_t step = tpv_export_word_step(word);
    if (step == 0 || tpv_step_lease(step) >= table->leases.count) return;
    bool ended = step & TPV_STEP_ENDED;
    tpv_lease_slot_t *lease = tpv_table_lease(table, tpv_step_lease(step));
    uint64_t lease_word = tpv_word_load(&lease->head.word);
    if (tpv_lease_word_state(lease_word) != (ended ? TPV_LEASE_ENDING : TPV_LEASE_OPENING)) return;
    if (record_word(lease, offsetof(tpv_lease_record_t, export_slot)) != slot) return;
    /* Only if the export's word is still the same was the lease, as just read, the one that the step counted. */
    if (tpv_word_load(&tpv_table_export(table, slot)->head.word) != word) return;
    if (ended)
        let_go(lease, lease_word);
    else
        grant(lease, lease_word);
}

/* One attempt to take an OPENING lease on. `lease_word` is its word. */
static void settle_opening(const tpv_table_t *table, uint32_t slot, tpv_lease_slot_t *lease, uint64_t lease_word) {
    uint32_t export_slot = (uint32_t)record_word(lease, offsetof(tpv_lease_record_t, export_slot));
    uint64_t generation = record_word(lease, offsetof(tpv_lease_record_t, export_generation));
    if (export_slot >= table->exports.count) { /* somebody wrote over the table */
        let_go(lease, lease_word);
        return;
    }
    tpv_export_slot_t *export = tpv_table_export(table, export_slot);
    uint64_t word = tpv_word_load(&export->head.word);
    bool same = tpv_word_load(&export->head.generation) == generation;
    /* The lease's word has not changed: as `word` was read, the lease was OPENING, thus counted only if the step says
     * so. */
    if (tpv_word_load(&lease->head.word) != lease_word) return;
    if (tpv_export_word_step(word) == tpv_step_begun(slot)) {
        grant(lease, lease_word);
        return;
    }
    if (!same || tpv_export_word_state(word) != TPV_EXPORT_READY) {
        /* An export leaves READY for good, so nobody can count the lease after this. */
        let_go(lease, lease_word);
        return;
    }
    tpv_export_settle_step(table, export_slot, word);
    uint64_t counted =
        tpv_export_word_next(word, TPV_EXPORT_READY, tpv_export_word_active(word) + 1, tpv_step_begun(slot));
    if (tpv_word_cas(&export->head.word, &word, counted)) grant(lease, lease_word);
}

static void settle_ending(const tpv_table_t *table, uint32_t slot, tpv_lease_slot_t *lease, uint64_t lease_word) {
    uint32_t export_slot = (uint32_t)record_word(lease, offsetof(tpv_lease_record_t, export_slot));
    if (export_slot >= table->exports.count) { /* somebody wrote over the table */
        let_go(lease, lease_word);
        return;
    }
    tpv_export_slot_t *export = tpv_table_export(table, export_slot);
    uint64_t word = tpv_word_load(&export->head.word);
    if (tpv_word_load(&lease->head.word) != lease_word) return;
    uint32_t active = tpv_export_word_active(word);
    /* Counted off already, or (never, unless somebody wrote over the table) counted by nobody. */
    if (tpv_export_word_step(word) == tpv_step_ended(slot) || active == 0) {
        let_go(lease, lease_word);
        return;
    }
    tpv_export_settle_step(table, export_slot, word);
    tpv_export_state_t state = tpv_export_word_state(word);
    uint64_t counted = tpv_export_word_next(word, state, active - 1, tpv_step_ended(slot));
    if (!tpv_word_cas(&export->head.word, &word, counted)) return;
    let_go(lease, lease_word);
    if (active == 1 && state != TPV_EXPORT_READY) tpv_futex_wake(&export->head.word);
}

void tpv_lease_settle(const tpv_table_t *table, uint32_t slot) {
    tpv_lease_slot_t *lease = tpv_table_lease(table, slot);
    for (;;) {
        uint64_t word = tpv_word_load(&lease->head.word);
        if (tpv_lease_word_state(word) == TPV_LEASE_OPENING)
            settle_opening(table, slot, lease, word);
        else if (tpv_lease_word_state(word) == TPV_LEASE_ENDING)
            settle_ending(table, slot, lease, word);
        else
            return;
    }
}
