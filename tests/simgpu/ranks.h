/* Ranks as processes: each a "host" of its own, so that NCCL takes the network between them. */
#ifndef SIMGPU_RANKS_H
#define SIMGPU_RANKS_H

#include "simgpu/nccl_api.h"
#include "simgpu/stream.h"

#include <stdbool.h>
#include <stdint.h>

enum { RANKS_MAX = 4, RANKS_IDS = 8 };

/* What a rank's process knows. */
struct rank {
    int index, count;
    const struct nccl *nccl;
    struct board *board; /* memory shared by the ranks of a scenario */
    void *argument;      /* the scenario's */
};

/* A scenario: how many ranks do what, and what NCCL's log must say of them. */
struct scenario {
    int rank_count;
    void (*run)(struct rank *rank); /* in each rank's process; returns when all is well, else rank_fail */
    void *argument;                 /* for `run`, in the process that was forked: shared with it only where mapped so */
    const char *const *environment; /* name, value, ..., NULL: set beside the defaults; may be NULL */
    int networks;                   /* how many times at least each rank's log says which network it uses; 0 means 1 */
    int killed_rank; /* the number of a rank that ends by SIGKILL and has no log to check, plus one; 0: none */
    int seconds;     /* the deadline; 0 means 60 */
};

/* Runs a scenario. Returns true when every rank ended well in time and its NCCL log says that it used the network
 * named by TEST_NET and no other. Otherwise prints to standard error what went wrong and what the ranks and
 * NCCL printed, which is not shown else. The processes are gone when it returns. */
bool scenario_run(const struct scenario *scenario);

/* Leaves with status 77 and a sentence when there is no libnccl to run: TEST_LIBNCCL names none. To be called
 * first in main(). */
void scenario_require_nccl(void);

/* ---- in a rank's process */

/* Prints the message and ends the rank as failed. */
_Noreturn void rank_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Fails the rank unless an NCCL call succeeded. */
#define RANK_CHECK(rank, call)                                                                                         \
    do {                                                                                                               \
        int result_ = (call);                                                                                          \
        if (result_ != NCCL_SUCCESS)                                                                                   \
            rank_fail("%s:%d: %s: %d: %s", __FILE__, __LINE__, #call, result_, (rank)->nccl->GetLastError(NULL));      \
    } while (0)

/* Joins communicator number `number` (below RANKS_IDS, each used once in a scenario) of all ranks. */
nccl_comm_t rank_join(struct rank *rank, int number);

/* Waits until all ranks that live have come here as many times as this one. */
void rank_barrier(struct rank *rank);

/* Kernel-visible memory, filled with zeros, or the end of the rank. Freed with rank_free. */
void *rank_allocate(size_t size);
void rank_free(void *memory);

/* Fills memory with bytes that depend on the seed and the place, and checks that memory holds them; a wrong byte fails
 * the rank with the place. Neighbouring bytes, 16-byte lines and 64 KiB blocks differ. */
void rank_fill(void *memory, size_t size, unsigned seed);
void rank_verify(const void *memory, size_t size, unsigned seed, const char *what);

/* Fails the rank unless NCCL has had its kernels use exactly these protocols so far. */
void rank_expect_protocols(bool simple, bool ll);

/* Waits until the communicator reports an error; fails the rank after `seconds`. Returns at once with releases of NCCL
 * that report none. */
void rank_wait_error(struct rank *rank, nccl_comm_t comm, int seconds);

/* Waits until *condition, written by another thread, is no longer 0; fails the rank after `seconds`. */
void rank_wait_byte(const volatile unsigned char *byte, int seconds, const char *what);

#endif
