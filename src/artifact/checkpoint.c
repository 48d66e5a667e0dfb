/* Opening a checkpoint: which files of a folder make up an artifact. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "artifact/artifact.h"
#include "artifact/file.h"
#include "artifact/json_python.h"
#include "artifact/safetensors.h"
#include "artifact/weight_map.h"
#include "base/error.h"
#include "base/log.h"

/* Names as transformers writes them (utils/__init__.py: SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, CONFIG_NAME). */
#define SINGLE_NAME "model.safetensors"
#define INDEX_NAME "model.safetensors.index.json"
#define CONFIG_NAME "config.json"

#define CONFIG_BYTES ((size_t)8 << 20)  /* quantised MoE models list their exceptions by the thousand */
#define INDEX_BYTES ((size_t)256 << 20) /* 100 bytes for each of TPV_MAX_TENSORS, with room */

static tpv_status_t join(const char *folder, const char *name, char **path) {
    if (asprintf(path, "%s/%s", folder, name) >= 0) return TPV_OK;
    *path = NULL;
    return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a path");
}

/* Open the files as shards 0, 1, … and read their headers. */
static tpv_status_t open_files(tpv_artifact_t *artifact, const char *folder, char *const *names, uint32_t count) {
    artifact->files = calloc(count, sizeof *artifact->files);
    if (!artifact->files) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for %u files", count);
    for (uint32_t shard = 0; shard < count; shard++) {
        char *path = NULL;
        TPV_TRY(join(folder, names[shard], &path));
        tpv_status_t status = tpv_artifact_file_open(path, &artifact->files[shard]);
        free(path);
        if (status != TPV_OK) return status;
        artifact->file_count++;
        TPV_TRY(tpv_safetensors_read(artifact, shard));
    }
    return TPV_OK;
}

/* Not what macOS puts beside files ("._NAME"). */
static int is_safetensors(const struct dirent *entry) {
    const char *suffix = strrchr(entry->d_name, '.');
    return entry->d_name[0] != '.' && strcmp(suffix ? suffix : "", ".safetensors") == 0;
}

static bool is_listed(const tpv_weight_map_t *map, const char *name) {
    for (uint32_t i = 0; i < map->file_count; i++)
        if (strcmp(map->files[i], name) == 0) return true;
    return false;
}

/* How many files the index does not list, and the name of one, model.safetensors before others. */
static size_t count_extra_files(const char *folder, const tpv_weight_map_t *map, char name[256]) {
    struct dirent **entries = NULL;
    int count = scandir(folder, &entries, is_safetensors, alphasort);
    size_t extras = 0;
    for (int i = 0; i < count; i++) {
        if (!is_listed(map, entries[i]->d_name) && (extras++ == 0 || strcmp(entries[i]->d_name, SINGLE_NAME) == 0))
            snprintf(name, 256, "%s", entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
    return extras;
}

/* The index decides; one line says what it leaves out. */
static void warn_of_extras(const char *folder, const tpv_weight_map_t *map, size_t tensors, const tpv_tensor_t *first) {
    char name[256], of_tensors[512] = "", of_files[320] = "";
    size_t files = count_extra_files(folder, map, name);
    if (tensors > 0)
        snprintf(of_tensors, sizeof of_tensors, "%zu tensors (\"%.150s\" in %.200s%s)", tensors, first->name,
                 map->files[first->shard], tensors > 1 ? ", …" : "");
    if (files > 0)
        snprintf(of_files, sizeof of_files, "%s%zu files (%s%s)", tensors > 0 ? " and " : "", files, name,
                 files > 1 ? ", …" : "");
    if (tensors > 0 || files > 0)
        TPV_WARN("%s: ignored what the %s does not list: %s%s", folder, INDEX_NAME, of_tensors, of_files);
}

static tpv_status_t open_indexed(tpv_artifact_t *artifact, const char *folder, const char *text, size_t length) {
    tpv_weight_map_t map = {0};
    tpv_status_t status = tpv_weight_map_parse(text, length, &map);
    if (status == TPV_OK) status = open_files(artifact, folder, map.files, map.file_count);
    size_t ignored = 0;
    tpv_tensor_t first;
    if (status == TPV_OK) status = tpv_weight_map_apply(&map, artifact, &ignored, &first);
    if (status == TPV_OK) status = tpv_artifact_seal(artifact);
    if (status == TPV_OK) warn_of_extras(folder, &map, ignored, &first);
    tpv_weight_map_free(&map);
    return status == TPV_OK ? TPV_OK : tpv_error_prefix(status, "%.400s/%s", folder, INDEX_NAME);
}

/* The file that holds the checkpoint of a folder without an index; the caller frees *name. */
static tpv_status_t find_single(const char *folder, char **name) {
    struct dirent **entries = NULL;
    int count = scandir(folder, &entries, is_safetensors, alphasort);
    if (count < 0) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot list %.500s", folder);
    const char *chosen = count == 1 ? entries[0]->d_name : NULL;
    /* model.safetensors is the checkpoint, whatever else lies beside it, as transformers has it. */
    for (int i = 0; i < count; i++)
        if (strcmp(entries[i]->d_name, SINGLE_NAME) == 0) chosen = entries[i]->d_name;
    tpv_status_t status = TPV_OK;
    if (chosen) {
        *name = strdup(chosen);
        if (!*name) status = tpv_error_set(TPV_ERR_NO_MEMORY, "no memory to list %.500s", folder);
    } else if (count == 0) {
        status = tpv_error_set(TPV_ERR_NOT_FOUND, "%.500s: not a checkpoint: no .safetensors file and no %s", folder,
                               INDEX_NAME);
    } else {
        status = tpv_error_set(TPV_ERR_FORMAT, "%.500s: %d .safetensors files, but no %s that tells what they hold",
                               folder, count, INDEX_NAME);
    }
    for (int i = 0; i < count; i++)
        free(entries[i]);
    free(entries);
    return status;
}

static tpv_status_t open_single(tpv_artifact_t *artifact, const char *folder) {
    char *name = NULL;
    tpv_status_t status = find_single(folder, &name);
    if (status == TPV_OK) status = open_files(artifact, folder, &name, 1);
    if (status == TPV_OK) status = tpv_artifact_seal(artifact);
    free(name);
    return status;
}

static tpv_status_t open_weights(tpv_artifact_t *artifact, const char *folder) {
    char *path = NULL, *text = NULL;
    size_t length = 0;
    TPV_TRY(join(folder, INDEX_NAME, &path));
    tpv_status_t status = tpv_artifact_text_read(path, INDEX_BYTES, &text, &length);
    free(path);
    if (status == TPV_ERR_NOT_FOUND) return open_single(artifact, folder);
    if (status != TPV_OK) return status;
    status = open_indexed(artifact, folder, text, length);
    free(text);
    return status;
}

static tpv_status_t read_config(tpv_artifact_t *artifact, const char *folder) {
    char *path = NULL, *text = NULL;
    size_t length = 0;
    json_t *json = NULL;
    TPV_TRY(join(folder, CONFIG_NAME, &path));
    tpv_status_t status = tpv_artifact_text_read(path, CONFIG_BYTES, &text, &length);
    if (status == TPV_OK) {
        status = tpv_json_parse_python((tpv_json_text_t){text, length}, length, &json);
        if (status == TPV_OK) status = tpv_artifact_set_config(artifact, json);
        if (status != TPV_OK) tpv_error_prefix(status, "%.500s", path);
    } else if (status == TPV_ERR_NOT_FOUND) {
        status = TPV_OK;
    }
    json_decref(json);
    free(text);
    free(path);
    return status;
}

static tpv_status_t open_folder(tpv_artifact_t *artifact, const char *folder) {
    TPV_TRY(open_weights(artifact, folder));
    return read_config(artifact, folder);
}

static tpv_status_t open_file(tpv_artifact_t *artifact, const char *path) {
    artifact->files = calloc(1, sizeof *artifact->files);
    if (!artifact->files) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory to open %.500s", path);
    TPV_TRY(tpv_artifact_file_open(path, &artifact->files[0]));
    artifact->file_count = 1;
    TPV_TRY(tpv_safetensors_read(artifact, 0));
    return tpv_artifact_seal(artifact);
}

tpv_status_t tpv_artifact_open(const char *path, tpv_artifact_t **artifact) {
    *artifact = NULL;
    struct stat info;
    if (stat(path, &info) != 0) {
        bool missing = errno == ENOENT || errno == ENOTDIR;
        return tpv_error_set_errno(missing ? TPV_ERR_NOT_FOUND : TPV_ERR_SYSTEM, errno, "cannot open %.500s", path);
    }
    tpv_artifact_t *made = tpv_artifact_create();
    if (!made) return TPV_ERR_NO_MEMORY;
    tpv_status_t status = S_ISDIR(info.st_mode) ? open_folder(made, path) : open_file(made, path);
    if (status != TPV_OK) {
        tpv_artifact_close(made);
        return status;
    }
    *artifact = made;
    return TPV_OK;
}
