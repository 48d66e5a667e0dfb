/*
 * A survivor of many dead peers: in each round another process connects, moves messages and is killed in the middle of
 * it, while strangers knock at the survivor's door. The survivor has to hear of it in time, keep nothing of it, and go
 * on with its other comms. TEST_ROUNDS (100) rounds, but no new one after TEST_SECONDS (120); the seed is printed and
 * can be given back by TEST_SEED.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "common/child.h"
#include "common/net_plugin.h"

enum { IN_FLIGHT = 8, LARGEST = 1 << 20, STRANGERS = 3 };
/* From the kill to the error. */
#define HANG_SECONDS 20

static net_plugin_t net;
static uint64_t seed;
static char *pattern;

static uint64_t next(uint64_t *random) {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return *random;
}

static long number_from(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? strtol(text, NULL, 10) : otherwise;
}

typedef struct {
    bool peer_sends, grouped;
    int to_peer[2], from_peer[2]; /* pipes for the handle */
} round_t;

/* ---- a stream of messages that never ends: both sides know the size, tag and bytes of each ---- */

static size_t size_of(long message) {
    static const size_t sizes[] = {1, 4096, 0, 131072, 100, LARGEST, 8192};
    return sizes[message % 7];
}

static const char *bytes_of(long message) {
    return pattern + message * 37 % 4096;
}

typedef struct {
    bool sends, grouped;
    void *comm;
    long posted, complete; /* messages */
    void *requests[IN_FLIGHT];
    char *memory; /* room for 2 * IN_FLIGHT messages */
} flow_t;

/* With groups, two messages with different tags share a request of the receiver. */
static ncclResult_t post(flow_t *flow, void **request) {
    long message = flow->posted;
    *request = NULL;
    if (flow->sends)
        return net.isend(flow->comm, (void *)(uintptr_t)bytes_of(message), size_of(message),
                         flow->grouped ? (int)(message % 2) : 0, NULL, NULL, request);
    void *data[2], *registrations[2] = {0};
    size_t rooms[2] = {LARGEST, LARGEST};
    int count = flow->grouped ? 2 : 1, tags[] = {0, 1};
    for (int i = 0; i < count; i++)
        data[i] = flow->memory + (size_t)((message + i) % (2 * IN_FLIGHT)) * LARGEST;
    return net.irecv(flow->comm, count, data, rooms, tags, registrations, NULL, request);
}

static bool check(const flow_t *flow, const int *sizes, long message, int count) {
    for (int i = 0; i < count; i++) {
        size_t size = size_of(message + i);
        if (sizes[i] != (int)size) return false;
        if (flow->sends) continue;
        if (memcmp(flow->memory + (size_t)((message + i) % (2 * IN_FLIGHT)) * LARGEST, bytes_of(message + i), size) !=
            0)
            return false;
    }
    return true;
}

/* One step: post what can be posted, test the oldest. False for wrong bytes. */
static bool step(flow_t *flow, ncclResult_t *result) {
    int count = flow->grouped && !flow->sends ? 2 : 1, done = 0, sizes[2] = {-1, -1};
    *result = ncclSuccess;
    while (*result == ncclSuccess && (flow->posted - flow->complete) / count < IN_FLIGHT) {
        void **slot = &flow->requests[flow->posted / count % IN_FLIGHT];
        *result = post(flow, slot);
        if (!*slot) break;
        flow->posted += count;
    }
    if (*result != ncclSuccess || flow->posted == flow->complete) return true;
    *result = net.test(flow->requests[flow->complete / count % IN_FLIGHT], &done, sizes);
    if (*result != ncclSuccess || !done) return true;
    if (!check(flow, sizes, flow->complete, count)) return false;
    flow->complete += count;
    return true;
}

static int doomed(void *argument) {
    round_t *round = argument;
    CHILD_CHECK(net_plugin_open(&net, net_plugin_path(NULL), 12) == ncclSuccess);
    flow_t flow = {.sends = round->peer_sends, .grouped = round->grouped, .memory = malloc(2 * IN_FLIGHT * LARGEST)};
    flow.comm = net_meet(&net, round->peer_sends, round->to_peer[0], round->from_peer[1]);
    for (ncclResult_t result;;)
        CHILD_CHECK(step(&flow, &result) && result == ncclSuccess);
}

/* ---- the survivor ---- */

static int knock(const char *handle, const void *data, size_t size) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    uint16_t port;
    memcpy(&port, handle + 34, 2); /* docs/plugin.md */
    memcpy(&address.sin_addr, handle + 36, 4);
    address.sin_port = htons(port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    if (size) assert_int_equal(send(fd, data, size, MSG_NOSIGNAL), size);
    return fd;
}

/* One sends nonsense, one begins well, one says nothing. */
static void let_strangers_knock(const char *handle, uint64_t *random, int *fds) {
    char nonsense[64];
    for (size_t i = 0; i < sizeof nonsense; i++)
        nonsense[i] = (char)next(random);
    fds[0] = knock(handle, nonsense, sizeof nonsense);
    fds[1] = knock(handle, "TPVHELLO\2", 9);
    fds[2] = knock(handle, NULL, 0);
}

static int threads(void) {
    int count = 0;
    DIR *folder = opendir("/proc/self/task");
    while (folder && readdir(folder))
        count++;
    if (folder) closedir(folder);
    return count;
}

/* A comm that has nothing to do with any of this. */
static void use_bystander(net_pair_t *pair, uint64_t number) {
    static char out[65536], in[65536];
    void *send, *receive;
    net_fill(out, sizeof out, number);
    assert_int_equal(net_irecv(&net, pair->receive, in, sizeof in, &receive), ncclSuccess);
    assert_int_equal(net_isend(&net, pair->send, out, sizeof out, &send), ncclSuccess);
    assert_int_equal(net_wait_pair(&net, send, receive, 10, NULL), ncclSuccess);
    assert_memory_equal(in, out, sizeof out);
}

/* How long the survivor took to hear of the kill. */
static double play(round_t *round, uint64_t *random, bool while_connecting, char *memory) {
    assert_int_equal(pipe(round->to_peer), 0);
    assert_int_equal(pipe(round->from_peer), 0);
    pid_t peer = child_start(doomed, round);
    close(round->to_peer[0]);
    close(round->from_peer[1]);
    char handle[NCCL_NET_HANDLE_MAXSIZE];
    int strangers[STRANGERS], knocked = 0;
    void *listener = NULL;
    flow_t flow = {.sends = !round->peer_sends, .grouped = round->grouped, .memory = memory};
    if (round->peer_sends) {
        assert_int_equal(net_listen(&net, 0, handle, &listener), ncclSuccess);
        let_strangers_knock(handle, random, strangers);
        knocked = STRANGERS;
        child_write(round->to_peer[1], handle, sizeof handle);
    } else {
        child_read(round->from_peer[0], handle, sizeof handle);
    }
    ncclResult_t result = ncclSuccess;
    if (while_connecting) kill(peer, SIGKILL), waitpid(peer, NULL, 0);
    int64_t begun = tpv_clock_ns(), deadline = tpv_deadline_in(HANG_SECONDS);
    while (!flow.comm && result == ncclSuccess && !tpv_deadline_passed(deadline)) {
        result = round->peer_sends ? net.accept(listener, &flow.comm, NULL) : net_connect(&net, 0, handle, &flow.comm);
        /* Nobody tells a listener that nobody will come. */
        if (while_connecting && round->peer_sends) break;
    }
    if (!while_connecting) {
        assert_int_equal(result, ncclSuccess);
        assert_non_null(flow.comm);
        for (long until = (long)(next(random) % 60); flow.complete < until && !tpv_deadline_passed(deadline);) {
            assert_true(step(&flow, &result));
            assert_int_equal(result, ncclSuccess);
        }
        assert_false(tpv_deadline_passed(deadline));
        assert_int_equal(kill(peer, SIGKILL), 0);
        assert_int_equal(waitpid(peer, NULL, 0), peer);
        begun = tpv_clock_ns();
        deadline = tpv_deadline_in(HANG_SECONDS);
        while (result == ncclSuccess && !tpv_deadline_passed(deadline))
            assert_true(step(&flow, &result));
    }
    double seconds = (double)(tpv_clock_ns() - begun) / 1e9;
    if (!while_connecting || !round->peer_sends) assert_int_equal(result, ncclRemoteError);
    if (flow.comm) round->peer_sends ? net.closeRecv(flow.comm) : net.closeSend(flow.comm);
    if (listener) net.closeListen(listener);
    for (int i = 0; i < knocked; i++)
        close(strangers[i]);
    close(round->to_peer[1]);
    close(round->from_peer[0]);
    return seconds;
}

static void peers_that_are_killed_leave_nothing_behind(void **state) {
    (void)state;
    long rounds = number_from("TEST_ROUNDS", 100), played = 0;
    int64_t stop = tpv_deadline_in((double)number_from("TEST_SECONDS", 120));
    uint64_t random = seed;
    double longest = 0;
    net_pair_t bystander;
    assert_true(net_pair_open(&net, 0, &bystander));
    int strangers[STRANGERS];
    let_strangers_knock(bystander.handle, &random, strangers);
    char *memory = malloc(2 * IN_FLIGHT * LARGEST);
    /* What a comm only gets with its first bytes is there before anything is counted. */
    use_bystander(&bystander, 0);
    int descriptors = net_open_descriptors(), tasks = threads();
    for (; played < rounds && !tpv_deadline_passed(stop); played++) {
        round_t round = {.peer_sends = played % 2, .grouped = played / 2 % 2};
        net_log_clear();
        /* A refusal takes two seconds until it is final, so there are few of these. */
        double seconds = play(&round, &random, played % 40 == 39 || played % 400 == 198, memory);
        if (seconds > longest) longest = seconds;
        assert_int_equal(net_open_descriptors(), descriptors);
        assert_int_equal(threads(), tasks);
        use_bystander(&bystander, (uint64_t)played);
    }
    printf("%ld rounds; the survivor heard of a dead peer after %.3f s at the latest\n", played, longest);
    assert_true(played > 0);
    for (int i = 0; i < STRANGERS; i++)
        close(strangers[i]);
    net_pair_close(&net, &bystander);
    free(memory);
}

int main(int argc, char **argv) {
    (void)argc;
    net_for_each_transport(argv);
    setenv("NCCL_SOCKET_IFNAME", "=lo", 1);
    setenv("NCCL_SOCKET_FAMILY", "AF_INET", 1);
    seed = (uint64_t)number_from("TEST_SEED", 0);
    if (!seed && getrandom(&seed, sizeof seed / 2, 0) != sizeof seed / 2) return 1;
    seed |= 1;
    printf("seed %llu\n", (unsigned long long)seed);
    pattern = malloc(LARGEST + 4096);
    net_fill(pattern, LARGEST + 4096, seed);
    if (net_plugin_open(&net, net_plugin_path(NULL), 12) != ncclSuccess) return 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(peers_that_are_killed_leave_nothing_behind)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    net_plugin_close(&net);
    free(pattern);
    return failed;
}
