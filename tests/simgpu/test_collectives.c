/* Real ncclAllReduce, ncclAllGather and ncclBroadcast over the network under test. Every byte is checked. */
#include "simgpu/ranks.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const size_t counts[] = {1, 3, 1000, 4099, 65536, 300007, 2500001};
enum { COUNTS = sizeof counts / sizeof *counts };

/* Whole numbers, small enough that sums in float are exact. */
static int term(size_t place, int rank) {
    return (int)(place % 1021) + rank * 100 + 1;
}

static int sum_of_terms(size_t place, int ranks) {
    int sum = 0;
    for (int rank = 0; rank < ranks; rank++)
        sum += term(place, rank);
    return sum;
}

#define DEFINE_ALL_REDUCE(name, c_type, nccl_type)                                                                     \
    static void name(struct rank *rank, nccl_comm_t comm, sim_stream_t *stream, size_t count, bool in_place) {         \
        c_type *from = rank_allocate(count * sizeof *from), *to = in_place ? from : rank_allocate(count * sizeof *to); \
        for (size_t i = 0; i < count; i++)                                                                             \
            from[i] = (c_type)term(i, rank->index);                                                                    \
        RANK_CHECK(rank, rank->nccl->AllReduce(from, to, count, nccl_type, NCCL_SUM, comm, stream));                   \
        sim_stream_synchronize(stream);                                                                                \
        for (size_t i = 0; i < count; i++)                                                                             \
            if (to[i] != (c_type)sum_of_terms(i, rank->count))                                                         \
                rank_fail(#name ": element %zu of %zu is wrong", i, count);                                            \
        rank_free(from);                                                                                               \
        if (!in_place) rank_free(to);                                                                                  \
    }
DEFINE_ALL_REDUCE(all_reduce_int, int32_t, NCCL_INT32)
DEFINE_ALL_REDUCE(all_reduce_long, int64_t, NCCL_INT64)
DEFINE_ALL_REDUCE(all_reduce_byte, int8_t, NCCL_INT8)
DEFINE_ALL_REDUCE(all_reduce_float, float, NCCL_FLOAT32)
DEFINE_ALL_REDUCE(all_reduce_double, double, NCCL_FLOAT64)

static void all_gather(struct rank *rank, nccl_comm_t comm, sim_stream_t *stream, size_t size, bool in_place) {
    unsigned char *to = rank_allocate(size * (size_t)rank->count);
    unsigned char *from = in_place ? to + (size_t)rank->index * size : rank_allocate(size);
    rank_fill(from, size, (unsigned)rank->index);
    RANK_CHECK(rank, rank->nccl->AllGather(from, to, size, NCCL_UINT8, comm, stream));
    sim_stream_synchronize(stream);
    for (int i = 0; i < rank->count; i++)
        rank_verify(to + (size_t)i * size, size, (unsigned)i, "all-gather");
    rank_free(to);
    if (!in_place) rank_free(from);
}

static void broadcast(struct rank *rank, nccl_comm_t comm, sim_stream_t *stream, size_t size, int root, bool in_place) {
    unsigned char *from = rank_allocate(size), *to = in_place ? from : rank_allocate(size);
    rank_fill(from, size, (unsigned)rank->index);
    RANK_CHECK(rank, rank->nccl->Broadcast(from, to, size, NCCL_UINT8, root, comm, stream));
    sim_stream_synchronize(stream);
    rank_verify(to, size, (unsigned)root, "broadcast");
    rank_free(from);
    if (!in_place) rank_free(to);
}

static void run_collectives(struct rank *rank) {
    nccl_comm_t comm = rank_join(rank, 0);
    sim_stream_t *stream = sim_stream_create();
    for (int i = 0; i < COUNTS; i++) {
        const bool in_place = i % 2;
        all_reduce_float(rank, comm, stream, counts[i], in_place);
        all_reduce_int(rank, comm, stream, counts[i], !in_place);
        all_gather(rank, comm, stream, counts[i], in_place);
        broadcast(rank, comm, stream, counts[i], i % rank->count, !in_place);
        all_reduce_double(rank, comm, stream, counts[i] / 2 + 1, in_place);
        all_reduce_long(rank, comm, stream, counts[i] / 2 + 1, !in_place);
        all_reduce_byte(rank, comm, stream, counts[i], in_place);
    }
    RANK_CHECK(rank, rank->nccl->CommDestroy(comm));
    sim_stream_destroy(stream);
}

static void run_simple(struct rank *rank) {
    run_collectives(rank);
    rank_expect_protocols(true, false);
}

static void run_ll(struct rank *rank) {
    run_collectives(rank);
    rank_expect_protocols(false, true);
}

static void two_ranks_simple(void **state) {
    (void)state;
    assert_true(scenario_run(&(struct scenario){.rank_count = 2, .run = run_simple}));
}

static void two_ranks_ll(void **state) {
    (void)state;
    assert_true(scenario_run(&(struct scenario){
        .rank_count = 2, .run = run_ll, .environment = (const char *const[]){"NCCL_PROTO", "LL", NULL}}));
}

static void three_ranks_simple(void **state) {
    (void)state;
    assert_true(scenario_run(&(struct scenario){.rank_count = 3, .run = run_simple}));
}

static void four_ranks_ll(void **state) {
    (void)state;
    assert_true(scenario_run(&(struct scenario){
        .rank_count = 4, .run = run_ll, .environment = (const char *const[]){"NCCL_PROTO", "LL", NULL}}));
}

/* Collectives of several kinds and send/recv, in one group and queued behind each other. */
static void run_mixed(struct rank *rank) {
    enum { SIZE = 100003, ROUNDS = 5 };
    const struct nccl *nccl = rank->nccl;
    nccl_comm_t comm = rank_join(rank, 0);
    sim_stream_t *stream = sim_stream_create();
    const int next = (rank->index + 1) % rank->count, previous = (rank->index + rank->count - 1) % rank->count;
    float *terms = rank_allocate(SIZE * sizeof *terms), *sums = rank_allocate(SIZE * sizeof *sums);
    unsigned char *own = rank_allocate(SIZE), *gathered = rank_allocate((size_t)SIZE * (size_t)rank->count);
    unsigned char *received = rank_allocate(SIZE), *shared = rank_allocate(SIZE);
    rank_fill(own, SIZE, (unsigned)rank->index);
    for (size_t i = 0; i < SIZE; i++)
        terms[i] = (float)term(i, rank->index);
    for (int round = 0; round < ROUNDS; round++) {
        RANK_CHECK(rank, nccl->GroupStart());
        RANK_CHECK(rank, nccl->AllReduce(terms, sums, SIZE, NCCL_FLOAT32, NCCL_SUM, comm, stream));
        RANK_CHECK(rank, nccl->AllGather(own, gathered, SIZE, NCCL_UINT8, comm, stream));
        RANK_CHECK(rank, nccl->GroupEnd());
        RANK_CHECK(rank, nccl->Broadcast(own, shared, SIZE, NCCL_UINT8, 1, comm, stream));
        RANK_CHECK(rank, nccl->GroupStart());
        RANK_CHECK(rank, nccl->Send(own, SIZE, NCCL_UINT8, next, comm, stream));
        RANK_CHECK(rank, nccl->Recv(received, SIZE, NCCL_UINT8, previous, comm, stream));
        RANK_CHECK(rank, nccl->GroupEnd());
    }
    sim_stream_synchronize(stream);
    for (size_t i = 0; i < SIZE; i++)
        if (sums[i] != (float)sum_of_terms(i, rank->count)) rank_fail("sum %zu is wrong", i);
    for (int i = 0; i < rank->count; i++)
        rank_verify(gathered + (size_t)i * SIZE, SIZE, (unsigned)i, "gathered");
    rank_verify(shared, SIZE, 1, "broadcast");
    rank_verify(received, SIZE, (unsigned)previous, "received");
    RANK_CHECK(rank, nccl->CommDestroy(comm));
    sim_stream_destroy(stream);
}

static void groups_of_mixed_operations(void **state) {
    (void)state;
    assert_true(scenario_run(&(struct scenario){.rank_count = 3, .run = run_mixed}));
}

int main(void) {
    scenario_require_nccl();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_ranks_simple),           cmocka_unit_test(two_ranks_ll),
        cmocka_unit_test(three_ranks_simple),         cmocka_unit_test(four_ranks_ll),
        cmocka_unit_test(groups_of_mixed_operations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
