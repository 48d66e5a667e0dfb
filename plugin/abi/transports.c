/* The one place that knows every transport. */
#include "core/transport.h"
#include "local/local.h"
#include "tcp/tcp.h"

const tpv_transport_t *const tpv_transports[] = {&tpv_local_transport, &tpv_tcp_transport, NULL};
