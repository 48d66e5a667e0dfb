/* Which host this is, as far as processes on it are concerned. */
#ifndef CORE_BOOT_H
#define CORE_BOOT_H

#include "core/handshake.h"

/* The id of the running kernel, drawn anew at every boot (TPV_ID_BYTES). NULL when the kernel does not say. */
const uint8_t *tpv_boot_id(void);

#endif
