/* Real ncclSend and ncclRecv over the network under test. Every byte is checked. */
#include "simgpu/ranks.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* Both ranks of a pair send and receive at once. */
static void exchange(struct rank *rank, nccl_comm_t comm, sim_stream_t *stream, size_t size) {
    const struct nccl *nccl = rank->nccl;
    const int peer = 1 - rank->index;
    unsigned char *sent = rank_allocate(size + 1), *received = rank_allocate(size + 1);
    rank_fill(sent, size, (unsigned)rank->index);
    received[size] = 0xa5; /* must not be written */
    RANK_CHECK(rank, nccl->GroupStart());
    RANK_CHECK(rank, nccl->Send(sent, size, NCCL_UINT8, peer, comm, stream));
    RANK_CHECK(rank, nccl->Recv(received, size, NCCL_UINT8, peer, comm, stream));
    RANK_CHECK(rank, nccl->GroupEnd());
    sim_stream_synchronize(stream);
    rank_verify(received, size, (unsigned)peer, "exchange");
    if (received[size] != 0xa5) rank_fail("a byte behind the %zu received ones was written", size);
    rank_free(sent);
    rank_free(received);
}

static void exchange_sizes(struct rank *rank, const size_t *sizes, size_t count) {
    nccl_comm_t comm = rank_join(rank, 0);
    sim_stream_t *stream = sim_stream_create();
    for (size_t i = 0; i < count; i++)
        exchange(rank, comm, stream, sizes[i]);
    RANK_CHECK(rank, rank->nccl->CommDestroy(comm));
    sim_stream_destroy(stream);
}

static const size_t small[] = {0,    1,     7,     8,     9,     127,    128,    129, 4095, 4096,
                               4097, 16383, 16384, 16385, 65537, 131071, 131073, 0,   1,    1000003};
enum { SMALL = sizeof small / sizeof *small };

static void run_small_simple(struct rank *rank) {
    exchange_sizes(rank, small, SMALL);
    rank_expect_protocols(true, false);
}

static void run_small_ll(struct rank *rank) {
    exchange_sizes(rank, small, SMALL);
    rank_expect_protocols(false, true);
}

static void run_small_mixed(struct rank *rank) {
    exchange_sizes(rank, small, SMALL);
    rank_expect_protocols(true, true);
}

static void run_large(struct rank *rank) {
    static const size_t sizes[] = {(4 << 20) + 3, (64 << 20) - 1, 256 << 20};
    exchange_sizes(rank, sizes, sizeof sizes / sizeof *sizes);
}

/* Over a network NCCL's send/recv connections share their buffers and use the Simple protocol. */
static void small_messages(void **state) {
    (void)state;
    assert_true(scenario_run(&(struct scenario){.rank_count = 2, .run = run_small_simple}));
}

/* With buffers of their own they use LL up to a size, which is 16 KiB a channel unless set. */
static void small_messages_with_ll(void **state) {
    (void)state;
    assert_true(
        scenario_run(&(struct scenario){.rank_count = 2,
                                        .run = run_small_mixed,
                                        .environment = (const char *const[]){"NCCL_NET_SHARED_BUFFERS", "0", NULL}}));
}

static void medium_messages_with_ll(void **state) {
    (void)state;
    assert_true(scenario_run(
        &(struct scenario){.rank_count = 2,
                           .run = run_small_ll,
                           .environment = (const char *const[]){"NCCL_NET_SHARED_BUFFERS", "0", "NCCL_P2P_LL_THRESHOLD",
                                                                "16777216", NULL}}));
}

static void large_messages(void **state) {
    (void)state;
    assert_true(scenario_run(&(struct scenario){.rank_count = 2, .run = run_large}));
}

/* Every rank sends several messages of different sizes to every rank, itself included, in one group. */
enum { MESSAGES = 6 };

static size_t message_size(int from, int to, int message) {
    static const size_t sizes[MESSAGES] = {1, 40961, 0, 513, 300007, 16384};
    return sizes[message] + (size_t)(from * 16 + to * 3);
}

static unsigned message_seed(int from, int to, int message) {
    return (unsigned)(from * 100 + to * 10 + message);
}

static void run_all_to_all(struct rank *rank) {
    const struct nccl *nccl = rank->nccl;
    nccl_comm_t comm = rank_join(rank, 0);
    sim_stream_t *stream = sim_stream_create();
    void *sent[RANKS_MAX][MESSAGES], *received[RANKS_MAX][MESSAGES];
    for (int round = 0; round < 3; round++) {
        RANK_CHECK(rank, nccl->GroupStart());
        for (int message = 0; message < MESSAGES; message++) {
            for (int peer = 0; peer < rank->count; peer++) {
                size_t out = message_size(rank->index, peer, message), in = message_size(peer, rank->index, message);
                sent[peer][message] = rank_allocate(out);
                received[peer][message] = rank_allocate(in);
                rank_fill(sent[peer][message], out, message_seed(rank->index, peer, message));
                RANK_CHECK(rank, nccl->Send(sent[peer][message], out, NCCL_UINT8, peer, comm, stream));
                RANK_CHECK(rank, nccl->Recv(received[peer][message], in, NCCL_UINT8, peer, comm, stream));
            }
        }
        RANK_CHECK(rank, nccl->GroupEnd());
        sim_stream_synchronize(stream);
        for (int message = 0; message < MESSAGES; message++) {
            for (int peer = 0; peer < rank->count; peer++) {
                rank_verify(received[peer][message], message_size(peer, rank->index, message),
                            message_seed(peer, rank->index, message), "all to all");
                rank_free(sent[peer][message]);
                rank_free(received[peer][message]);
            }
        }
    }
    RANK_CHECK(rank, nccl->CommDestroy(comm));
    sim_stream_destroy(stream);
}

static void groups_to_all_peers(void **state) {
    (void)state;
    assert_true(scenario_run(&(struct scenario){.rank_count = 4, .run = run_all_to_all}));
}

/* Many operations are queued before anything is waited for. */
static void run_queued(struct rank *rank) {
    enum { ROUNDS = 40, SIZE = 200001 };
    const struct nccl *nccl = rank->nccl;
    nccl_comm_t comm = rank_join(rank, 0);
    sim_stream_t *stream = sim_stream_create();
    unsigned char *buffers = rank_allocate((size_t)ROUNDS * SIZE);
    for (int round = 0; round < ROUNDS; round++) {
        unsigned char *buffer = buffers + (size_t)round * SIZE;
        bool sends = round % 2 == rank->index;
        if (sends) rank_fill(buffer, SIZE, (unsigned)round);
        if (sends)
            RANK_CHECK(rank, nccl->Send(buffer, SIZE, NCCL_UINT8, 1 - rank->index, comm, stream));
        else
            RANK_CHECK(rank, nccl->Recv(buffer, SIZE, NCCL_UINT8, 1 - rank->index, comm, stream));
    }
    sim_stream_synchronize(stream);
    for (int round = 0; round < ROUNDS; round++)
        rank_verify(buffers + (size_t)round * SIZE, SIZE, (unsigned)round, "queued messages");
    RANK_CHECK(rank, nccl->CommDestroy(comm));
    sim_stream_destroy(stream);
    rank_free(buffers);
}

static void many_queued_messages(void **state) {
    (void)state;
    assert_true(scenario_run(&(struct scenario){.rank_count = 2, .run = run_queued}));
}

int main(void) {
    scenario_require_nccl();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_messages),          cmocka_unit_test(small_messages_with_ll),
        cmocka_unit_test(medium_messages_with_ll), cmocka_unit_test(groups_to_all_peers),
        cmocka_unit_test(many_queued_messages),    cmocka_unit_test(large_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
