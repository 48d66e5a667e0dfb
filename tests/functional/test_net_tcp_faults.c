/* TCP comms between two processes of which one is killed, vanishes from the network, or just does not read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <linux/filter.h>
#include <linux/sockios.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "common/child.h"
#include "common/net_plugin.h"

#define BLOCK ((size_t)1 << 20)

static net_plugin_t net;

typedef enum { KILLED, UNPLUGGED, IDLE_READER } fate_t;

typedef struct {
    bool peer_sends;
    fate_t fate;
    int to_peer[2], from_peer[2]; /* pipes: handle one way or the other, then one byte when data has moved */
} scene_t;

/* Make all sockets of this process deaf: whatever comes in is dropped before TCP sees it, so nothing is acknowledged.
 * To the other side this looks like a pulled cable, once there is nothing left that would be sent again and again. */
static void unplug(void) {
    struct sock_filter drop_all = BPF_STMT(BPF_RET | BPF_K, 0);
    struct sock_fprog program = {.len = 1, .filter = &drop_all};
    for (int fd = 3; fd < 256; fd++) {
        int type;
        socklen_t length = sizeof type;
        if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) != 0) continue;
        int unacknowledged = 1;
        for (int64_t deadline = tpv_deadline_in(10); unacknowledged;) {
            CHILD_CHECK(ioctl(fd, SIOCOUTQ, &unacknowledged) == 0 && !tpv_deadline_passed(deadline));
            sched_yield();
        }
        /* Its own keepalive must not reset the connection. */
        int off = 0;
        CHILD_CHECK(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &off, sizeof off) == 0);
        CHILD_CHECK(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0);
    }
}

/* The side that meets its fate: moves a few blocks, tells, and then waits for the end. */
static int doomed(void *argument) {
    scene_t *scene = argument;
    CHILD_CHECK(net_plugin_open(&net, net_plugin_path(NULL), 11) == ncclSuccess);
    void *comm = net_meet(&net, scene->peer_sends, scene->to_peer[0], scene->from_peer[1]);
    char *block = malloc(BLOCK);
    for (int i = 0; i < 4; i++) {
        void *request;
        net_fill(block, BLOCK, 0);
        CHILD_CHECK((scene->peer_sends ? net_isend(&net, comm, block, BLOCK, &request)
                                       : net_irecv(&net, comm, block, BLOCK, &request)) == ncclSuccess);
        CHILD_CHECK(net_wait(&net, request, 20, NULL) == ncclSuccess);
    }
    if (scene->fate == UNPLUGGED) unplug();
    child_write(scene->from_peer[1], "!", 1);
    if (scene->fate == IDLE_READER) {
        char go;
        child_read(scene->to_peer[0], &go, 1);
        for (int i = 0; i < 32; i++) {
            void *request;
            CHILD_CHECK(net_irecv(&net, comm, block, BLOCK, &request) == ncclSuccess);
            CHILD_CHECK(net_wait(&net, request, 20, NULL) == ncclSuccess);
            CHILD_CHECK(net_check(block, BLOCK, 1));
        }
        net.closeRecv(comm);
        return 0;
    }
    for (;;)
        pause();
}

static pid_t begin(scene_t *scene, void **comm, char *block) {
    assert_int_equal(pipe(scene->to_peer), 0);
    assert_int_equal(pipe(scene->from_peer), 0);
    pid_t peer = child_start(doomed, scene);
    close(scene->to_peer[0]);
    close(scene->from_peer[1]);
    *comm = net_meet(&net, !scene->peer_sends, scene->from_peer[0], scene->to_peer[1]);
    for (int i = 0; i < 4; i++) {
        void *request;
        net_fill(block, BLOCK, 0);
        assert_int_equal(scene->peer_sends ? net_irecv(&net, *comm, block, BLOCK, &request)
                                           : net_isend(&net, *comm, block, BLOCK, &request),
                         ncclSuccess);
        assert_int_equal(net_wait(&net, request, 20, NULL), ncclSuccess);
    }
    char told;
    child_read(scene->from_peer[0], &told, 1);
    return peer;
}

static void finish(scene_t *scene) {
    close(scene->to_peer[1]);
    close(scene->from_peer[0]);
}

/* The survivor keeps as many requests in flight as there may be, so a sender cannot get rid of all of them. */
static ncclResult_t move_until_error(bool sends, void *comm, char *block, double seconds) {
    void *requests[NCCL_NET_MAX_REQUESTS];
    for (int i = 0; i < NCCL_NET_MAX_REQUESTS; i++) {
        ncclResult_t result = sends ? net_isend(&net, comm, block, BLOCK, &requests[i])
                                    : net_irecv(&net, comm, block, BLOCK, &requests[i]);
        if (result != ncclSuccess) return result;
    }
    for (int i = 0; i < NCCL_NET_MAX_REQUESTS; i++) {
        ncclResult_t result = net_wait(&net, requests[i], seconds, NULL);
        if (result != ncclSuccess) return result;
    }
    return ncclSuccess;
}

static void play(bool peer_sends, fate_t fate, const char *expected_log) {
    char *block = malloc(BLOCK);
    int descriptors = net_open_descriptors();
    scene_t scene = {.peer_sends = peer_sends, .fate = fate};
    void *comm = NULL;
    net_log_clear();
    pid_t peer = begin(&scene, &comm, block);
    if (fate == KILLED) {
        kill(peer, SIGKILL);
        assert_int_equal(waitpid(peer, NULL, 0), peer);
    }
    int64_t begun = tpv_clock_ns();
    assert_int_equal(move_until_error(!peer_sends, comm, block, 20), ncclRemoteError);
    assert_true(tpv_clock_ns() - begun < 20 * TPV_NS_PER_SECOND);
    /* Once, with the address. */
    assert_int_equal(net_log_count("WARN"), 1);
    assert_int_equal(net_log_count(peer_sends ? "receiving from 127.0.0.1:" : "sending to 127.0.0.1:"), 1);
    if (!strstr(net_log_text(), expected_log)) print_error("log: %s", net_log_text());
    assert_int_equal(net_log_count(expected_log), 1);
    peer_sends ? net.closeRecv(comm) : net.closeSend(comm);
    if (fate == UNPLUGGED) {
        kill(peer, SIGKILL);
        assert_int_equal(waitpid(peer, NULL, 0), peer);
    }
    finish(&scene);
    assert_int_equal(net_open_descriptors(), descriptors);
    free(block);
}

static void a_killed_sender(void **state) {
    (void)state;
    for (int round = 0; round < 10; round++)
        play(true, KILLED, "the peer ");
}

static void a_killed_receiver(void **state) {
    (void)state;
    for (int round = 0; round < 10; round++)
        play(false, KILLED, "the peer ");
}

static void a_sender_that_vanishes(void **state) {
    (void)state;
    if (!net_is_tcp()) skip(); /* a process of this host cannot */
    play(true, UNPLUGGED, "Connection timed out");
}

static void a_receiver_that_vanishes(void **state) {
    (void)state;
    if (!net_is_tcp()) skip();
    play(false, UNPLUGGED, "the peer's host has been silent for ");
}

/* Twice the peer timeout passes with a full socket; the receiver is alive, so nothing may break. */
static void a_receiver_that_does_not_read_is_not_lost(void **state) {
    (void)state;
    char *block = malloc(BLOCK);
    scene_t scene = {.fate = IDLE_READER};
    void *comm = NULL, *requests[NCCL_NET_MAX_REQUESTS];
    pid_t peer = begin(&scene, &comm, block);
    net_fill(block, BLOCK, 1);
    for (int i = 0; i < NCCL_NET_MAX_REQUESTS; i++)
        assert_int_equal(net_isend(&net, comm, block, BLOCK, &requests[i]), ncclSuccess);
    assert_int_equal(net_wait(&net, requests[NCCL_NET_MAX_REQUESTS - 1], 7, NULL), NET_TIMED_OUT);
    child_write(scene.to_peer[1], "!", 1);
    for (int i = 0; i < NCCL_NET_MAX_REQUESTS; i++)
        assert_int_equal(net_wait(&net, requests[i], 20, NULL), ncclSuccess);
    assert_int_equal(child_wait(peer, 20), 0);
    net.closeSend(comm);
    finish(&scene);
    free(block);
}

int main(int argc, char **argv) {
    (void)argc;
    net_for_each_transport(argv);
    setenv("NCCL_SOCKET_IFNAME", "=lo", 1);
    /* Less than what is in flight, however many connections there are. */
    setenv("NCCL_SOCKET_SNDBUF", "262144", 1);
    setenv("NCCL_SOCKET_RCVBUF", "262144", 1);
    setenv("NCCL_SOCKET_FAMILY", "AF_INET", 1);
    setenv("TPVIEW_NET_PEER_TIMEOUT", "3", 1);
    if (net_plugin_open(&net, net_plugin_path(NULL), 11) != ncclSuccess) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_killed_sender),
        cmocka_unit_test(a_killed_receiver),
        cmocka_unit_test(a_sender_that_vanishes),
        cmocka_unit_test(a_receiver_that_vanishes),
        cmocka_unit_test(a_receiver_that_does_not_read_is_not_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
