/* model.safetensors.index.json: which file holds which tensor. */
#ifndef ARTIFACT_WEIGHT_MAP_H
#define ARTIFACT_WEIGHT_MAP_H

#include "artifact/artifact.h"

typedef struct tpv_weight_map {
    tpv_artifact_t *expected; /* a table of names and shards, nothing else */
    char **files;             /* names within the folder, by shard */
    uint32_t file_count;
} tpv_weight_map_t;

/* Parse the text of an index. File names must be plain, so that they cannot lead out of the folder. TPV_ERR_FORMAT,
 * TPV_ERR_NO_MEMORY. The caller frees *map with tpv_weight_map_free, also after an error. */
tpv_status_t tpv_weight_map_parse(const char *text, size_t length, tpv_weight_map_t *map);
void tpv_weight_map_free(tpv_weight_map_t *map);

/*
 * Take out of a table that is not sealed yet what the map does not list, and copies in other files than it says. The
 * map's tensors that remain wanting are TPV_ERR_FORMAT. Returns in *ignored how many were taken out, and in *first, if
 * any, the first of them, whose name lives as long as the artifact.
 */
tpv_status_t tpv_weight_map_apply(const tpv_weight_map_t *map, tpv_artifact_t *artifact, size_t *ignored,
                                  tpv_tensor_t *first);

#endif
