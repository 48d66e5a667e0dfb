/* The public read side: copies of the live leases, from a read-only mapping. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/process.h"
#include "base/text.h"
#include "lifecycle/count.h"
#include "lifecycle/lease.h"
#include "lifecycle/words.h"

/* A field of the table, which anybody may have written to: perhaps without a zero, perhaps with control bytes. */
static void read_text(const char *field, size_t bytes, size_t room, char *text) {
    size_t most = bytes < room ? bytes : room - 1;
    snprintf(text, room, "%.*s", (int)most, field);
    tpv_text_clean(text);
}

/* Copy the lease in `slot`; false when there is none. A lease only ever goes forward to its end, so trying again while
 * it changes state ends soon. */
static bool read_lease(const tpv_table_t *table, uint32_t slot, tpv_lease_info_t *info) {
    const tpv_lease_slot_t *lease = tpv_table_lease(table, slot);
    tpv_lease_record_t record;
    tpv_export_info_t export;
    uint64_t word, done;
    for (;;) {
        word = tpv_word_load(&lease->head.word);
        tpv_lease_state_t state = tpv_lease_word_state(word);
        if (!tpv_lease_is_held(state)) return false;
        uint64_t generation = tpv_word_load(&lease->head.generation);
        done = tpv_word_load(&lease->bytes_done);
        bool whole = tpv_lease_record_read(lease, generation, &record);
        tpv_export_t handle = {.slot = (uint32_t)record.export_slot, .generation = record.export_generation};
        whole = whole && tpv_export_read(table, handle, &export) == TPV_OK;
        uint64_t again = tpv_word_load(&lease->head.word);
        /* A renewal changes nothing but the deadline. */
        bool same = tpv_lease_word_renew(word, 0) == tpv_lease_word_renew(again, 0);
        if (same && !whole) return false; /* somebody wrote over the table */
        if (same) break;
    }
    memset(info, 0, sizeof *info);
    snprintf(info->lease_id, sizeof info->lease_id, "%016llx%016llx", (unsigned long long)record.id[0],
             (unsigned long long)record.id[1]);
    read_text(export.record.label, sizeof export.record.label, sizeof info->artifact, info->artifact);
    read_text(export.record.artifact_id, sizeof export.record.artifact_id, sizeof info->artifact_id, info->artifact_id);
    read_text(export.record.view_id, sizeof export.record.view_id, sizeof info->view_id, info->view_id);
    read_text(export.record.device, sizeof export.record.device, sizeof info->device, info->device);
    read_text(record.remote_host, sizeof record.remote_host, sizeof info->host, info->host);
    info->state = export.state;
    info->lease_state = tpv_lease_word_state(word);
    info->generation = record.export_generation;
    info->pid = tpv_process_pid(record.owner);
    info->alive = table->alive(record.owner);
    info->rank_pid = record.remote_pid;
    info->tp_rank = record.tp_rank;
    info->tp_size = record.tp_size;
    int64_t now = table->now();
    info->age_s = (double)(now - (int64_t)record.begin_ns) / 1e9;
    info->expires_in_s = (double)tpv_lease_word_deadline_ms(word) / 1e3 - (double)now / 1e9;
    info->bytes_done = done & TPV_MAX_LEASE_BYTES;
    info->bytes_total = record.bytes_total;
    return true;
}

tpv_status_t tpv_leases_read(const char *name, tpv_lease_info_t **leases, size_t *count) {
    *leases = NULL;
    *count = 0;
    tpv_table_t *table;
    tpv_status_t status = tpv_table_open(name, TPV_OPEN_READ, &table);
    if (status == TPV_ERR_NOT_FOUND || status == TPV_ERR_STALE) return TPV_OK;
    if (status != TPV_OK) return status;
    size_t room = 0;
    uint32_t used = tpv_slots_used(&table->leases);
    for (uint32_t i = 0; i < used; i++) {
        if (*count == room) {
            room = room ? 2 * room : 16;
            tpv_lease_info_t *more = realloc(*leases, room * sizeof *more);
            if (!more) {
                free(*leases);
                *leases = NULL;
                *count = 0;
                status = tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a list of leases");
                break;
            }
            *leases = more;
        }
        if (read_lease(table, i, &(*leases)[*count])) ++*count;
    }
    if (*count == 0) {
        free(*leases);
        *leases = NULL;
    }
    tpv_table_close(table);
    return status;
}
