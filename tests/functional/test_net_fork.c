/* A process that forks: what its child inherited must not keep a connection or a listener open that the process itself
 * has closed, or the peer would wait for ever. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "common/child.h"
#include "common/net_plugin.h"

#define BLOCK ((size_t)1 << 20)

static net_plugin_t net;

typedef struct {
    bool peer_sends;
    int to_peer[2], from_peer[2]; /* pipes: a handle one way or the other, then a byte once the peer has closed */
} scene_t;

static void wait_for_ever(void) {
    for (;;)
        pause();
}

/* Has all descriptors that there are now, and lives on. */
static void leave_child(void) {
    pid_t child = fork();
    CHILD_CHECK(child >= 0);
    if (child) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    wait_for_ever();
}

static ncclResult_t move(bool sends, void *comm, char *block, void **request) {
    return sends ? net_isend(&net, comm, block, BLOCK, request) : net_irecv(&net, comm, block, BLOCK, request);
}

static int be_peer(void *argument) {
    scene_t *scene = argument;
    char *block = calloc(1, BLOCK);
    void *request = NULL;
    CHILD_CHECK(net_plugin_open(&net, net_plugin_path(NULL), NET_NEWEST) == ncclSuccess);
    void *comm = net_meet(&net, scene->peer_sends, scene->to_peer[0], scene->from_peer[1]);
    CHILD_CHECK(move(scene->peer_sends, comm, block, &request) == ncclSuccess);
    CHILD_CHECK(net_wait(&net, request, 20, NULL) == ncclSuccess);
    leave_child();
    scene->peer_sends ? net.closeSend(comm) : net.closeRecv(comm);
    child_write(scene->from_peer[1], "!", 1);
    wait_for_ever();
    return 1;
}

static void play(bool peer_sends) {
    scene_t scene = {.peer_sends = peer_sends};
    char told, *block = calloc(1, BLOCK);
    void *requests[NCCL_NET_MAX_REQUESTS];
    assert_int_equal(pipe(scene.to_peer), 0);
    assert_int_equal(pipe(scene.from_peer), 0);
    pid_t peer = child_start(be_peer, &scene);
    void *comm = net_meet(&net, !peer_sends, scene.from_peer[0], scene.to_peer[1]);
    /* More than the sockets take, so that a sender is stuck by the time the peer closes. */
    for (int i = 0; i < NCCL_NET_MAX_REQUESTS; i++)
        assert_int_equal(move(!peer_sends, comm, block, &requests[i]), ncclSuccess);
    assert_int_equal(net_wait(&net, requests[0], 20, NULL), ncclSuccess);
    child_read(scene.from_peer[0], &told, 1);
    ncclResult_t result = ncclSuccess;
    for (int i = 1; i < NCCL_NET_MAX_REQUESTS && result == ncclSuccess; i++)
        result = net_wait(&net, requests[i], 15, NULL);
    assert_int_equal(result, ncclRemoteError);
    peer_sends ? net.closeRecv(comm) : net.closeSend(comm);
    kill(peer, SIGKILL);
    assert_int_equal(waitpid(peer, NULL, 0), peer);
    for (int i = 0; i < 2; i++) {
        close(scene.to_peer[i]);
        close(scene.from_peer[i]);
    }
    free(block);
}

static void a_sender_hears_of_a_receiver_that_closes(void **state) {
    (void)state;
    play(false);
}

static void a_receiver_hears_of_a_sender_that_closes(void **state) {
    (void)state;
    play(true);
}

static int be_listener(void *argument) {
    scene_t *scene = argument;
    char handle[NCCL_NET_HANDLE_MAXSIZE];
    void *listener = NULL;
    CHILD_CHECK(net_plugin_open(&net, net_plugin_path(NULL), NET_NEWEST) == ncclSuccess);
    CHILD_CHECK(net_listen(&net, 0, handle, &listener) == ncclSuccess);
    leave_child();
    child_write(scene->from_peer[1], handle, sizeof handle);
    char go;
    child_read(scene->to_peer[0], &go, 1);
    net.closeListen(listener);
    child_write(scene->from_peer[1], "!", 1);
    wait_for_ever();
    return 1;
}

/* One that has connected before, and one that connects after. */
static void a_connect_hears_of_a_listener_that_closes(void **state) {
    (void)state;
    scene_t scene = {0};
    char handles[2][NCCL_NET_HANDLE_MAXSIZE], told;
    void *before = NULL, *after = NULL, *request = NULL;
    assert_int_equal(pipe(scene.to_peer), 0);
    assert_int_equal(pipe(scene.from_peer), 0);
    pid_t peer = child_start(be_listener, &scene);
    child_read(scene.from_peer[0], handles[0], sizeof handles[0]);
    memcpy(handles[1], handles[0], sizeof handles[1]);
    for (int64_t deadline = tpv_deadline_in(10); !before;) {
        assert_false(tpv_deadline_passed(deadline));
        assert_int_equal(net_connect(&net, 0, handles[0], &before), ncclSuccess);
    }
    child_write(scene.to_peer[1], "!", 1);
    child_read(scene.from_peer[0], &told, 1);
    for (int64_t deadline = tpv_deadline_in(10); !request;) {
        assert_false(tpv_deadline_passed(deadline));
        assert_int_equal(net.isend(before, &told, 1, 7, NULL, NULL, &request), ncclSuccess);
    }
    assert_int_equal(net_wait(&net, request, 10, NULL), ncclRemoteError);
    net.closeSend(before);
    ncclResult_t result = ncclSuccess;
    for (int64_t deadline = tpv_deadline_in(10); result == ncclSuccess;) {
        assert_false(tpv_deadline_passed(deadline));
        result = net_connect(&net, 0, handles[1], &after);
        assert_null(after);
    }
    assert_int_equal(result, ncclRemoteError);
    kill(peer, SIGKILL);
    assert_int_equal(waitpid(peer, NULL, 0), peer);
    for (int i = 0; i < 2; i++) {
        close(scene.to_peer[i]);
        close(scene.from_peer[i]);
    }
}

int main(int argc, char **argv) {
    (void)argc;
    net_for_each_transport(argv);
    setenv("NCCL_SOCKET_IFNAME", "=lo", 1);
    setenv("NCCL_SOCKET_FAMILY", "AF_INET", 1);
    setenv("NCCL_SOCKET_SNDBUF", "262144", 1);
    setenv("NCCL_SOCKET_RCVBUF", "262144", 1);
    if (net_plugin_open(&net, net_plugin_path(NULL), NET_NEWEST) != ncclSuccess) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sender_hears_of_a_receiver_that_closes),
        cmocka_unit_test(a_receiver_hears_of_a_sender_that_closes),
        cmocka_unit_test(a_connect_hears_of_a_listener_that_closes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
