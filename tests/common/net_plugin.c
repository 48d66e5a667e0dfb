#include "common/net_plugin.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <dlfcn.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "common/child.h"

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static char log_text[1 << 16];
static size_t log_length;

void net_logger(ncclDebugLogLevel level, unsigned long flags, const char *file, int line, const char *format, ...) {
    (void)flags;
    char text[1200];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    pthread_mutex_lock(&log_lock);
    int left = (int)(sizeof log_text - log_length);
    int length =
        snprintf(log_text + log_length, (size_t)left, "%s %s\n", level == NCCL_LOG_WARN ? "WARN" : "INFO", text);
    if (length > 0 && length < left) log_length += (size_t)length;
    pthread_mutex_unlock(&log_lock);
    if (getenv("TEST_LOG")) fprintf(stderr, "%s:%d %s\n", file, line, text);
}

const char *net_log_text(void) {
    return log_text;
}

void net_log_clear(void) {
    pthread_mutex_lock(&log_lock);
    log_length = 0;
    log_text[0] = '\0';
    pthread_mutex_unlock(&log_lock);
}

int net_log_count(const char *text) {
    int count = 0;
    pthread_mutex_lock(&log_lock);
    for (const char *at = log_text; (at = strstr(at, text)); at += strlen(text))
        count++;
    pthread_mutex_unlock(&log_lock);
    return count;
}

const char *net_plugin_path(const char *name) {
    static char path[4096];
    const char *build = getenv("TEST_BUILD");
    snprintf(path, sizeof path, "%s/%s", build ? build : "build", name ? name : "lib/libnccl-net-tpview.so");
    return path;
}

static tpv_net_abi_t latest;

static ncclResult_t accept_(void *listener, void **comm, ncclNetDeviceHandle_t **device_comm) {
    (void)device_comm;
    return latest.accept(&latest, listener, comm);
}

static ncclResult_t isend_(void *comm, void *data, size_t size, int tag, void *registration, void *profiler,
                           void **request) {
    if (latest.raw.isend_v10) return latest.raw.isend_v10(comm, data, size, tag, registration, profiler, request);
    return latest.isend(&latest, comm, data, size, tag, registration, request);
}

static ncclResult_t irecv_(void *comm, int count, void **data, size_t *sizes, int *tags, void **registrations,
                           void **profilers, void **request) {
    if (latest.raw.irecv_v10)
        return latest.raw.irecv_v10(comm, count, data, sizes, tags, registrations, profilers, request);
    return latest.irecv(&latest, comm, count, data, sizes, tags, registrations, request);
}

ncclResult_t net_plugin_open(net_plugin_t *net, const char *path, int version) {
    memset(net, 0, sizeof *net);
    char symbol[32];
    snprintf(symbol, sizeof symbol, "ncclNetPlugin_v%d", version);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    void *table = library ? dlsym(library, symbol) : NULL;
    if (!table) {
        fprintf(stderr, "%s of %s: %s\n", symbol, path, dlerror());
        exit(1);
    }
    const tpv_net_version_t *known = tpv_net_versions;
    while (strcmp(known->symbol, symbol) != 0)
        known++;
    known->bind(table, &net->abi);
    latest = net->abi;
    net->version = version;
    if (version == 10) net->v10 = table;
    if (version == 11) net->v11 = table;
    if (version == 12) net->v12 = table;
    net->accept = accept_;
    net->isend = isend_;
    net->irecv = irecv_;
    net->test = net->abi.test;
    net->closeSend = net->abi.closeSend;
    net->closeRecv = net->abi.closeRecv;
    net->closeListen = net->abi.closeListen;
    return net->abi.init(&net->abi, &net->context, net_logger);
}

void net_plugin_close(net_plugin_t *net) {
    net->abi.finalize(&net->abi, net->context);
    net->context = NULL;
}

ncclResult_t net_listen(net_plugin_t *net, int device, void *handle, void **listener) {
    return net->abi.listen(&net->abi, net->context, device, handle, listener);
}

ncclResult_t net_connect(net_plugin_t *net, int device, void *handle, void **comm) {
    return net->abi.connect(&net->abi, net->context, device, handle, comm);
}

bool net_pair_open(net_plugin_t *net, int device, net_pair_t *pair) {
    memset(pair, 0, sizeof *pair);
    if (net_listen(net, device, pair->handle, &pair->listener) != ncclSuccess) return false;
    int64_t deadline = tpv_deadline_in(20);
    while (!pair->send || !pair->receive) {
        if (!pair->send && net_connect(net, device, pair->handle, &pair->send) != ncclSuccess) return false;
        if (!pair->receive && net->accept(pair->listener, &pair->receive, NULL) != ncclSuccess) return false;
        if (tpv_deadline_passed(deadline)) return false;
    }
    return true;
}

void net_pair_close(net_plugin_t *net, net_pair_t *pair) {
    if (pair->send) net->closeSend(pair->send);
    if (pair->receive) net->closeRecv(pair->receive);
    if (pair->listener) net->closeListen(pair->listener);
    memset(pair, 0, sizeof *pair);
}

void *net_meet(net_plugin_t *net, bool sends, int in, int out) {
    char handle[NCCL_NET_HANDLE_MAXSIZE];
    void *listener = NULL, *comm = NULL;
    if (sends) {
        child_read(in, handle, sizeof handle);
    } else {
        CHILD_CHECK(net_listen(net, 0, handle, &listener) == ncclSuccess);
        child_write(out, handle, sizeof handle);
    }
    for (int64_t deadline = tpv_deadline_in(20); !comm;) {
        CHILD_CHECK(!tpv_deadline_passed(deadline));
        CHILD_CHECK((sends ? net_connect(net, 0, handle, &comm) : net->accept(listener, &comm, NULL)) == ncclSuccess);
    }
    if (listener) net->closeListen(listener);
    return comm;
}

ncclResult_t net_isend(net_plugin_t *net, void *comm, const void *data, size_t size, void **request) {
    return net_isend_registered(net, comm, data, size, NULL, request);
}

ncclResult_t net_isend_registered(net_plugin_t *net, void *comm, const void *data, size_t size, void *registration,
                                  void **request) {
    ncclResult_t result;
    do
        result = net->isend(comm, (void *)(uintptr_t)data, size, 7, registration, NULL, request);
    while (result == ncclSuccess && !*request);
    return result;
}

ncclResult_t net_irecv(net_plugin_t *net, void *comm, void *data, size_t size, void **request) {
    ncclResult_t result;
    int tag = 7;
    void *registration = NULL;
    do
        result = net->irecv(comm, 1, &data, &size, &tag, &registration, NULL, request);
    while (result == ncclSuccess && !*request);
    return result;
}

ncclResult_t net_wait(net_plugin_t *net, void *request, double seconds, int *size) {
    int64_t deadline = tpv_deadline_in(seconds);
    while (!tpv_deadline_passed(deadline)) {
        int done = 0;
        ncclResult_t result = net->test(request, &done, size);
        if (result != ncclSuccess || done) return result;
        sched_yield();
    }
    return NET_TIMED_OUT;
}

bool net_is_tcp(void) {
    const char *local = getenv("TPVIEW_NET_LOCAL");
    return local && strcmp(local, "0") == 0;
}

void net_for_each_transport(char **argv) {
    static const struct {
        const char *name, *local, *threads, *sockets;
        bool fast; /* is among those of TEST_FAST */
    } ways[] = {
        {"TCP", "0", "0", "1", false},
        {"TCP, several connections", "0", "0", "3", false},
        {"TCP, helper threads", "0", "2", "2", true},
        {"process_vm_readv", "1", "-2", "-2", true},
        {"shared memory", "2", "-2", "-2", false},
    };
    bool failed = false, fast = getenv("TEST_FAST") != NULL;
    if (getenv("TPVIEW_NET_LOCAL")) return;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        int status = -1;
        if (fast && !ways[i].fast) continue;
        printf("-- %s\n", ways[i].name);
        fflush(stdout);
        setenv("TPVIEW_NET_LOCAL", ways[i].local, 1);
        setenv("NCCL_SOCKET_NTHREADS", ways[i].threads, 1);
        setenv("NCCL_NSOCKS_PERTHREAD", ways[i].sockets, 1);
        pid_t child = fork();
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            execv("/proc/self/exe", argv);
            _exit(127);
        }
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0) failed = true;
    }
    exit(failed);
}

ncclResult_t net_wait_pair(net_plugin_t *net, void *send, void *receive, double seconds, int *sizes) {
    int sent = 0, received = 0;
    for (int64_t deadline = tpv_deadline_in(seconds); !tpv_deadline_passed(deadline);) {
        ncclResult_t result = sent ? ncclSuccess : net->test(send, &sent, NULL);
        if (result == ncclSuccess && !received) result = net->test(receive, &received, sizes);
        if (result != ncclSuccess || (sent && received)) return result;
        sched_yield();
    }
    return NET_TIMED_OUT;
}

uint16_t net_silent_port(int fds[3]) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(fds[0], (struct sockaddr *)&address, sizeof address) != 0 || listen(fds[0], 0) != 0 ||
        getsockname(fds[0], (struct sockaddr *)&address, &length) != 0)
        return 0;
    for (int i = 1; i < 3; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        (void)connect(fds[i], (struct sockaddr *)&address, sizeof address);
        /* The first one takes the only place, which the kernel may give it a little later. */
        if (i == 1 && poll(&(struct pollfd){.fd = fds[0], .events = POLLIN}, 1, 20000) != 1) return 0;
    }
    return ntohs(address.sin_port);
}

void net_handle_redirect(char *handle, int index, int count, uint16_t port) {
    char *at = handle + 32 + 20 * index; /* docs/plugin.md */
    const uint16_t family = 4;
    const struct in_addr address = {htonl(INADDR_LOOPBACK)};
    handle[10] = (char)count;
    memset(at, 0, 20);
    memcpy(at, &family, 2);
    memcpy(at + 2, &port, 2);
    memcpy(at + 4, &address, 4);
}

bool net_limit_descriptors(int more) {
    static struct rlimit before;
    struct rlimit now;
    if (before.rlim_cur == 0 && getrlimit(RLIMIT_NOFILE, &before) != 0) return false;
    now = before;
    if (more >= 0) {
        int lowest = dup(0);
        if (lowest < 0) return false;
        close(lowest);
        now.rlim_cur = (rlim_t)(lowest + more);
    }
    return setrlimit(RLIMIT_NOFILE, &now) == 0;
}

int net_open_descriptors(void) {
    int count = 0;
    DIR *folder = opendir("/proc/self/fd");
    while (folder && readdir(folder))
        count++;
    if (folder) closedir(folder);
    return count;
}

static uint8_t byte_at(uint64_t seed, size_t position) {
    return (uint8_t)((position * 131 + (position >> 8) * 17 + (position >> 16) * 7) ^ (seed * 29));
}

void net_fill(void *data, size_t size, uint64_t seed) {
    for (size_t i = 0; i < size; i++)
        ((uint8_t *)data)[i] = byte_at(seed, i);
}

bool net_check(const void *data, size_t size, uint64_t seed) {
    for (size_t i = 0; i < size; i++)
        if (((const uint8_t *)data)[i] != byte_at(seed, i)) return false;
    return true;
}
