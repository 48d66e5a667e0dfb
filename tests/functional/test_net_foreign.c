/* The small plugins in tests/nets do what the tests of others count on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "common/net_plugin.h"

enum { SLOTS = NCCL_NET_MAX_REQUESTS };

static void transfer(net_plugin_t *net, net_pair_t *pair, const char *out, size_t size, char *in) {
    void *send, *receive;
    assert_int_equal(net_irecv(net, pair->receive, in, size, &receive), ncclSuccess);
    assert_int_equal(net_isend(net, pair->send, out, size, &send), ncclSuccess);
    int sent = 0, received = 0, length = -1;
    for (int64_t deadline = tpv_deadline_in(10); !sent || !received;) {
        assert_false(tpv_deadline_passed(deadline));
        if (!sent) assert_int_equal(net->test(send, &sent, NULL), ncclSuccess);
        if (!received) assert_int_equal(net->test(receive, &received, &length), ncclSuccess);
    }
    assert_int_equal(length, size);
}

static void toy_moves_data(void **state) {
    (void)state;
    net_plugin_t net;
    net_pair_t pair;
    assert_int_equal(net_plugin_open(&net, net_plugin_path("tests/libtoynet.so"), 10), ncclSuccess);
    assert_string_equal(net.v10->name, "Toy");
    int descriptors = net_open_descriptors();
    assert_true(net_pair_open(&net, 0, &pair));
    size_t sizes[] = {0, 1, 4096, 3 << 20}, largest = 3 << 20;
    char *out = malloc(largest), *in = malloc(largest);
    for (int i = 0; i < 4; i++) {
        net_fill(out, sizes[i], (uint64_t)i + 40);
        transfer(&net, &pair, out, sizes[i], in);
        assert_true(net_check(in, sizes[i], (uint64_t)i + 40));
    }
    /* As many as there may be at once, the youngest tested first. */
    void *sends[SLOTS], *receives[SLOTS], *extra = &extra;
    for (int i = 0; i < SLOTS; i++) {
        out[i] = (char)i;
        assert_int_equal(net_irecv(&net, pair.receive, &in[i], 100, &receives[i]), ncclSuccess);
        assert_int_equal(net_isend(&net, pair.send, &out[i], 1, &sends[i]), ncclSuccess);
    }
    assert_int_equal(net.isend(pair.send, out, 1, 0, NULL, NULL, &extra), ncclSuccess);
    assert_null(extra);
    for (int i = SLOTS - 1; i >= 0; i--) {
        assert_int_equal(net_wait(&net, sends[i], 10, NULL), ncclSuccess);
        assert_int_equal(net_wait(&net, receives[i], 10, NULL), ncclSuccess);
    }
    assert_memory_equal(in, out, SLOTS);
    void *receive;
    assert_int_equal(net_irecv(&net, pair.receive, in, 1, &receive), ncclSuccess);
    net.closeSend(pair.send);
    pair.send = NULL;
    assert_int_equal(net_wait(&net, receive, 10, NULL), ncclRemoteError);
    net_pair_close(&net, &pair);
    assert_int_equal(net_open_descriptors(), descriptors);
    free(out);
    free(in);
}

static void corrupt_damages_one_message(void **state) {
    (void)state;
    net_plugin_t net;
    net_pair_t pair;
    setenv("TEST_REAL_NET", net_plugin_path(NULL), 1);
    setenv("TEST_CORRUPT_MESSAGE", "3", 1);
    assert_int_equal(net_plugin_open(&net, net_plugin_path("tests/libcorruptnet.so"), 11), ncclSuccess);
    assert_true(net_pair_open(&net, 0, &pair));
    char out[4096], in[4096];
    net_fill(out, sizeof out, 1);
    for (int number = 1; number <= 5; number++) {
        transfer(&net, &pair, out, 1024, in); /* too small to count */
        assert_memory_equal(in, out, 1024);
        transfer(&net, &pair, out, sizeof out, in);
        assert_true(net_check(out, sizeof out, 1));
        if (number == 3) {
            assert_int_equal((uint8_t)in[2048], (uint8_t)out[2048] ^ 0x10);
            in[2048] = out[2048];
        }
        assert_memory_equal(in, out, sizeof out);
    }
    net_pair_close(&net, &pair);
    net_plugin_close(&net);
}

int main(void) {
    setenv("TPVIEW_NET_LOCAL", "0", 1); /* TCP */
    setenv("NCCL_SOCKET_IFNAME", "=lo", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(toy_moves_data),
        cmocka_unit_test(corrupt_damages_one_message),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
