/* The layout is that of transformers (save_pretrained): {"metadata": {…}, "weight_map": {tensor: file, …}}. */
#include "artifact/weight_map.h"

#include <search.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "artifact/json_python.h"
#include "base/error.h"

#define MAX_FILES 16384u
#define MAX_FILE_NAME 255 /* NAME_MAX of Linux file systems */
#define OTHER_BYTES ((size_t)1 << 20)

typedef struct {
    char *name;
    uint32_t shard;
} node_t;

typedef struct {
    tpv_weight_map_t *map;
    void *tree; /* of node_t, by name, for tsearch */
    bool seen;
} parser_t;

static int by_file(const void *left, const void *right) {
    return strcmp(((const node_t *)left)->name, ((const node_t *)right)->name);
}

static tpv_status_t check_file_name(const char *name) {
    static const char suffix[] = ".safetensors";
    size_t length = strlen(name), tail = sizeof suffix - 1;
    if (length <= MAX_FILE_NAME && length > tail && name[0] != '.' && !strchr(name, '/') &&
        strcmp(name + length - tail, suffix) == 0)
        return TPV_OK;
    return tpv_error_set(TPV_ERR_FORMAT, "\"%.255s\" is not the name of a .safetensors file in the same folder", name);
}

/* The number of a file, given in the order of first mention. */
static tpv_status_t number_file(parser_t *parser, const char *name, uint32_t *shard) {
    node_t wanted = {.name = (char *)(uintptr_t)name};
    node_t **found = tfind(&wanted, &parser->tree, by_file);
    if (found) {
        *shard = (*found)->shard;
        return TPV_OK;
    }
    TPV_TRY(check_file_name(name));
    tpv_weight_map_t *map = parser->map;
    if (map->file_count == MAX_FILES) return tpv_error_set(TPV_ERR_FORMAT, "more than %u files", MAX_FILES);
    char **files = realloc(map->files, (map->file_count + 1) * sizeof *files);
    if (files) map->files = files;
    node_t *node = malloc(sizeof *node);
    char *copy = strdup(name);
    if (files && node && copy) {
        *node = (node_t){copy, map->file_count};
        if (tsearch(node, &parser->tree, by_file)) {
            *shard = map->file_count;
            map->files[map->file_count++] = copy;
            return TPV_OK;
        }
    }
    free(node);
    free(copy);
    return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for an index");
}

static tpv_status_t visit_tensor(void *user, const char *name, tpv_json_text_t value) {
    parser_t *parser = user;
    json_t *json = NULL;
    tpv_tensor_t tensor = {.name = name, .dtype = TPV_DTYPE_U8};
    tpv_status_t status = tpv_json_parse(value, 6 * (MAX_FILE_NAME + 2) + 2, &json);
    if (status == TPV_OK && !json_is_string(json)) status = tpv_error_set(TPV_ERR_FORMAT, "its file is not a string");
    if (status == TPV_OK) {
        const char *file = json_string_value(json);
        status = number_file(parser, strncmp(file, "./", 2) == 0 ? file + 2 : file, &tensor.shard);
    }
    json_decref(json);
    if (status == TPV_OK) status = tpv_artifact_add(parser->map->expected, &tensor);
    return status == TPV_OK ? TPV_OK : tpv_error_prefix(status, "tensor \"%.200s\"", name);
}

static tpv_status_t visit_top(void *user, const char *name, tpv_json_text_t value) {
    parser_t *parser = user;
    tpv_status_t status = TPV_OK;
    if (strcmp(name, "weight_map") != 0) {
        json_t *json = NULL;
        status = tpv_json_parse_python(value, OTHER_BYTES, &json);
        json_decref(json);
    } else if (parser->seen) {
        return tpv_error_set(TPV_ERR_FORMAT, "weight_map appears twice");
    } else {
        parser->seen = true;
        status = tpv_json_members(value, visit_tensor, parser);
    }
    return status == TPV_OK ? TPV_OK : tpv_error_prefix(status, "%.100s", name);
}

tpv_status_t tpv_weight_map_parse(const char *text, size_t length, tpv_weight_map_t *map) {
    *map = (tpv_weight_map_t){.expected = tpv_artifact_create()};
    if (!map->expected) return TPV_ERR_NO_MEMORY;
    parser_t parser = {.map = map};
    tpv_status_t status = tpv_json_members((tpv_json_text_t){text, length}, visit_top, &parser);
    tdestroy(parser.tree, free);
    if (status == TPV_OK && map->expected->count == 0)
        status = tpv_error_set(TPV_ERR_FORMAT, "weight_map is missing or empty");
    return status == TPV_OK ? tpv_artifact_seal(map->expected) : status;
}

void tpv_weight_map_free(tpv_weight_map_t *map) {
    tpv_artifact_close(map->expected);
    for (uint32_t i = 0; i < map->file_count; i++)
        free(map->files[i]);
    free(map->files);
    *map = (tpv_weight_map_t){0};
}

/* What the map says of a tensor of a file; SIZE_MAX: not this one. */
static size_t place_in_map(const tpv_weight_map_t *map, const tpv_tensor_t *tensor) {
    const tpv_tensor_t *expected = tpv_artifact_find(map->expected, tensor->name);
    return expected && expected->shard == tensor->shard ? (size_t)(expected - map->expected->tensors) : SIZE_MAX;
}

/* `others`: the tensors that are not listed where they lie. */
static tpv_status_t refuse_missing(const tpv_weight_map_t *map, const tpv_tensor_t *wanted, const tpv_tensor_t *others,
                                   size_t count) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(others[i].name, wanted->name) == 0)
            return tpv_error_set(TPV_ERR_FORMAT, "tensor \"%.200s\" lies in %.255s, but weight_map says %.255s",
                                 wanted->name, map->files[others[i].shard], map->files[wanted->shard]);
    return tpv_error_set(TPV_ERR_FORMAT, "tensor \"%.200s\" is not in %.255s, which should hold it", wanted->name,
                         map->files[wanted->shard]);
}

tpv_status_t tpv_weight_map_apply(const tpv_weight_map_t *map, tpv_artifact_t *artifact, size_t *ignored,
                                  tpv_tensor_t *first) {
    const tpv_artifact_t *expected = map->expected;
    bool *found = calloc(expected->count, sizeof *found);
    tpv_tensor_t *others = malloc((artifact->count + 1) * sizeof *others);
    tpv_status_t status = TPV_OK;
    size_t kept = 0, other_count = 0;
    if (!found || !others) status = tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for an index");
    for (size_t i = 0; status == TPV_OK && i < artifact->count; i++) {
        size_t place = place_in_map(map, &artifact->tensors[i]);
        if (place == SIZE_MAX) {
            others[other_count++] = artifact->tensors[i];
        } else {
            found[place] = true;
            artifact->tensors[kept++] = artifact->tensors[i];
        }
    }
    for (size_t i = 0; status == TPV_OK && i < expected->count; i++)
        if (!found[i]) status = refuse_missing(map, &expected->tensors[i], others, other_count);
    if (status == TPV_OK) artifact->count = kept;
    *ignored = other_count;
    if (other_count > 0) *first = others[0];
    free(others);
    free(found);
    return status;
}
