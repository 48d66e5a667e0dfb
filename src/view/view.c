#include "view/view.h"

#include <stdlib.h>
#include <string.h>

#include "artifact/artifact.h"
#include "base/error.h"
#include "base/identity.h"
#include "base/xxh3.h"
#include "view/cover.h"
#include "view/gather.h"
#include "view/spec_canonical.h"
#include "view/spec_check.h"
#include "view/spec_json.h"

#define VIEW_DOMAIN "tpview-view-1"
#define BLOCK_BYTES ((uint64_t)256 << 10) /* fits the second cache, between its copy and its digest */
#define MOST_RECORDS 256

void tpv_view_free(tpv_view_t *view) {
    if (!view) return;
    for (size_t i = 0; i < view->output_count; i++)
        free((char *)(uintptr_t)view->outputs[i].name);
    for (size_t i = 0; i < view->alias_count; i++) {
        free(view->aliases[i].name);
        free(view->aliases[i].target);
    }
    free(view->outputs);
    free(view->apart);
    free(view->aliases);
    tpv_program_clear(&view->program);
    free(view->json);
    free(view);
}

/* The names of outputs and aliases move from the spec to the view. */
static tpv_status_t take_outputs(tpv_view_t *view, tpv_spec_t *spec) {
    view->outputs = malloc((spec->output_count + 1) * sizeof *view->outputs);
    view->apart = malloc((spec->output_count + 1) * sizeof *view->apart);
    if (!view->outputs || !view->apart)
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for %zu outputs", spec->output_count);
    for (size_t i = 0; i < spec->output_count; i++) {
        tpv_spec_output_t *from = &spec->outputs[i];
        tpv_output_t *to = &view->outputs[i];
        view->apart[i] = from->apart;
        *to = (tpv_output_t){
            .name = from->name, .dtype = from->dtype, .dims = from->dims, .offset = from->offset, .bytes = from->bytes};
        memcpy(to->shape, from->shape, sizeof to->shape);
        from->name = NULL;
        view->output_count++;
    }
    view->bytes = spec->bytes;
    view->aliases = spec->aliases;
    view->alias_count = spec->alias_count;
    spec->aliases = NULL;
    spec->alias_count = spec->alias_room = 0;
    return TPV_OK;
}

static tpv_status_t make(const tpv_artifact_t *artifact, tpv_spec_t *spec, tpv_view_t *view) {
    TPV_TRY(tpv_spec_check(artifact, spec));
    tpv_spec_canonicalise(spec);
    TPV_TRY(tpv_cover_check(artifact, spec));
    TPV_TRY(tpv_program_compile(artifact, spec, &view->program));
    size_t length;
    TPV_TRY(tpv_spec_write_json(artifact, spec, &view->json, &length));
    memcpy(view->index_digest, tpv_artifact_index_digest(artifact), sizeof view->index_digest);
    tpv_identity_t identity = tpv_identity_begin(VIEW_DOMAIN);
    tpv_identity_add_text(&identity, view->index_digest);
    tpv_identity_add_text(&identity, view->json);
    TPV_TRY(tpv_identity_end(&identity, view->id));
    return take_outputs(view, spec);
}

tpv_status_t tpv_view_make(const tpv_artifact_t *artifact, tpv_spec_t *spec, tpv_view_t **view) {
    *view = NULL;
    tpv_view_t *made = calloc(1, sizeof *made);
    if (!made) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a view");
    tpv_status_t status = make(artifact, spec, made);
    if (status != TPV_OK) {
        tpv_view_free(made);
        return status;
    }
    *view = made;
    return TPV_OK;
}

tpv_status_t tpv_view_from_json(const tpv_artifact_t *artifact, const char *json, size_t length, tpv_view_t **view) {
    *view = NULL;
    tpv_spec_t spec = {0};
    tpv_status_t status = tpv_spec_read_json(artifact, json, length, &spec);
    if (status == TPV_OK) status = tpv_view_make(artifact, &spec, view);
    tpv_spec_clear(&spec);
    return status;
}

const char *tpv_view_json(const tpv_view_t *view) {
    return view->json;
}

const char *tpv_view_id(const tpv_view_t *view) {
    return view->id;
}

tpv_view_stats_t tpv_view_stats(const tpv_view_t *view) {
    return (tpv_view_stats_t){.bytes = view->bytes,
                              .zeros = view->program.zero_bytes,
                              .outputs = view->output_count,
                              .records = view->program.count,
                              .runs = view->program.runs};
}

uint64_t tpv_view_memory(const tpv_view_t *view) {
    const tpv_program_t *program = &view->program;
    uint64_t bytes = sizeof *view + strlen(view->json) + 1;
    for (size_t i = 0; i < view->output_count; i++)
        bytes += sizeof *view->outputs + sizeof *view->apart + strlen(view->outputs[i].name) + 1;
    for (size_t i = 0; i < view->alias_count; i++)
        bytes += sizeof *view->aliases + strlen(view->aliases[i].name) + strlen(view->aliases[i].target) + 2;
    if (program->count > 0) {
        const tpv_record_t *last = &program->records[program->count - 1];
        bytes += program->count * (sizeof *program->records + sizeof *program->reach);
        bytes += (last->first_level + last->levels) * sizeof *program->levels;
    }
    return bytes;
}

size_t tpv_view_output_count(const tpv_view_t *view) {
    return view->output_count;
}

const tpv_output_t *tpv_view_output(const tpv_view_t *view, size_t index) {
    return index < view->output_count ? &view->outputs[index] : NULL;
}

const char *tpv_view_apart(const tpv_view_t *view, size_t index) {
    return index < view->output_count ? view->apart[index] : NULL;
}

bool tpv_view_alias(const tpv_view_t *view, size_t index, const char **name, const char **target) {
    if (index >= view->alias_count) return false;
    *name = view->aliases[index].name;
    *target = view->aliases[index].target;
    return true;
}

/* Can `view` be cut from this artifact in the range asked for? */
static tpv_status_t check_source(const tpv_view_t *view, const tpv_artifact_t *artifact, uint64_t offset,
                                 uint64_t length) {
    if (offset > view->bytes || length > view->bytes - offset)
        return tpv_error_set(TPV_ERR_ARGUMENT, "bytes %llu to %llu are not in the view, which has %llu",
                             (unsigned long long)offset, (unsigned long long)(offset + length),
                             (unsigned long long)view->bytes);
    const char *digest = tpv_artifact_index_digest(artifact);
    if (strcmp(digest, view->index_digest) != 0)
        return tpv_error_set(TPV_ERR_ARGUMENT, "the view was made for index %s, the artifact has %s",
                             view->index_digest, digest);
    return tpv_artifact_tensor_count(artifact) > 0 ? tpv_artifact_map(artifact) : TPV_OK;
}

typedef struct {
    const tpv_view_t *view;
    const tpv_artifact_t *artifact;
    uint64_t offset, length;
    char *destination;
    XXH3_state_t *digest; /* of what is gathered; NULL: not wanted */
} gather_t;

static void gather(void *user) {
    const gather_t *job = user;
    const tpv_program_t *program = &job->view->program;
    uint64_t low = job->offset, high = job->offset + job->length;
    if (!job->digest) {
        tpv_program_gather(program, job->artifact, low, high, job->destination);
        return;
    }
    /* Each block is a walk over its records: not where there are many of them. */
    uint64_t block = tpv_program_meets(program, low, high, MOST_RECORDS) < MOST_RECORDS ? BLOCK_BYTES : job->length;
    for (uint64_t at = low, end; at < high; at = end) {
        end = high - at > block ? at + block : high;
        char *to = job->destination + (at - low);
        tpv_program_gather(program, job->artifact, at, end, to);
        XXH3_64bits_update(job->digest, to, end - at);
    }
}

static tpv_status_t gather_guarded(gather_t *job) {
    TPV_TRY(check_source(job->view, job->artifact, job->offset, job->length));
    if (job->length == 0) return TPV_OK;
    TPV_TRY(tpv_artifact_guard(job->artifact, gather, job));
    return tpv_program_check_files(&job->view->program, job->artifact, job->offset, job->offset + job->length);
}

tpv_status_t tpv_view_gather(const tpv_view_t *view, const tpv_artifact_t *artifact, uint64_t offset, uint64_t length,
                             void *destination) {
    gather_t job = {view, artifact, offset, length, destination, NULL};
    return gather_guarded(&job);
}

tpv_status_t tpv_view_gather_digest(const tpv_view_t *view, const tpv_artifact_t *artifact, uint64_t offset,
                                    uint64_t length, void *destination, uint64_t *digest) {
    gather_t job = {view, artifact, offset, length, destination, XXH3_createState()};
    if (!job.digest) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory to digest a chunk");
    XXH3_64bits_reset(job.digest);
    tpv_status_t status = gather_guarded(&job);
    *digest = XXH3_64bits_digest(job.digest);
    XXH3_freeState(job.digest);
    return status;
}

const void *tpv_view_direct(const tpv_view_t *view, const tpv_artifact_t *artifact, uint64_t offset, uint64_t length) {
    if (check_source(view, artifact, offset, length) != TPV_OK) return NULL;
    return tpv_program_direct(&view->program, artifact, offset, offset + length);
}
