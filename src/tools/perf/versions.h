/* New versions of a checkpoint, one for each trial of an update: folders beside it, with links to its files but for
 * one, the smallest with tensors, which is a copy with one value changed. */
#ifndef TOOLS_PERF_VERSIONS_H
#define TOOLS_PERF_VERSIONS_H

#include "tpview/fetch.h"

typedef struct tpv_versions {
    tpv_source_t *source;
    const char *checkpoint; /* a folder on this host that the service can read */
    const char *name;       /* of the artifact; versions are offered as NAME.perf-PID, which no rank asks for */
    unsigned count;
    char folder[4096]; /* of the present version; "": none */
    char label[256];
} tpv_versions_t;

/* Make the next version, have the service offer it and stop offering the one before. versions->label is what it is
 * called. TPV_ERR_SYSTEM, TPV_ERR_NOT_FOUND, and what tpv_source_publish returns. */
tpv_status_t tpv_versions_next(tpv_versions_t *versions, double deadline_s);
/* Stop offering the last one and remove it. */
void tpv_versions_end(tpv_versions_t *versions);

#endif
