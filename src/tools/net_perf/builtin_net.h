/* NCCL's own Socket net out of an unmodified libnccl. NCCL exports no symbol for it; its vtable is found by name in the
 * library's ELF symbol table, which the release builds keep. */
#ifndef TOOLS_NET_PERF_BUILTIN_NET_H
#define TOOLS_NET_PERF_BUILTIN_NET_H

#include "channel/net.h"

/* Load `path` (path or soname) and start its Socket net; tpv_net_close it. TPV_ERR_NOT_FOUND: there is no such library
 * or symbol; TPV_ERR_UNSUPPORTED: a release whose ABI version we do not know. */
tpv_status_t tpv_builtin_net_open(const char *path, tpv_net_t **net);

#endif
