#include "lifecycle/export.h"

#include <stddef.h>
#include <string.h>
#include <xxhash.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/futex.h"
#include "base/process.h"
#include "lifecycle/count.h"
#include "lifecycle/sweep.h"
#include "lifecycle/words.h"

static tpv_status_t stale(tpv_export_t export) {
    return tpv_error_set(TPV_ERR_STALE, "export %u of generation %llu is gone", export.slot,
                         (unsigned long long)export.generation);
}

static tpv_status_t wrong_state(const char *verb, uint64_t word) {
    return tpv_error_set(TPV_ERR_REFUSED, "an export that is %s cannot be %s",
                         tpv_export_state_name(tpv_export_word_state(word)), verb);
}

/* The slot of a handle and its present word. A CAS from that word succeeds only while the slot has the handle's
 * generation: that changes in FREE slots only, and leaving and entering FREE changes the word's version. */
static bool look_up(const tpv_table_t *table, tpv_export_t export, tpv_export_slot_t **slot, uint64_t *word) {
    if (export.slot >= table->exports.count) return false;
    *slot = tpv_table_export(table, export.slot);
    *word = tpv_word_load(&(*slot)->head.word);
    return tpv_word_load(&(*slot)->head.generation) == export.generation &&
           tpv_export_word_state(*word) != TPV_EXPORT_FREE;
}

/* ---- finding and creating ---- */

typedef struct {
    tpv_export_record_t record;
    int64_t now;
} request_t;

#define KEY_BYTES offsetof(tpv_export_record_t, label)

static bool matches(const tpv_slot_head_t *head, uint64_t word, const void *key) {
    tpv_export_state_t state = tpv_export_word_state(word);
    if (state != TPV_EXPORT_PENDING && state != TPV_EXPORT_READY && state != TPV_EXPORT_FAILED) return false;
    tpv_export_record_t record;
    tpv_words_load(&record, ((const tpv_export_slot_t *)(const void *)head)->record, sizeof record);
    return memcmp(&record, &((const request_t *)key)->record, KEY_BYTES) == 0;
}

static void fill(tpv_slot_head_t *head, const void *key) {
    tpv_export_slot_t *slot = (tpv_export_slot_t *)(void *)head;
    const request_t *request = key;
    tpv_words_store(slot->record, &request->record, sizeof request->record);
    tpv_word_store(&slot->owner, 0);
    tpv_word_store(&slot->bytes, 0);
    tpv_word_store(&slot->created_ns, (uint64_t)request->now);
    tpv_word_store(&slot->moved_ns, (uint64_t)request->now);
}

static bool is_id(const char *text) {
    return strspn(text, "0123456789abcdef") == 32 && text[32] == '\0';
}

static tpv_status_t make_request(const tpv_export_key_t *key, int64_t now, request_t *request, uint64_t *hash) {
    memset(request, 0, sizeof *request);
    tpv_export_record_t *record = &request->record;
    if (!is_id(key->artifact_id)) return tpv_error_set(TPV_ERR_ARGUMENT, "artifact id: expected 32 hex digits");
    if (!is_id(key->view_id)) return tpv_error_set(TPV_ERR_ARGUMENT, "view id: expected 32 hex digits");
    size_t device = strlen(key->device), label = strlen(key->label);
    if (device == 0 || device >= sizeof record->device)
        return tpv_error_set(TPV_ERR_ARGUMENT, "device \"%.64s\": expected 1 to %zu bytes", key->device,
                             sizeof record->device - 1);
    if (label >= sizeof record->label)
        return tpv_error_set(TPV_ERR_ARGUMENT, "label \"%.160s\": expected at most %zu bytes", key->label,
                             sizeof record->label - 1);
    memcpy(record->artifact_id, key->artifact_id, 32);
    memcpy(record->view_id, key->view_id, 32);
    memcpy(record->device, key->device, device);
    memcpy(record->label, key->label, label);
    request->now = now;
    *hash = XXH3_64bits(record, KEY_BYTES);
    return TPV_OK;
}

/* Whether a READY export can be used; if not, it is withdrawn or gone. */
static bool is_usable(const tpv_table_t *table, tpv_export_t export, tpv_export_slot_t *slot, uint64_t word) {
    uint64_t owner = tpv_word_load(&slot->owner);
    /* The owner was written after the generation: it is this one's while that has not changed. */
    if (tpv_word_load(&slot->head.generation) != export.generation) return false;
    if (owner == TPV_OWNER_FILE) return !tpv_export_withdraw_idle(table, export, TPV_EXPORT_EXPIRED);
    if (owner == table->self() || table->alive(owner)) return true;
    if (tpv_word_cas(&slot->head.word, &word, tpv_export_word_to(word, TPV_EXPORT_DRAINING)))
        tpv_table_count(table, TPV_COUNT_EXPORTS_WITHDRAWN);
    return false;
}

/* READY of an owner that lives, PENDING, FAILED within its time: what tpv_export_find answers for a slot that has the
 * key. False: the slot is of no use any more, look again. */
static bool judge(const tpv_table_t *table, tpv_export_t export, tpv_status_t *status, tpv_export_role_t *role) {
    tpv_export_slot_t *slot;
    uint64_t word;
    if (!look_up(table, export, &slot, &word)) return false;
    switch (tpv_export_word_state(word)) {
    case TPV_EXPORT_PENDING:
        *role = TPV_EXPORT_WAIT;
        *status = TPV_OK;
        return true;
    case TPV_EXPORT_READY:
        if (!is_usable(table, export, slot, word)) return false;
        *role = TPV_EXPORT_USE;
        *status = TPV_OK;
        return true;
    case TPV_EXPORT_FAILED: {
        tpv_status_t cause = (tpv_status_t)tpv_word_load(&slot->cause);
        int64_t left = (int64_t)tpv_word_load(&slot->retry_ns) - table->now();
        if (left <= 0) {
            if (tpv_word_cas(&slot->head.word, &word, tpv_export_word_next(word, TPV_EXPORT_FREE, 0, 0)))
                tpv_table_count(table, TPV_COUNT_EXPORTS_FREED);
            return false;
        }
        if (tpv_word_load(&slot->head.word) != word) return false;
        *status = tpv_error_set(cause, "preparing this view failed (%s); not tried again for %.3f s",
                                tpv_status_name(cause), (double)left / 1e9);
        return true;
    }
    default:
        return false;
    }
}

tpv_status_t tpv_export_find(const tpv_table_t *table, const tpv_export_key_t *key, tpv_export_t *export,
                             tpv_export_role_t *role) {
    request_t request;
    tpv_slot_key_t slot_key = {.matches = matches, .fill = fill, .key = &request};
    TPV_TRY(make_request(key, table->now(), &request, &slot_key.hash));
    for (;;) {
        bool created;
        tpv_status_t status =
            tpv_slots_claim(table, &table->exports, &slot_key, &export->slot, &export->generation, &created);
        if (status == TPV_ERR_NO_SPACE)
            return tpv_error_set(status, "all %u export slots of the table are in use", table->exports.count);
        if (status != TPV_OK) return status;
        if (created) {
            tpv_table_count(table, TPV_COUNT_EXPORTS_CREATED);
            *role = TPV_EXPORT_PREPARE;
            return TPV_OK;
        }
        if (!judge(table, *export, &status, role)) continue;
        if (status == TPV_OK)
            tpv_table_count(table, *role == TPV_EXPORT_USE ? TPV_COUNT_EXPORTS_REUSED : TPV_COUNT_EXPORTS_COALESCED);
        return status;
    }
}

/* ---- waiting ---- */

/* The preparing process is `dead`: become the preparing one, if `word` still stands. */
static bool take_over(const tpv_table_t *table, tpv_export_t export, tpv_export_slot_t *slot, uint64_t word,
                      uint64_t dead) {
    uint64_t actor = dead;
    if (!tpv_word_cas(&slot->head.actor, &actor, table->self())) return false;
    if (tpv_word_load(&slot->head.word) == word) {
        /* It may have given its file a name just before it died. */
        table->erase(table, export.slot, export.generation);
        tpv_table_count(table, TPV_COUNT_EXPORTS_TAKEN_OVER);
        return true;
    }
    /* It published before it died. */
    tpv_slot_release(&slot->head);
    return false;
}

static int64_t earlier(int64_t a, int64_t b) {
    return a < b ? a : b;
}

tpv_status_t tpv_export_wait(const tpv_table_t *table, tpv_export_t export, int64_t deadline_ns,
                             tpv_export_role_t *role) {
    for (;;) {
        tpv_export_slot_t *slot;
        uint64_t word;
        if (!look_up(table, export, &slot, &word)) return stale(export);
        if (tpv_export_word_state(word) != TPV_EXPORT_PENDING) {
            tpv_status_t status;
            if (judge(table, export, &status, role) && (status != TPV_OK || *role != TPV_EXPORT_WAIT)) return status;
            return stale(export);
        }
        uint64_t actor = tpv_word_load(&slot->head.actor);
        if (!table->alive(actor) && take_over(table, export, slot, word, actor)) {
            *role = TPV_EXPORT_PREPARE;
            return TPV_OK;
        }
        if (tpv_deadline_passed(deadline_ns))
            return tpv_error_set(TPV_ERR_DEADLINE, "the deadline passed while process %d prepared this view",
                                 tpv_process_pid(actor));
        tpv_status_t status =
            tpv_futex_wait(&slot->head.word, (uint32_t)word, earlier(deadline_ns, tpv_clock_ns() + TPV_LIVENESS_NS));
        if (status != TPV_OK && status != TPV_ERR_DEADLINE) return status;
    }
}

tpv_status_t tpv_export_acquire(const tpv_table_t *table, const tpv_export_key_t *key, int64_t deadline_ns,
                                tpv_export_t *export, tpv_export_role_t *role) {
    for (;;) {
        TPV_TRY(tpv_export_find(table, key, export, role));
        if (*role != TPV_EXPORT_WAIT) return TPV_OK;
        tpv_status_t status = tpv_export_wait(table, *export, deadline_ns, role);
        if (status != TPV_ERR_STALE) return status;
    }
}

/* ---- the preparing process ---- */

/* Whether the caller may end the preparing: only the actor may, and it cannot change while the actor lives. */
static bool may_leave(const tpv_table_t *table, tpv_export_t export, const char *verb, tpv_export_slot_t **slot,
                      uint64_t *word, tpv_status_t *status) {
    if (!look_up(table, export, slot, word)) {
        *status = stale(export);
        return false;
    }
    if (tpv_export_word_state(*word) != TPV_EXPORT_PENDING) {
        *status = wrong_state(verb, *word);
        return false;
    }
    uint64_t actor = tpv_word_load(&(*slot)->head.actor);
    if (actor == table->self()) return true;
    *status = tpv_error_set(TPV_ERR_PERMISSION, "only process %d, which prepares this export, can have it %s",
                            tpv_process_pid(actor), verb);
    return false;
}

static tpv_status_t change_pending(const tpv_table_t *table, tpv_export_slot_t *slot, uint64_t word,
                                   tpv_export_state_t state, tpv_counter_t counter) {
    if (!tpv_word_cas(&slot->head.word, &word, tpv_export_word_next(word, state, 0, 0)))
        return tpv_error_set(TPV_ERR_REFUSED, "another thread of this process has ended the preparing of this export");
    tpv_slot_release(&slot->head);
    tpv_futex_wake(&slot->head.word);
    tpv_table_count(table, counter);
    return TPV_OK;
}

static tpv_status_t publish(const tpv_table_t *table, tpv_export_t export, uint64_t owner, uint64_t bytes,
                            int64_t ttl_ns) {
    tpv_export_slot_t *slot;
    uint64_t word;
    tpv_status_t status;
    if (!may_leave(table, export, "published", &slot, &word, &status)) return status;
    tpv_word_store(&slot->owner, owner);
    tpv_word_store(&slot->bytes, bytes);
    tpv_word_store(&slot->ttl_ns, (uint64_t)ttl_ns);
    tpv_word_store(&slot->moved_ns, (uint64_t)table->now());
    return change_pending(table, slot, word, TPV_EXPORT_READY, TPV_COUNT_EXPORTS_PUBLISHED);
}

tpv_status_t tpv_export_publish(const tpv_table_t *table, tpv_export_t export, uint64_t bytes, int64_t ttl_ns) {
    return publish(table, export, table->self(), bytes, ttl_ns);
}

tpv_status_t tpv_export_publish_file(const tpv_table_t *table, tpv_export_t export, uint64_t bytes, int64_t ttl_ns) {
    return publish(table, export, TPV_OWNER_FILE, bytes, ttl_ns);
}

tpv_status_t tpv_export_fail(const tpv_table_t *table, tpv_export_t export, tpv_status_t cause,
                             int64_t retry_after_ns) {
    if (cause <= TPV_OK || cause >= TPV_STATUS_COUNT)
        return tpv_error_set(TPV_ERR_ARGUMENT, "status %d is no cause of a failure", (int)cause);
    tpv_export_slot_t *slot;
    uint64_t word;
    tpv_status_t status;
    if (!may_leave(table, export, "failed", &slot, &word, &status)) return status;
    tpv_word_store(&slot->cause, (uint64_t)cause);
    tpv_word_store(&slot->retry_ns, (uint64_t)(table->now() + retry_after_ns));
    return change_pending(table, slot, word, TPV_EXPORT_FAILED, TPV_COUNT_EXPORTS_FAILED);
}

tpv_status_t tpv_export_abandon(const tpv_table_t *table, tpv_export_t export) {
    tpv_export_slot_t *slot;
    uint64_t word;
    tpv_status_t status;
    if (!may_leave(table, export, "abandoned", &slot, &word, &status)) return status;
    return change_pending(table, slot, word, TPV_EXPORT_FREE, TPV_COUNT_EXPORTS_ABANDONED);
}

/* ---- retirement ---- */

tpv_status_t tpv_export_withdraw(const tpv_table_t *table, tpv_export_t export) {
    for (;;) {
        tpv_export_slot_t *slot;
        uint64_t word;
        if (!look_up(table, export, &slot, &word)) return stale(export);
        tpv_export_state_t state = tpv_export_word_state(word);
        if (state == TPV_EXPORT_DRAINING || state == TPV_EXPORT_CLOSED) return TPV_OK;
        if (state != TPV_EXPORT_READY) return wrong_state("withdrawn", word);
        if (!tpv_word_cas(&slot->head.word, &word, tpv_export_word_to(word, TPV_EXPORT_DRAINING))) continue;
        tpv_futex_wake(&slot->head.word);
        tpv_table_count(table, TPV_COUNT_EXPORTS_WITHDRAWN);
        return TPV_OK;
    }
}

bool tpv_export_withdraw_idle(const tpv_table_t *table, tpv_export_t export, tpv_export_reason_t reason) {
    tpv_export_slot_t *slot;
    uint64_t word;
    if (!look_up(table, export, &slot, &word)) return false;
    if (tpv_export_word_state(word) != TPV_EXPORT_READY || tpv_export_word_active(word) > 0) return false;
    /* A lease changes the word when it begins and when it ends, so all that is read here holds at the CAS. */
    if (tpv_word_load(&slot->owner) != TPV_OWNER_FILE) return false;
    int64_t idle_ns = table->now() - (int64_t)tpv_word_load(&slot->moved_ns);
    if (reason == TPV_EXPORT_EXPIRED && idle_ns < (int64_t)tpv_word_load(&slot->ttl_ns)) return false;
    if (!tpv_word_cas(&slot->head.word, &word, tpv_export_word_to(word, TPV_EXPORT_DRAINING))) return false;
    tpv_table_count(table, TPV_COUNT_EXPORTS_WITHDRAWN);
    tpv_table_count(table, reason == TPV_EXPORT_EXPIRED ? TPV_COUNT_EXPORTS_EXPIRED : TPV_COUNT_EXPORTS_EVICTED);
    return true;
}

/* End the leases of a closed export that are not attached: they never will be. */
static void end_granted(const tpv_table_t *table, tpv_export_t export) {
    uint32_t used = tpv_slots_used(&table->leases);
    for (uint32_t i = 0; i < used; i++) {
        tpv_lease_slot_t *lease = tpv_table_lease(table, i);
        uint64_t word = tpv_word_load(&lease->head.word);
        if (tpv_lease_word_state(word) == TPV_LEASE_OPENING) {
            tpv_lease_settle(table, i);
            word = tpv_word_load(&lease->head.word);
        }
        if (tpv_lease_word_state(word) != TPV_LEASE_GRANTED) continue;
        tpv_lease_record_t record;
        if (!tpv_lease_record_read(lease, tpv_word_load(&lease->head.generation), &record)) continue;
        if (record.export_slot != export.slot || record.export_generation != export.generation) continue;
        if (!tpv_word_cas(&lease->head.word, &word, tpv_lease_word_to(word, TPV_LEASE_ENDING))) continue;
        tpv_table_count(table, TPV_COUNT_LEASES_CLOSED);
        tpv_lease_settle(table, i);
    }
}

tpv_status_t tpv_export_close(const tpv_table_t *table, tpv_export_t export) {
    for (;;) {
        tpv_export_slot_t *slot;
        uint64_t word;
        if (!look_up(table, export, &slot, &word)) return stale(export);
        tpv_export_state_t state = tpv_export_word_state(word);
        if (state == TPV_EXPORT_CLOSED) break;
        if (state != TPV_EXPORT_DRAINING) return wrong_state("closed", word);
        if (!tpv_word_cas(&slot->head.word, &word, tpv_export_word_to(word, TPV_EXPORT_CLOSED))) continue;
        tpv_table_count(table, TPV_COUNT_EXPORTS_CLOSED);
        break;
    }
    end_granted(table, export);
    return TPV_OK;
}

tpv_status_t tpv_export_wait_idle(const tpv_table_t *table, tpv_export_t export, int64_t deadline_ns) {
    for (;;) {
        tpv_export_slot_t *slot;
        uint64_t word;
        if (!look_up(table, export, &slot, &word)) return stale(export);
        tpv_export_state_t state = tpv_export_word_state(word);
        if (state != TPV_EXPORT_DRAINING && state != TPV_EXPORT_CLOSED) return wrong_state("waited for", word);
        uint32_t active = tpv_export_word_active(word);
        if (active == 0) return TPV_OK;
        if (tpv_deadline_passed(deadline_ns))
            return tpv_error_set(TPV_ERR_DEADLINE, "the deadline passed while %u leases were left", active);
        tpv_status_t status =
            tpv_futex_wait(&slot->head.word, (uint32_t)word, earlier(deadline_ns, tpv_clock_ns() + TPV_LIVENESS_NS));
        if (status == TPV_ERR_DEADLINE)
            tpv_leases_sweep(table, NULL);
        else if (status != TPV_OK)
            return status;
    }
}

tpv_status_t tpv_export_free(const tpv_table_t *table, tpv_export_t export) {
    for (;;) {
        tpv_export_slot_t *slot;
        uint64_t word;
        if (!look_up(table, export, &slot, &word)) return stale(export);
        if (tpv_export_word_state(word) != TPV_EXPORT_CLOSED) return wrong_state("freed", word);
        uint32_t active = tpv_export_word_active(word);
        if (active > 0) return tpv_error_set(TPV_ERR_REFUSED, "an export with %u leases cannot be freed", active);
        /* The file first: if this process dies now, the next one finds the slot still here and no file. */
        if (tpv_word_load(&slot->owner) == TPV_OWNER_FILE && !table->erase(table, export.slot, export.generation))
            return tpv_error_set(TPV_ERR_SYSTEM, "the file of export %u cannot be removed", export.slot);
        tpv_export_settle_step(table, export.slot, word);
        if (!tpv_word_cas(&slot->head.word, &word, tpv_export_word_next(word, TPV_EXPORT_FREE, 0, 0))) continue;
        tpv_futex_wake(&slot->head.word);
        tpv_table_count(table, TPV_COUNT_EXPORTS_FREED);
        return TPV_OK;
    }
}

/* ---- looking ---- */

tpv_status_t tpv_export_read(const tpv_table_t *table, tpv_export_t export, tpv_export_info_t *info) {
    tpv_export_slot_t *slot;
    uint64_t word;
    if (!look_up(table, export, &slot, &word)) return stale(export);
    info->state = tpv_export_word_state(word);
    info->active = tpv_export_word_active(word);
    info->owner = tpv_word_load(&slot->owner);
    info->bytes = tpv_word_load(&slot->bytes);
    info->created_ns = (int64_t)tpv_word_load(&slot->created_ns);
    info->moved_ns = (int64_t)tpv_word_load(&slot->moved_ns);
    info->ttl_ns = (int64_t)tpv_word_load(&slot->ttl_ns);
    tpv_words_load(&info->record, slot->record, sizeof info->record);
    if (tpv_word_load(&slot->head.generation) != export.generation) return stale(export);
    return TPV_OK;
}
