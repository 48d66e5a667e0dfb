/* One file of an artifact: opened, mapped, watched for changes. */
#ifndef ARTIFACT_FILE_H
#define ARTIFACT_FILE_H

#include "artifact/artifact.h"

/* Open a regular file for reading and note its state. No data is read. TPV_ERR_NOT_FOUND, TPV_ERR_FORMAT for what is
 * not a regular file or is empty, TPV_ERR_SYSTEM, TPV_ERR_NO_MEMORY; each names the path. The caller closes it with
 * tpv_artifact_file_close. */
tpv_status_t tpv_artifact_file_open(const char *path, tpv_artifact_file_t *file);

/* Map the whole file; where the file system has no mappings, read it into memory. TPV_ERR_SYSTEM, TPV_ERR_NO_MEMORY,
 * TPV_ERR_FORMAT when it shrank. One thread at a time. */
tpv_status_t tpv_artifact_file_map(tpv_artifact_file_t *file);

void tpv_artifact_file_close(tpv_artifact_file_t *file);

/* The state as it is now. TPV_ERR_SYSTEM. */
tpv_status_t tpv_artifact_file_state(const tpv_artifact_file_t *file, tpv_file_state_t *state);

/* Check that the file has the size, the modification time and the change time that it had when it was opened: the
 * second can be put back by who writes, the third cannot. TPV_ERR_FORMAT if not, TPV_ERR_SYSTEM. */
tpv_status_t tpv_artifact_file_check(const tpv_artifact_file_t *file);

/* Read exactly `length` bytes at `offset`. TPV_ERR_FORMAT when the file ends before, TPV_ERR_SYSTEM. */
tpv_status_t tpv_artifact_file_read(const tpv_artifact_file_t *file, uint64_t offset, size_t length, void *bytes);

/* Whether what a file begins with is a Git LFS pointer, which stands for the file in a clone without LFS.
 * TPV_ERR_FORMAT then, with the remedy. */
tpv_status_t tpv_artifact_refuse_pointer(const void *begin, size_t length);

/* Read a whole small text file (config.json, an index) of at most `limit` bytes; the caller frees *text. Errors as
 * tpv_artifact_file_open, TPV_ERR_FORMAT beyond the limit. */
tpv_status_t tpv_artifact_text_read(const char *path, size_t limit, char **text, size_t *length);

#endif
