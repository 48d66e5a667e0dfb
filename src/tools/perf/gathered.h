/* What the source says of its side in /metrics (docs/operations.md). */
#ifndef TOOLS_PERF_GATHERED_H
#define TOOLS_PERF_GATHERED_H

#include "tpview/fetch.h"

typedef struct tpv_gathered {
    double bytes, seconds; /* prepared: gathered, or digested where it lies; thread time spent on that */
    double memory;         /* bytes of export cache and staging now */
} tpv_gathered_t;

/* Errors as tpv_source_get. */
tpv_status_t tpv_gathered_read(tpv_source_t *source, double deadline_s, tpv_gathered_t *gathered);

#endif
