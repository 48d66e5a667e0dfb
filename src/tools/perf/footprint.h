/* The memory that this process takes beside what it has, at most (Linux: proc_pid_status(5), proc_pid_clear_refs(5)).
 */
#ifndef TOOLS_PERF_FOOTPRINT_H
#define TOOLS_PERF_FOOTPRINT_H

#include <stdint.h>

typedef struct tpv_footprint {
    uint64_t before; /* resident bytes; 0: not known */
} tpv_footprint_t;

tpv_footprint_t tpv_footprint_begin(void);
/* The peak since then, above what there was; 0 where the kernel does not tell. */
uint64_t tpv_footprint_end(const tpv_footprint_t *footprint);

#endif
