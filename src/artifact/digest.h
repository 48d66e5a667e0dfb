/* Value digests of an artifact's tensors. */
#ifndef ARTIFACT_DIGEST_H
#define ARTIFACT_DIGEST_H

#include "artifact/artifact.h"

#define TPV_VALUE_DIGEST_BYTES 16
#define TPV_DIGEST_PIECE_BYTES ((uint64_t)16 << 20)

/*
 * Read every tensor and write its value digest to digests[TPV_VALUE_DIGEST_BYTES * index]: XXH3-128 over the canonical
 * XXH3-128 of each TPV_DIGEST_PIECE_BYTES of it, in order. Neither threads nor files change it. Arguments and errors as
 * tpv_artifact_digest.
 */
tpv_status_t tpv_digest_values(const tpv_artifact_t *artifact, unsigned threads, tpv_progress_t progress, void *user,
                               uint8_t *digests);

#endif
