/* One .safetensors file: the header's checks and its tensors' places. */
#ifndef ARTIFACT_SAFETENSORS_H
#define ARTIFACT_SAFETENSORS_H

#include "artifact/artifact.h"

/* MAX_HEADER_SIZE in safetensors/src/tensor.rs, version 0.8.0. */
#define TPV_SAFETENSORS_MAX_HEADER UINT64_C(100000000)
#define TPV_SAFETENSORS_LENGTH_BYTES 8

/* Decode the 8 bytes of header length in front of a file of `file_bytes` bytes. TPV_ERR_FORMAT when the header would
 * be longer than the format allows or the file. */
tpv_status_t tpv_safetensors_length(const uint8_t encoded[TPV_SAFETENSORS_LENGTH_BYTES], uint64_t file_bytes,
                                    uint64_t *header_bytes);

/* Check the header (its JSON text, without the length) of a file of `file_bytes` bytes and put its tensors into the
 * artifact as those of file `shard`. TPV_ERR_FORMAT names the tensor and the reason; TPV_ERR_NO_MEMORY. */
tpv_status_t tpv_safetensors_parse(tpv_artifact_t *artifact, uint32_t shard, const char *header, size_t header_bytes,
                                   uint64_t file_bytes);

/* Read and check the header of artifact->files[shard]. Errors name the path, and are as above or TPV_ERR_SYSTEM. */
tpv_status_t tpv_safetensors_read(tpv_artifact_t *artifact, uint32_t shard);

#endif
