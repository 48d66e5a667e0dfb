#include "service/catalog.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "artifact/artifact.h"
#include "base/error.h"

static tpv_status_t parse(const char *definition, tpv_entry_t *entry) {
    size_t at, equals;
    TPV_TRY(tpv_label_split(definition, &at, &equals));
    snprintf(entry->name, sizeof entry->name, "%.*s", (int)at, definition);
    snprintf(entry->version, sizeof entry->version, "%.*s", (int)(equals - at - 1), definition + at + 1);
    snprintf(entry->label, sizeof entry->label, "%.*s", (int)equals, definition);
    entry->path = strdup(definition + equals + 1);
    return entry->path ? TPV_OK : tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for one more artifact");
}

tpv_status_t tpv_entry_create(const char *definition, tpv_entry_t **entry) {
    tpv_entry_t *e = calloc(1, sizeof *e);
    if (!e) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for one more artifact");
    atomic_init(&e->references, 1);
    tpv_status_t status = parse(definition, e);
    if (status == TPV_OK)
        *entry = e;
    else
        tpv_entry_release(e);
    return status;
}

static bool is_below(const char *path, const char *root) {
    char *real = realpath(root, NULL);
    size_t length = real ? strlen(real) : 0;
    while (length > 0 && real[length - 1] == '/')
        length--;
    bool below = real && strncmp(path, real, length) == 0 && (path[length] == '/' || path[length] == '\0');
    free(real);
    return below;
}

tpv_status_t tpv_entry_confine(tpv_entry_t *entry, const char *const *roots) {
    char *real = realpath(entry->path, NULL);
    bool below = false;
    for (const char *const *root = roots; real && root && *root && !below; root++)
        below = is_below(real, *root);
    if (!below) {
        free(real);
        return tpv_error_set(TPV_ERR_PERMISSION,
                             "artifact %s: over TCP only what lies below a --publish-root of the service is published",
                             entry->label);
    }
    free(entry->path);
    entry->path = real;
    return TPV_OK;
}

tpv_status_t tpv_entry_open(tpv_entry_t *entry, unsigned threads, tpv_progress_t progress, void *user) {
    tpv_status_t status = tpv_artifact_open(entry->path, &entry->artifact);
    if (status == TPV_OK) status = tpv_artifact_map(entry->artifact);
    if (status == TPV_OK) status = tpv_artifact_digest(entry->artifact, threads, progress, user);
    if (status == TPV_OK) status = tpv_artifact_manifest(entry->artifact, &entry->manifest);
    return status == TPV_OK ? TPV_OK : tpv_error_prefix(status, "artifact %s", entry->label);
}

tpv_entry_t *tpv_entry_hold(tpv_entry_t *entry) {
    atomic_fetch_add_explicit(&entry->references, 1, memory_order_relaxed);
    return entry;
}

void tpv_entry_release(tpv_entry_t *entry) {
    if (!entry || atomic_fetch_sub_explicit(&entry->references, 1, memory_order_acq_rel) != 1) return;
    tpv_artifact_close(entry->artifact);
    free(entry->manifest);
    free(entry->path);
    free(entry);
}

bool tpv_entry_is_older(const tpv_entry_t *entry, const tpv_entry_t *other) {
    return strcmp(entry->name, other->name) == 0 && strverscmp(entry->version, other->version) < 0;
}

void tpv_catalog_init(tpv_catalog_t *catalog) {
    *catalog = (tpv_catalog_t){0};
    pthread_mutex_init(&catalog->mutex, NULL);
}

void tpv_catalog_clear(tpv_catalog_t *catalog) {
    for (size_t i = 0; i < catalog->count; i++)
        tpv_entry_release(catalog->entries[i]);
    free(catalog->entries);
    pthread_mutex_destroy(&catalog->mutex);
}

/* Under the mutex. */
static tpv_status_t check_free(const tpv_catalog_t *catalog, const char *label) {
    for (size_t i = 0; i < catalog->count; i++)
        if (strcmp(catalog->entries[i]->label, label) == 0)
            return tpv_error_set(TPV_ERR_ARGUMENT,
                                 "artifact %s is offered already: retire it first, or give another version", label);
    return TPV_OK;
}

tpv_status_t tpv_catalog_check_free(tpv_catalog_t *catalog, const char *label) {
    pthread_mutex_lock(&catalog->mutex);
    tpv_status_t status = check_free(catalog, label);
    pthread_mutex_unlock(&catalog->mutex);
    return status;
}

tpv_status_t tpv_catalog_offer(tpv_catalog_t *catalog, tpv_entry_t *entry) {
    pthread_mutex_lock(&catalog->mutex);
    tpv_status_t status = check_free(catalog, entry->label);
    tpv_entry_t **grown =
        status == TPV_OK ? realloc(catalog->entries, (catalog->count + 1) * sizeof(tpv_entry_t *)) : NULL;
    if (grown) {
        catalog->entries = grown;
        catalog->entries[catalog->count++] = tpv_entry_hold(entry);
    } else if (status == TPV_OK) {
        status = tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for one more artifact");
    }
    pthread_mutex_unlock(&catalog->mutex);
    return status;
}

tpv_entry_t *tpv_catalog_withdraw(tpv_catalog_t *catalog, const char *label) {
    tpv_entry_t *entry = NULL;
    pthread_mutex_lock(&catalog->mutex);
    for (size_t i = 0; i < catalog->count && !entry; i++) {
        if (strcmp(catalog->entries[i]->label, label) != 0) continue;
        entry = catalog->entries[i];
        catalog->entries[i] = catalog->entries[--catalog->count];
    }
    pthread_mutex_unlock(&catalog->mutex);
    return entry;
}

static tpv_entry_t *hold_and_unlock(tpv_catalog_t *catalog, tpv_entry_t *entry) {
    if (entry) tpv_entry_hold(entry);
    pthread_mutex_unlock(&catalog->mutex);
    return entry;
}

tpv_entry_t *tpv_catalog_find(tpv_catalog_t *catalog, const char *name) {
    tpv_entry_t *found = NULL;
    pthread_mutex_lock(&catalog->mutex);
    for (size_t i = 0; i < catalog->count; i++) {
        tpv_entry_t *entry = catalog->entries[i];
        if (strcmp(entry->label, name) == 0) return hold_and_unlock(catalog, entry);
        if (strcmp(entry->name, name) == 0 && (!found || tpv_entry_is_older(found, entry))) found = entry;
    }
    return hold_and_unlock(catalog, found);
}

tpv_entry_t *tpv_catalog_find_id(tpv_catalog_t *catalog, const char *artifact_id) {
    tpv_entry_t *found = NULL;
    pthread_mutex_lock(&catalog->mutex);
    for (size_t i = 0; i < catalog->count && !found; i++)
        if (strcmp(tpv_artifact_id(catalog->entries[i]->artifact), artifact_id) == 0) found = catalog->entries[i];
    return hold_and_unlock(catalog, found);
}

/* "NAME" of NAME or NAME@VERSION is `entry`'s. */
static bool is_same_model(const tpv_entry_t *entry, const char *name) {
    size_t length = strcspn(name, "@");
    return strlen(entry->name) == length && memcmp(entry->name, name, length) == 0;
}

tpv_status_t tpv_catalog_lacks(tpv_catalog_t *catalog, const char *name) {
    char list[512] = "";
    size_t length = 0, left = 0;
    bool same = false;
    pthread_mutex_lock(&catalog->mutex);
    for (size_t i = 0; i < catalog->count; i++)
        same = same || is_same_model(catalog->entries[i], name);
    for (size_t i = 0; i < catalog->count; i++) {
        const tpv_entry_t *entry = catalog->entries[i];
        if (same && !is_same_model(entry, name)) continue;
        if (length + strlen(entry->label) + 2 >= sizeof list) {
            left++;
            continue;
        }
        length += (size_t)snprintf(list + length, sizeof list - length, "%s%s", length ? ", " : "", entry->label);
    }
    pthread_mutex_unlock(&catalog->mutex);
    char more[32] = "";
    if (left > 0) snprintf(more, sizeof more, " and %zu more", left);
    return tpv_error_set(TPV_ERR_NOT_FOUND, "no artifact \"%s\" is served here: %s%s%s", name,
                         *list ? "there is " : "there is none at all", list, more);
}

size_t tpv_catalog_count(tpv_catalog_t *catalog) {
    pthread_mutex_lock(&catalog->mutex);
    size_t count = catalog->count;
    pthread_mutex_unlock(&catalog->mutex);
    return count;
}

tpv_entry_t *tpv_catalog_at(tpv_catalog_t *catalog, size_t index) {
    pthread_mutex_lock(&catalog->mutex);
    return hold_and_unlock(catalog, index < catalog->count ? catalog->entries[index] : NULL);
}
