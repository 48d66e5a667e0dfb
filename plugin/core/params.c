#include "core/params.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"

extern char **environ;

typedef enum { KIND_INT, KIND_STRING } kind_t;

typedef struct {
    const char *name;
    kind_t kind;
    const char *initial; /* default, as a user would write it */
    int64_t low, high;   /* bounds of an integer, longest length of a string */
    const char *sentence;
} entry_t;

static const entry_t table[TPV_NET_PARAM_COUNT] = {
    /* As long as NCCL's own sockets try: 34 times, 100 ms more each time (src/misc/socket.cc at v2.28.9). */
    [TPV_NET_PARAM_CONNECT_TIMEOUT] = {"TPVIEW_NET_CONNECT_TIMEOUT", KIND_INT, "60", 1, 3600,
                                       "seconds that either side of a connection has patience while it comes about"},
    [TPV_NET_PARAM_PEER_TIMEOUT] = {"TPVIEW_NET_PEER_TIMEOUT", KIND_INT, "30", 3, 86400,
                                    "seconds after which a peer whose host is silent counts as lost"},
    [TPV_NET_PARAM_LOCAL] = {"TPVIEW_NET_LOCAL", KIND_INT, "1", 0, 2,
                             "comms within a host: 0 over the network stack, 1 by the fastest way, 2 shared memory"},
    [TPV_NET_PARAM_IFNAME] = {"NCCL_SOCKET_IFNAME", KIND_STRING, "", 0, 4000,
                              "interfaces to use: a list of prefixes; ^ excludes, = means exact names"},
    [TPV_NET_PARAM_FAMILY] = {"NCCL_SOCKET_FAMILY", KIND_STRING, "", 0, 64,
                              "address family to use: AF_INET or AF_INET6"},
    [TPV_NET_PARAM_SNDBUF] = {"NCCL_SOCKET_SNDBUF", KIND_INT, "-1", -1, INT32_MAX,
                              "bytes of a socket's send buffer; -1 and 0 leave it to the kernel"},
    [TPV_NET_PARAM_RCVBUF] = {"NCCL_SOCKET_RCVBUF", KIND_INT, "-1", -1, INT32_MAX,
                              "bytes of a socket's receive buffer; -1 and 0 leave it to the kernel"},
    /* NCCL's own defaults, which mean "choose" (src/transport/net_socket.cc at v2.28.9). */
    [TPV_NET_PARAM_NSOCKS] = {"NCCL_NSOCKS_PERTHREAD", KIND_INT, "-2", -2, 64,
                              "connections of a comm for each helper thread; below 1: by interface"},
    [TPV_NET_PARAM_NTHREADS] = {"NCCL_SOCKET_NTHREADS", KIND_INT, "-2", -2, 16,
                                "helper threads of the process for TCP; below 0: by interface and CPUs"},
};

/* Written once under pthread_once, read-only after. */
static struct {
    int64_t number;
    const char *string;
    const char *refused; /* the text that was not understood */
} values[TPV_NET_PARAM_COUNT];
static pthread_once_t once = PTHREAD_ONCE_INIT, checked = PTHREAD_ONCE_INIT;

static bool parse(int index, const char *text) {
    const entry_t *entry = &table[index];
    if (entry->kind == KIND_STRING) {
        if ((int64_t)strlen(text) > entry->high) return false;
        values[index].string = text;
        return true;
    }
    char *end = NULL;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (end == text || *end || errno || number < entry->low || number > entry->high) return false;
    values[index].number = number;
    return true;
}

static void load(void) {
    for (int i = 0; i < TPV_NET_PARAM_COUNT; i++) {
        values[i].string = "";
        parse(i, table[i].initial);
        const char *text = getenv(table[i].name);
        if (text && *text && !parse(i, text)) values[i].refused = text;
    }
}

int64_t tpv_net_param_int(tpv_net_param_t param) {
    pthread_once(&once, load);
    return values[param].number;
}

const char *tpv_net_param_string(tpv_net_param_t param) {
    pthread_once(&once, load);
    return values[param].string;
}

static bool known(const char *variable) {
    for (int i = 0; i < TPV_NET_PARAM_COUNT; i++) {
        size_t length = strlen(table[i].name);
        if (strncmp(variable, table[i].name, length) == 0 && variable[length] == '=') return true;
    }
    return false;
}

static void check(void) {
    for (int i = 0; i < TPV_NET_PARAM_COUNT; i++) {
        const entry_t *entry = &table[i];
        if (!values[i].refused) continue;
        if (entry->kind == KIND_INT)
            TPV_NET_WARN("%s=%.64s is ignored: expected a whole number from %lld to %lld (%s)", entry->name,
                         values[i].refused, (long long)entry->low, (long long)entry->high, entry->sentence);
        else
            TPV_NET_WARN("%s is ignored: expected %lld bytes at most (%s)", entry->name, (long long)entry->high,
                         entry->sentence);
    }
    for (char **variable = environ; *variable; variable++)
        if (strncmp(*variable, "TPVIEW_NET_", 11) == 0 && !known(*variable))
            TPV_NET_WARN("unknown environment variable %.*s: docs/plugin.md lists the known ones",
                         (int)strcspn(*variable, "="), *variable);
}

void tpv_net_params_check(void) {
    pthread_once(&once, load);
    pthread_once(&checked, check);
}
