/* What the plugin's TCP comms promise to NCCL, driven through every ABI version, both ends in one thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "common/net_plugin.h"

static net_plugin_t net;
static net_pair_t pair;

static int open_version(int number) {
    return net_plugin_open(&net, net_plugin_path(NULL), number) == ncclSuccess ? 0 : -1;
}

static int version;

static int open_plugin(void **state) {
    (void)state;
    return open_version(version);
}

static int close_plugin(void **state) {
    (void)state;
    net_plugin_close(&net);
    return 0;
}

static int open_pair(void **state) {
    (void)state;
    net_log_clear();
    return net_pair_open(&net, 0, &pair) ? 0 : -1;
}

static int close_pair(void **state) {
    (void)state;
    net_pair_close(&net, &pair);
    return 0;
}

static void *post_send(const void *data, size_t size) {
    void *request = NULL;
    assert_int_equal(net_isend(&net, pair.send, data, size, &request), ncclSuccess);
    return request;
}

static void *post_receive(void *data, size_t size) {
    void *request = NULL;
    assert_int_equal(net_irecv(&net, pair.receive, data, size, &request), ncclSuccess);
    return request;
}

static void one_message(const void *data, size_t size, void *into, size_t room) {
    int sent = -1, received = -1;
    void *receive = post_receive(into, room), *send = post_send(data, size);
    bool send_done = false, receive_done = false;
    for (int64_t deadline = tpv_deadline_in(10); !send_done || !receive_done;) {
        int done = 0;
        assert_false(tpv_deadline_passed(deadline));
        if (!send_done) assert_int_equal(net.test(send, &done, &sent), ncclSuccess);
        if (done) send_done = true;
        done = 0;
        if (!receive_done) assert_int_equal(net.test(receive, &done, &received), ncclSuccess);
        if (done) receive_done = true;
    }
    assert_int_equal(sent, size);
    assert_int_equal(received, size);
}

static void init_and_finalize_in_any_order(void **state) {
    (void)state;
    if (version < 11) skip();
    const tpv_net_abi_t *abi = &net.abi;
    assert_int_equal(abi->finalize(abi, NULL), ncclSuccess);
    void *first = NULL, *second = NULL;
    assert_int_equal(abi->init(abi, &first, NULL), ncclSuccess);
    assert_int_equal(abi->init(abi, &second, NULL), ncclSuccess);
    assert_int_equal(abi->finalize(abi, first), ncclSuccess);
    assert_int_equal(abi->finalize(abi, second), ncclSuccess);
    assert_int_equal(abi->finalize(abi, NULL), ncclSuccess);
    net_plugin_close(&net);
    assert_int_equal(open_version(version), 0);
    assert_true(net_pair_open(&net, 0, &pair));
    one_message("again", 5, (char[5]){0}, 5);
    net_pair_close(&net, &pair);
}

static void messages_of_many_sizes(void **state) {
    (void)state;
    static const size_t sizes[] = {0, 1, 2, 15, 16, 17, 120, 2292, 4096, 65535, 65536, 131072, 1 << 20, (8 << 20) + 3};
    size_t largest = (8 << 20) + 3;
    char *out = malloc(largest), *in = malloc(largest);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        net_fill(out, sizes[i], i);
        memset(in, 0, sizes[i]);
        one_message(out, sizes[i], in, sizes[i]);
        assert_true(net_check(in, sizes[i], i));
    }
    free(out);
    free(in);
}

static void shorter_than_posted_leaves_the_rest_alone(void **state) {
    (void)state;
    char in[3][4096];
    memset(in, 0xa5, sizeof in);
    char out[1000];
    net_fill(out, sizeof out, 3);
    void *receives[3], *sends[3];
    size_t sizes[3] = {1000, 0, 17};
    for (int i = 0; i < 3; i++)
        receives[i] = post_receive(in[i], sizeof in[i]);
    for (int i = 0; i < 3; i++)
        sends[i] = post_send(out, sizes[i]);
    for (int i = 0; i < 3; i++) {
        int received = -1;
        assert_int_equal(net_wait(&net, sends[i], 20, NULL), ncclSuccess);
        assert_int_equal(net_wait(&net, receives[i], 20, &received), ncclSuccess);
        assert_int_equal(received, sizes[i]);
        assert_memory_equal(in[i], out, sizes[i]);
        for (size_t k = sizes[i]; k < sizeof in[i]; k++)
            assert_int_equal((uint8_t)in[i][k], 0xa5);
    }
}

static void longer_than_posted_is_an_error(void **state) {
    (void)state;
    char in[64], good[64];
    void *first = post_receive(good, sizeof good), *receive = post_receive(in, sizeof in - 1);
    void *send_good = post_send("fits", 4), *send = post_send(in, sizeof in);
    assert_int_equal(net_wait(&net, send_good, 20, NULL), ncclSuccess);
    assert_int_equal(net_wait(&net, send, 20, NULL), ncclSuccess);
    assert_int_equal(net_wait(&net, receive, 20, NULL), ncclInvalidUsage);
    /* What came whole before stays good; everything after is refused. */
    assert_int_equal(net_wait(&net, first, 20, NULL), ncclSuccess);
    assert_memory_equal(good, "fits", 4);
    void *request = &request;
    size_t size = 1;
    void *data = in;
    int tag = 7;
    assert_int_equal(net.irecv(pair.receive, 1, &data, &size, &tag, NULL, NULL, &request), ncclInvalidUsage);
    assert_null(request);
    assert_int_equal(net_log_count("a message of 64 bytes (tag 7) is longer than the receive of 63 bytes"), 1);
}

static void a_full_queue_then_comes_again(void **state) {
    (void)state;
    /* The other side may have posted 32 groups of 8. */
    enum { RECEIVES = NCCL_NET_MAX_REQUESTS, SENDS = 8 * NCCL_NET_MAX_REQUESTS };
    char out[SENDS], in[SENDS];
    void *sends[SENDS], *receives[SENDS], *extra = &extra, *data = in;
    size_t size = 1;
    int tag = 7, done = 0;
    for (int i = 0; i < SENDS; i++) {
        out[i] = (char)(i * 3);
        sends[i] = post_send(&out[i], 1);
    }
    for (int i = 0; i < RECEIVES; i++)
        receives[i] = post_receive(&in[i], 1);
    assert_int_equal(net.isend(pair.send, out, 1, 7, NULL, NULL, &extra), ncclSuccess);
    assert_null(extra);
    extra = &extra;
    assert_int_equal(net.irecv(pair.receive, 1, &data, &size, &tag, NULL, NULL, &extra), ncclSuccess);
    assert_null(extra);
    /* Newest first: each test must move the oldest along. */
    for (int i = SENDS - 1; i >= 0; i--)
        assert_int_equal(net_wait(&net, sends[i], 20, NULL), ncclSuccess);
    for (int first = 0; first < SENDS; first += RECEIVES) {
        for (int i = first + RECEIVES - 1; i >= first; i--)
            assert_int_equal(net_wait(&net, receives[i], 20, NULL), ncclSuccess);
        for (int i = first + RECEIVES; i < SENDS && i < first + 2 * RECEIVES; i++)
            receives[i] = post_receive(&in[i], 1);
    }
    assert_memory_equal(in, out, SENDS);
    assert_int_equal(net.test(post_receive(in, 1), &done, NULL), ncclSuccess);
    assert_int_equal(done, 0);
    void *last = post_send("x", 1);
    assert_int_equal(net_wait(&net, last, 20, NULL), ncclSuccess);
}

static void stale_request_values_do_not_matter(void **state) {
    (void)state;
    char in = 0;
    void *data = &in, *requests[] = {(void *)0x1, (void *)0xdeadbeef, &in};
    size_t size = 1;
    int tag = 7;
    for (int i = 0; i < 3; i++) {
        void *request = requests[i];
        assert_int_equal(net.irecv(pair.receive, 1, &data, &size, &tag, NULL, NULL, &request), ncclSuccess);
        assert_non_null(request);
        assert_ptr_not_equal(request, requests[i]);
        assert_int_equal(net_wait(&net, post_send("z", 1), 20, NULL), ncclSuccess);
        assert_int_equal(net_wait(&net, request, 20, NULL), ncclSuccess);
        assert_int_equal(in, 'z');
    }
}

static void wrong_direction_and_too_long_are_refused(void **state) {
    (void)state;
    void *request = &request, *data = &request;
    size_t size = 1;
    int tag = 7;
    assert_int_equal(net.isend(pair.receive, data, 1, 0, NULL, NULL, &request), ncclInvalidUsage);
    assert_null(request);
    request = &request;
    assert_int_equal(net.irecv(pair.send, 1, &data, &size, &tag, NULL, NULL, &request), ncclInvalidUsage);
    assert_null(request);
    request = &request;
    assert_int_equal(net.isend(pair.send, data, ((size_t)1 << 30) + 1, 0, NULL, NULL, &request), ncclInvalidUsage);
    assert_null(request);
    void *registration = &registration;
    const tpv_net_abi_t *abi = &net.abi;
    assert_int_equal(abi->regMr(abi, pair.receive, data, 8, NCCL_PTR_CUDA, &registration), ncclInvalidUsage);
    assert_int_equal(abi->regMr(abi, pair.receive, data, 8, NCCL_PTR_HOST, &registration), ncclSuccess);
    assert_int_equal(abi->deregMr(pair.receive, registration), ncclSuccess);
}

static void a_listener_accepts_several_comms_of_one_peer(void **state) {
    (void)state;
    enum { COMMS = 5 };
    char handles[COMMS][NCCL_NET_HANDLE_MAXSIZE];
    void *listener = NULL, *sends[COMMS] = {0}, *receives[COMMS] = {0};
    int descriptors = net_open_descriptors();
    assert_int_equal(net_listen(&net, 0, handles[0], &listener), ncclSuccess);
    for (int i = 1; i < COMMS; i++)
        memcpy(handles[i], handles[0], sizeof handles[0]);
    /* All at the same time; then, one after the other, with the same handle memory. */
    int connected = 0, accepted = 0;
    for (int64_t deadline = tpv_deadline_in(10); connected + accepted < 2 * COMMS;) {
        assert_false(tpv_deadline_passed(deadline));
        for (int i = 0; i < COMMS; i++) {
            if (sends[i]) continue;
            assert_int_equal(net_connect(&net, 0, handles[i], &sends[i]), ncclSuccess);
            if (sends[i]) connected++;
        }
        if (accepted < COMMS) {
            assert_int_equal(net.accept(listener, &receives[accepted], NULL), ncclSuccess);
            if (receives[accepted]) accepted++;
        }
    }
    /* Which is which is told by what comes. */
    unsigned seen = 0;
    for (int i = 0; i < COMMS; i++) {
        void *request = NULL;
        char mark = (char)i;
        assert_int_equal(net_isend(&net, sends[i], &mark, 1, &request), ncclSuccess);
        assert_int_equal(net_wait(&net, request, 20, NULL), ncclSuccess);
    }
    for (int i = 0; i < COMMS; i++) {
        void *request = NULL;
        char mark = -1;
        assert_int_equal(net_irecv(&net, receives[i], &mark, 1, &request), ncclSuccess);
        assert_int_equal(net_wait(&net, request, 20, NULL), ncclSuccess);
        seen |= 1u << mark;
    }
    assert_int_equal(seen, (1u << COMMS) - 1);
    for (int i = 0; i < COMMS; i++) {
        net.closeRecv(receives[i]);
        net.closeSend(sends[i]);
    }
    for (int round = 0; round < 3; round++) {
        void *send = NULL, *receive = NULL;
        for (int64_t deadline = tpv_deadline_in(10); !send || !receive;) {
            assert_false(tpv_deadline_passed(deadline));
            if (!send) assert_int_equal(net_connect(&net, 0, handles[0], &send), ncclSuccess);
            if (!receive) assert_int_equal(net.accept(listener, &receive, NULL), ncclSuccess);
        }
        net.closeSend(send);
        net.closeRecv(receive);
    }
    net.closeListen(listener);
    assert_int_equal(net_open_descriptors(), descriptors);
}

/* Connect without anybody who accepts. */
static void *connect_alone(char *handle) {
    void *comm = NULL;
    for (int64_t deadline = tpv_deadline_in(10); !comm;) {
        assert_false(tpv_deadline_passed(deadline));
        assert_int_equal(net_connect(&net, 0, handle, &comm), ncclSuccess);
    }
    return comm;
}

static void *accept_one(void *listener) {
    void *comm = NULL;
    for (int64_t deadline = tpv_deadline_in(10); !comm;) {
        assert_false(tpv_deadline_passed(deadline));
        assert_int_equal(net.accept(listener, &comm, NULL), ncclSuccess);
    }
    return comm;
}

static void a_sender_may_be_gone_before_its_comm_is_accepted(void **state) {
    (void)state;
    char handle[NCCL_NET_HANDLE_MAXSIZE], in[100];
    void *listener = NULL, *request = NULL;
    assert_int_equal(net_listen(&net, 0, handle, &listener), ncclSuccess);
    net.closeSend(connect_alone(handle));
    void *receive = accept_one(listener);
    assert_int_equal(net_irecv(&net, receive, in, sizeof in, &request), ncclSuccess);
    assert_int_equal(net_wait(&net, request, 20, NULL), ncclRemoteError);
    net.closeRecv(receive);
    net.closeListen(listener);
}

/* Two sides that connect to each other first and accept then, as a program with one thread may well do. */
static void connect_does_not_wait_for_accept(void **state) {
    (void)state;
    enum { SIDES = 2 };
    char handles[SIDES][NCCL_NET_HANDLE_MAXSIZE], in[SIDES][4] = {{0}};
    void *listeners[SIDES], *sends[SIDES], *receives[SIDES], *registration = NULL, *request = NULL;
    for (int i = 0; i < SIDES; i++)
        assert_int_equal(net_listen(&net, 0, handles[i], &listeners[i]), ncclSuccess);
    for (int i = 0; i < SIDES; i++)
        sends[i] = connect_alone(handles[i]);
    /* Until it is accepted a comm takes registrations, but no messages. */
    for (int i = 0; i < SIDES; i++) {
        assert_int_equal(net.abi.regMr(&net.abi, sends[i], "ping", 4, NCCL_PTR_HOST, &registration), ncclSuccess);
        request = &request;
        assert_int_equal(net.isend(sends[i], "ping", 4, 7, registration, NULL, &request), ncclSuccess);
        assert_null(request);
        assert_int_equal(net.abi.deregMr(sends[i], registration), ncclSuccess);
    }
    for (int i = 0; i < SIDES; i++)
        receives[i] = accept_one(listeners[i]);
    for (int i = 0; i < SIDES; i++) {
        void *send = NULL, *receive = NULL;
        assert_int_equal(net_irecv(&net, receives[i], in[i], 4, &receive), ncclSuccess);
        assert_int_equal(net_isend(&net, sends[i], "ping", 4, &send), ncclSuccess);
        assert_int_equal(net_wait_pair(&net, send, receive, 20, NULL), ncclSuccess);
        assert_memory_equal(in[i], "ping", 4);
    }
    for (int i = 0; i < SIDES; i++) {
        net.closeSend(sends[i]);
        net.closeRecv(receives[i]);
        net.closeListen(listeners[i]);
    }
}

static void a_comm_that_nobody_accepts_fails_at_its_first_use(void **state) {
    (void)state;
    char handle[NCCL_NET_HANDLE_MAXSIZE];
    void *listener = NULL, *request = NULL;
    net_log_clear();
    assert_int_equal(net_listen(&net, 0, handle, &listener), ncclSuccess);
    void *send = connect_alone(handle);
    net.closeListen(listener);
    for (int64_t deadline = tpv_deadline_in(10); !request;) {
        assert_false(tpv_deadline_passed(deadline));
        assert_int_equal(net.isend(send, "x", 1, 7, NULL, NULL, &request), ncclSuccess);
    }
    assert_int_equal(net_wait(&net, request, 20, NULL), ncclRemoteError);
    assert_int_equal(net_log_count("WARN NET/TPView : sending to "), 1);
    net.closeSend(send);
}

/* Registered memory may go as soon as the peer has it, whether or not the sender has looked. */
static void deregistering_before_the_last_test(void **state) {
    (void)state;
    enum { SIZE = 1 << 16, ROUNDS = 3 };
    const char *local = getenv("TPVIEW_NET_LOCAL");
    bool pulled = !local || strcmp(local, "1") == 0;
    char *out = malloc(SIZE), *in = malloc(SIZE);
    for (int round = 0; round < ROUNDS; round++) {
        void *registration = NULL, *send = NULL, *receive = post_receive(in, SIZE);
        net_fill(out, SIZE, (uint64_t)round);
        assert_int_equal(net.abi.regMr(&net.abi, pair.send, out, SIZE, NCCL_PTR_HOST, &registration), ncclSuccess);
        assert_int_equal(net_isend_registered(&net, pair.send, out, SIZE, registration, &send), ncclSuccess);
        int received = 0;
        for (int64_t deadline = tpv_deadline_in(10); !received;) {
            assert_false(tpv_deadline_passed(deadline));
            assert_int_equal(net.test(receive, &received, NULL), ncclSuccess);
            /* Nobody else moves it where the peer does not pull. */
            int done = 0;
            if (!pulled && !received) assert_int_equal(net.test(send, &done, NULL), ncclSuccess);
            if (done) send = NULL;
            if (done) break;
        }
        assert_int_equal(net.abi.deregMr(pair.send, registration), ncclSuccess);
        if (send) assert_int_equal(net_wait(&net, send, 20, NULL), ncclSuccess);
        if (!received) assert_int_equal(net_wait(&net, receive, 20, NULL), ncclSuccess);
        assert_true(net_check(in, SIZE, (uint64_t)round));
    }
    assert_int_equal(net_log_count("WARN"), 0);
    free(out);
    free(in);
}

static void closing_with_requests_outstanding(void **state) {
    (void)state;
    int descriptors = net_open_descriptors();
    char *big = calloc(1, 8 << 20), in[16];
    for (int order = 0; order < 6; order++) {
        net_pair_t some;
        void *request = NULL;
        assert_true(net_pair_open(&net, 0, &some));
        for (int i = 0; i < 8; i++) {
            assert_int_equal(net_isend(&net, some.send, big, 8 << 20, &request), ncclSuccess);
            assert_int_equal(net_irecv(&net, some.receive, order % 2 ? big : in, order % 2 ? 8 << 20 : 16, &request),
                             ncclSuccess);
        }
        if (order == 0 || order == 3) net.closeListen(some.listener), some.listener = NULL;
        if (order == 1 || order == 4) net.closeSend(some.send), some.send = NULL;
        if (order == 2 || order == 5) net.closeRecv(some.receive), some.receive = NULL;
        net_pair_close(&net, &some);
    }
    free(big);
    assert_int_equal(net_open_descriptors(), descriptors);
}

static void a_closed_peer_is_remote_and_logged_once(void **state) {
    (void)state;
    char in[2][8] = {{0}};
    void *whole = post_receive(in[0], 8), *missing = post_receive(in[1], 8);
    assert_int_equal(net_wait(&net, post_send("last one", 8), 20, NULL), ncclSuccess);
    net.closeSend(pair.send);
    pair.send = NULL;
    assert_int_equal(net_wait(&net, missing, 20, NULL), ncclRemoteError);
    assert_int_equal(net_wait(&net, missing, 20, NULL), ncclRemoteError);
    /* What was sent before the close has still arrived. */
    assert_int_equal(net_wait(&net, whole, 20, NULL), ncclSuccess);
    assert_memory_equal(in[0], "last one", 8);
    assert_int_equal(net_log_count("WARN NET/TPView : receiving from "), 1);
    assert_int_equal(net_log_count("the peer closed the connection"), 1);
}

static void a_closed_receiver_is_remote_for_the_sender(void **state) {
    (void)state;
    size_t size = 8 << 20;
    char *big = calloc(1, size);
    void *send = post_send(big, size), *more = post_send(big, size), *rest = post_send(big, size);
    net.closeRecv(pair.receive);
    pair.receive = NULL;
    ncclResult_t result = net_wait(&net, rest, 20, NULL);
    assert_int_equal(result, ncclRemoteError);
    /* As with NCCL's Socket transport, isend goes on giving requests, and their test tells. */
    for (int i = 0; i < 2; i++) {
        void *request = NULL;
        assert_int_equal(net.isend(pair.send, big, 1, 0, NULL, NULL, &request), ncclSuccess);
        assert_non_null(request);
        assert_int_equal(net_wait(&net, request, 20, NULL), ncclRemoteError);
    }
    assert_int_equal(net_log_count("WARN NET/TPView : sending to "), 1);
    (void)send, (void)more;
    net.closeSend(pair.send); /* before its memory goes */
    pair.send = NULL;
    free(big);
}

static void a_truncated_file_is_a_local_error(void **state) {
    (void)state;
    size_t size = 4 << 20;
    char path[] = "/tmp/tpview-test-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    unlink(path);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    char *map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0), *in = malloc(size);
    assert_ptr_not_equal(map, MAP_FAILED);
    void *receive = post_receive(in, size);
    assert_int_equal(net_wait(&net, post_send(map, 4096), 20, NULL), ncclSuccess);
    assert_int_equal(net_wait(&net, receive, 20, NULL), ncclSuccess);
    assert_int_equal(ftruncate(fd, 4096), 0);
    receive = post_receive(in, size);
    void *send = post_send(map, size);
    /* The sender finds out over TCP, the receiver within a host, and both know whose fault it was. */
    ncclResult_t sent = ncclSuccess, received = ncclSuccess;
    for (int64_t deadline = tpv_deadline_in(10); sent == ncclSuccess;) {
        int done = 0;
        assert_false(tpv_deadline_passed(deadline));
        sent = net.test(send, &done, NULL);
        assert_int_equal(done, 0);
        if (received == ncclSuccess) received = net.test(receive, &done, NULL);
        assert_int_equal(done, 0);
    }
    assert_int_equal(sent, ncclSystemError);
    assert_int_equal(net_log_count("the data is not accessible: was it freed"), 1);
    net.closeSend(pair.send);
    pair.send = NULL;
    assert_int_equal(net_wait(&net, receive, 20, NULL), ncclRemoteError);
    munmap(map, size);
    free(in);
    close(fd);
}

static void a_bad_handle_is_refused(void **state) {
    (void)state;
    char handle[NCCL_NET_HANDLE_MAXSIZE];
    void *listener = NULL, *comm = &comm;
    memset(handle, 0x5a, sizeof handle);
    assert_int_equal(net_connect(&net, 0, handle, &comm), ncclInvalidArgument);
    assert_null(comm);
    assert_int_equal(net_listen(&net, 0, handle, &listener), ncclSuccess);
    handle[8]++; /* version */
    assert_int_equal(net_connect(&net, 0, handle, &comm), ncclInvalidUsage);
    handle[8]--;
    handle[10] = 100; /* address count */
    assert_int_equal(net_connect(&net, 0, handle, &comm), ncclInvalidArgument);
    handle[10] = 1;
    /* Nobody listens there any more. */
    net.closeListen(listener);
    ncclResult_t result = ncclSuccess;
    int64_t deadline = tpv_deadline_in(10);
    while (result == ncclSuccess && !tpv_deadline_passed(deadline))
        result = net_connect(&net, 0, handle, &comm);
    assert_int_equal(result, ncclRemoteError);
    assert_null(comm);
    assert_int_equal(net_log_count("Connection refused"), 1);
    /* Both addresses, and what chooses them. */
    assert_int_equal(net_log_count("connecting to 127.0.0.1:"), 1);
    assert_int_equal(net_log_count("from lo (127.0.0.1:"), 1);
    assert_int_equal(net_log_count("NCCL_SOCKET_IFNAME"), 1);
}

static void an_abandoned_connect_leaves_nothing(void **state) {
    (void)state;
    if (version < 11) skip();
    int descriptors = net_open_descriptors(), fds[3];
    char handle[NCCL_NET_HANDLE_MAXSIZE];
    void *context = NULL, *comm = NULL;
    assert_int_equal(net.abi.init(&net.abi, &context, NULL), ncclSuccess);
    void *listener = NULL;
    assert_int_equal(net_listen(&net, 0, handle, &listener), ncclSuccess);
    net.closeListen(listener);
    net_handle_redirect(handle, 0, 1, net_silent_port(fds));
    int before = net_open_descriptors();
    for (int i = 0; i < 3; i++)
        assert_int_equal(net.abi.connect(&net.abi, context, 0, handle, &comm), ncclSuccess);
    assert_null(comm);
    assert_int_equal(net_open_descriptors(), before + 1);
    assert_int_equal(net.abi.finalize(&net.abi, context), ncclSuccess);
    assert_int_equal(net_open_descriptors(), before);
    for (int i = 0; i < 3; i++)
        close(fds[i]);
    assert_int_equal(net_open_descriptors(), descriptors);
}

#define WITH_PAIR(test) cmocka_unit_test_setup_teardown(test, open_pair, close_pair)

int main(int argc, char **argv) {
    (void)argc;
    net_for_each_transport(argv);
    /* Loopback has an address of each family everywhere. */
    setenv("NCCL_SOCKET_IFNAME", "=lo", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(init_and_finalize_in_any_order),
        WITH_PAIR(messages_of_many_sizes),
        WITH_PAIR(shorter_than_posted_leaves_the_rest_alone),
        WITH_PAIR(longer_than_posted_is_an_error),
        WITH_PAIR(a_full_queue_then_comes_again),
        WITH_PAIR(stale_request_values_do_not_matter),
        WITH_PAIR(wrong_direction_and_too_long_are_refused),
        cmocka_unit_test(a_listener_accepts_several_comms_of_one_peer),
        cmocka_unit_test(a_sender_may_be_gone_before_its_comm_is_accepted),
        cmocka_unit_test(connect_does_not_wait_for_accept),
        cmocka_unit_test(a_comm_that_nobody_accepts_fails_at_its_first_use),
        WITH_PAIR(deregistering_before_the_last_test),
        cmocka_unit_test(closing_with_requests_outstanding),
        WITH_PAIR(a_closed_peer_is_remote_and_logged_once),
        WITH_PAIR(a_closed_receiver_is_remote_for_the_sender),
        WITH_PAIR(a_truncated_file_is_a_local_error),
        cmocka_unit_test(a_bad_handle_is_refused),
        cmocka_unit_test(an_abandoned_connect_leaves_nothing),
    };
    int failed = 0;
    for (version = net_is_tcp() ? NET_OLDEST : NET_NEWEST; version <= NET_NEWEST; version++) {
        char name[16];
        snprintf(name, sizeof name, "v%d", version);
        failed += cmocka_run_group_tests_name(name, tests, open_plugin, close_plugin);
    }
    return failed ? 1 : 0;
}
