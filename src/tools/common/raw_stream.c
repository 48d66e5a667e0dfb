#include "tools/common/raw_stream.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "channel/idle.h"

/* A sender that has left may have sent everything before. */
#define GONE_SECONDS 2

/* Blocks are posted and finished in order; [finished, posted) are with the plugin. */
typedef struct {
    const tpv_net_t *net;
    const tpv_raw_stream_t *stream;
    void *comm, *registration;
    uint8_t *memory;
    bool sends;
    uint64_t posted, finished, blocks;
    int64_t begin_ns;
    void *requests[NCCL_NET_MAX_REQUESTS];
} raw_t;

static tpv_status_t post(raw_t *raw, void **request) {
    uint8_t *data = raw->memory + raw->posted * raw->stream->block;
    uint64_t left = raw->stream->bytes - raw->posted * raw->stream->block;
    size_t bytes = left < raw->stream->block ? left : raw->stream->block;
    *request = NULL;
    if (raw->sends)
        return tpv_net_check(raw->net,
                             raw->net->abi.isend(&raw->net->abi, raw->comm, data, bytes, 0, raw->registration, request),
                             "isend");
    int tag = 0;
    void *pointer = data;
    return tpv_net_check(
        raw->net,
        raw->net->abi.irecv(&raw->net->abi, raw->comm, 1, &pointer, &bytes, &tag, &raw->registration, request),
        "irecv");
}

static tpv_status_t step(raw_t *raw, bool *moved) {
    while (raw->posted < raw->blocks && raw->posted - raw->finished < raw->stream->inflight) {
        void **request = &raw->requests[raw->posted % raw->stream->inflight];
        TPV_TRY(post(raw, request));
        if (!*request) break;
        raw->posted++;
        *moved = true;
    }
    while (raw->finished < raw->posted) {
        int done = 0, size = 0;
        TPV_TRY(tpv_net_check(
            raw->net, raw->net->abi.test(raw->requests[raw->finished % raw->stream->inflight], &done, &size), "test"));
        if (!done) break;
        raw->finished++;
        *moved = true;
    }
    return TPV_OK;
}

static tpv_status_t run(raw_t *raw) {
    tpv_idle_t idle = {0};
    raw->blocks = (raw->stream->bytes + raw->stream->block - 1) / raw->stream->block;
    TPV_TRY(tpv_net_check(raw->net,
                          raw->net->abi.regMr(&raw->net->abi, raw->comm, raw->memory, raw->stream->bytes, NCCL_PTR_HOST,
                                              &raw->registration),
                          "register memory"));
    tpv_status_t status = TPV_OK;
    raw->begin_ns = tpv_clock_ns();
    while (status == TPV_OK && raw->finished < raw->blocks) {
        bool moved = false;
        status = step(raw, &moved);
        tpv_idle_wait(&idle, moved, -1, TPV_DEADLINE_NEVER);
    }
    raw->net->abi.deregMr(raw->comm, raw->registration);
    return status;
}

tpv_status_t tpv_raw_receive(const tpv_net_t *net, const tpv_raw_stream_t *stream, int handle_fd, void *destination,
                             double *seconds) {
    uint8_t handle[NCCL_NET_HANDLE_MAXSIZE] = {0};
    void *listener = NULL;
    raw_t raw = {.net = net, .stream = stream, .memory = destination};
    TPV_TRY(tpv_net_check(net, net->abi.listen(&net->abi, net->ctx, net->device, handle, &listener), "listen"));
    tpv_status_t status = TPV_OK;
    if (write(handle_fd, handle, sizeof handle) != (ssize_t)sizeof handle)
        status = tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot pass the handle on");
    tpv_idle_t idle = {0};
    int64_t gone_by = tpv_deadline_in(GONE_SECONDS);
    while (status == TPV_OK && !raw.comm) {
        struct pollfd other = {.fd = handle_fd};
        bool gone = poll(&other, 1, 0) > 0;
        if (!gone) gone_by = tpv_deadline_in(GONE_SECONDS);
        if (gone && tpv_deadline_passed(gone_by)) {
            status = tpv_error_set(TPV_ERR_PEER, "the sending process is gone");
            break;
        }
        status = tpv_net_check(net, net->abi.accept(&net->abi, listener, &raw.comm), "accept");
        tpv_idle_wait(&idle, raw.comm != NULL, -1, TPV_DEADLINE_NEVER);
    }
    if (status == TPV_OK) status = run(&raw);
    *seconds = (double)(tpv_clock_ns() - raw.begin_ns) / (double)TPV_NS_PER_SECOND;
    if (raw.comm) net->abi.closeRecv(raw.comm);
    net->abi.closeListen(listener);
    return status;
}

tpv_status_t tpv_raw_send(const tpv_net_t *net, const tpv_raw_stream_t *stream, int handle_fd, const void *source) {
    uint8_t handle[NCCL_NET_HANDLE_MAXSIZE];
    raw_t raw = {.net = net, .stream = stream, .memory = (uint8_t *)(uintptr_t)source, .sends = true};
    if (read(handle_fd, handle, sizeof handle) != (ssize_t)sizeof handle)
        return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot read the handle");
    tpv_status_t status = TPV_OK;
    tpv_idle_t idle = {0};
    while (status == TPV_OK && !raw.comm) {
        status = tpv_net_check(net, net->abi.connect(&net->abi, net->ctx, net->device, handle, &raw.comm), "connect");
        tpv_idle_wait(&idle, raw.comm != NULL, -1, TPV_DEADLINE_NEVER);
    }
    if (status == TPV_OK) status = run(&raw);
    if (raw.comm) net->abi.closeSend(raw.comm);
    return status;
}
