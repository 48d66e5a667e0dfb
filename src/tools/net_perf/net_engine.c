/* Streams over the comms of a net plugin, driven as NCCL's progress thread does (src/proxy.cc at v2.28.9): one thread
 * for all comms, the oldest request of each is tested, and a round in which nothing moved ends with a yield. */
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/error.h"
#include "channel/net.h"
#include "tools/common/exact_io.h"
#include "tools/net_perf/builtin_net.h"
#include "tools/net_perf/engine.h"

#define CONNECT_SECONDS 30

typedef struct {
    bool sends;
    void *comm, *registration;
    uint8_t *memory;
    uint64_t posted, finished; /* messages of the present order */
    void *requests[NCCL_NET_MAX_REQUESTS];
} lane_t;

typedef struct {
    tpv_perf_setup_t setup;
    tpv_net_t *net;
    unsigned lane_count;
    lane_t *lanes; /* those that send come first */
} net_state_t;

/* Cheap, and different for each message and place. */
static uint64_t word_of(uint64_t message, uint64_t place) {
    uint64_t word = (message + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ place * UINT64_C(0xc2b2ae3d27d4eb4f);
    return word ^ word >> 29;
}

static void fill(uint8_t *data, size_t size, uint64_t message) {
    for (size_t at = 0; at < size; at += sizeof(uint64_t)) {
        uint64_t word = word_of(message, at);
        memcpy(data + at, &word, size - at < sizeof word ? size - at : sizeof word);
    }
}

static bool right(const uint8_t *data, size_t size, uint64_t message) {
    for (size_t at = 0; at < size; at += sizeof(uint64_t)) {
        uint64_t word = word_of(message, at);
        if (memcmp(data + at, &word, size - at < sizeof word ? size - at : sizeof word) != 0) return false;
    }
    return true;
}

static tpv_status_t check(const net_state_t *state, ncclResult_t result, const char *what) {
    return tpv_net_check(state->net, result, what);
}

static uint8_t *place(const net_state_t *state, const lane_t *lane, uint64_t message) {
    return lane->memory + message % state->setup.inflight * state->setup.largest;
}

static tpv_status_t post(const net_state_t *state, lane_t *lane, const tpv_perf_order_t *order) {
    uint8_t *data = place(state, lane, lane->posted);
    void **request = &lane->requests[lane->posted % state->setup.inflight];
    *request = NULL;
    if (lane->sends) {
        if (order->check) fill(data, order->size, lane->posted);
        return check(
            state,
            state->net->abi.isend(&state->net->abi, lane->comm, data, order->size, 0, lane->registration, request),
            "isend");
    }
    if (order->check) memset(data, 0, order->size);
    int tag = 0;
    void *pointer = data;
    size_t size = order->size;
    return check(
        state,
        state->net->abi.irecv(&state->net->abi, lane->comm, 1, &pointer, &size, &tag, &lane->registration, request),
        "irecv");
}

static tpv_status_t step(const net_state_t *state, lane_t *lane, const tpv_perf_order_t *order, uint64_t *wrong,
                         bool *moved) {
    unsigned inflight = state->setup.inflight;
    while (lane->posted < order->messages && lane->posted - lane->finished < inflight) {
        TPV_TRY(post(state, lane, order));
        if (!lane->requests[lane->posted % inflight]) break;
        lane->posted++;
        *moved = true;
    }
    while (lane->finished < lane->posted) {
        int done = 0, size = 0;
        TPV_TRY(check(state, state->net->abi.test(lane->requests[lane->finished % inflight], &done, &size), "test"));
        if (!done) break;
        if (order->check && !lane->sends &&
            ((uint64_t)size != order->size || !right(place(state, lane, lane->finished), order->size, lane->finished)))
            (*wrong)++;
        lane->finished++;
        *moved = true;
    }
    return TPV_OK;
}

static tpv_status_t run(void *opaque, const tpv_perf_order_t *order, uint64_t *wrong) {
    net_state_t *state = opaque;
    for (unsigned i = 0; i < state->lane_count; i++)
        state->lanes[i].posted = state->lanes[i].finished = 0;
    for (bool busy = true; busy;) {
        bool moved = false;
        busy = false;
        for (unsigned i = 0; i < state->lane_count; i++) {
            TPV_TRY(step(state, &state->lanes[i], order, wrong, &moved));
            if (state->lanes[i].finished < order->messages) busy = true;
        }
        if (!moved) sched_yield();
    }
    return TPV_OK;
}

/* The other process listens; one listener for each of its receiving comms. */
static tpv_status_t connect_lanes(net_state_t *state, unsigned senders) {
    const tpv_net_abi_t *abi = &state->net->abi;
    unsigned receivers = state->lane_count - senders, missing = state->lane_count;
    char(*own)[NCCL_NET_HANDLE_MAXSIZE] = calloc(receivers + 1, sizeof *own);
    char(*other)[NCCL_NET_HANDLE_MAXSIZE] = calloc(senders + 1, sizeof *other);
    void **listeners = calloc(receivers + 1, sizeof *listeners);
    tpv_status_t status = TPV_OK;
    if (!own || !other || !listeners) status = tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for handles");
    for (unsigned i = 0; i < receivers && status == TPV_OK; i++)
        status = check(state, abi->listen(abi, state->net->ctx, state->net->device, own[i], &listeners[i]), "listen");
    if (status == TPV_OK) status = tpv_exact_write(state->setup.between, own, receivers * sizeof *own);
    if (status == TPV_OK) status = tpv_exact_read(state->setup.between, other, senders * sizeof *other);
    for (int64_t deadline = tpv_deadline_in(CONNECT_SECONDS); status == TPV_OK && missing > 0;) {
        for (unsigned i = 0; i < state->lane_count && status == TPV_OK; i++) {
            lane_t *lane = &state->lanes[i];
            if (lane->comm) continue;
            status = lane->sends
                         ? check(state, abi->connect(abi, state->net->ctx, state->net->device, other[i], &lane->comm),
                                 "connect")
                         : check(state, abi->accept(abi, listeners[i - senders], &lane->comm), "accept");
            if (lane->comm) missing--;
        }
        if (status == TPV_OK && missing && tpv_deadline_passed(deadline))
            status = tpv_error_set(TPV_ERR_DEADLINE, "no connection within %d s", CONNECT_SECONDS);
        sched_yield();
    }
    for (unsigned i = 0; listeners && i < receivers; i++)
        if (listeners[i]) abi->closeListen(listeners[i]);
    free(own);
    free(other);
    free(listeners);
    return status;
}

static void close_net(void *opaque) {
    net_state_t *state = opaque;
    for (unsigned i = 0; state->lanes && i < state->lane_count; i++) {
        lane_t *lane = &state->lanes[i];
        if (!lane->comm) continue;
        if (lane->memory) state->net->abi.deregMr(lane->comm, lane->registration);
        lane->sends ? state->net->abi.closeSend(lane->comm) : state->net->abi.closeRecv(lane->comm);
        if (lane->memory) munmap(lane->memory, tpv_perf_lane_bytes(&state->setup));
    }
    free(state->lanes);
    tpv_net_close(state->net);
    free(state);
}

static tpv_status_t open_net(const tpv_perf_setup_t *setup, void **opaque) {
    net_state_t *state = calloc(1, sizeof *state);
    if (!state) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory");
    state->setup = *setup;
    unsigned senders = setup->both || setup->first ? setup->comms : 0;
    unsigned receivers = setup->both || !setup->first ? setup->comms : 0;
    tpv_status_t status =
        setup->net ? tpv_net_open(setup->net, &state->net) : tpv_builtin_net_open(setup->libnccl, &state->net);
    if (status == TPV_OK && setup->largest > state->net->properties.max_message)
        status = tpv_error_set(TPV_ERR_ARGUMENT, "a message of %zu bytes is too long: %s takes %zu", setup->largest,
                               state->net->abi.name, state->net->properties.max_message);
    if (status == TPV_OK) {
        state->lane_count = senders + receivers;
        state->lanes = calloc(state->lane_count, sizeof *state->lanes);
        if (!state->lanes) status = tpv_error_set(TPV_ERR_NO_MEMORY, "no memory");
    }
    for (unsigned i = 0; status == TPV_OK && i < state->lane_count; i++)
        state->lanes[i].sends = i < senders;
    if (status == TPV_OK) status = connect_lanes(state, senders);
    for (unsigned i = 0; status == TPV_OK && i < state->lane_count; i++) {
        lane_t *lane = &state->lanes[i];
        if (!(lane->memory = tpv_perf_lane_memory(setup))) status = TPV_ERR_NO_MEMORY;
        if (status == TPV_OK)
            status = check(state,
                           state->net->abi.regMr(&state->net->abi, lane->comm, lane->memory, tpv_perf_lane_bytes(setup),
                                                 NCCL_PTR_HOST, &lane->registration),
                           "regMr");
    }
    if (status != TPV_OK)
        close_net(state);
    else
        *opaque = state;
    return status;
}

const tpv_perf_engine_t tpv_perf_net_engine = {.open = open_net, .run = run, .close = close_net};
