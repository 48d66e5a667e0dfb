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

/* Check that a sealed artifact has the map's tensors, each in the map's file, and no other. TPV_ERR_FORMAT. */
tpv_status_t tpv_weight_map_check(const tpv_weight_map_t *map, const tpv_artifact_t *artifact);

#endif
