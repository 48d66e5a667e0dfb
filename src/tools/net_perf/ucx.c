/* ucx_perftest (openucx.org, Debian's ucx-utils) between two processes of this host: tagged messages over shared memory
 * and cma, which is process_vm_readv. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "tools/net_perf/subject.h"

#define PROGRAM "ucx_perftest"
#define SECONDS 30

bool tpv_perf_ucx_installed(void) {
    const char *path = getenv("PATH");
    char *copy = strdup(path ? path : ""), *rest = copy, file[4096];
    bool found = false;
    for (char *folder; copy && !found && (folder = strsep(&rest, ":"));) {
        snprintf(file, sizeof file, "%s/" PROGRAM, folder);
        found = access(file, X_OK) == 0;
    }
    free(copy);
    return found;
}

static int free_port(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), port = -1;
    if (fd >= 0 && bind(fd, (struct sockaddr *)&address, length) == 0 &&
        getsockname(fd, (struct sockaddr *)&address, &length) == 0)
        port = ntohs(address.sin_port);
    if (fd >= 0) close(fd);
    return port;
}

/* One side; its output comes out of *output. */
static pid_t start(const tpv_perf_subject_t *subject, const tpv_perf_order_t *order, uint64_t warmup, int port,
                   bool client, int *output) {
    char port_text[16], size[24], count[24], warm[24], inflight[16];
    snprintf(port_text, sizeof port_text, "%d", port);
    snprintf(size, sizeof size, "%" PRIu64, order->size);
    snprintf(count, sizeof count, "%" PRIu64, order->messages);
    snprintf(warm, sizeof warm, "%" PRIu64, warmup ? warmup : 1);
    snprintf(inflight, sizeof inflight, "%u", subject->setup.inflight);
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return -1;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        setenv("UCX_TLS", "posix,sysv,cma", 0);
        setenv("UCX_WARN_UNUSED_ENV_VARS", "n", 0);
        dup2(ends[1], STDOUT_FILENO);
        dup2(ends[1], STDERR_FILENO);
        const char *arguments[] = {PROGRAM, "-f", "-v",  "-t", "tag_bw", "-p", port_text, "-s",
                                   size,    "-n", count, "-w", warm,     "-O", inflight,  client ? "127.0.0.1" : NULL,
                                   NULL};
        execvp(PROGRAM, (char *const *)(uintptr_t)arguments);
        _exit(127);
    }
    close(ends[1]);
    *output = ends[0];
    if (child < 0) close(ends[0]);
    return child;
}

/* Everything up to the end of the output, or to the deadline. */
static void listen_to(int fd, char *text, size_t room, int64_t deadline) {
    size_t length = 0;
    text[0] = '\0';
    while (length + 1 < room) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        if (poll(&ready, 1, (int)(tpv_deadline_left(deadline) / TPV_NS_PER_MS)) <= 0) break;
        ssize_t got = read(fd, text + length, room - length - 1);
        if (got <= 0) break;
        length += (size_t)got;
        text[length] = '\0';
    }
}

/* With -f -v the last line is: iterations, three latencies, average and overall MiB/s, average and overall messages/s.
 */
static bool parse(const char *text, double *rate) {
    const char *line = strrchr(text, '\n');
    while (line && line > text && !strchr(line, ','))
        line = memrchr(text, '\n', (size_t)(line - text));
    double mib_per_second = 0;
    if (sscanf(line ? line : text, " %*f,%*f,%*f,%*f,%*f,%lf", &mib_per_second) != 1) return false;
    *rate = mib_per_second * 1048576 / 1e9;
    return *rate > 0;
}

static void end(pid_t process, int output) {
    if (process <= 0) return;
    kill(process, SIGKILL);
    waitpid(process, NULL, 0);
    close(output);
}

bool tpv_perf_ucx_run(tpv_perf_subject_t *subject, const tpv_perf_order_t *order, uint64_t warmup, double *rate) {
    char text[8192] = "";
    int outputs[2] = {-1, -1}, port = free_port();
    int64_t deadline = tpv_deadline_in(SECONDS);
    bool good = false;
    pid_t server = start(subject, order, warmup, port, false, &outputs[0]);
    /* It does not tell when it listens: a client that comes too early fails, and another is sent. */
    while (server > 0 && !good && !tpv_deadline_passed(deadline) && waitpid(server, NULL, WNOHANG) == 0) {
        pid_t client = start(subject, order, warmup, port, true, &outputs[1]);
        if (client > 0) listen_to(outputs[1], text, sizeof text, deadline);
        good = client > 0 && parse(text, rate);
        end(client, outputs[1]);
    }
    end(server, outputs[0]);
    if (!good) snprintf(subject->lost, sizeof subject->lost, PROGRAM " failed: %.200s", text);
    return good;
}
