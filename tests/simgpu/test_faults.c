/* Transfers that do not come to their end: ncclCommAbort and dead peers. Whoever survives learns of it in time and can
 * go on with a new communicator. */
#include "simgpu/ranks.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

enum { SIZE = 32 << 20, ERROR_SECONDS = 10 };

/* Rank 0 wants two messages of rank 1, which sends only one: no transfer of this kind can end. Returns, in the midst
 * of the first message on rank 0, and after queueing on the others. */
static void begin_endless(struct rank *rank, nccl_comm_t comm, sim_stream_t *stream, unsigned char *buffer) {
    const struct nccl *nccl = rank->nccl;
    RANK_CHECK(rank, nccl->GroupStart());
    if (rank->index == 0) {
        RANK_CHECK(rank, nccl->Recv(buffer, SIZE, NCCL_UINT8, 1, comm, stream));
        RANK_CHECK(rank, nccl->Recv(buffer + SIZE, SIZE, NCCL_UINT8, 1, comm, stream));
    } else {
        rank_fill(buffer, SIZE, 1);
        RANK_CHECK(rank, nccl->Send(buffer, SIZE, NCCL_UINT8, 0, comm, stream));
    }
    RANK_CHECK(rank, nccl->GroupEnd());
    if (rank->index == 0) rank_wait_byte(buffer, ERROR_SECONDS, "data");
}

static void transfer(struct rank *rank, nccl_comm_t comm, unsigned char *buffer) {
    sim_stream_t *stream = sim_stream_create();
    const int peer = 1 - rank->index;
    rank_fill(buffer, SIZE, (unsigned)rank->index + 7);
    RANK_CHECK(rank, rank->nccl->GroupStart());
    RANK_CHECK(rank, rank->nccl->Send(buffer, SIZE, NCCL_UINT8, peer, comm, stream));
    RANK_CHECK(rank, rank->nccl->Recv(buffer + SIZE, SIZE, NCCL_UINT8, peer, comm, stream));
    RANK_CHECK(rank, rank->nccl->GroupEnd());
    sim_stream_destroy(stream);
    rank_verify(buffer + SIZE, SIZE, (unsigned)peer + 7, "transfer");
}

/* Rank 0 aborts in the midst of a transfer. Both make a new communicator and use it. */
static void run_abort(struct rank *rank) {
    nccl_comm_t comm = rank_join(rank, 0);
    sim_stream_t *stream = sim_stream_create();
    unsigned char *buffer = rank_allocate((size_t)2 * SIZE);
    begin_endless(rank, comm, stream, buffer);
    rank_barrier(rank);
    RANK_CHECK(rank, rank->nccl->CommAbort(comm));
    sim_stream_destroy(stream);

    comm = rank_join(rank, 1);
    transfer(rank, comm, buffer);
    RANK_CHECK(rank, rank->nccl->CommDestroy(comm));
}

static void abort_in_the_midst(void **state) {
    (void)state;
    assert_true(scenario_run(&(struct scenario){.rank_count = 2, .run = run_abort, .networks = 2}));
}

/* Only rank 0 aborts at first: rank 1, whose ring of sends cannot end either, must be told. */
static void run_peer_aborts(struct rank *rank) {
    nccl_comm_t comm = rank_join(rank, 0);
    sim_stream_t *stream = sim_stream_create();
    unsigned char *buffer = rank_allocate((size_t)2 * SIZE);
    const struct nccl *nccl = rank->nccl;
    /* Both send two messages and receive one, so that both have a send that waits for its receive. */
    RANK_CHECK(rank, nccl->GroupStart());
    RANK_CHECK(rank, nccl->Send(buffer, SIZE, NCCL_UINT8, 1 - rank->index, comm, stream));
    RANK_CHECK(rank, nccl->Recv(buffer + SIZE, SIZE, NCCL_UINT8, 1 - rank->index, comm, stream));
    RANK_CHECK(rank, nccl->Send(buffer, SIZE, NCCL_UINT8, 1 - rank->index, comm, stream));
    RANK_CHECK(rank, nccl->GroupEnd());
    rank_barrier(rank);
    if (rank->index == 1) rank_wait_error(rank, comm, ERROR_SECONDS);
    RANK_CHECK(rank, nccl->CommAbort(comm));
    sim_stream_destroy(stream);
}

static void a_peer_aborts(void **state) {
    (void)state;
    assert_true(scenario_run(&(struct scenario){.rank_count = 2, .run = run_peer_aborts}));
}

/* Rank 1 is killed in the midst of a transfer; rank 0 gets an error, aborts and goes on with rank 2. */
static void run_killed(struct rank *rank) {
    nccl_comm_t comm = rank_join(rank, 0);
    sim_stream_t *stream = sim_stream_create();
    unsigned char *buffer = rank_allocate((size_t)2 * SIZE);
    if (rank->index != 2) begin_endless(rank, comm, stream, buffer);
    rank_barrier(rank);
    if (rank->index == 1) kill(getpid(), SIGKILL);
    if (rank->index == 0) rank_wait_error(rank, comm, ERROR_SECONDS);
    RANK_CHECK(rank, rank->nccl->CommAbort(comm));
    sim_stream_destroy(stream);

    struct rank survivor = *rank;
    survivor.index = rank->index / 2;
    survivor.count = 2;
    comm = rank_join(&survivor, 1);
    transfer(&survivor, comm, buffer);
    RANK_CHECK(rank, rank->nccl->CommDestroy(comm));
}

static void a_killed_peer(void **state) {
    (void)state;
    assert_true(scenario_run(&(struct scenario){.rank_count = 3, .run = run_killed, .killed_rank = 2, .networks = 2}));
}

int main(void) {
    scenario_require_nccl();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(abort_in_the_midst),
        cmocka_unit_test(a_peer_aborts),
        cmocka_unit_test(a_killed_peer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
