#include "lifecycle/lease.h"

#include <ctype.h>
#include <stddef.h>
#include <string.h>
#include <xxhash.h>

#include "base/clock.h"
#include "base/error.h"
#include "lifecycle/count.h"
#include "lifecycle/sweep.h"
#include "lifecycle/words.h"

static tpv_status_t stale(tpv_lease_t lease) {
    return tpv_error_set(TPV_ERR_STALE, "lease %u of generation %llu is over: ended, expired or reaped", lease.slot,
                         (unsigned long long)lease.generation);
}

/* As in export.c: a CAS from *word succeeds only while the slot has the handle's generation. */
static bool look_up(const tpv_table_t *table, tpv_lease_t lease, tpv_lease_slot_t **slot, uint64_t *word) {
    if (lease.slot >= table->leases.count) return false;
    *slot = tpv_table_lease(table, lease.slot);
    *word = tpv_word_load(&(*slot)->head.word);
    return tpv_word_load(&(*slot)->head.generation) == lease.generation &&
           tpv_lease_word_state(*word) != TPV_LEASE_FREE;
}

static bool parse_id(const char *text, uint64_t id[2]) {
    id[0] = id[1] = 0;
    for (int i = 0; i < 32; i++) {
        unsigned char c = (unsigned char)text[i];
        if (!isxdigit(c)) return false;
        unsigned digit = (unsigned)(isdigit(c) ? c - '0' : tolower(c) - 'a' + 10);
        id[i / 16] = id[i / 16] << 4 | digit;
    }
    return text[32] == '\0';
}

/* When a sign of life at `now_ns` lets a lease end, in the unit of the lease word; rounded up. */
static int64_t deadline_ms(int64_t now_ns, uint64_t ttl_ms) {
    int64_t now_ms = now_ns / TPV_NS_PER_MS + 1;
    if (ttl_ms >= (uint64_t)TPV_LEASE_DEADLINE_MAX || now_ms >= TPV_LEASE_DEADLINE_MAX - (int64_t)ttl_ms)
        return TPV_LEASE_DEADLINE_MAX;
    return now_ms + (int64_t)ttl_ms;
}

/* ---- begin ---- */

static bool matches(const tpv_slot_head_t *head, uint64_t word, const void *key) {
    tpv_lease_state_t state = tpv_lease_word_state(word);
    if (state == TPV_LEASE_FREE || state == TPV_LEASE_ENDING) return false;
    const tpv_lease_slot_t *slot = (const tpv_lease_slot_t *)(const void *)head;
    const tpv_lease_record_t *record = key;
    return tpv_word_load(&slot->record[0]) == record->id[0] && tpv_word_load(&slot->record[1]) == record->id[1];
}

static void fill(tpv_slot_head_t *head, const void *key) {
    tpv_lease_slot_t *slot = (tpv_lease_slot_t *)(void *)head;
    tpv_words_store(slot->record, key, sizeof(tpv_lease_record_t));
    tpv_word_store(&slot->bytes_done, tpv_word_load(&head->generation) << 48);
}

static tpv_status_t make_record(const tpv_table_t *table, tpv_export_t export, const tpv_lease_request_t *request,
                                tpv_lease_record_t *record) {
    memset(record, 0, sizeof *record);
    if (!parse_id(request->lease_id, record->id))
        return tpv_error_set(TPV_ERR_ARGUMENT, "lease id \"%.40s\": expected 32 hex digits", request->lease_id);
    if (request->ttl_ns <= 0)
        return tpv_error_set(TPV_ERR_ARGUMENT, "a lease of %lld ns: expected more than 0", (long long)request->ttl_ns);
    if (request->bytes_total > TPV_MAX_LEASE_BYTES)
        return tpv_error_set(TPV_ERR_ARGUMENT, "a lease of %llu bytes: expected at most %llu",
                             (unsigned long long)request->bytes_total, (unsigned long long)TPV_MAX_LEASE_BYTES);
    const char *host = request->remote_host ? request->remote_host : "";
    if (strlen(host) >= sizeof record->remote_host)
        return tpv_error_set(TPV_ERR_ARGUMENT, "host name \"%.80s\": expected at most %zu bytes", host,
                             sizeof record->remote_host - 1);
    record->owner = request->owner ? request->owner : table->self();
    record->export_slot = export.slot;
    record->export_generation = export.generation;
    record->begin_ns = (uint64_t)table->now();
    record->ttl_ms = (uint64_t)(request->ttl_ns / TPV_NS_PER_MS + (request->ttl_ns % TPV_NS_PER_MS != 0));
    record->granted_deadline_ms = (uint64_t)deadline_ms((int64_t)record->begin_ns, record->ttl_ms);
    record->bytes_total = request->bytes_total;
    record->remote_pid = request->remote_pid;
    record->tp_rank = request->tp_rank;
    record->tp_size = request->tp_size;
    memcpy(record->remote_host, host, strlen(host));
    return TPV_OK;
}

/* An export that is READY now may leave that state at any time; one that is not never comes back to it. */
static tpv_status_t check_ready(const tpv_table_t *table, tpv_export_t export) {
    tpv_export_info_t info;
    TPV_TRY(tpv_export_read(table, export, &info));
    if (info.state == TPV_EXPORT_READY) return TPV_OK;
    return tpv_error_set(TPV_ERR_REFUSED, "no lease can begin on an export that is %s",
                         tpv_export_state_name(info.state));
}

/* The lease of this id that is there already. TPV_ERR_NOT_FOUND: it has just gone, look again; no message. */
static tpv_status_t join(const tpv_table_t *table, tpv_lease_t lease, const tpv_lease_record_t *wanted) {
    tpv_lease_slot_t *slot;
    uint64_t word;
    tpv_lease_settle(table, lease.slot);
    if (!look_up(table, lease, &slot, &word)) return TPV_ERR_NOT_FOUND;
    tpv_lease_record_t record;
    if (!tpv_lease_record_read(slot, lease.generation, &record)) return TPV_ERR_NOT_FOUND;
    switch (tpv_lease_word_state(word)) {
    case TPV_LEASE_GRANTED:
    case TPV_LEASE_ATTACHED:
        if (record.export_slot == wanted->export_slot && record.export_generation == wanted->export_generation)
            return TPV_OK;
        return tpv_error_set(TPV_ERR_ARGUMENT, "this lease id is in use on another export");
    case TPV_LEASE_REVOKED:
        return stale(lease);
    default:
        return TPV_ERR_NOT_FOUND;
    }
}

/* The lease that this process created: take it on and stop being its actor. */
static tpv_status_t open_created(const tpv_table_t *table, tpv_lease_t lease) {
    tpv_lease_slot_t *slot = tpv_table_lease(table, lease.slot);
    tpv_lease_settle(table, lease.slot);
    /* While this process is its actor nobody else can use the slot: FREE means that the export refused. */
    bool refused = tpv_lease_word_state(tpv_word_load(&slot->head.word)) == TPV_LEASE_FREE;
    tpv_slot_release(&slot->head);
    return refused ? TPV_ERR_REFUSED : TPV_OK;
}

tpv_status_t tpv_lease_begin(const tpv_table_t *table, tpv_export_t export, const tpv_lease_request_t *request,
                             tpv_lease_t *lease) {
    tpv_lease_record_t record;
    TPV_TRY(make_record(table, export, request, &record));
    tpv_slot_key_t key = {.matches = matches, .fill = fill, .key = &record};
    key.hash = XXH3_64bits(record.id, sizeof record.id);
    bool swept = false;
    for (;;) {
        /* A lease that is OPENING has seen its export READY: only so is giving up final (count.c). */
        TPV_TRY(check_ready(table, export));
        bool created;
        tpv_status_t status = tpv_slots_claim(table, &table->leases, &key, &lease->slot, &lease->generation, &created);
        if (status == TPV_ERR_NO_SPACE && !swept) {
            swept = true;
            tpv_leases_sweep(table, NULL);
            continue;
        }
        if (status == TPV_ERR_NO_SPACE)
            return tpv_error_set(status, "all %u lease slots of the table are in use", table->leases.count);
        if (status != TPV_OK) return status;
        if (created) {
            status = open_created(table, *lease);
            tpv_table_count(table, status == TPV_OK ? TPV_COUNT_LEASES_BEGUN : TPV_COUNT_LEASES_REFUSED);
            if (status == TPV_OK) return TPV_OK;
            TPV_TRY(check_ready(table, export));
            return stale(*lease);
        }
        status = join(table, *lease, &record);
        if (status != TPV_ERR_NOT_FOUND) return status;
    }
}

/* ---- renewing ---- */

static tpv_status_t renew(const tpv_table_t *table, tpv_lease_t lease, bool attach) {
    for (;;) {
        tpv_lease_slot_t *slot;
        uint64_t word;
        if (!look_up(table, lease, &slot, &word)) return stale(lease);
        tpv_lease_record_t record;
        if (!tpv_lease_record_read(slot, lease.generation, &record)) return stale(lease);
        tpv_lease_state_t state = tpv_lease_word_state(word);
        bool first = attach && state == TPV_LEASE_GRANTED;
        if (!first && state == TPV_LEASE_GRANTED)
            return tpv_error_set(TPV_ERR_REFUSED, "a lease makes progress only after it was attached");
        if (!first && state != TPV_LEASE_ATTACHED) return stale(lease);
        tpv_export_slot_t *export = tpv_table_export(table, (uint32_t)record.export_slot);
        if (first && tpv_export_word_state(tpv_word_load(&export->head.word)) == TPV_EXPORT_CLOSED)
            return tpv_error_set(TPV_ERR_STALE, "the export was closed before this lease was attached");
        int64_t now = table->now();
        int64_t deadline = deadline_ms(now, record.ttl_ms);
        uint64_t next =
            first ? tpv_lease_word_next(word, TPV_LEASE_ATTACHED, deadline) : tpv_lease_word_renew(word, deadline);
        if (next != word && !tpv_word_cas(&slot->head.word, &word, next)) continue;
        /* The export is counted on us; should the lease be reaped right now, a later export in the slot lives a little
         * longer, which does no harm. */
        tpv_word_store(&export->moved_ns, (uint64_t)now);
        if (first) tpv_table_count(table, TPV_COUNT_LEASES_ATTACHED);
        return TPV_OK;
    }
}

tpv_status_t tpv_lease_attach(const tpv_table_t *table, tpv_lease_t lease) {
    return renew(table, lease, true);
}

tpv_status_t tpv_lease_progress(const tpv_table_t *table, tpv_lease_t lease, uint64_t bytes_done) {
    if (bytes_done > TPV_MAX_LEASE_BYTES)
        return tpv_error_set(TPV_ERR_ARGUMENT, "progress of %llu bytes: expected at most %llu",
                             (unsigned long long)bytes_done, (unsigned long long)TPV_MAX_LEASE_BYTES);
    TPV_TRY(renew(table, lease, false));
    tpv_word_t *done = &tpv_table_lease(table, lease.slot)->bytes_done;
    uint64_t seen = tpv_word_load(done);
    while (seen >> 48 == (lease.generation & 0xffff) && (seen & TPV_MAX_LEASE_BYTES) < bytes_done) {
        if (tpv_word_cas(done, &seen, (lease.generation << 48) | bytes_done)) break;
    }
    return TPV_OK;
}

tpv_status_t tpv_lease_check(const tpv_table_t *table, tpv_lease_t lease) {
    tpv_lease_slot_t *slot;
    uint64_t word;
    if (!look_up(table, lease, &slot, &word)) return stale(lease);
    tpv_lease_state_t state = tpv_lease_word_state(word);
    return state == TPV_LEASE_GRANTED || state == TPV_LEASE_ATTACHED ? TPV_OK : stale(lease);
}

/* ---- ending ---- */

bool tpv_lease_end(const tpv_table_t *table, tpv_lease_t lease) {
    for (;;) {
        tpv_lease_slot_t *slot;
        uint64_t word;
        if (!look_up(table, lease, &slot, &word)) return false;
        tpv_lease_state_t state = tpv_lease_word_state(word);
        if (state == TPV_LEASE_OPENING || state == TPV_LEASE_ENDING) {
            tpv_lease_settle(table, lease.slot);
            continue;
        }
        tpv_lease_record_t record;
        bool moved = state == TPV_LEASE_ATTACHED && tpv_lease_record_read(slot, lease.generation, &record);
        /* While the export still counts the lease: who sees it without leases sees this too. See renew() for a slot
         * that has another export by now. */
        if (moved)
            tpv_word_store(&tpv_table_export(table, (uint32_t)record.export_slot)->moved_ns, (uint64_t)table->now());
        if (!tpv_word_cas(&slot->head.word, &word, tpv_lease_word_to(word, TPV_LEASE_ENDING))) continue;
        tpv_lease_settle(table, lease.slot);
        tpv_table_count(table, TPV_COUNT_LEASES_ENDED);
        return true;
    }
}

tpv_status_t tpv_lease_find(const tpv_table_t *table, const char *lease_id, tpv_lease_t *lease) {
    tpv_lease_record_t record;
    if (!parse_id(lease_id, record.id))
        return tpv_error_set(TPV_ERR_ARGUMENT, "lease id \"%.40s\": expected 32 hex digits", lease_id);
    uint32_t used = tpv_slots_used(&table->leases);
    for (uint32_t i = 0; i < used; i++) {
        tpv_lease_slot_t *slot = tpv_table_lease(table, i);
        uint64_t word = tpv_word_load(&slot->head.word);
        if (!tpv_lease_is_held(tpv_lease_word_state(word))) continue;
        uint64_t generation = tpv_word_load(&slot->head.generation);
        if (!matches(&slot->head, word, &record) || tpv_word_load(&slot->head.generation) != generation) continue;
        *lease = (tpv_lease_t){.slot = i, .generation = generation};
        return TPV_OK;
    }
    return tpv_error_set(TPV_ERR_NOT_FOUND, "no lease has the id %s", lease_id);
}
