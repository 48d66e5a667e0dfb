/* A manifest from any bytes. What is accepted must be written back so that it reads the same. The digest in the input
 * would stop nearly every input, so "@" in place of it is filled in with the right one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "artifact/artifact.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool good) {
    if (!good) abort();
}

/* The input with the digest that the refusal of it tells, or NULL. */
static char *with_digest(const char *text, size_t length, size_t *longer) {
    const char *mark = memchr(text, '@', length);
    static const char zeros[] = "00000000000000000000000000000000";
    if (!mark) return NULL;
    *longer = length - 1 + 32;
    char *filled = malloc(*longer + 1);
    require(filled != NULL);
    size_t before = (size_t)(mark - text);
    memcpy(filled, text, before);
    memcpy(filled + before, zeros, 32);
    memcpy(filled + before + 32, mark + 1, length - before - 1);
    tpv_artifact_t *artifact = NULL;
    if (tpv_artifact_from_manifest(filled, *longer, &artifact) != TPV_OK) {
        const char *told = strstr(tpv_error_message(), "but the tensors have ");
        if (told) memcpy(filled + before, told + strlen("but the tensors have "), 32);
    }
    tpv_artifact_close(artifact);
    return filled;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *filled = with_digest((const char *)data, size, &size);
    tpv_artifact_t *artifact = NULL, *copy = NULL;
    const char *text = filled ? filled : (const char *)data;
    if (tpv_artifact_from_manifest(text, size, &artifact) == TPV_OK) {
        char *first = NULL, *second = NULL;
        require(tpv_artifact_manifest(artifact, &first) == TPV_OK);
        require(tpv_artifact_from_manifest(first, strlen(first), &copy) == TPV_OK);
        require(tpv_artifact_manifest(copy, &second) == TPV_OK);
        require(strcmp(first, second) == 0);
        free(first);
        free(second);
        tpv_artifact_close(copy);
    } else {
        require(artifact == NULL && *tpv_error_message());
    }
    tpv_artifact_close(artifact);
    free(filled);
    return 0;
}
