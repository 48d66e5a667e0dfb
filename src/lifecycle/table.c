#include "lifecycle/table.h"

#include <xxhash.h>

#include "base/clock.h"
#include "base/process.h"
#include "lifecycle/file.h"
#include "lifecycle/words.h"

#define OFFSET(type, field) offsetof(type, field), sizeof(((type *)0)->field)

/* Whatever must be the same in two builds that share a table. */
static uint64_t signature(uint32_t export_slots, uint32_t lease_slots) {
    const uint64_t parts[] = {
        3, /* raised when the meaning of a field or a state changes and its place does not */
        export_slots,
        lease_slots,
        sizeof(tpv_table_header_t),
        OFFSET(tpv_table_header_t, exports_used),
        OFFSET(tpv_table_header_t, leases_used),
        OFFSET(tpv_table_header_t, counters),
        OFFSET(tpv_slot_head_t, word),
        OFFSET(tpv_slot_head_t, actor),
        OFFSET(tpv_slot_head_t, generation),
        OFFSET(tpv_slot_head_t, key_hash),
        sizeof(tpv_export_slot_t),
        OFFSET(tpv_export_slot_t, owner),
        OFFSET(tpv_export_slot_t, bytes),
        OFFSET(tpv_export_slot_t, ttl_ns),
        OFFSET(tpv_export_slot_t, cause),
        OFFSET(tpv_export_slot_t, created_ns),
        OFFSET(tpv_export_slot_t, retry_ns),
        OFFSET(tpv_export_slot_t, moved_ns),
        OFFSET(tpv_export_slot_t, record),
        OFFSET(tpv_export_record_t, artifact_id),
        OFFSET(tpv_export_record_t, view_id),
        OFFSET(tpv_export_record_t, device),
        OFFSET(tpv_export_record_t, label),
        sizeof(tpv_lease_slot_t),
        OFFSET(tpv_lease_slot_t, bytes_done),
        OFFSET(tpv_lease_slot_t, record),
        OFFSET(tpv_lease_record_t, id),
        OFFSET(tpv_lease_record_t, owner),
        OFFSET(tpv_lease_record_t, export_slot),
        OFFSET(tpv_lease_record_t, export_generation),
        OFFSET(tpv_lease_record_t, ttl_ms),
        OFFSET(tpv_lease_record_t, granted_deadline_ms),
        OFFSET(tpv_lease_record_t, begin_ns),
        OFFSET(tpv_lease_record_t, bytes_total),
        OFFSET(tpv_lease_record_t, remote_pid),
        OFFSET(tpv_lease_record_t, tp_rank),
        OFFSET(tpv_lease_record_t, tp_size),
        OFFSET(tpv_lease_record_t, remote_host),
        TPV_EXPORT_STATE_COUNT,
        TPV_EXPORT_ACTIVE_SHIFT,
        TPV_EXPORT_STEP_SHIFT,
        TPV_LEASE_STATE_COUNT,
        TPV_LEASE_DEADLINE_SHIFT,
    };
    return XXH3_64bits(parts, sizeof parts);
}

static size_t up_to_line(size_t bytes) {
    return (bytes + TPV_CACHE_LINE - 1) / TPV_CACHE_LINE * TPV_CACHE_LINE;
}

static size_t arbiter_bytes(uint32_t slots) {
    return up_to_line(slots * sizeof(tpv_word_t));
}

size_t tpv_table_bytes(uint32_t export_slots, uint32_t lease_slots) {
    return sizeof(tpv_table_header_t) + arbiter_bytes(export_slots) + arbiter_bytes(lease_slots) +
           export_slots * sizeof(tpv_export_slot_t) + lease_slots * sizeof(tpv_lease_slot_t);
}

void tpv_table_format(void *memory, uint32_t export_slots, uint32_t lease_slots) {
    tpv_table_header_t *header = memory;
    header->magic = TPV_TABLE_MAGIC;
    header->signature = signature(export_slots, lease_slots);
    header->header_bytes = sizeof *header;
    header->export_slots = export_slots;
    header->export_bytes = sizeof(tpv_export_slot_t);
    header->lease_slots = lease_slots;
    header->lease_bytes = sizeof(tpv_lease_slot_t);
}

void tpv_table_attach(tpv_table_t *table, void *memory) {
    tpv_table_header_t *header = memory;
    unsigned char *exports = (unsigned char *)memory + sizeof *header + arbiter_bytes(header->export_slots) +
                             arbiter_bytes(header->lease_slots);
    table->header = header;
    table->bytes = tpv_table_bytes(header->export_slots, header->lease_slots);
    table->exports = (tpv_slots_t){
        .base = exports,
        .stride = sizeof(tpv_export_slot_t),
        .count = header->export_slots,
        .version_mask = TPV_EXPORT_VERSION_MASK,
        .arbiters = (tpv_word_t *)(void *)((unsigned char *)memory + sizeof *header),
        .used = &header->exports_used,
    };
    table->leases = (tpv_slots_t){
        .base = exports + header->export_slots * sizeof(tpv_export_slot_t),
        .stride = sizeof(tpv_lease_slot_t),
        .count = header->lease_slots,
        .version_mask = TPV_LEASE_VERSION_MASK,
        .arbiters =
            (tpv_word_t *)(void *)((unsigned char *)memory + sizeof *header + arbiter_bytes(header->export_slots)),
        .used = &header->leases_used,
    };
    table->now = tpv_clock_ns;
    table->self = tpv_process_self;
    table->alive = tpv_process_alive;
    table->erase = tpv_export_file_erase;
    table->claim = -1;
}
