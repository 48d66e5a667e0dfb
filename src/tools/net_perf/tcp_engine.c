/* The yardstick below everything: blocking send and recv of the same blocks over plain TCP connections, a thread for
 * each. Message i travels on connection i % connections. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "tools/common/exact_io.h"
#include "tools/net_perf/engine.h"

typedef struct {
    const tpv_perf_setup_t *setup;
    const tpv_perf_order_t *order;
    bool sends;
    unsigned index; /* among the connections of its direction */
    int fd;
    uint8_t *memory;
    pthread_t thread;
    tpv_status_t status;
} pipe_t;

typedef struct {
    tpv_perf_setup_t setup;
    unsigned pipe_count;
    pipe_t *pipes;
} tcp_state_t;

static void *move(void *argument) {
    pipe_t *pipe = argument;
    const tpv_perf_setup_t *setup = pipe->setup;
    uint64_t messages = pipe->order->messages * setup->comms;
    pipe->status = TPV_OK;
    for (uint64_t i = pipe->index; i < messages && pipe->status == TPV_OK; i += setup->connections) {
        uint8_t *data = pipe->memory + i % setup->inflight * setup->largest;
        pipe->status = pipe->sends ? tpv_exact_write(pipe->fd, data, pipe->order->size)
                                   : tpv_exact_read(pipe->fd, data, pipe->order->size);
    }
    return NULL;
}

static tpv_status_t run(void *opaque, const tpv_perf_order_t *order, uint64_t *wrong) {
    (void)wrong;
    tcp_state_t *state = opaque;
    unsigned started = 0;
    tpv_status_t status = TPV_OK;
    for (unsigned i = 0; i < state->pipe_count; i++)
        state->pipes[i].order = order;
    /* The last one needs no thread. */
    for (; started + 1 < state->pipe_count && status == TPV_OK; started++) {
        int error = pthread_create(&state->pipes[started].thread, NULL, move, &state->pipes[started]);
        if (error) status = tpv_error_set_errno(TPV_ERR_SYSTEM, error, "cannot start a thread");
        if (error) break;
    }
    if (status == TPV_OK) move(&state->pipes[state->pipe_count - 1]);
    for (unsigned i = 0; i < started; i++)
        pthread_join(state->pipes[i].thread, NULL);
    for (unsigned i = 0; i < state->pipe_count && status == TPV_OK; i++)
        if (state->pipes[i].status != TPV_OK)
            status = tpv_error_set(state->pipes[i].status, "a TCP connection of the yardstick is lost");
    return status;
}

static tpv_status_t connect_pair(const tpv_perf_setup_t *setup, bool listens, int *connection) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot make a socket");
    tpv_status_t status = TPV_OK;
    if (listens) {
        if (bind(fd, (struct sockaddr *)&address, length) != 0 || listen(fd, 1) != 0 ||
            getsockname(fd, (struct sockaddr *)&address, &length) != 0)
            status = tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot listen on 127.0.0.1");
        if (status == TPV_OK) status = tpv_exact_write(setup->between, &address.sin_port, sizeof address.sin_port);
        int accepted = status == TPV_OK ? accept4(fd, NULL, NULL, SOCK_CLOEXEC) : -1;
        if (status == TPV_OK && accepted < 0)
            status = tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot accept on 127.0.0.1");
        close(fd);
        fd = accepted;
    } else {
        status = tpv_exact_read(setup->between, &address.sin_port, sizeof address.sin_port);
        if (status == TPV_OK && connect(fd, (struct sockaddr *)&address, length) != 0)
            status = tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot connect to 127.0.0.1");
    }
    *connection = fd;
    if (status == TPV_OK) (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return status;
}

static void close_tcp(void *opaque) {
    tcp_state_t *state = opaque;
    for (unsigned i = 0; state->pipes && i < state->pipe_count; i++) {
        if (state->pipes[i].fd >= 0) close(state->pipes[i].fd);
        if (state->pipes[i].memory && i % state->setup.connections == 0)
            munmap(state->pipes[i].memory, tpv_perf_lane_bytes(&state->setup));
    }
    free(state->pipes);
    free(state);
}

static tpv_status_t open_tcp(const tpv_perf_setup_t *setup, void **opaque) {
    tcp_state_t *state = calloc(1, sizeof *state);
    unsigned directions = setup->both ? 2 : 1;
    if (!state || !(state->pipes = calloc((size_t)directions * setup->connections, sizeof *state->pipes))) {
        free(state);
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory");
    }
    state->setup = *setup;
    state->pipe_count = directions * setup->connections;
    tpv_status_t status = TPV_OK;
    for (unsigned i = 0; i < state->pipe_count; i++)
        state->pipes[i].fd = -1;
    for (unsigned i = 0; i < state->pipe_count && status == TPV_OK; i++) {
        pipe_t *pipe = &state->pipes[i];
        pipe->setup = &state->setup;
        pipe->index = i % setup->connections;
        pipe->sends = setup->first == (i < setup->connections);
        /* One set of buffers for a direction, as one comm has it. */
        pipe->memory = pipe->index ? state->pipes[i - 1].memory : tpv_perf_lane_memory(setup);
        status = pipe->memory ? connect_pair(setup, !pipe->sends, &pipe->fd) : TPV_ERR_NO_MEMORY;
    }
    if (status != TPV_OK)
        close_tcp(state);
    else
        *opaque = state;
    return status;
}

const tpv_perf_engine_t tpv_perf_tcp_engine = {.open = open_tcp, .run = run, .close = close_tcp};
