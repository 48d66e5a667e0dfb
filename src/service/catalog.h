/* The artifacts that a service offers. Filled before the service starts, read-only from then on. */
#ifndef SERVICE_CATALOG_H
#define SERVICE_CATALOG_H

#include <stddef.h>

#include "tpview/artifact.h"

#define TPV_LABEL_MAX 96 /* NAME@VERSION without the final zero */

typedef struct tpv_entry {
    char name[TPV_LABEL_MAX + 1];
    char version[TPV_LABEL_MAX + 1];
    char label[TPV_LABEL_MAX + 1]; /* NAME@VERSION */
    tpv_artifact_t *artifact;
} tpv_entry_t;

typedef struct tpv_catalog {
    tpv_entry_t *entries;
    size_t count;
} tpv_catalog_t;

/*
 * Open "NAME@VERSION=DIR", compute its artifact_id and add it. NAME and VERSION are letters, digits, '.', '_' and '-'.
 * TPV_ERR_ARGUMENT for another form or a label that is taken; what tpv_artifact_open and tpv_artifact_digest return.
 */
tpv_status_t tpv_catalog_add(tpv_catalog_t *catalog, const char *definition, unsigned threads, tpv_progress_t progress,
                             void *user);
/* Close all artifacts. */
void tpv_catalog_clear(tpv_catalog_t *catalog);

/* "NAME" (its newest version: versions compare as strverscmp does) or "NAME@VERSION"; NULL when there is none. */
const tpv_entry_t *tpv_catalog_find(const tpv_catalog_t *catalog, const char *name);
const tpv_entry_t *tpv_catalog_find_id(const tpv_catalog_t *catalog, const char *artifact_id);

#endif
