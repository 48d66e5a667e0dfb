/* Copying strided boxes of bytes: the inner loops of the gather. */
#ifndef VIEW_COPY_H
#define VIEW_COPY_H

#include <stddef.h>
#include <stdint.h>

#include "view/program.h"

/* Copy a whole box: `run` bytes at each combination of the `levels`' steps. With `levels` > 0, the first one is taken
 * `count` times instead of its own count. The two sides must not overlap. */
void tpv_copy_box(char *to, const char *from, const tpv_level_t *level, uint32_t levels, uint64_t count, uint64_t run);

/* The same places of the destination, filled with zeros. */
void tpv_zero_box(char *to, const tpv_level_t *level, uint32_t levels, uint64_t count, uint64_t run);

#endif
