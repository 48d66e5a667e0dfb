/* How much memory this process may still take. */
#ifndef BASE_MEMORY_H
#define BASE_MEMORY_H

#include <stdint.h>

/*
 * Bytes that can be had without swapping: the host's MemAvailable (proc(5)), or less where a memory cgroup of this
 * process or one above it, of version 1 or 2, leaves less. The page cache counts as available in both. 0 when nothing
 * is left; UINT64_MAX when nothing can be found out. Any thread.
 *
 * `root` is put before every path that is read: "" but in tests.
 */
uint64_t tpv_memory_available(const char *root);

#endif
