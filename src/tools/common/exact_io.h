/* All of so many bytes over a blocking stream socket between two processes of a benchmark. */
#ifndef TOOLS_COMMON_EXACT_IO_H
#define TOOLS_COMMON_EXACT_IO_H

#include <stddef.h>
#include <stdint.h>

#include "tpview/status.h"

/* TPV_ERR_PEER when the other process is gone. */
tpv_status_t tpv_exact_write(int fd, const void *data, size_t size);
tpv_status_t tpv_exact_read(int fd, void *data, size_t size);
/* Also TPV_ERR_DEADLINE when not all has come by `deadline` (base/clock.h), and TPV_ERR_CANCELLED as soon as descriptor
 * `stop` (-1: none) has something to read, which is left there. */
tpv_status_t tpv_exact_read_until(int fd, int stop, int64_t deadline, void *data, size_t size);

#endif
