/*
 * Artifacts: checkpoints in the safetensors format.
 *
 * An artifact is an immutable set of named tensors. It is opened from a folder as Hugging Face lays it out
 * (config.json, *.safetensors, and model.safetensors.index.json when there are several), from one .safetensors file,
 * or made from a manifest that a service sent. The last form is an index only: names, dtypes and shapes, no bytes.
 *
 * Identity. index_digest covers names, dtypes and shapes (not how tensors are spread over files). artifact_id covers
 * index_digest and every tensor's values. Both are 32 lower-case hex digits; they tell versions and accidents apart and
 * are no defence against somebody who forges values on purpose.
 *
 * Threads: an open artifact is read-only; all functions but tpv_artifact_close may run at the same time.
 *
 * Format: safetensors (https://github.com/huggingface/safetensors, README "Format"): u64 little-endian header length,
 * a JSON header, the data area; offsets are relative to the data area, which has no gaps and no overlaps.
 */
#ifndef TPVIEW_ARTIFACT_H
#define TPVIEW_ARTIFACT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tpview/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TPV_MAX_DIMS 8
#define TPV_MAX_NAME 1024        /* longest tensor name, without the final zero */
#define TPV_MAX_TENSORS 2000000u /* most tensors in one artifact */
#define TPV_ID_CHARS 33          /* 32 hex digits and a zero */

/* Every dtype of the safetensors format (Dtype in safetensors/src/tensor.rs, version 0.8.0). */
typedef enum tpv_dtype {
    TPV_DTYPE_BOOL,
    TPV_DTYPE_F4,
    TPV_DTYPE_F6_E2M3,
    TPV_DTYPE_F6_E3M2,
    TPV_DTYPE_U8,
    TPV_DTYPE_I8,
    TPV_DTYPE_F8_E5M2,
    TPV_DTYPE_F8_E4M3,
    TPV_DTYPE_F8_E8M0,
    TPV_DTYPE_F8_E4M3FNUZ,
    TPV_DTYPE_F8_E5M2FNUZ,
    TPV_DTYPE_I16,
    TPV_DTYPE_U16,
    TPV_DTYPE_F16,
    TPV_DTYPE_BF16,
    TPV_DTYPE_I32,
    TPV_DTYPE_U32,
    TPV_DTYPE_F32,
    TPV_DTYPE_C64,
    TPV_DTYPE_F64,
    TPV_DTYPE_I64,
    TPV_DTYPE_U64,
    TPV_DTYPE_COUNT
} tpv_dtype_t;

/* Bits of one element: 4 and 6 for the sub-byte kinds. */
TPV_API unsigned tpv_dtype_bits(tpv_dtype_t dtype);
/* The format's name, such as "BF16". Static storage. */
TPV_API const char *tpv_dtype_name(tpv_dtype_t dtype);
/* TPV_ERR_FORMAT for a name that the format does not have. */
TPV_API tpv_status_t tpv_dtype_from_name(const char *name, tpv_dtype_t *dtype);

typedef struct tpv_tensor {
    const char *name; /* owned by the artifact */
    tpv_dtype_t dtype;
    uint32_t dims;                /* 0 for a scalar */
    uint64_t shape[TPV_MAX_DIMS]; /* elements, row-major: the last dim is contiguous */
    uint64_t bytes;               /* product of shape times the element's size */
    uint32_t shard;               /* which file; 0 in an index from a manifest */
    uint64_t offset;              /* of the first byte in that file; 0 in an index from a manifest */
} tpv_tensor_t;

/*
 * What planning reads of config.json. A number that the file does not have is 0, a text "". A value of a kind that the
 * field cannot have counts as missing, and planning refuses when it needs the field; nothing else of the file matters.
 */
typedef struct tpv_model_config {
    bool present; /* false: no config.json */
    char model_type[64];
    char quant_method[64];
    uint64_t hidden_size, intermediate_size, vocab_size;
    uint64_t num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim;
    uint64_t weight_block_size[2]; /* rows and columns of a quantisation block */
    bool tie_word_embeddings;
    uint32_t unusable; /* bit for each field whose value is of another kind than it must be; for tpview's own use */
} tpv_model_config_t;

typedef struct tpv_artifact tpv_artifact_t;

/* Called about ten times a second on the thread that called; a return of false asks for the end (TPV_ERR_CANCELLED). */
typedef bool (*tpv_progress_t)(void *user, uint64_t bytes_done, uint64_t bytes_total);

/*
 * Open the checkpoint at `path` (a folder or a .safetensors file), check every header. Nothing is mapped yet.
 * In a folder, the tensors that model.safetensors.index.json lists count, each in the file that it says, and a warning
 * tells of others; without it model.safetensors, or else the only .safetensors file. Every file stays open until the
 * artifact is closed. No data byte is read. Errors: TPV_ERR_NOT_FOUND, TPV_ERR_SYSTEM, TPV_ERR_NO_MEMORY;
 * TPV_ERR_FORMAT for each fault of a header or the index, and for a config.json that is no JSON object, naming file,
 * tensor and reason. The caller owns *artifact.
 */
TPV_API tpv_status_t tpv_artifact_open(const char *path, tpv_artifact_t **artifact);

/*
 * Make an index from a service's manifest, `length` bytes of JSON (docs/control-api.md). Checked as strictly as a
 * header. TPV_ERR_FORMAT, TPV_ERR_NO_MEMORY. The caller owns *artifact.
 */
TPV_API tpv_status_t tpv_artifact_from_manifest(const char *json, size_t length, tpv_artifact_t **artifact);

/* NULL is allowed. Every pointer got from the artifact ends here. */
TPV_API void tpv_artifact_close(tpv_artifact_t *artifact);

/* Tensors in bytewise order of their names. */
TPV_API size_t tpv_artifact_tensor_count(const tpv_artifact_t *artifact);
TPV_API const tpv_tensor_t *tpv_artifact_tensor(const tpv_artifact_t *artifact, size_t index);
/* NULL when there is none of that name. */
TPV_API const tpv_tensor_t *tpv_artifact_find(const tpv_artifact_t *artifact, const char *name);
/* The sum of all tensors' bytes. */
TPV_API uint64_t tpv_artifact_bytes(const tpv_artifact_t *artifact);
TPV_API const tpv_model_config_t *tpv_artifact_config(const tpv_artifact_t *artifact);

/* First byte of the tensor in memory: the first call maps all files, or reads them where the file system has no
 * mappings. NULL in an index from a manifest and when that fails (with a message). If the file is truncated behind our
 * back, reading raises SIGBUS. Any thread. */
TPV_API const void *tpv_artifact_data(const tpv_artifact_t *artifact, const tpv_tensor_t *tensor);

TPV_API const char *tpv_artifact_index_digest(const tpv_artifact_t *artifact);

/*
 * Compute (or take from the cache) the artifact_id; until then tpv_artifact_id returns "". An index from a manifest has
 * it from the start. `threads` 0 means one for each core; `progress` may be NULL. Digests are cached by device, inode,
 * size, mtime and ctime of every file in $TPVIEW_CACHE_DIR, never beside the checkpoint; a cache that cannot be written
 * is no error. One thread at a time may call this on an artifact. TPV_ERR_SYSTEM for a failed read, TPV_ERR_CANCELLED,
 * TPV_ERR_FORMAT if a file shrank, was written to or had its state changed since it was opened. TPV_ERR_ARGUMENT for an
 * index without an id.
 */
TPV_API tpv_status_t tpv_artifact_digest(tpv_artifact_t *artifact, unsigned threads, tpv_progress_t progress,
                                         void *user);
TPV_API const char *tpv_artifact_id(const tpv_artifact_t *artifact);

/* The manifest as JSON text, which the caller frees with free(). Needs the artifact_id. TPV_ERR_ARGUMENT without it,
 * TPV_ERR_NO_MEMORY. */
TPV_API tpv_status_t tpv_artifact_manifest(const tpv_artifact_t *artifact, char **json);

#ifdef __cplusplus
}
#endif
#endif
