/* model.safetensors.index.json from any bytes. What is accepted names plain files alone, and fits exactly the tensors
 * that it lists where it lists them. */
#include <stdlib.h>
#include <string.h>

#include "artifact/weight_map.h"
#include "base/error.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool good) {
    if (!good) abort();
}

static void check_files(const tpv_weight_map_t *map) {
    static const char suffix[] = ".safetensors";
    require(map->file_count > 0);
    for (uint32_t i = 0; i < map->file_count; i++) {
        size_t length = strlen(map->files[i]);
        require(length < 256 && length >= sizeof suffix && *map->files[i] != '.' && !strchr(map->files[i], '/'));
        require(strcmp(map->files[i] + length - (sizeof suffix - 1), suffix) == 0);
        for (uint32_t other = 0; other < i; other++)
            require(strcmp(map->files[i], map->files[other]) != 0);
    }
}

/* The files have what the map says but for tensor `missing` (SIZE_MAX: all), and one more tensor. */
static tpv_status_t apply(const tpv_weight_map_t *map, size_t missing, size_t *ignored, size_t *kept) {
    const tpv_artifact_t *expected = map->expected;
    tpv_artifact_t *files = tpv_artifact_create();
    require(files != NULL);
    for (size_t i = 0; i < expected->count; i++) {
        const tpv_tensor_t tensor = expected->tensors[i];
        if (i != missing) require(tpv_artifact_add(files, &tensor) == TPV_OK);
    }
    char longest[TPV_MAX_NAME + 1];
    memset(longest, 'x', sizeof longest);
    longest[TPV_MAX_NAME] = '\0';
    tpv_tensor_t extra = {.name = longest, .dtype = TPV_DTYPE_U8}, first;
    bool is_extra = tpv_artifact_find(expected, longest) == NULL;
    if (is_extra) require(tpv_artifact_add(files, &extra) == TPV_OK);
    tpv_status_t status = tpv_weight_map_apply(map, files, ignored, &first);
    *ignored -= is_extra;
    *kept = files->count;
    tpv_artifact_close(files);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    tpv_weight_map_t map;
    if (tpv_weight_map_parse((const char *)data, size, &map) == TPV_OK) {
        size_t ignored = 0, kept = 0;
        check_files(&map);
        for (size_t i = 0; i < map.expected->count; i++)
            require(map.expected->tensors[i].shard < map.file_count);
        require(apply(&map, SIZE_MAX, &ignored, &kept) == TPV_OK && ignored == 0 && kept == map.expected->count);
        require(apply(&map, 0, &ignored, &kept) == TPV_ERR_FORMAT);
    } else {
        require(*tpv_error_message());
    }
    tpv_weight_map_free(&map);
    return 0;
}
