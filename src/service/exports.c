#include "service/exports.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"

void tpv_exports_init(tpv_exports_t *exports, tpv_table_t *table) {
    *exports = (tpv_exports_t){.table = table};
    pthread_mutex_init(&exports->mutex, NULL);
}

/* Take one out of the table, in the order of its states. False while a lease is left. */
static bool retire(const tpv_exports_t *exports, tpv_export_t export) {
    tpv_status_t status = tpv_export_withdraw(exports->table, export);
    if (status == TPV_OK) status = tpv_export_close(exports->table, export);
    if (status == TPV_OK) status = tpv_export_free(exports->table, export);
    return status == TPV_OK || status == TPV_ERR_STALE;
}

/* Make room: retire every export that nobody reads. Withdrawn ones with a lease left stay listed for the next time. */
static void retire_idle(tpv_exports_t *exports) {
    pthread_mutex_lock(&exports->mutex);
    size_t kept = 0;
    for (size_t i = 0; i < exports->count; i++) {
        tpv_export_info_t info;
        tpv_status_t status = tpv_export_read(exports->table, exports->own[i], &info);
        bool busy = status == TPV_OK && info.active > 0 && info.state == TPV_EXPORT_READY;
        if (busy || (status == TPV_OK && !retire(exports, exports->own[i]))) exports->own[kept++] = exports->own[i];
    }
    exports->count = kept;
    pthread_mutex_unlock(&exports->mutex);
}

static tpv_status_t remember(tpv_exports_t *exports, tpv_export_t export) {
    tpv_status_t status = TPV_OK;
    pthread_mutex_lock(&exports->mutex);
    if (exports->count == exports->capacity) {
        size_t capacity = exports->capacity ? 2 * exports->capacity : 64;
        tpv_export_t *grown = realloc(exports->own, capacity * sizeof *grown);
        if (grown) {
            exports->own = grown;
            exports->capacity = capacity;
        } else {
            status = tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for one more export");
        }
    }
    if (status == TPV_OK) exports->own[exports->count++] = export;
    pthread_mutex_unlock(&exports->mutex);
    return status;
}

static tpv_status_t find_or_publish(tpv_exports_t *exports, const tpv_export_key_t *key, uint64_t bytes, int64_t ttl_ns,
                                    int64_t deadline, tpv_export_t *export, bool *reused) {
    tpv_export_role_t role;
    tpv_status_t status = tpv_export_acquire(exports->table, key, deadline, export, &role);
    if (status == TPV_ERR_NO_SPACE) {
        retire_idle(exports);
        status = tpv_export_acquire(exports->table, key, deadline, export, &role);
    }
    if (status != TPV_OK) return status;
    *reused = role == TPV_EXPORT_USE;
    if (*reused) return TPV_OK;
    status = remember(exports, *export);
    if (status != TPV_OK) {
        tpv_export_abandon(exports->table, *export);
        return status;
    }
    return tpv_export_publish(exports->table, *export, bytes, ttl_ns);
}

tpv_status_t tpv_exports_lease(tpv_exports_t *exports, const tpv_export_key_t *key, const tpv_lease_request_t *request,
                               int64_t export_ttl_ns, int64_t deadline, tpv_lease_t *lease, bool *reused) {
    for (;;) {
        tpv_export_t export;
        TPV_TRY(find_or_publish(exports, key, request->bytes_total, export_ttl_ns, deadline, &export, reused));
        tpv_status_t status = tpv_lease_begin(exports->table, export, request, lease);
        /* Retired between the two steps: it is another export's turn. */
        bool retired = status == TPV_ERR_STALE || status == TPV_ERR_REFUSED;
        if (!retired || tpv_deadline_passed(deadline)) return status;
    }
}

void tpv_exports_clear(tpv_exports_t *exports) {
    if (!exports->table) return;
    retire_idle(exports);
    if (exports->count > 0) TPV_WARN("%zu exports still have leases: left to the next sweep", exports->count);
    free(exports->own);
    pthread_mutex_destroy(&exports->mutex);
}
