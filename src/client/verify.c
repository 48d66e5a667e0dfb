#include <stdlib.h>
#include <string.h>

#include "artifact/artifact.h"
#include "base/error.h"
#include "tpview/fetch.h"

#define BLOCK_BYTES ((size_t)4 << 20)

typedef struct {
    const tpv_artifact_t *artifact, *file;
    const tpv_view_t *view;
    const char *path;
    uint8_t *block;
    tpv_progress_t progress;
    void *user;
} verify_t;

typedef struct {
    const uint8_t *expected, *found;
    size_t length, at; /* at: of the first byte that differs; length: none does */
    uint8_t byte;      /* what was found there */
} difference_t;

static tpv_status_t compare_shape(const verify_t *verify, const tpv_output_t *output, const tpv_tensor_t *tensor) {
    if (!tensor) return tpv_error_set(TPV_ERR_DIGEST, "%s: tensor %s is missing", verify->path, output->name);
    bool same = tensor->dtype == output->dtype && tensor->dims == output->dims;
    for (uint32_t i = 0; same && i < output->dims; i++)
        same = tensor->shape[i] == output->shape[i];
    if (!same)
        return tpv_error_set(TPV_ERR_DIGEST, "%s: tensor %s has another dtype or shape than the plan says",
                             verify->path, output->name);
    return TPV_OK;
}

/* Guarded: the file may be truncated meanwhile. */
static void find_difference(void *user) {
    difference_t *difference = user;
    size_t at = 0;
    if (memcmp(difference->expected, difference->found, difference->length) == 0) at = difference->length;
    while (at < difference->length && difference->expected[at] == difference->found[at])
        at++;
    if (at < difference->length) difference->byte = difference->found[at];
    difference->at = at;
}

static tpv_status_t compare_values(const verify_t *verify, const tpv_output_t *output, const tpv_tensor_t *tensor) {
    TPV_TRY(tpv_artifact_map(verify->file));
    const uint8_t *data = tpv_artifact_data(verify->file, tensor);
    for (uint64_t done = 0; done < output->bytes;) {
        size_t length = output->bytes - done < BLOCK_BYTES ? output->bytes - done : BLOCK_BYTES;
        TPV_TRY(tpv_view_gather(verify->view, verify->artifact, output->offset + done, length, verify->block));
        difference_t difference = {.expected = verify->block, .found = data + done, .length = length};
        TPV_TRY(tpv_artifact_guard(verify->file, find_difference, &difference));
        size_t at = difference.at;
        if (at < length) {
            TPV_TRY(tpv_artifact_check(verify->file));
            return tpv_error_set(
                TPV_ERR_DIGEST, "%s: tensor %s differs at element %llu (byte %llu of it): has %02x, expected %02x",
                verify->path, output->name, (unsigned long long)((done + at) * 8 / tpv_dtype_bits(output->dtype)),
                (unsigned long long)(done + at), difference.byte, verify->block[at]);
        }
        done += length;
        if (verify->progress &&
            !verify->progress(verify->user, output->offset + done, tpv_view_stats(verify->view).bytes))
            return tpv_error_set(TPV_ERR_CANCELLED, "the verification was cancelled");
    }
    return TPV_OK;
}

static bool is_output(const tpv_view_t *view, const char *name) {
    for (size_t i = 0; i < tpv_view_output_count(view); i++)
        if (strcmp(tpv_view_output(view, i)->name, name) == 0) return true;
    return false;
}

/* Every output has a tensor of the file by now: a surplus one can only be of another name. */
static tpv_status_t compare_count(const verify_t *verify) {
    size_t count = tpv_artifact_tensor_count(verify->file), expected = tpv_view_output_count(verify->view), i = 0;
    if (count == expected) return TPV_OK;
    while (i + 1 < count && is_output(verify->view, tpv_artifact_tensor(verify->file, i)->name))
        i++;
    return tpv_error_set(TPV_ERR_DIGEST, "%s has %zu tensors, the plan %zu: %s is not one of the plan's", verify->path,
                         count, expected, tpv_artifact_tensor(verify->file, i)->name);
}

static tpv_status_t compare_all(const verify_t *verify) {
    size_t count = tpv_view_output_count(verify->view);
    for (size_t i = 0; i < count; i++) {
        const tpv_output_t *output = tpv_view_output(verify->view, i);
        const tpv_tensor_t *tensor = tpv_artifact_find(verify->file, output->name);
        TPV_TRY(compare_shape(verify, output, tensor));
        TPV_TRY(compare_values(verify, output, tensor));
    }
    TPV_TRY(compare_count(verify));
    return tpv_artifact_check(verify->file);
}

tpv_status_t tpv_verify_file(const tpv_artifact_t *artifact, const tpv_view_t *view, const char *path,
                             tpv_progress_t progress, void *user) {
    tpv_artifact_t *file = NULL;
    TPV_TRY(tpv_artifact_open(path, &file));
    verify_t verify = {
        .artifact = artifact, .file = file, .view = view, .path = path, .progress = progress, .user = user};
    verify.block = malloc(BLOCK_BYTES);
    tpv_status_t status = verify.block ? compare_all(&verify) : tpv_error_set(TPV_ERR_NO_MEMORY, "no memory to verify");
    free(verify.block);
    tpv_artifact_close(file);
    return status;
}
