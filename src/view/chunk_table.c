#include "view/chunk_table.h"

#include <stdlib.h>
#include <string.h>

#include "artifact/artifact.h"
#include "base/clock.h"
#include "base/error.h"
#include "view/view.h"

#define MOST_STEPS (UINT64_C(8) << 20) /* some tens of milliseconds */
#define STEPS_A_LOOK 65536             /* between looks at the clock */
#define NO_FILE UINT32_MAX             /* the "file" of zeros */

/*
 * A chunk lives while all of its bytes that were met so far come from one place; `counted` says how many that are. As
 * the program writes every byte once, a chunk with all bytes counted is one run, whatever was not looked at; a chunk
 * that is left with fewer is gathered.
 */
typedef struct {
    const tpv_artifact_t *artifact;
    tpv_chunk_table_t *table;
    uint32_t *counted;
    uint32_t *next; /* of a dead chunk: a chunk behind it, all between being dead; of a living one: itself */
    uint32_t file;  /* of the record at hand; NO_FILE: zeros */
    uint64_t next_look;
    int64_t deadline;
    bool late;
} pass_t;

void tpv_chunk_table_clear(tpv_chunk_table_t *table) {
    free(table->sources);
    *table = (tpv_chunk_table_t){0};
}

static bool ends(pass_t *pass) {
    uint64_t steps = ++pass->table->steps;
    if (steps >= MOST_STEPS) return true;
    if (steps >= pass->next_look) {
        pass->next_look += STEPS_A_LOOK;
        pass->late = tpv_deadline_passed(pass->deadline);
    }
    return pass->late;
}

/* The first living chunk from `chunk` on; the table's count when there is none. */
static uint32_t living(const pass_t *pass, uint32_t chunk) {
    uint32_t *next = pass->next;
    while (next[chunk] != chunk) {
        next[chunk] = next[next[chunk]];
        chunk = next[chunk];
    }
    return chunk;
}

/* Dense bytes [at, end) come from the present file, the first of them from `from`. */
static void count_run(pass_t *pass, uint64_t at, uint64_t end, uint64_t from) {
    uint64_t length = pass->table->chunk_bytes;
    uint32_t chunk = living(pass, (uint32_t)(at / length));
    while (chunk < pass->table->count && chunk * length < end && !ends(pass)) {
        tpv_chunk_source_t *source = &pass->table->sources[chunk];
        uint64_t begin = chunk * length;
        /* Of the chunk's first byte, which may be a number below 0 when it is not of this run: then it is of no run. */
        uint64_t offset = pass->file == NO_FILE ? 0 : from - at + begin;
        if (pass->counted[chunk] == 0) {
            source->file = pass->file;
            source->offset = offset;
        }
        if (source->file == pass->file && source->offset == offset) {
            uint64_t low = at > begin ? at : begin, high = end < begin + length ? end : begin + length;
            pass->counted[chunk] += (uint32_t)(high - low);
            chunk++;
        } else {
            pass->next[chunk] = chunk + 1;
        }
        chunk = living(pass, chunk);
    }
}

/* The runs of a box at dense byte `at` that reach into living chunks; steps that lie in dead ones are jumped over. */
static void count_box(pass_t *pass, uint64_t at, uint64_t extent, uint64_t from, const tpv_level_t *level,
                      uint32_t levels, uint64_t run) {
    if (levels == 0) {
        count_run(pass, at, at + run, from);
        return;
    }
    uint64_t inner = extent - (level->count - 1) * level->to, length = pass->table->chunk_bytes;
    for (uint64_t i = 0; i < level->count && !ends(pass);) {
        uint64_t step = at + i * level->to;
        uint64_t alive = living(pass, (uint32_t)(step / length)) * length;
        if (alive >= step + inner) {
            i = (alive - at - inner) / level->to + 1;
            continue;
        }
        count_box(pass, step, inner, from + i * level->from, level + 1, levels - 1, run);
        i++;
    }
}

static void count_program(pass_t *pass, const tpv_program_t *program) {
    for (size_t i = 0; i < program->count && !ends(pass); i++) {
        const tpv_record_t *record = &program->records[i];
        uint64_t from = record->from;
        pass->file = NO_FILE;
        if (record->tensor == TPV_PIECE_NUMBER) continue; /* nowhere in a file, so its chunk is gathered */
        if (record->tensor != TPV_PIECE_ZERO) {
            const tpv_tensor_t *tensor = tpv_artifact_tensor(pass->artifact, record->tensor);
            pass->file = tensor->shard;
            from += tensor->offset;
        }
        count_box(pass, record->start, record->end - record->start, from, &program->levels[record->first_level],
                  record->levels, record->run);
    }
}

static void settle(const pass_t *pass) {
    tpv_chunk_table_t *table = pass->table;
    for (uint64_t i = 0; i < table->count; i++) {
        tpv_chunk_source_t *source = &table->sources[i];
        uint64_t left = table->bytes - i * table->chunk_bytes;
        uint64_t length = left < table->chunk_bytes ? left : table->chunk_bytes;
        if (pass->next[i] != i || pass->counted[i] != length)
            *source = (tpv_chunk_source_t){.kind = TPV_CHUNK_GATHERED, .offset = table->gathered++};
        else if (source->file == NO_FILE)
            *source = (tpv_chunk_source_t){.kind = TPV_CHUNK_ZEROS};
        else {
            source->kind = TPV_CHUNK_RUN;
            table->runs++;
        }
    }
}

void tpv_chunk_table_gather_runs(tpv_chunk_table_t *table) {
    for (uint64_t i = 0; i < table->count; i++)
        if (table->sources[i].kind == TPV_CHUNK_RUN)
            table->sources[i] = (tpv_chunk_source_t){.kind = TPV_CHUNK_GATHERED, .offset = table->gathered++};
    table->runs = 0;
}

tpv_status_t tpv_chunk_table_make(const tpv_view_t *view, const tpv_artifact_t *artifact, uint32_t chunk_bytes,
                                  int64_t deadline, tpv_chunk_table_t *table) {
    uint64_t count = view->bytes / chunk_bytes + (view->bytes % chunk_bytes != 0);
    *table = (tpv_chunk_table_t){.bytes = view->bytes, .chunk_bytes = chunk_bytes};
    if (strcmp(tpv_artifact_index_digest(artifact), view->index_digest) != 0)
        return tpv_error_set(TPV_ERR_ARGUMENT, "the view was made for index %s, the artifact has %s",
                             view->index_digest, tpv_artifact_index_digest(artifact));
    if (count > TPV_CHUNK_TABLE_MOST)
        return tpv_error_set(TPV_ERR_ARGUMENT, "a view of %llu bytes has %llu chunks of %u: expected at most %llu",
                             (unsigned long long)view->bytes, (unsigned long long)count, chunk_bytes,
                             (unsigned long long)TPV_CHUNK_TABLE_MOST);
    pass_t pass = {.artifact = artifact, .table = table, .deadline = deadline};
    table->sources = calloc(count + 1, sizeof *table->sources);
    pass.counted = calloc(count + 1, sizeof *pass.counted);
    pass.next = malloc((count + 1) * sizeof *pass.next);
    tpv_status_t status = TPV_OK;
    if (!table->sources || !pass.counted || !pass.next) {
        status = tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a table of %llu chunks", (unsigned long long)count);
    } else {
        table->count = count;
        for (uint64_t i = 0; i <= count; i++)
            pass.next[i] = (uint32_t)i;
        count_program(&pass, &view->program);
        if (pass.late) status = tpv_error_set(TPV_ERR_DEADLINE, "the deadline passed while the view was prepared");
        settle(&pass);
    }
    free(pass.counted);
    free(pass.next);
    return status;
}
