/* The exports that this service has in the life-cycle table, and the leases that fetches hold on them. */
#ifndef SERVICE_EXPORTS_H
#define SERVICE_EXPORTS_H

#include <pthread.h>

#include "lifecycle/lease.h"
#include "lifecycle/table.h"

typedef struct tpv_exports {
    tpv_table_t *table;
    pthread_mutex_t mutex;
    tpv_export_t *own; /* under mutex: those that this process published and has not freed */
    size_t count, capacity;
} tpv_exports_t;

/* `table` outlives it. */
void tpv_exports_init(tpv_exports_t *exports, tpv_table_t *table);
/* Retire all; every lease must have ended. */
void tpv_exports_clear(tpv_exports_t *exports);

/*
 * Hold a lease on the export of `key`, which is made when it is not there; *reused says that it was. When the table is
 * full, exports without a lease make room. Waits until `deadline` (base/clock.h) at most. TPV_ERR_NO_SPACE,
 * TPV_ERR_ARGUMENT for a lease id that is in use, TPV_ERR_DEADLINE. Any thread.
 */
tpv_status_t tpv_exports_lease(tpv_exports_t *exports, const tpv_export_key_t *key, const tpv_lease_request_t *request,
                               int64_t export_ttl_ns, int64_t deadline, tpv_lease_t *lease, bool *reused);

#endif
