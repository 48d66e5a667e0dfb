/*
 * The inside of an artifact, for the files of src/artifact and for layers above that read mapped bytes. An artifact is
 * filled by one thread (tpv_artifact_add …, tpv_artifact_seal) and read-only from then on, but for its identity.
 */
#ifndef ARTIFACT_ARTIFACT_H
#define ARTIFACT_ARTIFACT_H

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>

#include "tpview/artifact.h"

/* What tells that a file was not touched. Times in nanoseconds since the epoch. */
typedef struct tpv_file_state {
    uint64_t device, inode, size;
    int64_t mtime_ns, ctime_ns;
} tpv_file_state_t;

typedef struct tpv_artifact_file {
    char *path;
    int descriptor;         /* open for reading as long as the artifact: pread cannot raise SIGBUS */
    const uint8_t *mapping; /* the whole file, PROT_READ; NULL until tpv_artifact_map */
    tpv_file_state_t state; /* when it was opened */
} tpv_artifact_file_t;

struct tpv_name_block;

struct tpv_artifact {
    tpv_tensor_t *tensors; /* in bytewise order of names once sealed */
    size_t count, capacity;
    struct tpv_name_block *names; /* where the names lie */
    uint64_t bytes;
    tpv_artifact_file_t *files; /* none in an index from a manifest */
    uint32_t file_count;
    pthread_mutex_t map_lock; /* held by the thread that maps the files */
    atomic_bool mapped;       /* stored (release) under the lock once all files are, loaded (acquire) */
    tpv_model_config_t config;
    json_t *facts; /* what a plan may ask of config.json; NULL: only what `config` has */
    char index_digest[TPV_ID_CHARS];
    char id_text[TPV_ID_CHARS]; /* written once, before id is published */
    _Atomic(const char *) id;   /* "" or id_text; stored (release) by tpv_artifact_digest, loaded (acquire) */
};

/* An empty artifact, or NULL when out of memory (the message is set). */
tpv_artifact_t *tpv_artifact_create(void);

/* Put a copy of `tensor` into the index, with name, dtype, dims, shape, shard and offset as told; bytes is computed by
 * tpv_tensor_measure. TPV_ERR_FORMAT beyond TPV_MAX_TENSORS, TPV_ERR_NO_MEMORY. */
tpv_status_t tpv_artifact_add(tpv_artifact_t *artifact, const tpv_tensor_t *tensor);

/* Take config.json's object: `config` and `facts`. The errors of tpv_config_read; TPV_ERR_NO_MEMORY. */
tpv_status_t tpv_artifact_set_config(tpv_artifact_t *artifact, const json_t *json);

/* What plans may ask of config.json (config.h). A new reference, or NULL when out of memory. */
json_t *tpv_artifact_facts(const tpv_artifact_t *artifact);

/* The place of the first tensor whose name is not below the first `length` bytes of `start`; their count when there is
 * none. Sealed only. */
size_t tpv_artifact_seek(const tpv_artifact_t *artifact, const char *start, size_t length);

/* Order the tensors, refuse duplicate names, sum the bytes, compute index_digest. TPV_ERR_FORMAT, TPV_ERR_NO_MEMORY. */
tpv_status_t tpv_artifact_seal(tpv_artifact_t *artifact);

/* Make the artifact_id known: 32 lower-case hex digits. */
void tpv_artifact_set_id(tpv_artifact_t *artifact, const char *id);

/* Set tensor->bytes of its dtype and shape. TPV_ERR_FORMAT when the size does not fit in 64 bits (dims of zero set
 * aside, so that strides fit as well) or is not a whole number of bytes. */
tpv_status_t tpv_tensor_measure(tpv_tensor_t *tensor);

/* See that all files are mapped: those who read headers alone need none of it. TPV_ERR_ARGUMENT for an index without
 * files, TPV_ERR_SYSTEM, TPV_ERR_NO_MEMORY, TPV_ERR_FORMAT when a file that cannot be mapped shrank. Any thread. */
tpv_status_t tpv_artifact_map(const tpv_artifact_t *artifact);

/*
 * Run body(user), which reads the artifact's mapped bytes, as tpv_guard_run does. A file that was truncated since it
 * was opened gives TPV_ERR_FORMAT naming it; a fault at any other address (a destination on a full disk, broken memory)
 * TPV_ERR_SYSTEM. Any thread; about the cost of one system call.
 */
tpv_status_t tpv_artifact_guard(const tpv_artifact_t *artifact, void (*body)(void *user), void *user);

/*
 * Check that all files, or the one that holds a tensor, have the size, modification time and change time that they had
 * when they were opened. A guard cannot see everything: the rest of the last page of a truncated file reads as zeros,
 * and a file that is written to has other values than its artifact_id tells. So check after reading, before the bytes
 * count as good. One system call for each file. TPV_ERR_FORMAT names the file; TPV_ERR_SYSTEM.
 */
tpv_status_t tpv_artifact_check(const tpv_artifact_t *artifact);
tpv_status_t tpv_artifact_check_tensor(const tpv_artifact_t *artifact, const tpv_tensor_t *tensor);

#endif
