#include "tools/perf/rank.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/canonical.h"
#include "tools/common/exact_io.h"
#include "tools/perf/footprint.h"
#include "tools/perf/stream_trial.h"

#define POISON 0xa5
#define CONTROL_SECONDS 60

typedef struct {
    const tpv_rank_setup_t *setup;
    tpv_source_t *source;
    tpv_artifact_t *artifact;
    tpv_view_t *planned;
    /* Of the present size. */
    tpv_view_t *view;
    uint64_t size;
    uint8_t *memory, *expected; /* `expected` is NULL until a trial is checked */
    bool stale;                 /* `expected` is not of `view` */
} rank_t;

const char *tpv_trial_name(tpv_trial_kind_t kind) {
    static const char *const names[TPV_TRIAL_KINDS] = {"stream", "warm", "cold", "update", "whole"};
    return names[kind];
}

static uint64_t bytes_of(const tpv_view_t *view) {
    return tpv_view_stats(view).bytes;
}

static uint8_t *map(uint64_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        tpv_error_set_errno(TPV_ERR_NO_MEMORY, errno, "no memory for %llu bytes", (unsigned long long)bytes);
        return NULL;
    }
    madvise(memory, bytes, MADV_HUGEPAGE);
    madvise(memory, bytes, MADV_DONTFORK); /* or every page would be copied at its first write beside a sender */
    memset(memory, 0, bytes);              /* no trial's time shall hold the faults */
    return memory;
}

static void drop_size(rank_t *rank) {
    if (rank->memory) munmap(rank->memory, bytes_of(rank->view));
    if (rank->expected) munmap(rank->expected, bytes_of(rank->view));
    rank->memory = rank->expected = NULL;
    tpv_view_free(rank->view);
    rank->view = NULL;
}

static tpv_status_t take_size(rank_t *rank, uint64_t size) {
    if (rank->view && rank->size == size) return TPV_OK;
    drop_size(rank);
    TPV_TRY(tpv_sized_view(rank->artifact, rank->planned, rank->setup->cut, size, "", &rank->view));
    rank->size = size;
    rank->memory = map(bytes_of(rank->view));
    return rank->memory ? TPV_OK : TPV_ERR_NO_MEMORY;
}

static void describe(const tpv_view_t *view, tpv_trial_t *trial) {
    trial->outputs = tpv_view_output_count(view);
    trial->bytes = bytes_of(view);
    for (size_t i = 0; i < trial->outputs; i++) {
        const tpv_output_t *output = tpv_view_output(view, i);
        uint64_t elements = 1;
        for (uint32_t k = 0; k < output->dims; k++)
            elements *= output->shape[k];
        trial->elements += elements;
        const char *type = tpv_dtype_name(output->dtype);
        snprintf(trial->type, sizeof trial->type, "%s", i == 0 || strcmp(type, trial->type) == 0 ? type : "mixed");
    }
}

static tpv_status_t fetch(rank_t *rank, const tpv_artifact_t *artifact, const tpv_view_t *view, tpv_trial_t *trial) {
    tpv_fetch_result_t result;
    TPV_TRY(tpv_fetch(rank->source, artifact, view, &rank->setup->fetch, rank->memory, &result));
    trial->seconds = result.seconds;
    trial->first_seconds = result.first_seconds;
    trial->gap_p99_seconds = result.gap_p99_seconds;
    trial->wire_bytes = result.wire_bytes;
    trial->warm = strcmp(result.export_kind, "warm") == 0;
    return TPV_OK;
}

static tpv_status_t fetch_cold(rank_t *rank, unsigned number, tpv_trial_t *trial) {
    char mark[48];
    tpv_view_t *fresh = NULL;
    /* No other process, of this run or one before, has asked for it. */
    snprintf(mark, sizeof mark, ".%d.%u", (int)getpid(), number);
    TPV_TRY(tpv_sized_view(rank->artifact, rank->planned, rank->setup->cut, rank->size, mark, &fresh));
    tpv_status_t status = fetch(rank, rank->artifact, fresh, trial);
    tpv_view_free(fresh);
    return status;
}

static tpv_status_t fetch_whole(rank_t *rank, const tpv_artifact_t *artifact, const tpv_view_t *view, void *destination,
                                tpv_trial_t *trial) {
    tpv_fetch_result_t result = {0};
    TPV_TRY(tpv_fetch_canonical(rank->source, artifact, view, &rank->setup->fetch, tpv_clock_ns(), TPV_DEADLINE_NEVER,
                                destination, &result));
    trial->seconds = result.seconds;
    trial->first_seconds = result.first_seconds;
    trial->wire_bytes = result.wire_bytes;
    return TPV_OK;
}

/* What must come, by the other way: whole tensors, cut by this process. */
static tpv_status_t expect(rank_t *rank, const tpv_artifact_t *artifact, const tpv_view_t *view) {
    tpv_trial_t ignored;
    if (!rank->expected) rank->expected = map(bytes_of(view));
    return rank->expected ? fetch_whole(rank, artifact, view, rank->expected, &ignored) : TPV_ERR_NO_MEMORY;
}

static tpv_status_t fetch_update(rank_t *rank, const tpv_trial_order_t *order, tpv_trial_t *trial) {
    const char *label = order->artifact;
    int64_t begin = tpv_clock_ns();
    tpv_artifact_t *artifact = NULL;
    tpv_view_t *planned = NULL, *view = NULL;
    tpv_status_t status = tpv_source_artifact(rank->source, label, CONTROL_SECONDS, &artifact);
    if (status == TPV_OK) status = tpv_view_plan(artifact, &rank->setup->plan, &planned);
    if (status == TPV_OK) status = tpv_sized_view(artifact, planned, rank->setup->cut, rank->size, "", &view);
    if (status == TPV_OK && bytes_of(view) != bytes_of(rank->view))
        status = tpv_error_set(TPV_ERR_FORMAT, "%s has other tensors than %s", label, rank->setup->artifact);
    int64_t asked = tpv_clock_ns();
    if (status == TPV_OK) status = fetch(rank, artifact, view, trial);
    trial->first_seconds += (double)(asked - begin) / (double)TPV_NS_PER_SECOND;
    trial->seconds = (double)(tpv_clock_ns() - begin) / (double)TPV_NS_PER_SECOND;
    rank->stale = true;
    if (status == TPV_OK && order->check) status = expect(rank, artifact, view);
    tpv_view_free(view);
    tpv_view_free(planned);
    tpv_artifact_close(artifact);
    return status;
}

/* Elements that are not as expected. */
static uint64_t count_wrong(const rank_t *rank) {
    uint64_t wrong = 0;
    for (size_t i = 0; i < tpv_view_output_count(rank->view); i++) {
        const tpv_output_t *output = tpv_view_output(rank->view, i);
        uint64_t elements = 1;
        for (uint32_t k = 0; k < output->dims; k++)
            elements *= output->shape[k];
        const uint8_t *is = rank->memory + output->offset, *should_be = rank->expected + output->offset;
        if (elements == 0 || memcmp(is, should_be, output->bytes) == 0) continue;
        uint64_t step = output->bytes / elements > 0 ? output->bytes / elements : 1;
        for (uint64_t at = 0; at < output->bytes; at += step)
            wrong += memcmp(is + at, should_be + at, output->bytes - at < step ? output->bytes - at : step) != 0;
    }
    return wrong;
}

static tpv_status_t do_trial(rank_t *rank, const tpv_trial_order_t *order, tpv_trial_t *trial) {
    TPV_TRY(take_size(rank, order->size));
    describe(rank->view, trial);
    if (order->check) {
        if (!rank->expected || rank->stale) TPV_TRY(expect(rank, rank->artifact, rank->view));
        rank->stale = false;
        memset(rank->memory, POISON, trial->bytes);
    }
    tpv_footprint_t footprint = tpv_footprint_begin();
    tpv_status_t status = TPV_OK;
    switch (order->kind) {
    case TPV_TRIAL_STREAM:
        trial->wire_bytes = trial->bytes;
        return tpv_stream_trial(rank->setup->fetch.net, rank->setup->fetch.chunk_bytes, trial->bytes, rank->memory,
                                &trial->seconds);
    case TPV_TRIAL_WARM:
        status = fetch(rank, rank->artifact, rank->view, trial);
        break;
    case TPV_TRIAL_COLD:
        status = fetch_cold(rank, order->number, trial);
        break;
    case TPV_TRIAL_UPDATE:
        status = fetch_update(rank, order, trial);
        break;
    default:
        status = fetch_whole(rank, rank->artifact, rank->view, rank->memory, trial);
        break;
    }
    trial->memory_bytes = tpv_footprint_end(&footprint);
    if (status == TPV_OK && order->check) trial->wrong = count_wrong(rank);
    return status;
}

static tpv_status_t begin(rank_t *rank) {
    const tpv_rank_setup_t *setup = rank->setup;
    TPV_TRY(tpv_source_open(setup->address, &setup->connection, &rank->source));
    TPV_TRY(tpv_source_artifact(rank->source, setup->artifact, CONTROL_SECONDS, &rank->artifact));
    return tpv_view_plan(rank->artifact, &setup->plan, &rank->planned);
}

void tpv_rank_serve(const tpv_rank_setup_t *setup, int orders) {
    rank_t rank = {.setup = setup};
    tpv_trial_t trial = {.status = begin(&rank)};
    for (;;) {
        if (trial.status != TPV_OK) snprintf(trial.message, sizeof trial.message, "%s", tpv_error_message());
        tpv_trial_order_t order;
        if (tpv_exact_write(orders, &trial, sizeof trial) != TPV_OK || trial.status != TPV_OK) break;
        if (tpv_exact_read(orders, &order, sizeof order) != TPV_OK) break;
        trial = (tpv_trial_t){.status = TPV_OK};
        trial.status = do_trial(&rank, &order, &trial);
    }
    drop_size(&rank);
    tpv_view_free(rank.planned);
    tpv_artifact_close(rank.artifact);
    tpv_source_close(rank.source);
}
