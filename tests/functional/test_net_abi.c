/* Each ABI version through its own table: properties, the members that are left out, int sizes, contexts with a traffic
 * class, and events for a profiler. What all versions have in common is in test_net_tcp.c and test_net_groups.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dlfcn.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "common/net_plugin.h"
#include "ncclnet/net_v6.h"
#include "ncclnet/net_v7.h"
#include "ncclnet/net_v8.h"
#include "ncclnet/net_v9.h"
#include "ncclnet/profiler.h"

static const void *table_of(int version) {
    char symbol[32];
    snprintf(symbol, sizeof symbol, "ncclNetPlugin_v%d", version);
    void *library = dlopen(net_plugin_path(NULL), RTLD_NOW | RTLD_LOCAL),
         *table = library ? dlsym(library, symbol) : NULL;
    if (!table) fail_msg("%s: %s", symbol, dlerror());
    return table;
}

/* What every version says of a device. */
#define CHECK_DEVICE(properties)                                                                                       \
    do {                                                                                                               \
        assert_string_equal((properties).name, "lo");                                                                  \
        assert_null((properties).pciPath);                                                                             \
        assert_int_equal((properties).ptrSupport, NCCL_PTR_HOST);                                                      \
        assert_int_equal((properties).speed, 10000);                                                                   \
        assert_int_equal((properties).maxComms, 65536);                                                                \
        assert_int_equal((properties).maxRecvs, 8);                                                                    \
    } while (0)
#define CHECK_OFFLOAD(properties)                                                                                      \
    do {                                                                                                               \
        assert_int_equal((properties).netDeviceType, NCCL_NET_DEVICE_HOST);                                            \
        assert_int_equal((properties).netDeviceVersion, NCCL_NET_DEVICE_INVALID_VERSION);                              \
    } while (0)
#define CHECK_LIMITS(properties)                                                                                       \
    do {                                                                                                               \
        assert_int_equal((properties).regIsGlobal, 0);                                                                 \
        assert_int_equal((properties).forceFlush, 0);                                                                  \
        assert_int_equal((properties).vProps.ndevs, 1);                                                                \
        assert_int_equal((properties).vProps.devs[0], 0);                                                              \
        assert_int_equal((properties).maxP2pBytes, 1 << 30);                                                           \
        assert_in_range((properties).maxCollBytes, 1, NCCL_MAX_NET_SIZE_BYTES);                                        \
    } while (0)
/* The calls that NCCL does without; see plugin/abi/tables.h. */
#define CHECK_ABSENT(net)                                                                                              \
    do {                                                                                                               \
        assert_null((net)->getDeviceMr);                                                                               \
        assert_null((net)->irecvConsumed);                                                                             \
    } while (0)
#define CHECK_TABLE(net)                                                                                               \
    do {                                                                                                               \
        int count = 0;                                                                                                 \
        void *request = &request;                                                                                      \
        assert_string_equal((net)->name, "TPView");                                                                    \
        assert_null((net)->regMrDmaBuf);                                                                               \
        assert_int_equal((net)->devices(&count), ncclSuccess);                                                         \
        assert_int_equal(count, 1);                                                                                    \
        assert_int_equal((net)->iflush(NULL, 0, NULL, NULL, NULL, &request), ncclSuccess);                             \
        assert_null(request);                                                                                          \
        memset(&properties, 0x7f, sizeof properties);                                                                  \
        assert_int_equal((net)->getProperties(1, &properties), ncclInvalidArgument);                                   \
        assert_int_equal((net)->getProperties(-1, &properties), ncclInvalidArgument);                                  \
        assert_int_equal((net)->getProperties(0, &properties), ncclSuccess);                                           \
        CHECK_DEVICE(properties);                                                                                      \
    } while (0)

static void v6(void **state) {
    (void)state;
    const ncclNet_v6_t *net = table_of(6);
    ncclNetProperties_v6_t properties;
    assert_int_equal(net->init(net_logger), ncclSuccess);
    CHECK_TABLE(net);
    char handle[NCCL_NET_HANDLE_MAXSIZE], in = 0, out = '6';
    void *listener = NULL, *send = NULL, *receive = NULL, *registration = &registration, *request = &request;
    assert_int_equal(net->listen(0, handle, &listener), ncclSuccess);
    for (int64_t deadline = tpv_deadline_in(10); !send || !receive;) {
        assert_false(tpv_deadline_passed(deadline));
        if (!send) assert_int_equal(net->connect(0, handle, &send), ncclSuccess);
        if (!receive) assert_int_equal(net->accept(listener, &receive), ncclSuccess);
    }
    /* Sizes below zero have overflowed on their way here. */
    void *data = &in;
    int size = INT_MIN, tag = 0, sizes[2] = {-1, -1}, done = 0;
    assert_int_equal(net->regMr(send, &in, -1, NCCL_PTR_HOST, &registration), ncclInvalidArgument);
    assert_null(registration);
    assert_int_equal(net->isend(send, &in, -1, 0, NULL, &request), ncclInvalidArgument);
    assert_null(request);
    request = &request;
    assert_int_equal(net->irecv(receive, 1, &data, &size, &tag, &registration, &request), ncclInvalidArgument);
    assert_null(request);
    /* The comm is still good. */
    size = 1;
    void *sent = NULL, *received = (void *)0x1; /* NCCL_NET_OPTIONAL_RECV_COMPLETION */
    for (int64_t deadline = tpv_deadline_in(20); !sent; assert_false(tpv_deadline_passed(deadline)))
        assert_int_equal(net->isend(send, &out, 1, 0, NULL, &sent), ncclSuccess);
    assert_int_equal(net->irecv(receive, 1, &data, &size, &tag, &registration, &received), ncclSuccess);
    assert_true(received != NULL && received != (void *)0x1);
    for (int64_t deadline = tpv_deadline_in(10); !done; assert_false(tpv_deadline_passed(deadline)))
        assert_int_equal(net->test(sent, &done, NULL), ncclSuccess);
    done = 0;
    for (int64_t deadline = tpv_deadline_in(20); !done; assert_false(tpv_deadline_passed(deadline)))
        assert_int_equal(net->test(received, &done, sizes), ncclSuccess);
    assert_int_equal(sizes[0], 1);
    assert_int_equal(sizes[1], -1);
    assert_int_equal(in, '6');
    net->closeSend(send);
    net->closeRecv(receive);
    net->closeListen(listener);
}

static void v7(void **state) {
    (void)state;
    const ncclNet_v7_t *net = table_of(7);
    ncclNetProperties_v7_t properties;
    assert_int_equal(net->init(net_logger), ncclSuccess);
    CHECK_TABLE(net);
    CHECK_OFFLOAD(properties);
    CHECK_ABSENT(net);
}

static void v8(void **state) {
    (void)state;
    const ncclNet_v8_t *net = table_of(8);
    ncclNetProperties_v8_t properties;
    assert_int_equal(net->init(net_logger), ncclSuccess);
    CHECK_TABLE(net);
    CHECK_OFFLOAD(properties);
    CHECK_ABSENT(net);
    assert_int_equal(properties.regIsGlobal, 0);
}

static void v9(void **state) {
    (void)state;
    const ncclNet_v9_t *net = table_of(9);
    ncclNetProperties_v9_t properties;
    assert_int_equal(net->init(net_logger), ncclSuccess);
    CHECK_TABLE(net);
    CHECK_OFFLOAD(properties);
    CHECK_LIMITS(properties);
    CHECK_ABSENT(net);
    assert_null(net->makeVDevice);
    /* A size is one of 64 bits: this one is 8 in its lower half. */
    char handle[NCCL_NET_HANDLE_MAXSIZE];
    void *listener = NULL, *send = NULL, *receive = NULL, *request = &request;
    ncclNetDeviceHandle_t *device_comm = NULL;
    assert_int_equal(net->listen(0, handle, &listener), ncclSuccess);
    for (int64_t deadline = tpv_deadline_in(10); !send || !receive;) {
        assert_false(tpv_deadline_passed(deadline));
        if (!send) assert_int_equal(net->connect(0, handle, &send, &device_comm), ncclSuccess);
        if (!receive) assert_int_equal(net->accept(listener, &receive, &device_comm), ncclSuccess);
    }
    net_log_clear();
    assert_int_equal(net->isend(send, handle, (UINT64_C(1) << 32) + 8, 0, NULL, &request), ncclInvalidUsage);
    assert_null(request);
    assert_int_equal(net_log_count("a message of 4294967304 bytes is too long"), 1);
    net->closeSend(send);
    net->closeRecv(receive);
    net->closeListen(listener);
}

static void v10(void **state) {
    (void)state;
    const ncclNet_v10_t *net = table_of(10);
    ncclNetProperties_v10_t properties;
    assert_int_equal(net->init(net_logger, NULL), ncclSuccess);
    CHECK_TABLE(net);
    CHECK_OFFLOAD(properties);
    CHECK_LIMITS(properties);
    CHECK_ABSENT(net);
    assert_null(net->makeVDevice);
}

#define CHECK_CONTEXTS(net, config_type, attr_type)                                                                    \
    do {                                                                                                               \
        void *first = NULL, *second = NULL;                                                                            \
        config_type config = {.trafficClass = 8};                                                                      \
        attr_type attr = {.sendCommAttr = {3, 1, 4, 1}, .recvCommAttr = {5, 1, 2, 1}, .op = ~0u};                      \
        assert_int_equal((net)->finalize(NULL), ncclSuccess);                                                          \
        assert_int_equal((net)->init(&first, 1, &config, net_logger, NULL), ncclSuccess);                              \
        assert_int_equal((net)->init(&second, 2, NULL, net_logger, NULL), ncclSuccess);                                \
        assert_ptr_not_equal(first, second);                                                                           \
        net_log_clear();                                                                                               \
        assert_int_equal((net)->setNetAttr(first, &attr), ncclSuccess);                                                \
        attr = (attr_type){.sendCommAttr = {2, 1, 2, 1}, .recvCommAttr = {-1, -1, -1, -1}};                            \
        assert_int_equal((net)->setNetAttr(first, &attr), ncclSuccess);                                                \
        assert_int_equal((net)->setNetAttr(NULL, &attr), ncclSuccess);                                                 \
        assert_int_equal((net)->finalize(second), ncclSuccess);                                                        \
        assert_int_equal(net_log_count("NCCL expected"), 0);                                                           \
        assert_int_equal((net)->finalize(first), ncclSuccess);                                                         \
        assert_int_equal(net_log_count("NCCL expected up to 5 peers at a time and 4 flows to each"), 1);               \
    } while (0)

static void v11(void **state) {
    (void)state;
    const ncclNet_v11_t *net = table_of(11);
    ncclNetProperties_v11_t properties;
    CHECK_CONTEXTS(net, ncclNetCommConfig_v11_t, ncclNetAttr_v11_t);
    CHECK_TABLE(net);
    CHECK_OFFLOAD(properties);
    CHECK_LIMITS(properties);
    CHECK_ABSENT(net);
    assert_null(net->makeVDevice);
    assert_int_equal(properties.maxMultiRequestSize, 1);
}

static void v12(void **state) {
    (void)state;
    const ncclNet_v12_t *net = table_of(12);
    ncclNetProperties_v12_t properties;
    CHECK_CONTEXTS(net, ncclNetCommConfig_v12_t, ncclNetAttr_v12_t);
    CHECK_TABLE(net);
    CHECK_OFFLOAD(properties);
    CHECK_LIMITS(properties);
    CHECK_ABSENT(net);
    assert_null(net->makeVDevice);
    assert_int_equal(properties.maxMultiRequestSize, 1);
    assert_int_equal(properties.railId, -1);
    assert_int_equal(properties.planeId, -1);
}

/* ---- traffic class ---- */

/* How many connected TCP sockets of this process have `traffic_class` in their packets' header. */
static int sockets_with(int traffic_class) {
    int count = 0;
    for (int fd = 3; fd < 256; fd++) {
        struct sockaddr_storage peer;
        socklen_t length = sizeof peer;
        if (getpeername(fd, (struct sockaddr *)&peer, &length) != 0) continue;
        int value = -1;
        length = sizeof value;
        if (peer.ss_family == AF_INET6)
            (void)getsockopt(fd, IPPROTO_IPV6, IPV6_TCLASS, &value, &length);
        else
            (void)getsockopt(fd, IPPROTO_IP, IP_TOS, &value, &length);
        /* The kernel keeps the ECN bits of TCP for itself. */
        if ((value & ~3) == traffic_class) count++;
    }
    return count;
}

/* That one end of a comm has, as net_for_each_transport asks for. */
static int connections(void) {
    if (strcmp(getenv("TPVIEW_NET_LOCAL"), "0") != 0) return 1;
    int threads = atoi(getenv("NCCL_SOCKET_NTHREADS")), sockets = atoi(getenv("NCCL_NSOCKS_PERTHREAD"));
    return threads ? 1 + threads * sockets : sockets;
}

/* A sending end knows only by its first message what it has become, and closes what it needs no more. */
static void use(ncclResult_t (*isend)(void *, void *, size_t, int, void *, void *, void **),
                ncclResult_t (*test)(void *, int *, int *), void *comm) {
    void *request = NULL;
    int done = 0;
    for (int64_t deadline = tpv_deadline_in(10); !done; assert_false(tpv_deadline_passed(deadline))) {
        if (!request) assert_int_equal(isend(comm, "x", 1, 0, NULL, NULL, &request), ncclSuccess);
        if (request) assert_int_equal(test(request, &done, NULL), ncclSuccess);
    }
}

static void each_communicator_has_its_traffic_class(void **state) {
    (void)state;
    const ncclNet_v12_t *net = table_of(12);
    static const int classes[] = {0x48, 0x88, -1};
    char handles[3][NCCL_NET_HANDLE_MAXSIZE];
    void *contexts[3], *listeners[3], *sends[3] = {0}, *receives[3] = {0};
    for (int i = 0; i < 3; i++) {
        ncclNetCommConfig_v12_t config = {.trafficClass = classes[i]};
        assert_int_equal(net->init(&contexts[i], (uint64_t)i, &config, net_logger, NULL), ncclSuccess);
        assert_int_equal(net->listen(contexts[i], 0, handles[i], &listeners[i]), ncclSuccess);
    }
    int ready = 0;
    for (int64_t deadline = tpv_deadline_in(10); ready < 3;) {
        assert_false(tpv_deadline_passed(deadline));
        ready = 0;
        for (int i = 0; i < 3; i++) {
            ready += sends[i] && receives[i];
            if (!sends[i]) assert_int_equal(net->connect(contexts[i], 0, handles[i], &sends[i], NULL), ncclSuccess);
            if (!receives[i]) assert_int_equal(net->accept(listeners[i], &receives[i], NULL), ncclSuccess);
        }
    }
    for (int i = 0; i < 3; i++)
        use(net->isend, net->test, sends[i]);
    assert_int_equal(sockets_with(0x48), 2 * connections());
    assert_int_equal(sockets_with(0x88), 2 * connections());
    assert_int_equal(sockets_with(0), 2 * connections());
    for (int i = 0; i < 3; i++) {
        net->closeSend(sends[i]);
        net->closeRecv(receives[i]);
        net->closeListen(listeners[i]);
        net->finalize(contexts[i]);
    }
    assert_int_equal(sockets_with(0x48), 0);
}

static void v10_has_its_traffic_class_from_connect(void **state) {
    (void)state;
    const ncclNet_v10_t *net = table_of(10);
    char handle[NCCL_NET_HANDLE_MAXSIZE];
    void *listener, *send = NULL, *receive = NULL;
    ncclNetCommConfig_v10_t config = {.trafficClass = 0x68};
    assert_int_equal(net->init(net_logger, NULL), ncclSuccess);
    assert_int_equal(net->listen(0, handle, &listener), ncclSuccess);
    for (int64_t deadline = tpv_deadline_in(10); !send || !receive;) {
        assert_false(tpv_deadline_passed(deadline));
        if (!send) assert_int_equal(net->connect(0, &config, handle, &send, NULL), ncclSuccess);
        if (!receive) assert_int_equal(net->accept(listener, &receive, NULL), ncclSuccess);
    }
    use(net->isend, net->test, send);
    assert_int_equal(sockets_with(0x68), connections());
    net->closeSend(send);
    net->closeRecv(receive);
    net->closeListen(listener);
}

static void a_traffic_class_that_cannot_be_is_told(void **state) {
    (void)state;
    net_plugin_t net;
    net_pair_t pair;
    assert_int_equal(net_plugin_open(&net, net_plugin_path(NULL), 12), ncclSuccess);
    void *plain = net.context;
    ncclNetCommConfig_v12_t config = {.trafficClass = 256};
    assert_int_equal(net.v12->init(&net.context, 1, &config, net_logger, NULL), ncclSuccess);
    net_log_clear();
    assert_true(net_pair_open(&net, 0, &pair));
    assert_int_equal(net_log_count("traffic class 256 is ignored: expected 0 to 255"), 2);
    use(net.v12->isend, net.v12->test, pair.send);
    assert_int_equal(sockets_with(0), 2 * connections());
    net_pair_close(&net, &pair);
    net_plugin_close(&net);
    assert_int_equal(net.v12->finalize(plain), ncclSuccess);
}

/* ---- profiler ---- */

typedef struct {
    int parent; /* index of the step it belongs to */
    tpview_profiler_event_v1_t event;
    bool stopped;
} seen_t;
static seen_t seen[16];
static int seen_count, parents[16];
static bool deaf; /* a profiler that wants no events leaves the handle alone */

static ncclResult_t profiler(void **event, int type, void *parent, int64_t plugin_id, void *data) {
    assert_int_equal(plugin_id, TPVIEW_PROFILER_ID);
    if (type == NCCL_PROFILER_NET_EVENT_START) {
        assert_null(*event);
        if (deaf) return ncclSuccess;
        seen_t *next = &seen[seen_count++];
        *next = (seen_t){.parent = (int)((int *)parent - parents)};
        memcpy(&next->event, data, sizeof next->event);
        *event = next;
    } else {
        assert_int_equal(type, NCCL_PROFILER_NET_EVENT_STOP);
        assert_false(((seen_t *)*event)->stopped);
        ((seen_t *)*event)->stopped = true;
    }
    return ncclSuccess;
}

static void messages_are_events_of_the_profiler(void **state) {
    (void)state;
    net_plugin_t net;
    net_pair_t pair;
    assert_int_equal(net_plugin_open(&net, net_plugin_path(NULL), 12), ncclSuccess);
    void *plain = net.context;
    assert_int_equal(net.v12->init(&net.context, 1, NULL, net_logger, profiler), ncclSuccess);
    assert_true(net_pair_open(&net, 0, &pair));
    for (int round = 0; round < 3; round++) {
        seen_count = 0;
        deaf = round == 1;
        char in[3] = {0};
        void *data[] = {&in[0], &in[1], &in[2]}, *registrations[3] = {0}, *group = NULL, *send[3];
        /* The bootstrap has no step to belong to. */
        void *steps[] = {&parents[0], NULL, &parents[2]};
        size_t rooms[] = {1, 1, 1};
        int tags[] = {4, 4, 4};
        assert_int_equal(
            net.v12->irecv(pair.receive, 3, data, rooms, tags, registrations, round == 2 ? NULL : steps, &group),
            ncclSuccess);
        for (int i = 0; i < 3; i++) {
            /* The sender may not have heard yet that its comm is accepted. */
            send[i] = NULL;
            for (int64_t deadline = tpv_deadline_in(20); !send[i]; assert_false(tpv_deadline_passed(deadline)))
                assert_int_equal(
                    net.v12->isend(pair.send, &"abc"[i], 1, 4, NULL, round == 2 ? NULL : &parents[5 + i], &send[i]),
                    ncclSuccess);
        }
        if (round == 0) {
            assert_int_equal(seen_count, 5);
            for (int i = 0; i < 5; i++) {
                static const int expected[] = {0, 2, 5, 6, 7};
                assert_int_equal(seen[i].parent, expected[i]);
                assert_int_equal(seen[i].event.receives, i < 2);
                assert_int_equal(seen[i].event.tag, 4);
                assert_int_equal(seen[i].event.size, 1);
                assert_false(seen[i].stopped);
            }
        }
        for (int i = 0; i < 3; i++) {
            assert_int_equal(net_wait(&net, send[i], 10, NULL), ncclSuccess);
            if (round == 0) assert_true(seen[2 + i].stopped);
        }
        if (round == 0) assert_false(seen[0].stopped);
        assert_int_equal(net_wait(&net, group, 10, NULL), ncclSuccess);
        if (round == 0) assert_true(seen[0].stopped && seen[1].stopped);
        assert_int_equal(seen_count, round == 0 ? 5 : 0);
        assert_memory_equal(in, "abc", 3);
    }
    net_pair_close(&net, &pair);
    net_plugin_close(&net);
    assert_int_equal(net.v12->finalize(plain), ncclSuccess);
}

int main(int argc, char **argv) {
    (void)argc;
    net_for_each_transport(argv);
    setenv("NCCL_SOCKET_IFNAME", "=lo", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(v6),
        cmocka_unit_test(v7),
        cmocka_unit_test(v8),
        cmocka_unit_test(v9),
        cmocka_unit_test(v10),
        cmocka_unit_test(v11),
        cmocka_unit_test(v12),
        cmocka_unit_test(each_communicator_has_its_traffic_class),
        cmocka_unit_test(v10_has_its_traffic_class_from_connect),
        cmocka_unit_test(a_traffic_class_that_cannot_be_is_told),
        cmocka_unit_test(messages_are_events_of_the_profiler),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
