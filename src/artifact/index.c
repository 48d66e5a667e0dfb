/* The table of tensors: filled, sealed, looked up. */
#include <stdlib.h>
#include <string.h>

#include "artifact/artifact.h"
#include "artifact/config.h"
#include "artifact/file.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/identity.h"

/* Names lie in blocks that never move, so pointers to them stay good while the index grows. */
#define NAME_BLOCK_BYTES ((size_t)64 << 10)
struct tpv_name_block {
    struct tpv_name_block *next;
    size_t used;
    char text[NAME_BLOCK_BYTES];
};
_Static_assert(TPV_MAX_NAME < NAME_BLOCK_BYTES, "a name must fit in a block");

static tpv_status_t no_memory(void) {
    return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the index of an artifact");
}

tpv_artifact_t *tpv_artifact_create(void) {
    tpv_artifact_t *artifact = calloc(1, sizeof *artifact);
    if (artifact) {
        atomic_init(&artifact->id, "");
        atomic_init(&artifact->mapped, false);
        pthread_mutex_init(&artifact->map_lock, NULL);
    } else {
        no_memory();
    }
    return artifact;
}

void tpv_artifact_close(tpv_artifact_t *artifact) {
    if (!artifact) return;
    for (uint32_t i = 0; i < artifact->file_count; i++)
        tpv_artifact_file_close(&artifact->files[i]);
    free(artifact->files);
    while (artifact->names) {
        struct tpv_name_block *next = artifact->names->next;
        free(artifact->names);
        artifact->names = next;
    }
    free(artifact->tensors);
    json_decref(artifact->facts);
    pthread_mutex_destroy(&artifact->map_lock);
    free(artifact);
}

static const char *keep_name(tpv_artifact_t *artifact, const char *name) {
    size_t length = strlen(name) + 1;
    struct tpv_name_block *block = artifact->names;
    if (!block || length > sizeof block->text - block->used) {
        block = malloc(sizeof *block);
        if (!block) return NULL;
        block->next = artifact->names;
        block->used = 0;
        artifact->names = block;
    }
    char *place = block->text + block->used;
    memcpy(place, name, length);
    block->used += length;
    return place;
}

tpv_status_t tpv_tensor_measure(tpv_tensor_t *tensor) {
    uint64_t bits = tpv_dtype_bits(tensor->dtype);
    bool empty = false;
    for (uint32_t i = 0; i < tensor->dims; i++) {
        if (tensor->shape[i] == 0) {
            empty = true;
        } else if (!tpv_mul_fits(bits, tensor->shape[i], &bits)) {
            return tpv_error_set(TPV_ERR_FORMAT, "the shape's size in bits overflows 64 bits");
        }
    }
    if (empty) bits = 0;
    if (bits % 8 != 0)
        return tpv_error_set(TPV_ERR_FORMAT, "its %llu elements of %s are not a whole number of bytes",
                             (unsigned long long)(bits / tpv_dtype_bits(tensor->dtype)), tpv_dtype_name(tensor->dtype));
    tensor->bytes = bits / 8;
    return TPV_OK;
}

tpv_status_t tpv_artifact_add(tpv_artifact_t *artifact, const tpv_tensor_t *tensor) {
    if (artifact->count == TPV_MAX_TENSORS)
        return tpv_error_set(TPV_ERR_FORMAT, "more than %u tensors", TPV_MAX_TENSORS);
    tpv_tensor_t copy = *tensor;
    TPV_TRY(tpv_tensor_measure(&copy));
    if (artifact->count == artifact->capacity) {
        size_t capacity = artifact->capacity ? 2 * artifact->capacity : 64;
        tpv_tensor_t *tensors = realloc(artifact->tensors, capacity * sizeof *tensors);
        if (!tensors) return no_memory();
        artifact->tensors = tensors;
        artifact->capacity = capacity;
    }
    copy.name = keep_name(artifact, tensor->name);
    if (!copy.name) return no_memory();
    artifact->tensors[artifact->count++] = copy;
    return TPV_OK;
}

static int by_name(const void *left, const void *right) {
    return strcmp(((const tpv_tensor_t *)left)->name, ((const tpv_tensor_t *)right)->name);
}

/* Names, dtypes by name and shapes, in the order of names; the files and places do not count. */
static tpv_status_t digest_index(tpv_artifact_t *artifact) {
    tpv_identity_t identity = tpv_identity_begin("tpview-index-1");
    tpv_identity_add_u64(&identity, artifact->count);
    for (size_t i = 0; i < artifact->count; i++) {
        const tpv_tensor_t *tensor = &artifact->tensors[i];
        tpv_identity_add_text(&identity, tensor->name);
        tpv_identity_add_text(&identity, tpv_dtype_name(tensor->dtype));
        tpv_identity_add_u64(&identity, tensor->dims);
        for (uint32_t dim = 0; dim < tensor->dims; dim++)
            tpv_identity_add_u64(&identity, tensor->shape[dim]);
    }
    return tpv_identity_end(&identity, artifact->index_digest);
}

tpv_status_t tpv_artifact_seal(tpv_artifact_t *artifact) {
    if (artifact->count > 1) qsort(artifact->tensors, artifact->count, sizeof *artifact->tensors, by_name);
    for (size_t i = 0; i < artifact->count; i++) {
        const tpv_tensor_t *tensor = &artifact->tensors[i];
        if (i > 0 && by_name(tensor - 1, tensor) == 0)
            return tpv_error_set(TPV_ERR_FORMAT, "tensor \"%.200s\" appears twice", tensor->name);
        if (!tpv_add_fits(artifact->bytes, tensor->bytes, &artifact->bytes))
            return tpv_error_set(TPV_ERR_FORMAT, "the sizes of all tensors overflow 64 bits");
    }
    return digest_index(artifact);
}

size_t tpv_artifact_tensor_count(const tpv_artifact_t *artifact) {
    return artifact->count;
}

const tpv_tensor_t *tpv_artifact_tensor(const tpv_artifact_t *artifact, size_t index) {
    return index < artifact->count ? &artifact->tensors[index] : NULL;
}

const tpv_tensor_t *tpv_artifact_find(const tpv_artifact_t *artifact, const char *name) {
    if (artifact->count == 0) return NULL;
    const tpv_tensor_t wanted = {.name = name};
    return bsearch(&wanted, artifact->tensors, artifact->count, sizeof *artifact->tensors, by_name);
}

size_t tpv_artifact_seek(const tpv_artifact_t *artifact, const char *start, size_t length) {
    size_t low = 0, high = artifact->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strncmp(artifact->tensors[middle].name, start, length) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

uint64_t tpv_artifact_bytes(const tpv_artifact_t *artifact) {
    return artifact->bytes;
}

const tpv_model_config_t *tpv_artifact_config(const tpv_artifact_t *artifact) {
    return &artifact->config;
}

tpv_status_t tpv_artifact_set_config(tpv_artifact_t *artifact, const json_t *json) {
    TPV_TRY(tpv_config_read(json, &artifact->config));
    json_decref(artifact->facts);
    artifact->facts = tpv_config_facts(json);
    return artifact->facts ? TPV_OK : tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the facts of config.json");
}

json_t *tpv_artifact_facts(const tpv_artifact_t *artifact) {
    return artifact->facts ? json_incref(artifact->facts) : tpv_config_json(&artifact->config);
}

const void *tpv_artifact_data(const tpv_artifact_t *artifact, const tpv_tensor_t *tensor) {
    if (tensor->shard >= artifact->file_count || tpv_artifact_map(artifact) != TPV_OK) return NULL;
    return artifact->files[tensor->shard].mapping + tensor->offset;
}

const char *tpv_artifact_index_digest(const tpv_artifact_t *artifact) {
    return artifact->index_digest;
}

const char *tpv_artifact_id(const tpv_artifact_t *artifact) {
    return atomic_load_explicit(&artifact->id, memory_order_acquire);
}

void tpv_artifact_set_id(tpv_artifact_t *artifact, const char *id) {
    memcpy(artifact->id_text, id, TPV_ID_CHARS);
    atomic_store_explicit(&artifact->id, artifact->id_text, memory_order_release);
}
