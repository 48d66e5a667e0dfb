/* A net plugin as somebody else might write it: "Toy", ABI v10 only, one Unix stream socket for each comm. Host-local,
 * no handshake; for tests that need a plugin that is not ours. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "ncclnet/net_v10.h"

typedef enum { FREE, ACTIVE, DONE } state_t;

typedef struct comm comm_t;

typedef struct {
    comm_t *comm;
    state_t state;
    char *data;
    uint64_t room; /* of a receive */
    uint64_t size; /* of the message; goes before it on the wire */
    size_t moved;  /* of size and payload together */
} request_t;

struct comm {
    int fd, sends;
    ncclResult_t failure;
    unsigned head, tail; /* requests that are ACTIVE: queue[head % 32] … */
    request_t *queue[NCCL_NET_MAX_REQUESTS];
    request_t requests[NCCL_NET_MAX_REQUESTS];
};

typedef struct {
    char magic[8];
    char name[32]; /* of an abstract socket */
} toy_handle_t;

static ncclResult_t toy_init(ncclDebugLogger_t log, ncclProfilerCallback_t profiler) {
    (void)log, (void)profiler;
    return ncclSuccess;
}

static ncclResult_t toy_devices(int *count) {
    *count = 1;
    return ncclSuccess;
}

static ncclResult_t toy_properties(int device, ncclNetProperties_v10_t *properties) {
    if (device != 0) return ncclInvalidArgument;
    *properties = (ncclNetProperties_v10_t){
        .name = (char *)(uintptr_t) "toy0",
        .ptrSupport = NCCL_PTR_HOST,
        .speed = 1000,
        .maxComms = 1024,
        .maxRecvs = 1,
        .vProps = {.ndevs = 1},
        .maxP2pBytes = (size_t)1 << 30,
        .maxCollBytes = (size_t)1 << 30,
    };
    return ncclSuccess;
}

static socklen_t address_of(const char *name, struct sockaddr_un *address) {
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    size_t length = strlen(name);
    memcpy(address->sun_path + 1, name, length);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length);
}

static ncclResult_t toy_listen(int device, void *handle, void **listener) {
    uint64_t number[2];
    toy_handle_t made = {.magic = "toynet"};
    struct sockaddr_un address;
    if (device != 0) return ncclInvalidArgument;
    if (getrandom(number, sizeof number, 0) != sizeof number) return ncclSystemError;
    snprintf(made.name, sizeof made.name, "toy-%013llx%013llx", (unsigned long long)(number[0] >> 12),
             (unsigned long long)(number[1] >> 12));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return ncclSystemError;
    int *kept = malloc(sizeof *kept);
    if (!kept || bind(fd, (struct sockaddr *)&address, address_of(made.name, &address)) != 0 || listen(fd, 64) != 0) {
        free(kept);
        close(fd);
        return ncclSystemError;
    }
    *kept = fd;
    memset(handle, 0, NCCL_NET_HANDLE_MAXSIZE);
    memcpy(handle, &made, sizeof made);
    *listener = kept;
    return ncclSuccess;
}

static comm_t *comm_create(int fd, int sends) {
    comm_t *comm = calloc(1, sizeof *comm);
    if (!comm) {
        close(fd);
        return NULL;
    }
    comm->fd = fd;
    comm->sends = sends;
    for (int i = 0; i < NCCL_NET_MAX_REQUESTS; i++)
        comm->requests[i].comm = comm;
    return comm;
}

static ncclResult_t toy_connect(int device, ncclNetCommConfig_v10_t *config, void *handle, void **comm,
                                ncclNetDeviceHandle_t **device_comm) {
    (void)device, (void)config, (void)device_comm;
    toy_handle_t from;
    struct sockaddr_un address;
    *comm = NULL;
    memcpy(&from, handle, sizeof from);
    if (strcmp(from.magic, "toynet") != 0 || !memchr(from.name, '\0', sizeof from.name)) return ncclInvalidArgument;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return ncclSystemError;
    if (connect(fd, (struct sockaddr *)&address, address_of(from.name, &address)) != 0) {
        int why = errno;
        close(fd);
        /* A full backlog: the caller comes again. */
        return why == EAGAIN ? ncclSuccess : ncclRemoteError;
    }
    *comm = comm_create(fd, 1);
    return *comm ? ncclSuccess : ncclSystemError;
}

static ncclResult_t toy_accept(void *listener, void **comm, ncclNetDeviceHandle_t **device_comm) {
    (void)device_comm;
    *comm = NULL;
    int fd = accept4(*(int *)listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return errno == EAGAIN ? ncclSuccess : ncclSystemError;
    *comm = comm_create(fd, 0);
    return *comm ? ncclSuccess : ncclSystemError;
}

static ncclResult_t toy_register(void *comm, void *data, size_t size, int type, void **registration) {
    (void)comm, (void)data, (void)size;
    *registration = NULL;
    return type == NCCL_PTR_HOST ? ncclSuccess : ncclInvalidUsage;
}

static ncclResult_t toy_deregister(void *comm, void *registration) {
    (void)comm, (void)registration;
    return ncclSuccess;
}

static request_t *post(comm_t *comm, void *data) {
    for (int i = 0; i < NCCL_NET_MAX_REQUESTS; i++) {
        request_t *request = &comm->requests[i];
        if (request->state != FREE) continue;
        request->state = ACTIVE;
        request->data = data;
        request->size = request->moved = 0;
        comm->queue[comm->tail++ % NCCL_NET_MAX_REQUESTS] = request;
        return request;
    }
    return NULL;
}

static ncclResult_t toy_isend(void *comm, void *data, size_t size, int tag, void *registration, void *profiler,
                              void **request) {
    (void)tag, (void)registration, (void)profiler;
    comm_t *on = comm;
    *request = NULL;
    if (on->failure != ncclSuccess) return on->failure;
    if (!on->sends || size > (size_t)1 << 30) return ncclInvalidUsage;
    request_t *posted = post(on, data);
    if (posted) posted->size = size;
    *request = posted;
    return ncclSuccess;
}

static ncclResult_t toy_irecv(void *comm, int count, void **data, size_t *sizes, int *tags, void **registrations,
                              void **profilers, void **request) {
    (void)tags, (void)registrations, (void)profilers;
    comm_t *on = comm;
    *request = NULL;
    if (on->failure != ncclSuccess) return on->failure;
    if (on->sends || count != 1) return ncclInvalidUsage;
    request_t *posted = post(on, data[0]);
    if (posted) posted->room = sizes[0];
    *request = posted;
    return ncclSuccess;
}

static ncclResult_t toy_iflush(void *comm, int count, void **data, int *sizes, void **registrations, void **request) {
    (void)comm, (void)count, (void)data, (void)sizes, (void)registrations;
    *request = NULL;
    return ncclSuccess;
}

/* One system call for the head: its size first, then its payload. Returns what the call returned. */
static ssize_t move_some(comm_t *comm, request_t *request) {
    int in_size = request->moved < sizeof request->size;
    size_t gone = in_size ? request->moved : request->moved - sizeof request->size;
    char *at = (in_size ? (char *)&request->size : request->data) + gone;
    size_t left = (in_size ? sizeof request->size : request->size) - gone;
    return comm->sends ? send(comm->fd, at, left, MSG_NOSIGNAL) : recv(comm->fd, at, left, 0);
}

static void progress(comm_t *comm) {
    while (comm->failure == ncclSuccess && comm->head != comm->tail) {
        request_t *request = comm->queue[comm->head % NCCL_NET_MAX_REQUESTS];
        ssize_t count = move_some(comm, request);
        if (count < 0 && errno == EAGAIN) return;
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) {
            comm->failure = count == 0 || errno == EPIPE || errno == ECONNRESET ? ncclRemoteError : ncclSystemError;
            return;
        }
        request->moved += (size_t)count;
        if (request->moved < sizeof request->size) continue;
        if (!comm->sends && request->size > request->room) comm->failure = ncclInvalidUsage;
        if (request->moved == sizeof request->size + request->size) {
            request->state = DONE;
            comm->head++;
        }
    }
}

static ncclResult_t toy_test(void *request, int *done, int *sizes) {
    request_t *of = request;
    *done = 0;
    if (of->state != DONE) progress(of->comm);
    if (of->state != DONE) return of->comm->failure;
    of->state = FREE;
    *done = 1;
    if (sizes) *sizes = (int)of->size;
    return ncclSuccess;
}

static ncclResult_t toy_close(void *comm) {
    close(((comm_t *)comm)->fd);
    free(comm);
    return ncclSuccess;
}

static ncclResult_t toy_close_listener(void *listener) {
    close(*(int *)listener);
    free(listener);
    return ncclSuccess;
}

extern const ncclNet_v10_t ncclNetPlugin_v10;
__attribute__((visibility("default"))) const ncclNet_v10_t ncclNetPlugin_v10 = {
    .name = "Toy",
    .init = toy_init,
    .devices = toy_devices,
    .getProperties = toy_properties,
    .listen = toy_listen,
    .connect = toy_connect,
    .accept = toy_accept,
    .regMr = toy_register,
    .deregMr = toy_deregister,
    .isend = toy_isend,
    .irecv = toy_irecv,
    .iflush = toy_iflush,
    .test = toy_test,
    .closeSend = toy_close,
    .closeRecv = toy_close,
    .closeListen = toy_close_listener,
};
