/* Net plugins as tests drive them: loaded by path, one set of calls for every ABI version, log lines kept. Functions
 * below that take comms by pair run both ends on the calling thread. */
#ifndef COMMON_NET_PLUGIN_H
#define COMMON_NET_PLUGIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "channel/net_abi.h"
#include "ncclnet/net_v10.h"
#include "ncclnet/net_v11.h"
#include "ncclnet/net_v12.h"

#define NET_OLDEST 6
#define NET_NEWEST 12

typedef struct {
    int version;
    tpv_net_abi_t abi;
    const ncclNet_v10_t *v10; /* the table itself, where it is of this version */
    const ncclNet_v11_t *v11;
    const ncclNet_v12_t *v12;
    void *context;
    /* As in v10 to v12, for every version; they go to the plugin that was opened last. */
    ncclResult_t (*accept)(void *, void **, ncclNetDeviceHandle_t **);
    ncclResult_t (*isend)(void *, void *, size_t, int, void *, void *, void **);
    ncclResult_t (*irecv)(void *, int, void **, size_t *, int *, void **, void **, void **);
    ncclResult_t (*test)(void *, int *, int *);
    ncclResult_t (*closeSend)(void *);
    ncclResult_t (*closeRecv)(void *);
    ncclResult_t (*closeListen)(void *);
} net_plugin_t;

typedef struct {
    char handle[NCCL_NET_HANDLE_MAXSIZE];
    void *listener, *send, *receive;
} net_pair_t;

/* Load `path` and init it with the ABI `version` (NET_OLDEST to NET_NEWEST). Exits the process with a message when the
 * file or symbol is not there; otherwise returns init's result. */
ncclResult_t net_plugin_open(net_plugin_t *net, const char *path, int version);
/* finalize, where the version has it. */
void net_plugin_close(net_plugin_t *net);

/* $TEST_BUILD/lib/libnccl-net-tpview.so, or $TEST_BUILD/NAME when `name` is not NULL. Static storage. */
const char *net_plugin_path(const char *name);

/* Keeps log lines; what net_plugin_open gives to init. */
void net_logger(ncclDebugLogLevel level, unsigned long flags, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* All log lines of the process since the last net_log_clear, newline after each. */
const char *net_log_text(void);
void net_log_clear(void);
/* How often `text` occurs in the log. */
int net_log_count(const char *text);

ncclResult_t net_listen(net_plugin_t *net, int device, void *handle, void **listener);
ncclResult_t net_connect(net_plugin_t *net, int device, void *handle, void **comm);

/* Listen, connect and accept to oneself, interleaved. False when it failed or took over 20 seconds. */
bool net_pair_open(net_plugin_t *net, int device, net_pair_t *pair);
void net_pair_close(net_plugin_t *net, net_pair_t *pair);

/* One side of a comm whose other side is in another process: connect to the handle that comes from the pipe `in`, or
 * listen, tell the handle through `out` and accept. Ends the process with a message after 20 seconds. */
void *net_meet(net_plugin_t *net, bool sends, int in, int out);

/* Post one request, calling again while the plugin has no free one. */
ncclResult_t net_isend(net_plugin_t *net, void *comm, const void *data, size_t size, void **request);
ncclResult_t net_isend_registered(net_plugin_t *net, void *comm, const void *data, size_t size, void *registration,
                                  void **request);
ncclResult_t net_irecv(net_plugin_t *net, void *comm, void *data, size_t size, void **request);

/* Whether the plugin's comms go over TCP. Within a host, a send above 4 KiB is done when its receive is; over TCP,
 * when the kernel has taken it. */
bool net_is_tcp(void);

/* Run this program again for each kind of comm, unless TPVIEW_NET_LOCAL says which: over TCP, then both ways within a
 * host. Returns only when one kind is chosen; otherwise exits, with 0 if all runs did. */
void net_for_each_transport(char **argv);

/* Test a send and its receive by turns until both are done; the first error otherwise. `sizes` (may be NULL) are the
 * receive's. */
ncclResult_t net_wait_pair(net_plugin_t *net, void *send, void *receive, double seconds, int *sizes);

/* Test until done, an error or `seconds` are over (then ncclInProgress, which plugins never return). */
#define NET_TIMED_OUT ((ncclResult_t)7)
ncclResult_t net_wait(net_plugin_t *net, void *request, double seconds, int *size);

/* A port of 127.0.0.1 that does not answer, as its queue is full: the kernel drops what knocks. Three descriptors hold
 * it so until they are closed. 0 when that fails. */
uint16_t net_silent_port(int fds[3]);

/* Have a handle that listen wrote name this port of 127.0.0.1 at `index`, 0 or 1, and `count` addresses. */
void net_handle_redirect(char *handle, int index, int count, uint16_t port);

/* Let this process open `more` descriptors and no further one; -1: as many as before the first call. */
bool net_limit_descriptors(int more);

/* Open descriptors of this process. */
int net_open_descriptors(void);

/* Bytes that differ from their neighbours, told by seed and position. */
void net_fill(void *data, size_t size, uint64_t seed);
bool net_check(const void *data, size_t size, uint64_t seed);

#endif
