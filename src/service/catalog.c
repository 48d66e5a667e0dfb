#include "service/catalog.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

static bool is_word(const char *text, size_t length) {
    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)text[i]) && !strchr("._-", text[i])) return false;
    return length > 0;
}

static tpv_status_t parse_label(const char *definition, tpv_entry_t *entry, const char **path) {
    const char *equals = strchr(definition, '=');
    const char *at = equals ? memchr(definition, '@', (size_t)(equals - definition)) : NULL;
    size_t name = at ? (size_t)(at - definition) : 0, version = at ? (size_t)(equals - at - 1) : 0;
    if (!at || !is_word(definition, name) || !is_word(at + 1, version) || name + version + 1 > TPV_LABEL_MAX ||
        !equals[1])
        return tpv_error_set(
            TPV_ERR_ARGUMENT,
            "\"%s\": expected NAME@VERSION=DIR, NAME and VERSION of letters, digits, '.', '_', '-' and "
            "together at most %d long",
            definition, TPV_LABEL_MAX - 1);
    snprintf(entry->name, sizeof entry->name, "%.*s", (int)name, definition);
    snprintf(entry->version, sizeof entry->version, "%.*s", (int)version, at + 1);
    snprintf(entry->label, sizeof entry->label, "%.*s", (int)(equals - definition), definition);
    *path = equals + 1;
    return TPV_OK;
}

tpv_status_t tpv_catalog_add(tpv_catalog_t *catalog, const char *definition, unsigned threads, tpv_progress_t progress,
                             void *user) {
    tpv_entry_t entry = {0};
    const char *path = NULL;
    TPV_TRY(parse_label(definition, &entry, &path));
    if (tpv_catalog_find(catalog, entry.label))
        return tpv_error_set(TPV_ERR_ARGUMENT, "artifact %s is given twice", entry.label);
    tpv_status_t status = tpv_artifact_open(path, &entry.artifact);
    if (status == TPV_OK) status = tpv_artifact_digest(entry.artifact, threads, progress, user);
    tpv_entry_t *grown = NULL;
    if (status == TPV_OK) {
        grown = realloc(catalog->entries, (catalog->count + 1) * sizeof *grown);
        if (!grown) status = tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for one more artifact");
    }
    if (status != TPV_OK) {
        tpv_artifact_close(entry.artifact);
        return tpv_error_prefix(status, "artifact %s", entry.label);
    }
    catalog->entries = grown;
    catalog->entries[catalog->count++] = entry;
    return TPV_OK;
}

void tpv_catalog_clear(tpv_catalog_t *catalog) {
    for (size_t i = 0; i < catalog->count; i++)
        tpv_artifact_close(catalog->entries[i].artifact);
    free(catalog->entries);
    *catalog = (tpv_catalog_t){0};
}

const tpv_entry_t *tpv_catalog_find(const tpv_catalog_t *catalog, const char *name) {
    const tpv_entry_t *newest = NULL;
    for (size_t i = 0; i < catalog->count; i++) {
        const tpv_entry_t *entry = &catalog->entries[i];
        if (strcmp(entry->label, name) == 0) return entry;
        if (strcmp(entry->name, name) == 0 && (!newest || strverscmp(entry->version, newest->version) > 0))
            newest = entry;
    }
    return newest;
}

const tpv_entry_t *tpv_catalog_find_id(const tpv_catalog_t *catalog, const char *artifact_id) {
    for (size_t i = 0; i < catalog->count; i++)
        if (strcmp(tpv_artifact_id(catalog->entries[i].artifact), artifact_id) == 0) return &catalog->entries[i];
    return NULL;
}
