/* A lane: what one group of a GPU kernel's threads does, as a state machine. It moves data from and to the user's
 * buffers through at most one receive and one send connection, whose buffers NCCL's proxy thread empties and fills. */
#ifndef SIMGPU_KERNEL_LANE_H
#define SIMGPU_KERNEL_LANE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One step of an algorithm. With `receive`, data comes from the receive connection, and `source`, if set, is added to
 * it; otherwise it comes from `source`. It goes to `destination`, if set, and with `send` to the send connection. */
struct sim_move {
    const char *source;
    char *destination;
    size_t size; /* bytes */
    bool receive, send;
};

/* Adds `count` elements: destination[i] = left[i] + right[i]. Buffers may be the same, not partly overlap. */
typedef void sim_sum_t(void *destination, const void *left, const void *right, size_t count);

/* One end of a connection between this rank and a peer (ncclConnInfo), as far as kernels use it. */
struct sim_connection {
    char *raw;                     /* the ncclConnInfo; NULL: not used by this lane */
    _Atomic uint64_t *tail, *head; /* counters shared with the proxy: filled by the sender, emptied by the receiver */
    char *buffer;                  /* of the lane's protocol */
    size_t step_size;              /* bytes of a slot */
    uint64_t step;
};

struct sim_lane {
    int protocol;             /* NCCL_PROTO_* */
    unsigned slices_per_move; /* Simple only: a move is cut into that many slices */
    unsigned steps_per_slice; /* Simple only: slots that a slice takes */
    sim_sum_t *sum;
    size_t element_size; /* 1, or that of the sum's type */
    struct sim_connection receive, send;

    struct sim_move *moves;
    size_t count, capacity;

    /* Where the lane is. */
    bool begun;
    size_t move;
    unsigned slice;
    size_t offset; /* bytes of the move that are done */
    bool credit;   /* LL only: room in the send buffer was found for this move */
};

/* What lanes need to know of their communicator. */
struct sim_lane_context {
    const char *comm; /* the ncclKernelComm */
};

/* Appends a move. */
void sim_lane_add(struct sim_lane *lane, const struct sim_move *move);

/* Does what can be done without waiting, at most one slice (Simple) or one move (LL). Returns whether anything moved.
 * After the last move the connections' step counters have been saved for the next kernel. Must be called by one thread
 * at a time. */
bool sim_lane_advance(struct sim_lane *lane, const struct sim_lane_context *context);

/* How many moves this process has done with a protocol (NCCL_PROTO_*), so that a test can tell which one NCCL took.
 * Thread-safe. */
uint64_t sim_lane_moves(int protocol);

static inline bool sim_lane_is_done(const struct sim_lane *lane) {
    return lane->begun && lane->move == lane->count;
}

/* Points a lane at its peers' connections: `receive` and `send` are ncclConnInfo or NULL. */
static inline void sim_lane_connect(struct sim_lane *lane, char *receive, char *send) {
    lane->receive.raw = receive;
    lane->send.raw = send;
}

#endif
