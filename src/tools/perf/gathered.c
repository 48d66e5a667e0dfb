#include "tools/perf/gathered.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The value of a metric without labels, a line "tpview_NAME VALUE"; 0 when there is none. */
static double value_of(const char *text, const char *name) {
    char wanted[96];
    int length = snprintf(wanted, sizeof wanted, "\ntpview_%s ", name);
    const char *at = strstr(text, wanted);
    return at ? strtod(at + length, NULL) : 0;
}

tpv_status_t tpv_gathered_read(tpv_source_t *source, double deadline_s, tpv_gathered_t *gathered) {
    char *text = NULL;
    tpv_status_t status = tpv_source_get(source, "/metrics", deadline_s, &text);
    if (status != TPV_OK) return status;
    *gathered = (tpv_gathered_t){.bytes = value_of(text, "bytes_gathered_total") + value_of(text, "bytes_direct_total"),
                                 .seconds = value_of(text, "gather_seconds_total"),
                                 .memory = value_of(text, "budget_used_bytes")};
    free(text);
    return TPV_OK;
}
