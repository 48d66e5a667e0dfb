/*
 * The header of a .safetensors file. Rules from the format's README (section "Format") and from Metadata::validate in
 * safetensors/src/tensor.rs, version 0.8.0; where the README is stricter than the code (first byte, duplicate names),
 * the README holds here.
 */
#include "artifact/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "artifact/file.h"
#include "artifact/json.h"
#include "base/checked.h"
#include "base/error.h"

#define ENTRY_BYTES 4096                  /* far more than the longest honest entry of a tensor */
#define METADATA_BYTES ((size_t)16 << 20) /* training metadata reaches some megabytes */

typedef struct {
    tpv_artifact_t *artifact;
    uint32_t shard;
    bool metadata_seen;
} header_t;

tpv_status_t tpv_safetensors_length(const uint8_t encoded[TPV_SAFETENSORS_LENGTH_BYTES], uint64_t file_bytes,
                                    uint64_t *header_bytes) {
    uint64_t length = 0;
    for (int i = TPV_SAFETENSORS_LENGTH_BYTES - 1; i >= 0; i--)
        length = length << 8 | encoded[i];
    if (length > TPV_SAFETENSORS_MAX_HEADER)
        return tpv_error_set(TPV_ERR_FORMAT,
                             "the header length is %llu: expected at most %llu, the format's limit: "
                             "this is no safetensors file",
                             (unsigned long long)length, (unsigned long long)TPV_SAFETENSORS_MAX_HEADER);
    if (length > file_bytes - TPV_SAFETENSORS_LENGTH_BYTES)
        return tpv_error_set(TPV_ERR_FORMAT, "the header length is %llu, which reaches beyond the file's %llu bytes",
                             (unsigned long long)length, (unsigned long long)file_bytes);
    *header_bytes = length;
    return TPV_OK;
}

static tpv_status_t read_offsets(const json_t *json, uint64_t *begin, uint64_t *end) {
    if (!json_is_array(json) || json_array_size(json) != 2)
        return tpv_error_set(TPV_ERR_FORMAT, "data_offsets is not an array of two integers");
    for (size_t i = 0; i < 2; i++) {
        const json_t *offset = json_array_get(json, i);
        if (!json_is_integer(offset) || json_integer_value(offset) < 0)
            return tpv_error_set(TPV_ERR_FORMAT, "data_offsets has an item that is not a non-negative integer");
        *(i == 0 ? begin : end) = (uint64_t)json_integer_value(offset);
    }
    if (*begin > *end)
        return tpv_error_set(TPV_ERR_FORMAT, "data_offsets [%llu, %llu] end before they begin",
                             (unsigned long long)*begin, (unsigned long long)*end);
    return TPV_OK;
}

static tpv_status_t read_entry(header_t *header, const char *name, const json_t *json) {
    static const char *const fields[] = {"dtype", "shape", "data_offsets"}; /* others are ignored, as serde does */
    if (!json_is_object(json)) return tpv_error_set(TPV_ERR_FORMAT, "its entry is not an object");
    for (size_t i = 0; i < 3; i++)
        if (!json_object_get(json, fields[i])) return tpv_error_set(TPV_ERR_FORMAT, "%s is missing", fields[i]);
    tpv_tensor_t tensor = {.name = name, .shard = header->shard};
    uint64_t end = 0;
    TPV_TRY(tpv_json_dtype(json_object_get(json, "dtype"), &tensor));
    TPV_TRY(tpv_json_shape(json_object_get(json, "shape"), &tensor));
    TPV_TRY(read_offsets(json_object_get(json, "data_offsets"), &tensor.offset, &end));
    TPV_TRY(tpv_tensor_measure(&tensor));
    if (tensor.bytes != end - tensor.offset)
        return tpv_error_set(
            TPV_ERR_FORMAT, "shape and dtype %s make %llu bytes, but data_offsets [%llu, %llu] hold %llu",
            tpv_dtype_name(tensor.dtype), (unsigned long long)tensor.bytes, (unsigned long long)tensor.offset,
            (unsigned long long)end, (unsigned long long)(end - tensor.offset));
    return tpv_artifact_add(header->artifact, &tensor);
}

static tpv_status_t visit_metadata(void *user, const char *name, tpv_json_text_t value) {
    (void)user;
    if (value.length > 0 && value.start[0] == '"') return TPV_OK;
    return tpv_error_set(TPV_ERR_FORMAT, "the value of \"%.100s\" is not a string", name);
}

/* That it maps strings to strings is found out first: then the tree cannot be large. */
static tpv_status_t check_metadata(tpv_json_text_t text) {
    if (text.length == 4 && memcmp(text.start, "null", 4) == 0) return TPV_OK;
    TPV_TRY(tpv_json_members(text, visit_metadata, NULL));
    json_t *json = NULL;
    TPV_TRY(tpv_json_parse(text, METADATA_BYTES, &json));
    json_decref(json);
    return TPV_OK;
}

static tpv_status_t visit_entry(void *user, const char *name, tpv_json_text_t value) {
    header_t *header = user;
    if (strcmp(name, "__metadata__") == 0) {
        if (header->metadata_seen) return tpv_error_set(TPV_ERR_FORMAT, "__metadata__ appears twice");
        header->metadata_seen = true;
        tpv_status_t status = check_metadata(value);
        return status == TPV_OK ? TPV_OK : tpv_error_prefix(status, "__metadata__");
    }
    json_t *json = NULL;
    tpv_status_t status = tpv_json_parse(value, ENTRY_BYTES, &json);
    if (status == TPV_OK) status = read_entry(header, name, json);
    json_decref(json);
    return status == TPV_OK ? TPV_OK : tpv_error_prefix(status, "tensor \"%.200s\"", name);
}

static int by_name(const void *left, const void *right) {
    return strcmp(((const tpv_tensor_t *)left)->name, ((const tpv_tensor_t *)right)->name);
}

/* A tensor without bytes comes before the one that begins at the same place. */
static int by_place(const void *left, const void *right) {
    const tpv_tensor_t *a = left, *b = right;
    if (a->offset != b->offset) return a->offset < b->offset ? -1 : 1;
    return (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

/* The tensors must fill the data area one behind the other, from its first byte to its last. */
static tpv_status_t check_layout(tpv_tensor_t *tensors, size_t count, uint64_t data_bytes) {
    if (count > 1) qsort(tensors, count, sizeof *tensors, by_name);
    for (size_t i = 1; i < count; i++)
        if (by_name(&tensors[i - 1], &tensors[i]) == 0)
            return tpv_error_set(TPV_ERR_FORMAT, "tensor \"%.200s\" appears twice", tensors[i].name);
    if (count > 1) qsort(tensors, count, sizeof *tensors, by_place);
    uint64_t filled = 0;
    for (size_t i = 0; i < count; i++) {
        const tpv_tensor_t *tensor = &tensors[i];
        if (tensor->offset > filled && tensor->offset > data_bytes)
            return tpv_error_set(TPV_ERR_FORMAT,
                                 "tensor \"%.200s\" begins at offset %llu, outside of the data area of "
                                 "%llu bytes",
                                 tensor->name, (unsigned long long)tensor->offset, (unsigned long long)data_bytes);
        if (tensor->offset > filled)
            return tpv_error_set(TPV_ERR_FORMAT,
                                 "a gap of %llu bytes before tensor \"%.200s\": expected it at offset "
                                 "%llu, not %llu",
                                 (unsigned long long)(tensor->offset - filled), tensor->name,
                                 (unsigned long long)filled, (unsigned long long)tensor->offset);
        if (tensor->offset < filled)
            return tpv_error_set(TPV_ERR_FORMAT,
                                 "tensor \"%.200s\" overlaps tensor \"%.200s\": it begins at offset "
                                 "%llu, expected %llu",
                                 tensor->name, tensors[i - 1].name, (unsigned long long)tensor->offset,
                                 (unsigned long long)filled);
        if (!tpv_add_fits(filled, tensor->bytes, &filled))
            return tpv_error_set(TPV_ERR_FORMAT, "the offsets of tensor \"%.200s\" overflow 64 bits", tensor->name);
    }
    if (filled > data_bytes)
        return tpv_error_set(TPV_ERR_FORMAT, "the file is truncated: its header describes %llu data bytes, it has %llu",
                             (unsigned long long)filled, (unsigned long long)data_bytes);
    if (filled < data_bytes)
        return tpv_error_set(TPV_ERR_FORMAT,
                             "%llu bytes behind the last tensor: the header describes %llu data bytes, "
                             "the file has %llu",
                             (unsigned long long)(data_bytes - filled), (unsigned long long)filled,
                             (unsigned long long)data_bytes);
    return TPV_OK;
}

tpv_status_t tpv_safetensors_parse(tpv_artifact_t *artifact, uint32_t shard, const char *header, size_t header_bytes,
                                   uint64_t file_bytes) {
    uint64_t data_begin = TPV_SAFETENSORS_LENGTH_BYTES + (uint64_t)header_bytes;
    if (data_begin > file_bytes)
        return tpv_error_set(TPV_ERR_FORMAT, "the header reaches beyond the file's %llu bytes",
                             (unsigned long long)file_bytes);
    if (header_bytes == 0 || header[0] != '{')
        return tpv_error_set(TPV_ERR_FORMAT, "the header does not begin with '{': not a safetensors file");
    size_t first = artifact->count;
    header_t state = {.artifact = artifact, .shard = shard};
    tpv_status_t status = tpv_json_members((tpv_json_text_t){header, header_bytes}, visit_entry, &state);
    if (status != TPV_OK) return tpv_error_prefix(status, "header");
    if (artifact->count == first) {
        if (data_begin == file_bytes) return TPV_OK;
        return check_layout(NULL, 0, file_bytes - data_begin);
    }
    TPV_TRY(check_layout(artifact->tensors + first, artifact->count - first, file_bytes - data_begin));
    for (size_t i = first; i < artifact->count; i++)
        artifact->tensors[i].offset += data_begin;
    return TPV_OK;
}

static tpv_status_t read_header(tpv_artifact_t *artifact, uint32_t shard) {
    const tpv_artifact_file_t *file = &artifact->files[shard];
    uint8_t encoded[TPV_SAFETENSORS_LENGTH_BYTES];
    uint64_t header_bytes = 0;
    if (file->state.size < sizeof encoded)
        return tpv_error_set(TPV_ERR_FORMAT, "the file has %llu bytes, too few for the 8 bytes of header length",
                             (unsigned long long)file->state.size);
    char begin[64];
    size_t length = file->state.size < sizeof begin ? (size_t)file->state.size : sizeof begin;
    TPV_TRY(tpv_artifact_file_read(file, 0, length, begin));
    TPV_TRY(tpv_artifact_refuse_pointer(begin, length));
    memcpy(encoded, begin, sizeof encoded);
    TPV_TRY(tpv_safetensors_length(encoded, file->state.size, &header_bytes));
    char *header = malloc((size_t)header_bytes + 1);
    if (!header)
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a header of %llu bytes",
                             (unsigned long long)header_bytes);
    tpv_status_t status = tpv_artifact_file_read(file, sizeof encoded, (size_t)header_bytes, header);
    if (status == TPV_OK)
        status = tpv_safetensors_parse(artifact, shard, header, (size_t)header_bytes, file->state.size);
    free(header);
    return status;
}

tpv_status_t tpv_safetensors_read(tpv_artifact_t *artifact, uint32_t shard) {
    tpv_status_t status = read_header(artifact, shard);
    return status == TPV_OK ? TPV_OK : tpv_error_prefix(status, "%.500s", artifact->files[shard].path);
}
