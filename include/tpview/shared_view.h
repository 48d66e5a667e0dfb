/*
 * Views that the ranks of one host share. Those that ask for the same view (data-parallel replicas: same artifact_id
 * and view_id) make one fetch together: one of them fetches it into a file in shared memory, the others wait, and all
 * map the same pages read-only. When the fetching process dies, one of those that wait fetches instead. No service runs
 * on this host for that: the ranks agree through the life-cycle table (lease.h).
 *
 * A view stays for a time to live after its last use, whoever of its users has ended or was killed: a rank that is
 * started again finds it there. After that any process that works on the table frees it: a rank that opens or closes a
 * shared view, or tpviewd.
 */
#ifndef TPVIEW_SHARED_VIEW_H
#define TPVIEW_SHARED_VIEW_H

#include "tpview/fetch.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TPV_MAX_SHARED_TTL_S (365 * 24 * 3600)

/* A mapped view and the lease that keeps it. */
typedef struct tpv_shared tpv_shared_t;

typedef struct tpv_shared_options {
    tpv_fetch_options_t fetch; /* its deadline and progress are those of the whole call; no_digests is refused */
    const char *name;          /* what the lease table calls the artifact, at most 127 bytes; NULL: nothing */
    double ttl_s;              /* how long a view that this call fetches stays after its last use: 1 to
                                  TPV_MAX_SHARED_TTL_S; 0: TPVIEW_SHARED_TTL */
} tpv_shared_options_t;

typedef struct tpv_shared_result {
    bool fetched;             /* by this call; otherwise it was there or another process fetched it */
    bool waited;              /* for another process that was fetching it */
    double seconds;           /* of the whole call */
    char lease_id[33];        /* 32 hex digits */
    char artifact[128];       /* as the source calls it when this call fetched, else `name` of the one that did */
    tpv_fetch_result_t fetch; /* zero unless fetched */
} tpv_shared_result_t;

/*
 * Map `view` of `artifact`, which is fetched from `source` unless this host has it. The caller owns *shared.
 *
 * A failed fetch is also the answer to those that wait for it and to those that ask in the second after it, unless its
 * cause is this caller's own (deadline, cancellation, token, arguments, memory): then one of the others fetches.
 *
 * Errors as tpv_fetch, and: TPV_ERR_DEADLINE also while another process was fetching; TPV_ERR_NO_SPACE when shared
 * memory has no room, even without the views that nobody uses, or the table has no free slot; those of tpv_leases_read
 * for a table that is not this user's.
 */
TPV_API tpv_status_t tpv_shared_open(tpv_source_t *source, const tpv_artifact_t *artifact, const tpv_view_t *view,
                                     const tpv_shared_options_t *options, tpv_shared_t **shared,
                                     tpv_shared_result_t *result);

/* Unmap and give the lease back. NULL is allowed. */
TPV_API void tpv_shared_close(tpv_shared_t *shared);

/* The dense form, read-only, at a multiple of 64 bytes. Valid until tpv_shared_close. */
TPV_API const void *tpv_shared_data(const tpv_shared_t *shared);
/* The file that holds it, of the safetensors format. Others of this user may open it too while the lease is held; it
 * must not be changed. Owned by `shared`. */
TPV_API const char *tpv_shared_path(const tpv_shared_t *shared);

/* Write it to a new safetensors file; `path` appears only when it is whole, as with tpv_fetch_file. TPV_ERR_NO_SPACE,
 * TPV_ERR_REFUSED while another process writes it, TPV_ERR_SYSTEM. */
TPV_API tpv_status_t tpv_shared_save(const tpv_shared_t *shared, const char *path);

#ifdef __cplusplus
}
#endif
#endif
