/* Several communicators in a process, one after the other and at once, over the network under test. */
#include "simgpu/ranks.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { SIZE = 3000001 };

/* A send to the next and a receive from the previous rank, queued; wait_ring waits for it and checks the bytes. */
struct ring {
    int previous;
    unsigned seed;
    void *sent, *received;
    sim_stream_t *stream;
};

static void queue_ring(struct rank *rank, struct ring *ring, nccl_comm_t comm, int index, int count, unsigned seed) {
    const struct nccl *nccl = rank->nccl;
    *ring =
        (struct ring){(index + count - 1) % count, seed, rank_allocate(SIZE), rank_allocate(SIZE), sim_stream_create()};
    rank_fill(ring->sent, SIZE, seed + (unsigned)index);
    RANK_CHECK(rank, nccl->GroupStart());
    RANK_CHECK(rank, nccl->Send(ring->sent, SIZE, NCCL_UINT8, (index + 1) % count, comm, ring->stream));
    RANK_CHECK(rank, nccl->Recv(ring->received, SIZE, NCCL_UINT8, ring->previous, comm, ring->stream));
    RANK_CHECK(rank, nccl->GroupEnd());
}

static void wait_ring(struct ring *ring) {
    sim_stream_destroy(ring->stream);
    rank_verify(ring->received, SIZE, ring->seed + (unsigned)ring->previous, "around the ring");
    rank_free(ring->sent);
    rank_free(ring->received);
}

static void run_ring(struct rank *rank, nccl_comm_t comm, int index, int count, unsigned seed) {
    struct ring ring;
    queue_ring(rank, &ring, comm, index, count, seed);
    wait_ring(&ring);
}

static void run_two_at_once(struct rank *rank) {
    nccl_comm_t comms[2] = {rank_join(rank, 0), rank_join(rank, 1)};
    for (unsigned round = 0; round < 4; round++) {
        struct ring rings[2];
        for (unsigned i = 0; i < 2; i++)
            queue_ring(rank, &rings[i], comms[i], rank->index, rank->count, round * 20 + i * 10);
        for (unsigned i = 0; i < 2; i++)
            wait_ring(&rings[i]);
    }
    RANK_CHECK(rank, rank->nccl->CommDestroy(comms[1]));
    run_ring(rank, comms[0], rank->index, rank->count, 99);
    RANK_CHECK(rank, rank->nccl->CommDestroy(comms[0]));
}

static void two_communicators_at_once(void **state) {
    (void)state;
    assert_true(scenario_run(&(struct scenario){.rank_count = 2, .run = run_two_at_once, .networks = 2}));
}

/* Even and odd ranks part; the parent and both parts are used, in turns and at once. */
static void run_split(struct rank *rank) {
    const struct nccl *nccl = rank->nccl;
    nccl_comm_t comm = rank_join(rank, 0), part;
    run_ring(rank, comm, rank->index, rank->count, 1);
    RANK_CHECK(rank, nccl->CommSplit(comm, rank->index % 2, rank->index, &part, NULL));
    struct ring whole, half;
    queue_ring(rank, &whole, comm, rank->index, rank->count, 10);
    queue_ring(rank, &half, part, rank->index / 2, rank->count / 2, 20 + 5u * (unsigned)(rank->index % 2));
    wait_ring(&half);
    wait_ring(&whole);
    RANK_CHECK(rank, nccl->CommDestroy(part));
    run_ring(rank, comm, rank->index, rank->count, 30);
    RANK_CHECK(rank, nccl->CommDestroy(comm));
}

static void a_split_communicator(void **state) {
    (void)state;
    assert_true(scenario_run(&(struct scenario){.rank_count = 4, .run = run_split}));
}

/* NCCL 2.28 and 2.29 forget the plugin with the last communicator unless NCCL_NET_PLUGIN_REF_COUNT=1, and then go on
 * with their own Socket network: the log must name the network under test each time. */
enum { GENERATIONS = 3 };

static void run_generations(struct rank *rank) {
    for (int generation = 0; generation < GENERATIONS; generation++) {
        nccl_comm_t comm = rank_join(rank, generation);
        run_ring(rank, comm, rank->index, rank->count, (unsigned)generation);
        RANK_CHECK(rank, rank->nccl->CommDestroy(comm));
        rank_barrier(rank);
    }
}

static void a_new_communicator_after_the_last(void **state) {
    (void)state;
    assert_true(scenario_run(&(struct scenario){.rank_count = 2, .run = run_generations, .networks = GENERATIONS}));
}

/* NCCL 2.23.4 and newer can exchange what communicators need to know of each other over the network as well: small odd
 * sizes in unaligned host memory, connections to the next rank and from the previous one at once. */
static void run_bootstrap(struct rank *rank) {
    nccl_comm_t comm = rank_join(rank, 0);
    run_ring(rank, comm, rank->index, rank->count, 5);
    RANK_CHECK(rank, rank->nccl->CommDestroy(comm));
}

static void bootstrap_over_the_network(void **state) {
    (void)state;
    assert_true(
        scenario_run(&(struct scenario){.rank_count = 3,
                                        .run = run_bootstrap,
                                        .environment = (const char *const[]){"NCCL_OOB_NET_ENABLE", "1", NULL}}));
}

int main(void) {
    scenario_require_nccl();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_communicators_at_once),
        cmocka_unit_test(a_split_communicator),
        cmocka_unit_test(a_new_communicator_after_the_last),
        cmocka_unit_test(bootstrap_over_the_network),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
