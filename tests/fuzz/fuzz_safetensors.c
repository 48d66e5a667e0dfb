/* The safetensors header from any bytes: the input is the beginning of a file whose size its last 8 bytes tell. What is
 * accepted must be a gapless table that lookups and a manifest agree with. */
#include <stdlib.h>
#include <string.h>

#include "artifact/artifact.h"
#include "artifact/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool good) {
    if (!good) abort();
}

static void check_index(tpv_artifact_t *artifact, uint64_t data_bytes) {
    require(tpv_artifact_bytes(artifact) == data_bytes);
    for (size_t i = 0; i < tpv_artifact_tensor_count(artifact); i++) {
        const tpv_tensor_t *tensor = tpv_artifact_tensor(artifact, i);
        require(strlen(tensor->name) <= TPV_MAX_NAME && tensor->dims <= TPV_MAX_DIMS);
        require(tpv_artifact_find(artifact, tensor->name) == tensor);
    }
    char *json = NULL;
    tpv_artifact_t *copy = NULL;
    tpv_artifact_set_id(artifact, "00112233445566778899aabbccddeeff");
    require(tpv_artifact_manifest(artifact, &json) == TPV_OK);
    require(tpv_artifact_from_manifest(json, strlen(json), &copy) == TPV_OK);
    require(strcmp(tpv_artifact_index_digest(artifact), tpv_artifact_index_digest(copy)) == 0);
    tpv_artifact_close(copy);
    free(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint64_t file_bytes = 0, header_bytes = 0;
    if (size < TPV_SAFETENSORS_LENGTH_BYTES + sizeof file_bytes) return 0;
    size -= sizeof file_bytes;
    memcpy(&file_bytes, data + size, sizeof file_bytes);
    if (file_bytes < size) file_bytes = size;
    if (tpv_safetensors_length(data, file_bytes, &header_bytes) != TPV_OK) return 0;
    if (header_bytes > size - TPV_SAFETENSORS_LENGTH_BYTES) return 0; /* the reader has the whole header */
    tpv_artifact_t *artifact = tpv_artifact_create();
    require(artifact != NULL);
    const char *header = (const char *)data + TPV_SAFETENSORS_LENGTH_BYTES;
    if (tpv_safetensors_parse(artifact, 0, header, (size_t)header_bytes, file_bytes) == TPV_OK &&
        tpv_artifact_seal(artifact) == TPV_OK)
        check_index(artifact, file_bytes - TPV_SAFETENSORS_LENGTH_BYTES - header_bytes);
    tpv_artifact_close(artifact);
    return 0;
}
