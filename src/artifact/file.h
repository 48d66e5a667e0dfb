/* One file of an artifact: opened, mapped, watched for changes. */
#ifndef ARTIFACT_FILE_H
#define ARTIFACT_FILE_H

#include "artifact/artifact.h"

/* Open a regular file for reading, map it whole and note its state. No data is read. TPV_ERR_NOT_FOUND, TPV_ERR_FORMAT
 * for what is not a regular file or is empty, TPV_ERR_SYSTEM, TPV_ERR_NO_MEMORY; each names the path. The caller closes
 * it with tpv_artifact_file_close. */
tpv_status_t tpv_artifact_file_open(const char *path, tpv_artifact_file_t *file);
void tpv_artifact_file_close(tpv_artifact_file_t *file);

/* The state as it is now. TPV_ERR_SYSTEM. */
tpv_status_t tpv_artifact_file_state(const tpv_artifact_file_t *file, tpv_file_state_t *state);

/* Check that the file has the size and the modification time that it had when it was opened. TPV_ERR_FORMAT if not,
 * TPV_ERR_SYSTEM. */
tpv_status_t tpv_artifact_file_check(const tpv_artifact_file_t *file);

/* Read exactly `length` bytes at `offset`. TPV_ERR_FORMAT when the file ends before, TPV_ERR_SYSTEM. */
tpv_status_t tpv_artifact_file_read(const tpv_artifact_file_t *file, uint64_t offset, size_t length, void *bytes);

/* Read a whole small text file (config.json, an index) of at most `limit` bytes; the caller frees *text. Errors as
 * tpv_artifact_file_open, TPV_ERR_FORMAT beyond the limit. */
tpv_status_t tpv_artifact_text_read(const char *path, size_t limit, char **text, size_t *length);

#endif
