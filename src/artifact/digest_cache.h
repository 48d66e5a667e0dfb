/*
 * Known artifact_ids of checkpoints on this host, so that a digest is computed once and not at every start. One small
 * text file for each set of files, below $TPVIEW_CACHE_DIR, else $XDG_CACHE_HOME/tpview, else ~/.cache/tpview. A cache
 * is a help only: whatever goes wrong with it is no error.
 */
#ifndef ARTIFACT_DIGEST_CACHE_H
#define ARTIFACT_DIGEST_CACHE_H

#include "artifact/artifact.h"

/* The id that was stored for these very files: `states` has one item for each file of the artifact, in its order.
 * False when there is none, or one that is damaged or stale. */
bool tpv_digest_cache_find(const tpv_artifact_t *artifact, const tpv_file_state_t *states, char id[TPV_ID_CHARS]);

/* Store the id, which was computed from the files in those states, beginning at `begun_ns` since the epoch. A file
 * changed so shortly before that its times could not tell a change during the computation is not stored. */
void tpv_digest_cache_store(const tpv_artifact_t *artifact, const tpv_file_state_t *states, int64_t begun_ns,
                            const char *id);

#endif
