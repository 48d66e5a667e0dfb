#include "lifecycle/check.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "lifecycle/count.h"
#include "lifecycle/file.h"
#include "lifecycle/words.h"
#include "tpview/lease.h"

#define ATTEMPTS 64 /* at seeing an export or lease in one state; each is a fresh look */

typedef struct {
    const tpv_table_t *table;
    bool repair;
    tpv_finding_t tell;
    void *user;
    uint32_t findings;
} check_t;

static void __attribute__((format(printf, 2, 3))) finding(check_t *check, const char *format, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    check->findings++;
    if (check->tell) check->tell(check->user, text);
}

/* ---- leases and the counts of exports ---- */

/* A lease as it was at one instant. */
typedef struct {
    uint64_t word;
    uint64_t generation;
    tpv_lease_record_t record;
} lease_view_t;

static bool view_lease(const tpv_table_t *table, uint32_t slot, lease_view_t *view) {
    const tpv_lease_slot_t *lease = tpv_table_lease(table, slot);
    for (int i = 0; i < ATTEMPTS; i++) {
        view->word = tpv_word_load(&lease->head.word);
        view->generation = tpv_word_load(&lease->head.generation);
        bool whole = tpv_lease_record_read(lease, view->generation, &view->record);
        uint64_t again = tpv_word_load(&lease->head.word);
        if (whole && tpv_lease_word_renew(view->word, 0) == tpv_lease_word_renew(again, 0)) return true;
    }
    return false;
}

/* What a lease adds to the active of its export, whose word is `word`: see words.h. */
static uint32_t share(uint32_t slot, tpv_lease_state_t state, uint64_t word) {
    uint32_t step = tpv_export_word_step(word);
    if (state == TPV_LEASE_OPENING) return step == tpv_step_begun(slot);
    if (state == TPV_LEASE_ENDING) return step != tpv_step_ended(slot);
    return tpv_lease_is_held(state);
}

static void check_lease(check_t *check, uint32_t slot) {
    const tpv_table_t *table = check->table;
    lease_view_t view;
    if (!view_lease(table, slot, &view)) return;
    tpv_lease_state_t state = tpv_lease_word_state(view.word);
    const char *wrong = NULL;
    if (state >= TPV_LEASE_STATE_COUNT) {
        wrong = "has a state that does not exist";
    } else if (state != TPV_LEASE_FREE && view.record.export_slot >= table->exports.count) {
        wrong = "names an export slot that does not exist";
    } else if (tpv_lease_is_held(state)) {
        tpv_export_slot_t *export = tpv_table_export(table, (uint32_t)view.record.export_slot);
        tpv_export_state_t of = tpv_export_word_state(tpv_word_load(&export->head.word));
        bool held = of == TPV_EXPORT_READY || of == TPV_EXPORT_DRAINING || of == TPV_EXPORT_CLOSED;
        if (!held || tpv_word_load(&export->head.generation) != view.record.export_generation)
            wrong = "reads an export that is gone";
        /* Only if it is still live was that so while it was live. */
        uint64_t again = tpv_word_load(&tpv_table_lease(table, slot)->head.word);
        if (!tpv_lease_is_held(tpv_lease_word_state(again)) ||
            tpv_word_load(&tpv_table_lease(table, slot)->head.generation) != view.generation)
            wrong = NULL;
    }
    if (!wrong) return;
    finding(check, "lease %u %s", slot, wrong);
    /* No export counts it, so it goes without being counted off. */
    uint64_t expected = view.word;
    if (check->repair)
        tpv_word_cas(&tpv_table_lease(table, slot)->head.word, &expected, tpv_lease_word_to(view.word, TPV_LEASE_FREE));
}

/* One look at all exports and the leases of those not settled yet. An export whose word is the same before and after
 * had the same count all the time. */
static bool count_leases(check_t *check, uint64_t *before, uint32_t *shares, bool *settled) {
    const tpv_table_t *table = check->table;
    uint32_t exports = tpv_slots_used(&table->exports);
    for (uint32_t i = 0; i < exports; i++) {
        before[i] = tpv_word_load(&tpv_table_export(table, i)->head.word);
        shares[i] = 0;
    }
    uint32_t leases = tpv_slots_used(&table->leases);
    for (uint32_t i = 0; i < leases; i++) {
        lease_view_t view;
        if (!view_lease(table, i, &view)) return false;
        uint64_t slot = view.record.export_slot;
        if (tpv_lease_word_state(view.word) != TPV_LEASE_FREE && slot < exports)
            shares[slot] += share(i, tpv_lease_word_state(view.word), before[slot]);
    }
    bool all = true;
    for (uint32_t i = 0; i < exports; i++) {
        if (settled[i]) continue;
        tpv_export_slot_t *export = tpv_table_export(table, i);
        uint64_t word = tpv_word_load(&export->head.word);
        if (word != before[i]) {
            all = false;
            continue;
        }
        settled[i] = true;
        tpv_export_state_t state = tpv_export_word_state(word);
        uint32_t active = tpv_export_word_active(word);
        uint64_t right = word;
        if (state >= TPV_EXPORT_STATE_COUNT) {
            finding(check, "export %u has a state that does not exist", i);
            right = tpv_export_word_next(word, TPV_EXPORT_CLOSED, shares[i], 0);
        } else if (active != shares[i]) {
            finding(check, "export %u (%s) counts %u leases and has %u", i, tpv_export_state_name(state), active,
                    shares[i]);
            right = tpv_export_word_next(word, state, shares[i], tpv_export_word_step(word));
        } else if (state == TPV_EXPORT_FREE && tpv_export_word_step(word) != 0) {
            finding(check, "export %u is free and names a lease", i);
            right = tpv_export_word_next(word, state, 0, 0);
        }
        if (check->repair && right != word) tpv_word_cas(&export->head.word, &word, right);
    }
    return all;
}

/* ---- one live slot for each key ---- */

typedef struct {
    uint64_t hash;
    uint32_t slot;
} hashed_t;

static int by_hash(const void *a, const void *b) {
    const hashed_t *x = a, *y = b;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    return x->slot < y->slot ? -1 : x->slot > y->slot;
}

static bool export_is_offered(uint64_t word) {
    tpv_export_state_t state = tpv_export_word_state(word);
    return state == TPV_EXPORT_PENDING || state == TPV_EXPORT_READY || state == TPV_EXPORT_FAILED;
}

static bool lease_is_live(uint64_t word) {
    tpv_lease_state_t state = tpv_lease_word_state(word);
    return state == TPV_LEASE_OPENING || tpv_lease_is_held(state);
}

/* Two slots were seen live with the same hash: are they so now, at one instant? */
static bool both_live(const tpv_slots_t *slots, bool (*live)(uint64_t), uint32_t a, uint32_t b, uint64_t hash) {
    const tpv_slot_head_t *first = tpv_slots_at(slots, a), *second = tpv_slots_at(slots, b);
    uint64_t generation = tpv_word_load(&first->generation);
    uint64_t word = tpv_word_load(&first->word);
    if (!live(word) || tpv_word_load(&first->key_hash) != hash) return false;
    if (!live(tpv_word_load(&second->word)) || tpv_word_load(&second->key_hash) != hash) return false;
    word = tpv_word_load(&first->word);
    return live(word) && tpv_word_load(&first->generation) == generation;
}

static void check_unique(check_t *check, const tpv_slots_t *slots, bool (*live)(uint64_t), const char *what,
                         hashed_t *list) {
    uint32_t used = tpv_slots_used(slots);
    size_t count = 0;
    for (uint32_t i = 0; i < used; i++) {
        const tpv_slot_head_t *head = tpv_slots_at(slots, i);
        if (live(tpv_word_load(&head->word))) list[count++] = (hashed_t){tpv_word_load(&head->key_hash), i};
    }
    qsort(list, count, sizeof *list, by_hash);
    for (size_t i = 1; i < count; i++) {
        if (list[i].hash != list[i - 1].hash) continue;
        if (!both_live(slots, live, list[i - 1].slot, list[i].slot, list[i].hash)) continue;
        finding(check, "%s %u and %u have the same key", what, list[i - 1].slot, list[i].slot);
        tpv_slot_head_t *head = tpv_slots_at(slots, list[i].slot);
        uint64_t word = tpv_word_load(&head->word);
        /* Of two exports the later one is taken back; two leases of one id end with their holders. */
        if (check->repair && slots == &check->table->exports && tpv_export_word_state(word) == TPV_EXPORT_READY)
            tpv_word_cas(&head->word, &word, tpv_export_word_to(word, TPV_EXPORT_DRAINING));
    }
}

tpv_status_t tpv_table_check(const tpv_table_t *table, bool repair, tpv_finding_t tell, void *user,
                             uint32_t *findings) {
    check_t check = {.table = table, .repair = repair, .tell = tell, .user = user};
    uint32_t exports = table->exports.count, leases = table->leases.count;
    tpv_status_t status = TPV_OK;
    *findings = 0;
    uint64_t *before = calloc(exports, sizeof *before);
    uint32_t *shares = calloc(exports, sizeof *shares);
    bool *settled = calloc(exports, sizeof *settled);
    hashed_t *list = calloc(exports > leases ? exports : leases, sizeof *list);
    if (!before || !shares || !settled || !list) {
        status = tpv_error_set(TPV_ERR_NO_MEMORY, "no memory to check the lease table");
        goto done;
    }
    if (tpv_slots_used(&table->exports) > exports || tpv_slots_used(&table->leases) > leases) {
        finding(&check, "the table says that more slots are in use than there are");
        if (repair) {
            tpv_word_store(table->exports.used, exports);
            tpv_word_store(table->leases.used, leases);
        }
    } else {
        for (uint32_t i = 0; i < tpv_slots_used(&table->leases); i++)
            check_lease(&check, i);
        int attempt = 0;
        while (!count_leases(&check, before, shares, settled) && attempt < ATTEMPTS)
            attempt++;
        if (attempt == ATTEMPTS)
            status = tpv_error_set(TPV_ERR_REFUSED, "the lease table changes too fast to be checked: try again");
        check_unique(&check, &table->exports, export_is_offered, "exports", list);
        check_unique(&check, &table->leases, lease_is_live, "leases", list);
    }
    *findings = check.findings;
    tpv_status_t files = tpv_export_files_check(table, repair, tell, user, findings);
    if (status == TPV_OK) status = files;
done:
    free(list);
    free(settled);
    free(shares);
    free(before);
    return status;
}
