#include "lifecycle/survey.h"

#include <stdlib.h>

#include "base/error.h"
#include "lifecycle/count.h"
#include "lifecycle/words.h"

/* One slot and who holds it, as it was seen. */
typedef struct {
    uint64_t process;
    const tpv_slot_head_t *head;
    uint64_t word, actor, generation;
    bool is_lease;
} hold_t;

static bool is_free(uint64_t word) {
    return (word & TPV_WORD_STATE_MASK) == 0;
}

static hold_t see(const tpv_slot_head_t *head, bool is_lease) {
    hold_t hold = {.head = head, .is_lease = is_lease};
    hold.word = tpv_word_load(&head->word);
    hold.actor = tpv_word_load(&head->actor);
    hold.generation = tpv_word_load(&head->generation);
    return hold;
}

/* Whether the slot is held as it was: a renewed lease is. */
static bool is_same(const hold_t *hold) {
    uint64_t word = tpv_word_load(&hold->head->word), before = hold->word;
    if (hold->is_lease) {
        word = tpv_lease_word_renew(word, 0);
        before = tpv_lease_word_renew(before, 0);
    }
    return word == before && tpv_word_load(&hold->head->generation) == hold->generation &&
           (!is_free(word) || tpv_word_load(&hold->head->actor) == hold->actor);
}

static void see_export(const tpv_table_t *table, uint32_t slot, tpv_survey_t *survey, hold_t *hold) {
    const tpv_export_slot_t *export = tpv_table_export(table, slot);
    *hold = see(&export->head, false);
    tpv_export_state_t state = tpv_export_word_state(hold->word);
    if (state < TPV_EXPORT_STATE_COUNT) survey->exports[state]++;
    if (state == TPV_EXPORT_FREE || state == TPV_EXPORT_PENDING) {
        hold->process = hold->actor;
    } else if (state != TPV_EXPORT_FAILED) {
        hold->process = tpv_word_load(&export->owner);
        survey->bytes += tpv_word_load(&export->bytes);
    }
}

static void see_lease(const tpv_table_t *table, uint32_t slot, tpv_survey_t *survey, hold_t *hold) {
    const tpv_lease_slot_t *lease = tpv_table_lease(table, slot);
    *hold = see(&lease->head, true);
    tpv_lease_state_t state = tpv_lease_word_state(hold->word);
    if (state < TPV_LEASE_STATE_COUNT) survey->leases[state]++;
    tpv_lease_record_t record;
    if (state == TPV_LEASE_FREE)
        hold->process = hold->actor;
    else if (tpv_lease_record_read(lease, hold->generation, &record))
        hold->process = record.owner;
}

static int by_process(const void *a, const void *b) {
    const hold_t *x = a, *y = b;
    return x->process < y->process ? -1 : x->process > y->process;
}

/* Put what each process holds together. `holds` is sorted. */
static void sum_up(const tpv_table_t *table, const hold_t *holds, size_t count, tpv_survey_t *survey) {
    for (size_t i = 0; i < count;) {
        tpv_holder_t holder = {.process = holds[i].process, .alive = table->alive(holds[i].process)};
        for (; i < count && holds[i].process == holder.process; i++) {
            if (!holder.alive && !is_same(&holds[i])) continue;
            if (is_free(holds[i].word))
                holder.slots++;
            else if (holds[i].is_lease)
                holder.leases++;
            else
                holder.exports++;
        }
        if (holder.slots + holder.leases + holder.exports > 0) survey->holders[survey->holder_count++] = holder;
    }
}

tpv_status_t tpv_table_survey(const tpv_table_t *table, tpv_survey_t *survey) {
    *survey = (tpv_survey_t){0};
    uint32_t exports = tpv_slots_used(&table->exports), leases = tpv_slots_used(&table->leases);
    if (exports > table->exports.count) exports = table->exports.count;
    if (leases > table->leases.count) leases = table->leases.count;
    size_t most = (size_t)exports + leases, count = 0;
    hold_t *holds = malloc((most + 1) * sizeof *holds);
    survey->holders = malloc((most + 1) * sizeof *survey->holders);
    if (!holds || !survey->holders) {
        free(holds);
        tpv_survey_clear(survey);
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory to look through the lease table");
    }
    for (uint32_t i = 0; i < exports; i++) {
        see_export(table, i, survey, &holds[count]);
        count += holds[count].process != 0;
    }
    for (uint32_t i = 0; i < leases; i++) {
        see_lease(table, i, survey, &holds[count]);
        count += holds[count].process != 0;
    }
    qsort(holds, count, sizeof *holds, by_process);
    sum_up(table, holds, count, survey);
    free(holds);
    return TPV_OK;
}

void tpv_survey_clear(tpv_survey_t *survey) {
    free(survey->holders);
    survey->holders = NULL;
    survey->holder_count = 0;
}
