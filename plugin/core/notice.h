/* What a receiving comm tells its sender about posted receives; docs/plugin.md says when. */
#ifndef CORE_NOTICE_H
#define CORE_NOTICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint32_t magic;
    int32_t tag;
    uint64_t count; /* so many more receives with this tag are posted, 1 at least */
} tpv_notice_t;
_Static_assert(sizeof(tpv_notice_t) == 16, "no padding: it goes on the wire as it is");

#define TPV_NOTICE_MAGIC UINT32_C(0x50565054) /* "TPVP" */

#endif
