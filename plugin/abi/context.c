#include "abi/context.h"

#include <stdlib.h>

#include "core/log.h"

typedef struct {
    int traffic_class;
    _Atomic int peers, flows; /* any thread */
} context_t;

ncclResult_t tpv_context_init(void **context, int traffic_class, ncclDebugLogger_t logger,
                              ncclProfilerCallback_t profiler) {
    *context = NULL;
    ncclResult_t result = tpv_net_init(logger, profiler);
    if (result != ncclSuccess) return result;
    context_t *made = calloc(1, sizeof *made);
    if (!made) {
        TPV_NET_WARN("out of memory");
        return ncclSystemError;
    }
    made->traffic_class = traffic_class;
    *context = made;
    return ncclSuccess;
}

ncclResult_t tpv_context_finalize(void *context) {
    context_t *of = context;
    if (!of) return ncclSuccess;
    int peers = atomic_load_explicit(&of->peers, memory_order_relaxed);
    if (peers > 0)
        TPV_NET_INFO("a communicator ends; NCCL expected up to %d peers at a time and %d flows to each", peers,
                     atomic_load_explicit(&of->flows, memory_order_relaxed));
    tpv_net_abandon(of);
    free(of);
    return ncclSuccess;
}

static int traffic_class_of(const context_t *context) {
    return context ? context->traffic_class : TPV_NET_TRAFFIC_CLASS_UNDEFINED;
}

ncclResult_t tpv_context_listen(void *context, int device, void *handle, void **listener) {
    return tpv_net_listen(device, traffic_class_of(context), handle, listener);
}

ncclResult_t tpv_context_connect(void *context, int device, void *handle, void **comm,
                                 ncclNetDeviceHandle_t **device_comm) {
    (void)device_comm; /* only device offload looks at it */
    return tpv_net_connect(context, device, traffic_class_of(context), handle, comm);
}

/* A larger value that another thread stores at the same time may be lost: it comes again. */
static void keep_largest(_Atomic int *largest, int value) {
    if (value > atomic_load_explicit(largest, memory_order_relaxed))
        atomic_store_explicit(largest, value, memory_order_relaxed);
}

void tpv_context_expect(void *context, int peers, int flows) {
    context_t *of = context;
    if (!of) return;
    keep_largest(&of->peers, peers);
    keep_largest(&of->flows, flows);
}
