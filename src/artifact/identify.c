/* The artifact_id: from the cache, or of all values. */
#include <stdlib.h>
#include <time.h>

#include "artifact/artifact.h"
#include "artifact/digest.h"
#include "artifact/digest_cache.h"
#include "artifact/file.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/identity.h"

/* The present states of all files, which must still be what was opened. */
static tpv_status_t observe(const tpv_artifact_t *artifact, tpv_file_state_t *states) {
    for (uint32_t i = 0; i < artifact->file_count; i++) {
        TPV_TRY(tpv_artifact_file_check(&artifact->files[i]));
        TPV_TRY(tpv_artifact_file_state(&artifact->files[i], &states[i]));
    }
    return TPV_OK;
}

static int64_t epoch_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * TPV_NS_PER_SECOND + now.tv_nsec;
}

static tpv_status_t compute(const tpv_artifact_t *artifact, unsigned threads, tpv_progress_t progress, void *user,
                            char id[TPV_ID_CHARS]) {
    uint8_t *digests = malloc(artifact->count * TPV_VALUE_DIGEST_BYTES + 1);
    if (!digests) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory to digest an artifact");
    tpv_status_t status = tpv_digest_values(artifact, threads, progress, user, digests);
    if (status == TPV_OK) {
        tpv_identity_t identity = tpv_identity_begin("tpview-artifact-1");
        tpv_identity_add_text(&identity, artifact->index_digest);
        tpv_identity_add(&identity, digests, artifact->count * TPV_VALUE_DIGEST_BYTES);
        status = tpv_identity_end(&identity, id);
    }
    free(digests);
    return status;
}

tpv_status_t tpv_artifact_digest(tpv_artifact_t *artifact, unsigned threads, tpv_progress_t progress, void *user) {
    if (*tpv_artifact_id(artifact)) return TPV_OK;
    if (artifact->file_count == 0)
        return tpv_error_set(TPV_ERR_ARGUMENT, "an index without files has no values to digest");
    char id[TPV_ID_CHARS];
    int64_t begun_ns = epoch_ns();
    tpv_file_state_t *states = calloc((size_t)artifact->file_count, sizeof *states);
    if (!states) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory to digest an artifact");
    tpv_status_t status = observe(artifact, states);
    if (status == TPV_OK && !tpv_digest_cache_find(artifact, states, id)) {
        status = compute(artifact, threads, progress, user, id);
        if (status == TPV_OK) status = tpv_artifact_check(artifact);
        if (status == TPV_OK) tpv_digest_cache_store(artifact, states, begun_ns, id);
    }
    if (status == TPV_OK) tpv_artifact_set_id(artifact, id);
    free(states);
    return status;
}
