/* The plugin's environment: one table (params.c) gives each name its type, default, bounds and sentence; docs/plugin.md
 * shows it. NCCL's own names are read where they exist. Values are read once, at first use, and parsed strictly; one
 * that is refused counts as not set, and tpv_net_params_check says so. */
#ifndef CORE_PARAMS_H
#define CORE_PARAMS_H

#include <stdint.h>

typedef enum tpv_net_param {
    TPV_NET_PARAM_CONNECT_TIMEOUT,
    TPV_NET_PARAM_PEER_TIMEOUT,
    TPV_NET_PARAM_LOCAL,
    TPV_NET_PARAM_IFNAME,
    TPV_NET_PARAM_FAMILY,
    TPV_NET_PARAM_SNDBUF,
    TPV_NET_PARAM_RCVBUF,
    TPV_NET_PARAM_NSOCKS,
    TPV_NET_PARAM_NTHREADS,
    TPV_NET_PARAM_COUNT
} tpv_net_param_t;

int64_t tpv_net_param_int(tpv_net_param_t param);
/* "" when the parameter has no value. Static storage. */
const char *tpv_net_param_string(tpv_net_param_t param);

/* Warn, once in a process, of every refused value and of unknown TPVIEW_NET_ names. */
void tpv_net_params_check(void);

#endif
