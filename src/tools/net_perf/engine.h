/* What one of the two processes of a subject does: open its ends of the streams, then run orders. An engine is one way
 * to move bytes: comms of a net plugin, or bare TCP. */
#ifndef TOOLS_NET_PERF_ENGINE_H
#define TOOLS_NET_PERF_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tpview/status.h"

typedef struct tpv_perf_setup {
    const char *net;      /* plugin to load; NULL: NCCL's built-in Socket net out of `libnccl` */
    const char *libnccl;  /* path or soname */
    unsigned connections; /* of bare TCP */
    unsigned comms;       /* in each direction */
    unsigned inflight;    /* messages of a comm, at most NCCL_NET_MAX_REQUESTS */
    size_t largest;       /* bytes of a message */
    bool both;            /* directions at the same time; otherwise only the first process sends */
    bool first;           /* of the two processes */
    int between;          /* a stream socket to the other process */
} tpv_perf_setup_t;

typedef struct tpv_perf_order {
    uint64_t size;     /* bytes of a message */
    uint64_t messages; /* on each comm */
    bool check;        /* each message has bytes of its own, which the receiving process compares */
} tpv_perf_order_t;

typedef struct tpv_perf_engine {
    /* Both processes call it at the same time; *state belongs to `close`. */
    tpv_status_t (*open)(const tpv_perf_setup_t *setup, void **state);
    /* Returns when this process has nothing left to send or receive. *wrong counts messages with wrong bytes. */
    tpv_status_t (*run)(void *state, const tpv_perf_order_t *order, uint64_t *wrong);
    void (*close)(void *state);
} tpv_perf_engine_t;

extern const tpv_perf_engine_t tpv_perf_net_engine, tpv_perf_tcp_engine;

/* Memory for `inflight` messages of the largest size, in huge pages where the kernel gives them, written once. NULL,
 * with the error set, when there is none. Freed by munmap of tpv_perf_lane_bytes. */
void *tpv_perf_lane_memory(const tpv_perf_setup_t *setup);
static inline size_t tpv_perf_lane_bytes(const tpv_perf_setup_t *setup) {
    return setup->inflight * setup->largest;
}

#endif
