#include "tools/perf/stream_trial.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "tools/common/raw_stream.h"

#define INFLIGHT 8

static void send_and_exit(const char *name, const tpv_raw_stream_t *stream, int handle_fd) {
    tpv_net_t *net = NULL;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    void *memory = mmap(NULL, stream->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    tpv_status_t status = memory == MAP_FAILED ? tpv_error_set_errno(TPV_ERR_NO_MEMORY, errno, "no memory to send")
                                               : tpv_net_open(name, &net);
    if (status == TPV_OK) {
        madvise(memory, stream->bytes, MADV_HUGEPAGE);
        memset(memory, 0x5a, stream->bytes);
        status = tpv_raw_send(net, stream, handle_fd, memory);
    }
    if (status != TPV_OK) fprintf(stderr, "tpview_perf: sender: %s\n", tpv_error_message());
    _exit(status == TPV_OK ? 0 : 1);
}

tpv_status_t tpv_stream_trial(const char *name, size_t block, uint64_t bytes, void *memory, double *seconds) {
    tpv_raw_stream_t stream = {.block = block, .bytes = bytes, .inflight = INFLIGHT};
    int ends[2];
    if (pipe(ends) != 0) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot make a pipe");
    pid_t child = fork();
    if (child < 0) {
        tpv_status_t status = tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot fork");
        close(ends[0]);
        close(ends[1]);
        return status;
    }
    if (child == 0) {
        close(ends[1]);
        send_and_exit(name, &stream, ends[0]);
    }
    close(ends[0]);
    tpv_net_t *net = NULL;
    tpv_status_t status = tpv_net_open(name, &net);
    if (status == TPV_OK) status = tpv_raw_receive(net, &stream, ends[1], memory, seconds);
    tpv_net_close(net);
    close(ends[1]);
    int code = 0;
    if (waitpid(child, &code, 0) != child || code != 0)
        if (status == TPV_OK) status = tpv_error_set(TPV_ERR_PEER, "the sending process failed");
    return status;
}
