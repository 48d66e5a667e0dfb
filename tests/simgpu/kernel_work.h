/* A kernel's work, translated from a release's own form: for each channel phases that follow one another, each a set
 * of lanes that run side by side. */
#ifndef SIMGPU_KERNEL_WORK_H
#define SIMGPU_KERNEL_WORK_H

#include "simgpu/kernel_args.h"
#include "simgpu/kernel_lane.h"

struct sim_phase {
    struct sim_lane *lanes;
    size_t count, capacity;
};

struct sim_channel {
    int index;
    char *raw; /* the ncclDevChannel */
    struct sim_phase *phases;
    size_t count, capacity;
    size_t current; /* the phase that runs */
};

enum { SIM_MAX_CHANNELS = 64 };

struct sim_kernel {
    struct sim_lane_context context;
    int rank, rank_count;
    const _Atomic uint32_t *abort_flag; /* may be NULL */
    struct sim_channel channels[SIM_MAX_CHANNELS];
    size_t channel_count;
};

/* The pointer or the int at an offset of one of NCCL's structs. */
void *sim_pointer_at(const char *raw, unsigned offset);
int sim_int_at(const char *raw, unsigned offset);

/* Appends an empty phase, and an empty lane to a phase. The results are valid until the next of the same kind is
 * added to the same parent. */
struct sim_phase *sim_channel_add_phase(struct sim_channel *channel);
struct sim_lane *sim_phase_add_lane(struct sim_phase *phase);

/* The receive or send connection (ncclConnInfo) of a channel to a rank. Index 0 is for collectives, 1 for send/recv. */
char *sim_channel_receive_connection(const struct sim_channel *channel, int rank, int index);
char *sim_channel_send_connection(const struct sim_channel *channel, int rank, int index);

/* Fills in the phases of kernel->channels from the argument block of a launch (SIM_WORK_BATCHES). Ends the process with
 * a message when the work is of a kind that is not simulated. */
void sim_work_read_batches(struct sim_kernel *kernel, const char *arguments);

/* The same for the older forms (SIM_WORK_ELEMENTS, SIM_WORK_GRID), from the list of works. */
void sim_work_read_elements(struct sim_kernel *kernel, const char *works);

/* One direction of a send/recv: `size` bytes from or to `buffer`, in messages of `chunk` bytes. */
struct sim_transfer {
    int peer;
    int protocol;
    char *buffer;
    size_t size, chunk;
};

/* Adds the lane that sends or receives (src/device/sendrecv.h). */
void sim_phase_add_send(struct sim_phase *phase, const struct sim_channel *channel,
                        const struct sim_transfer *transfer);
void sim_phase_add_receive(struct sim_phase *phase, const struct sim_channel *channel,
                           const struct sim_transfer *transfer);

/* One collective on one channel. Counts and offsets are in elements of `function.type`, or in bytes where the
 * collective moves bytes. */
struct sim_collective_work {
    struct sim_function_id function;
    int root;
    const char *send_buffer;
    char *receive_buffer;
    size_t count; /* of the whole collective, per rank */
};

/* One turn around the ring: the chunk with index i (0 outside of all-reduce) begins at `first + i * stride` and has
 * `chunk` elements, less where that would go past `end`. */
struct sim_ring_turn {
    size_t first, stride, chunk, end;
};

/* Begins a phase with one lane for a collective; turns are added to it in order. */
struct sim_lane *sim_channel_add_collective(struct sim_channel *channel, const struct sim_collective_work *work);
void sim_collective_add_turn(const struct sim_kernel *kernel, const struct sim_channel *channel, struct sim_lane *lane,
                             const struct sim_collective_work *work, const struct sim_ring_turn *turn);

/* Bytes of an element of a collective's function. */
size_t sim_function_element_size(const struct sim_function_id *function);

#endif
