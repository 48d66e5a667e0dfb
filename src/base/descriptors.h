/* The file descriptors of this process. */
#ifndef BASE_DESCRIPTORS_H
#define BASE_DESCRIPTORS_H

#include <stdint.h>

/* How many more can be opened, below the soft limit; *limit is that one. UINT64_MAX where that cannot be told, 0 also
 * when the whole host has none left. */
uint64_t tpv_descriptors_left(uint64_t *limit);

#endif
