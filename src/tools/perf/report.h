/* The results of tpview_perf as a table in nccl-tests' style (src/common.cu at v2.19.6), or as JSON. */
#ifndef TOOLS_PERF_REPORT_H
#define TOOLS_PERF_REPORT_H

#include <jansson.h>

#include "tools/perf/rank.h"

#define TPV_PERF_ROUNDS_MAX 1000

/* All rounds of one kind of trial at one size. */
typedef struct tpv_series {
    tpv_trial_kind_t kind;
    unsigned rounds;
    double seconds[TPV_PERF_ROUNDS_MAX];     /* of the slowest rank */
    double first[TPV_PERF_ROUNDS_MAX];       /* of the rank whose first chunk came last */
    double gap_p99[TPV_PERF_ROUNDS_MAX];     /* the longest of the ranks' */
    uint64_t outputs, elements, bytes, wire; /* of all ranks together */
    uint64_t wrong;
    uint64_t rank_memory, source_memory;   /* the most that was seen; of one rank */
    double gathered_bytes, gather_seconds; /* of all rounds */
    unsigned not_warm;                     /* rounds in which a rank's view was not ready */
    bool checked;
    char type[16];
} tpv_series_t;

typedef struct tpv_report {
    bool json;
    json_t *rows;
    uint64_t wrong;
} tpv_report_t;

void tpv_report_begin(tpv_report_t *report, const tpv_rank_setup_t *setup, unsigned ranks, int64_t warmup,
                      int64_t rounds, bool check);
/* One row. `stream` is what it is compared with; NULL or a series without rounds: nothing. Sorts the series' times. */
void tpv_report_row(tpv_report_t *report, tpv_series_t *series, tpv_series_t *stream);
/* TPV_ERR_DIGEST when bytes were wrong; as JSON, no row is told then. */
tpv_status_t tpv_report_end(tpv_report_t *report);

#endif
