/* The artifacts that a service offers. An entry lives as long as somebody holds it: the catalog while it is offered,
 * fetches and exports while they read it. All calls may come from any thread. */
#ifndef SERVICE_CATALOG_H
#define SERVICE_CATALOG_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/label.h"
#include "tpview/artifact.h"

typedef struct tpv_entry {
    char name[TPV_LABEL_MAX + 1];
    char version[TPV_LABEL_MAX + 1];
    char label[TPV_LABEL_MAX + 1]; /* NAME@VERSION */
    char *path;                    /* owned */
    tpv_artifact_t *artifact;      /* NULL until tpv_entry_open */
    char *manifest;                /* its text, one for all who read it; NULL until tpv_entry_open */
    atomic_uint references;        /* relaxed up, acq_rel down */
} tpv_entry_t;

typedef struct tpv_catalog {
    pthread_mutex_t mutex;
    tpv_entry_t **entries; /* under mutex */
    size_t count;          /* under mutex */
} tpv_catalog_t;

void tpv_catalog_init(tpv_catalog_t *catalog);
void tpv_catalog_clear(tpv_catalog_t *catalog);

/*
 * An entry for "NAME@VERSION=DIR", not opened yet. NAME and VERSION are letters, digits, '.', '_' and '-'.
 * TPV_ERR_ARGUMENT for another form; TPV_ERR_NO_MEMORY. The caller holds *entry.
 */
tpv_status_t tpv_entry_create(const char *definition, tpv_entry_t **entry);
/*
 * Let the entry have a folder or file below one of `roots` (which ends with NULL; NULL: none) only, as its path is with
 * all links followed, which it has from then on. TPV_ERR_PERMISSION, which does not tell whether another one is there.
 */
tpv_status_t tpv_entry_confine(tpv_entry_t *entry, const char *const *roots);
/* Open its artifact and compute the artifact_id, which takes minutes for a large one; by the one holder, before it is
 * offered. What tpv_artifact_open, tpv_artifact_digest and tpv_artifact_manifest return. */
tpv_status_t tpv_entry_open(tpv_entry_t *entry, unsigned threads, tpv_progress_t progress, void *user);
tpv_entry_t *tpv_entry_hold(tpv_entry_t *entry);
/* NULL is allowed. */
void tpv_entry_release(tpv_entry_t *entry);
/* Whether `entry` is of the same model as `other` and of an earlier version, as strverscmp compares. */
bool tpv_entry_is_older(const tpv_entry_t *entry, const tpv_entry_t *other);

/* TPV_ERR_ARGUMENT when the label is taken: to be asked before a digest is computed for nothing. */
tpv_status_t tpv_catalog_check_free(tpv_catalog_t *catalog, const char *label);
/* Offer the entry; the catalog holds it as well. TPV_ERR_ARGUMENT when its label is taken; TPV_ERR_NO_MEMORY. */
tpv_status_t tpv_catalog_offer(tpv_catalog_t *catalog, tpv_entry_t *entry);
/* Stop offering "NAME@VERSION"; the caller takes over the catalog's hold. NULL when there is none. */
tpv_entry_t *tpv_catalog_withdraw(tpv_catalog_t *catalog, const char *label);

/* "NAME" (its newest version) or "NAME@VERSION", held for the caller; NULL when there is none. */
tpv_entry_t *tpv_catalog_find(tpv_catalog_t *catalog, const char *name);
tpv_entry_t *tpv_catalog_find_id(tpv_catalog_t *catalog, const char *artifact_id);
/* TPV_ERR_NOT_FOUND with a message that `name` is not served and what is instead: the versions of its model if there
 * are any, else everything, as far as a message goes. */
tpv_status_t tpv_catalog_lacks(tpv_catalog_t *catalog, const char *name);
size_t tpv_catalog_count(tpv_catalog_t *catalog);
/* The one at `index`, held for the caller; NULL beyond the last. */
tpv_entry_t *tpv_catalog_at(tpv_catalog_t *catalog, size_t index);

#endif
