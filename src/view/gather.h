/* Running a program on an artifact's data. */
#ifndef VIEW_GATHER_H
#define VIEW_GATHER_H

#include "view/program.h"

/* Copy dense bytes [low, high) into `destination`, whose first byte is dense byte `low`. The range lies inside of the
 * dense form and the artifact has data. A truncated file raises SIGBUS here; the caller guards against it. */
void tpv_program_gather(const tpv_program_t *program, const tpv_artifact_t *artifact, uint64_t low, uint64_t high,
                        char *destination);

/* Check the files that dense bytes [low, high) come from, once they were read: see tpv_artifact_check_tensor. */
tpv_status_t tpv_program_check_files(const tpv_program_t *program, const tpv_artifact_t *artifact, uint64_t low,
                                     uint64_t high);

/* Where dense bytes [low, high) lie as they are in one shard of the artifact; NULL when they do not. */
const void *tpv_program_direct(const tpv_program_t *program, const tpv_artifact_t *artifact, uint64_t low,
                               uint64_t high);

#endif
