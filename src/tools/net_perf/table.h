/* The results as a table in nccl-tests' style (src/common.cu at v2.19.6), or as JSON. */
#ifndef TOOLS_NET_PERF_TABLE_H
#define TOOLS_NET_PERF_TABLE_H

#include <jansson.h>

#include "tools/net_perf/subject.h"

#define TPV_PERF_NETS_MAX 4

typedef struct tpv_perf_table {
    bool json, checked;
    /* The plugins first, then what they are compared with. */
    unsigned subject_count, net_count, tcp_count;
    tpv_perf_subject_t subjects[TPV_PERF_NETS_MAX + 5];
    tpv_perf_subject_t *builtin, *tcp, *ucx; /* among `subjects`; NULL: left out */
    json_t *rows;
    uint64_t wrong;
} tpv_perf_table_t;

void tpv_perf_table_begin(tpv_perf_table_t *table, int64_t rounds);
/* The results of one size, as they stand in the subjects. */
void tpv_perf_table_row(tpv_perf_table_t *table, const tpv_perf_order_t *order);
/* TPV_ERR_NET when a plugin was not measured to the end, TPV_ERR_DIGEST when bytes were wrong; as JSON, no row is told
 * then. */
tpv_status_t tpv_perf_table_end(tpv_perf_table_t *table);

#endif
