#include "tpview/shared_view.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/id.h"
#include "base/log.h"
#include "base/params.h"
#include "client/partial.h"
#include "client/transfer.h"
#include "lifecycle/file.h"
#include "lifecycle/lease.h"
#include "lifecycle/sweep.h"

/* Where the table says that the bytes are: apart from what a service holds of the same view on this host. */
#define DEVICE "shm"
/* How long a failed fetch answers for those who ask. */
#define RETRY_NS TPV_NS_PER_SECOND
/* Shared memory is reserved in pieces of this size, and the deadline looked at in between. */
#define PIECE_BYTES ((uint64_t)256 << 20)

struct tpv_shared {
    tpv_table_t *table;
    tpv_lease_t lease;
    const uint8_t *map; /* header and dense form */
    size_t bytes, header_bytes;
    char path[TPV_EXPORT_PATH_MAX];
};

/* One call of tpv_shared_open. */
typedef struct {
    tpv_source_t *source;
    const tpv_artifact_t *artifact;
    const tpv_view_t *view;
    const tpv_shared_options_t *options;
    int64_t deadline;
    int64_t ttl_ns;
    void *header; /* of the file */
    tpv_shared_t *shared;
    tpv_shared_result_t *result;
} call_t;

static tpv_status_t check_options(const tpv_shared_options_t *options, const tpv_artifact_t *artifact,
                                  int64_t *ttl_ns) {
    double ttl_s = options->ttl_s == 0 ? (double)tpv_param_int(TPV_PARAM_SHARED_TTL) : options->ttl_s;
    if (!(ttl_s >= 1 && ttl_s <= TPV_MAX_SHARED_TTL_S))
        return tpv_error_set(TPV_ERR_ARGUMENT, "a time to live of %g s: expected 1 to %d", ttl_s, TPV_MAX_SHARED_TTL_S);
    *ttl_ns = (int64_t)(ttl_s * (double)TPV_NS_PER_SECOND);
    if (options->fetch.no_digests)
        return tpv_error_set(TPV_ERR_ARGUMENT, "digests of a shared view are always compared: others rely on it");
    if (!*tpv_artifact_id(artifact))
        return tpv_error_set(TPV_ERR_ARGUMENT, "the artifact has no artifact_id yet: call tpv_artifact_digest");
    return TPV_OK;
}

/* What the file of this view begins with, the same for all who ask for it. */
static tpv_status_t make_header(call_t *call) {
    char metadata[256];
    snprintf(metadata, sizeof metadata, "format%cpt%cartifact_id%c%s%cview_id%c%s%c", 0, 0, 0,
             tpv_artifact_id(call->artifact), 0, 0, tpv_view_id(call->view), 0);
    TPV_TRY(tpv_view_safetensors_header(call->view, metadata, &call->header, &call->shared->header_bytes));
    uint64_t bytes;
    if (!tpv_add_fits(call->shared->header_bytes, tpv_view_stats(call->view).bytes, &bytes))
        return tpv_error_set(TPV_ERR_PLAN, "the view is too long for a file");
    call->shared->bytes = bytes;
    return TPV_OK;
}

/* Whether the caller wants this to go on; told of no bytes, as none of this call's have moved. */
static tpv_status_t go_on(const call_t *call, const char *what) {
    const tpv_fetch_options_t *fetch = &call->options->fetch;
    if (tpv_deadline_passed(call->deadline))
        return tpv_error_set(TPV_ERR_DEADLINE, "the deadline passed while %s", what);
    if (fetch->progress && !fetch->progress(fetch->progress_user, 0, tpv_view_stats(call->view).bytes))
        return tpv_error_set(TPV_ERR_CANCELLED, "the fetch was cancelled");
    return TPV_OK;
}

/* ---- asking the table ---- */

/* Wait in short sleeps: the caller may cancel. */
static tpv_status_t wait_for_other(call_t *call, tpv_export_t export, tpv_export_role_t *role) {
    call->result->waited = true;
    for (;;) {
        int64_t until = tpv_clock_ns() + TPV_LIVENESS_NS;
        if (call->deadline < until) until = call->deadline;
        tpv_status_t status = tpv_export_wait(call->shared->table, export, until, role);
        if (status != TPV_ERR_DEADLINE) return status;
        TPV_TRY(go_on(call, "another process of this host fetched the view"));
    }
}

static tpv_status_t acquire(call_t *call, tpv_export_t *export, tpv_export_role_t *role) {
    tpv_export_key_t key = {.artifact_id = tpv_artifact_id(call->artifact),
                            .view_id = tpv_view_id(call->view),
                            .device = DEVICE,
                            .label = call->options->name ? call->options->name : ""};
    for (;;) {
        TPV_TRY(tpv_export_find(call->shared->table, &key, export, role));
        if (*role != TPV_EXPORT_WAIT) return TPV_OK;
        tpv_status_t status = wait_for_other(call, *export, role);
        if (status != TPV_ERR_STALE) return status;
    }
}

/* ---- using what is there ---- */

/* Map the file and compare its header, which names the artifact and the view. */
static tpv_status_t map_file(call_t *call, tpv_export_t export) {
    tpv_shared_t *shared = call->shared;
    int fd;
    TPV_TRY(tpv_export_file_open(shared->table, export, shared->bytes, &fd));
    void *map = mmap(NULL, shared->bytes, PROT_READ, MAP_SHARED, fd, 0);
    int error = errno;
    close(fd);
    tpv_export_file_path(shared->table, export, shared->path);
    if (map == MAP_FAILED) return tpv_error_set_errno(TPV_ERR_NO_MEMORY, error, "mapping %s", shared->path);
    if (memcmp(map, call->header, shared->header_bytes) != 0) {
        munmap(map, shared->bytes);
        return tpv_error_set(TPV_ERR_FORMAT, "%s is not the file of this view", shared->path);
    }
    shared->map = map;
    return TPV_OK;
}

/* Hold a lease on a ready export and map its file. TPV_ERR_STALE: it is gone, ask again. */
static tpv_status_t use(call_t *call, tpv_export_t export) {
    tpv_shared_t *shared = call->shared;
    uint8_t id[TPV_ID_BYTES];
    TPV_TRY(tpv_id_random(id));
    tpv_hex_encode(id, sizeof id, call->result->lease_id);
    /* The lease has no end but this process's: it reads the mapping without telling anybody. */
    tpv_lease_request_t request = {.lease_id = call->result->lease_id,
                                   .ttl_ns = TPV_DEADLINE_NEVER,
                                   .bytes_total = tpv_view_stats(call->view).bytes,
                                   .remote_pid = (int32_t)getpid(),
                                   .tp_rank = call->options->fetch.tp_rank,
                                   .tp_size = call->options->fetch.tp_size ? call->options->fetch.tp_size : 1};
    tpv_status_t status = tpv_lease_begin(shared->table, export, &request, &shared->lease);
    if (status != TPV_OK) return status == TPV_ERR_REFUSED ? TPV_ERR_STALE : status;
    status = tpv_lease_attach(shared->table, shared->lease);
    if (status == TPV_OK) status = tpv_lease_progress(shared->table, shared->lease, request.bytes_total);
    tpv_export_info_t info;
    if (status == TPV_OK) status = tpv_export_read(shared->table, export, &info);
    if (status == TPV_OK && !call->result->fetched)
        snprintf(call->result->artifact, sizeof call->result->artifact, "%s", info.record.label);
    if (status == TPV_OK) {
        status = map_file(call, export);
        if (status == TPV_ERR_NOT_FOUND || status == TPV_ERR_PERMISSION || status == TPV_ERR_FORMAT) {
            /* Somebody else's hand was in it: nobody shall use it any more. */
            TPV_WARN("%s: fetched anew", tpv_error_message());
            tpv_export_withdraw(shared->table, export);
            status = TPV_ERR_STALE;
        }
    }
    if (status != TPV_OK) tpv_lease_end(shared->table, shared->lease);
    return status;
}

/* ---- fetching ---- */

/* All of the file's memory now: later there would be no error but SIGBUS. */
static tpv_status_t reserve(const call_t *call, int fd) {
    uint64_t bytes = call->shared->bytes;
    for (uint64_t done = 0; done < bytes;) {
        TPV_TRY(go_on(call, "shared memory was reserved"));
        uint64_t piece = bytes - done < PIECE_BYTES ? bytes - done : PIECE_BYTES;
        int error = fallocate(fd, 0, (off_t)done, (off_t)piece) == 0 ? 0 : errno;
        if (error == 0) done += piece;
        if (error == 0 || error == EINTR) continue;
        if (error == ENOSPC && tpv_export_files_make_room(call->shared->table, bytes - done)) continue;
        return tpv_error_set_errno(error == ENOSPC ? TPV_ERR_NO_SPACE : TPV_ERR_SYSTEM, error,
                                   "%llu bytes for a shared view in " TPV_SHARED_FOLDER, (unsigned long long)bytes);
    }
    return TPV_OK;
}

static tpv_status_t fetch_into(call_t *call, int fd) {
    tpv_shared_t *shared = call->shared;
    uint8_t *map = mmap(NULL, shared->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) return tpv_error_set_errno(TPV_ERR_NO_MEMORY, errno, "mapping a shared view");
    memcpy(map, call->header, shared->header_bytes);
    tpv_sink_t sink = tpv_sink_memory(map + shared->header_bytes);
    tpv_status_t status = tpv_fetch_into(call->source, call->artifact, call->view, &call->options->fetch,
                                         call->deadline, &sink, &call->result->fetch);
    munmap(map, shared->bytes);
    return status;
}

/* Whether others would fail likewise. */
static bool is_everybodys(tpv_status_t cause) {
    return cause != TPV_ERR_DEADLINE && cause != TPV_ERR_CANCELLED && cause != TPV_ERR_PERMISSION &&
           cause != TPV_ERR_ARGUMENT && cause != TPV_ERR_NO_MEMORY;
}

/* This process is the one that fetches. */
static tpv_status_t prepare(call_t *call, tpv_export_t export) {
    tpv_table_t *table = call->shared->table;
    uint32_t findings = 0;
    int fd = -1;
    /* Room that is taken for nothing, such as by a table that was removed. */
    tpv_status_t status = tpv_export_files_check(table, true, NULL, NULL, &findings);
    if (status == TPV_OK) status = tpv_export_file_create(&fd);
    if (status == TPV_OK) status = reserve(call, fd);
    if (status == TPV_OK) status = fetch_into(call, fd);
    if (status == TPV_OK) status = tpv_export_file_publish(table, export, fd, call->shared->bytes, call->ttl_ns);
    if (fd >= 0) close(fd);
    if (status == TPV_OK) {
        call->result->fetched = true;
        memcpy(call->result->artifact, call->result->fetch.artifact, sizeof call->result->artifact);
        return TPV_OK;
    }
    /* Neither sets a message when it succeeds. */
    if (is_everybodys(status))
        tpv_export_fail(table, export, status, RETRY_NS);
    else
        tpv_export_abandon(table, export);
    return status;
}

static tpv_status_t get(call_t *call) {
    for (;;) {
        tpv_export_t export;
        tpv_export_role_t role;
        TPV_TRY(go_on(call, "the view was looked for"));
        tpv_table_sweep(call->shared->table, NULL);
        TPV_TRY(acquire(call, &export, &role));
        if (role == TPV_EXPORT_PREPARE) TPV_TRY(prepare(call, export));
        tpv_status_t status = use(call, export);
        if (status != TPV_ERR_STALE) return status;
    }
}

/* ---- the public calls ---- */

tpv_status_t tpv_shared_open(tpv_source_t *source, const tpv_artifact_t *artifact, const tpv_view_t *view,
                             const tpv_shared_options_t *options, tpv_shared_t **shared, tpv_shared_result_t *result) {
    int64_t begin = tpv_clock_ns();
    call_t call = {.source = source,
                   .artifact = artifact,
                   .view = view,
                   .options = options,
                   .deadline = tpv_fetch_deadline(&options->fetch),
                   .result = result};
    *shared = NULL;
    *result = (tpv_shared_result_t){0};
    TPV_TRY(check_options(options, artifact, &call.ttl_ns));
    call.shared = calloc(1, sizeof *call.shared);
    if (!call.shared) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a shared view");
    tpv_status_t status = make_header(&call);
    if (status == TPV_OK) status = tpv_table_open(NULL, TPV_OPEN_CREATE, &call.shared->table);
    if (status == TPV_OK) status = get(&call);
    free(call.header);
    result->seconds = (double)(tpv_clock_ns() - begin) / (double)TPV_NS_PER_SECOND;
    if (status == TPV_OK) {
        *shared = call.shared;
        return TPV_OK;
    }
    tpv_table_close(call.shared->table);
    free(call.shared);
    return status;
}

void tpv_shared_close(tpv_shared_t *shared) {
    if (!shared) return;
    munmap((void *)shared->map, shared->bytes);
    tpv_lease_end(shared->table, shared->lease);
    tpv_table_sweep(shared->table, NULL);
    tpv_table_close(shared->table);
    free(shared);
}

const void *tpv_shared_data(const tpv_shared_t *shared) {
    return shared->map + shared->header_bytes;
}

const char *tpv_shared_path(const tpv_shared_t *shared) {
    return shared->path;
}

tpv_status_t tpv_shared_save(const tpv_shared_t *shared, const char *path) {
    tpv_partial_t partial;
    tpv_status_t status = tpv_partial_begin(&partial, path, shared->bytes, shared->map, shared->bytes);
    return tpv_partial_end(&partial, path, true, status);
}
