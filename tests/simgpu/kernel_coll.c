/* NCCL's ring kernels. Source: NVIDIA/nccl v2.28.9-1, src/device/all_reduce.h, all_gather.h, broadcast.h and the
 * CHUNKSTEPS and SLICESTEPS of src/include/collectives.h, the same in all releases of kernel_args.c. */
#include "simgpu/fatal.h"
#include "simgpu/kernel_work.h"

enum { COLLECTIVE_CONNECTION = 0 };

/* ncclDataType_t, src/nccl.h.in */
enum { INT8 = 0, UINT8 = 1, INT32 = 2, UINT32 = 3, INT64 = 4, UINT64 = 5, FLOAT16 = 6, FLOAT32 = 7, FLOAT64 = 8 };

#define DEFINE_SUM(name, type)                                                                                         \
    static void name(void *destination, const void *left, const void *right, size_t count) {                           \
        type *to = destination;                                                                                        \
        const type *a = left, *b = right;                                                                              \
        for (size_t i = 0; i < count; i++)                                                                             \
            to[i] = (type)(a[i] + b[i]);                                                                               \
    }
DEFINE_SUM(sum_uint8, uint8_t)
DEFINE_SUM(sum_uint32, uint32_t)
DEFINE_SUM(sum_uint64, uint64_t)
DEFINE_SUM(sum_float, float)
DEFINE_SUM(sum_double, double)

/* Sums of signed integers wrap like those of unsigned ones. */
static const struct {
    sim_sum_t *sum;
    size_t size;
} types[] = {
    [INT8] = {sum_uint8, 1},   [UINT8] = {sum_uint8, 1},   [INT32] = {sum_uint32, 4},  [UINT32] = {sum_uint32, 4},
    [INT64] = {sum_uint64, 8}, [UINT64] = {sum_uint64, 8}, [FLOAT32] = {sum_float, 4}, [FLOAT64] = {sum_double, 8},
};

size_t sim_function_element_size(const struct sim_function_id *function) {
    if (function->collective != SIM_ALL_REDUCE) return 1;
    int type = function->type;
    if (type < 0 || (size_t)type >= sizeof types / sizeof *types || !types[type].sum)
        sim_fatal("all-reduce of data type %d is not simulated", type);
    return types[type].size;
}

static char *ring_of(const struct sim_channel *channel) {
    return channel->raw + sim_layout->channel.ring;
}

/* userRanks: the ranks in the order of the ring, this one first. */
static int ring_rank(const struct sim_channel *channel, int position) {
    const int *ranks = sim_pointer_at(ring_of(channel), sim_layout->channel.ring_user_ranks);
    return ranks[position];
}

struct sim_lane *sim_channel_add_collective(struct sim_channel *channel, const struct sim_collective_work *work) {
    const struct sim_function_id *function = &work->function;
    if (function->protocol == NCCL_PROTOCOL_LL128)
        sim_fatal("the LL128 protocol is not simulated; set NCCL_PROTO=Simple or NCCL_PROTO=LL");
    struct sim_lane *lane = sim_phase_add_lane(sim_channel_add_phase(channel));
    bool chunked = function->collective != SIM_BROADCAST;
    lane->protocol = function->protocol;
    lane->slices_per_move = chunked ? 2 : 1;
    lane->steps_per_slice = chunked ? 2 : 1;
    lane->element_size = sim_function_element_size(function);
    if (function->collective == SIM_ALL_REDUCE) lane->sum = types[function->type].sum;
    int previous = sim_int_at(ring_of(channel), 0), next = sim_int_at(ring_of(channel), 4);
    sim_lane_connect(lane, sim_channel_receive_connection(channel, previous, COLLECTIVE_CONNECTION),
                     sim_channel_send_connection(channel, next, COLLECTIVE_CONNECTION));
    return lane;
}

static size_t chunk_begin(const struct sim_ring_turn *turn, int chunk) {
    return turn->first + (size_t)chunk * turn->stride;
}

static size_t chunk_size(const struct sim_ring_turn *turn, int chunk) {
    size_t begin = chunk_begin(turn, chunk);
    if (begin >= turn->end) return 0;
    return turn->end - begin < turn->chunk ? turn->end - begin : turn->chunk;
}

/* Every chunk travels the ring twice: adding up, and then spreading the sum. */
static void add_all_reduce_turn(const struct sim_kernel *kernel, const struct sim_channel *channel,
                                struct sim_lane *lane, const struct sim_collective_work *work,
                                const struct sim_ring_turn *turn) {
    const int ranks = kernel->rank_count;
    const int own = sim_int_at(ring_of(channel), sim_layout->channel.ring_index);
    for (int step = 1; step < 2 * ranks; step++) {
        int chunk = (own + 2 * ranks - step) % ranks;
        size_t begin = chunk_begin(turn, chunk) * lane->element_size;
        const char *source = work->send_buffer + begin;
        char *destination = work->receive_buffer + begin;
        struct sim_move move = {
            .size = chunk_size(turn, chunk) * lane->element_size, .receive = step > 1, .send = step < 2 * ranks - 1};
        if (step <= ranks) move.source = source;
        if (step >= ranks) move.destination = destination;
        sim_lane_add(lane, &move);
    }
}

static void add_all_gather_turn(const struct sim_kernel *kernel, const struct sim_channel *channel,
                                struct sim_lane *lane, const struct sim_collective_work *work,
                                const struct sim_ring_turn *turn) {
    const int ranks = kernel->rank_count;
    size_t size = chunk_size(turn, 0);
    for (int step = 0; step < ranks; step++) {
        int rank = ring_rank(channel, step == 0 ? 0 : ranks - step);
        struct sim_move move = {.size = size, .receive = step > 0, .send = step < ranks - 1};
        move.destination = work->receive_buffer + (size_t)rank * work->count + turn->first;
        if (step == 0) move.source = work->send_buffer + turn->first;
        sim_lane_add(lane, &move);
    }
}

static void add_broadcast_turn(const struct sim_channel *channel, struct sim_lane *lane,
                               const struct sim_collective_work *work, const struct sim_ring_turn *turn) {
    bool is_root = ring_rank(channel, 0) == work->root, is_last = ring_rank(channel, 1) == work->root;
    struct sim_move move = {.size = chunk_size(turn, 0), .receive = !is_root, .send = !is_last};
    move.destination = work->receive_buffer + turn->first;
    if (is_root) move.source = work->send_buffer + turn->first;
    sim_lane_add(lane, &move);
}

void sim_collective_add_turn(const struct sim_kernel *kernel, const struct sim_channel *channel, struct sim_lane *lane,
                             const struct sim_collective_work *work, const struct sim_ring_turn *turn) {
    switch (work->function.collective) {
    case SIM_ALL_REDUCE:
        add_all_reduce_turn(kernel, channel, lane, work, turn);
        break;
    case SIM_ALL_GATHER:
        add_all_gather_turn(kernel, channel, lane, work, turn);
        break;
    case SIM_BROADCAST:
        add_broadcast_turn(channel, lane, work, turn);
        break;
    }
}
