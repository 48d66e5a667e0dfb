#include "simgpu/kernel_args.h"

#include <stddef.h>

const struct sim_layout *sim_layout;
const int *sim_function_ids;

/* Source: NVIDIA/nccl at the tag of each release, src/include/device.h and collectives.h (2.18: src/include/devcomm.h);
 * for 2.32, whose source is not published, the debug information of the library in the wheel (gdb: ptype /o). Only
 * releases that the tests have run are listed. */
/* Most structs are the same in all releases since 2.19. */
#define CONNECTION_SINCE_2_19                                                                                          \
    {                                                                                                                  \
        .tail = 48, .head = 56, .step_size = 72, .fifo = 96, .sizes_fifo = ABSENT, .offsets_fifo = ABSENT,             \
        .step = 104, .size = 152                                                                                       \
    }
#define FIFO_SINCE_2_19                                                                                                \
    { .offset = 4, .offset_size = 4, .size = 8, .entry_size = 24 }
#define COLLECTIVE_PACKED                                                                                              \
    { .receive_buffer = 8, .send_buffer = 16, .counts = 56, .size = 96, .registered_size = 288 }

static const struct sim_layout layouts[] = {
    {
        .releases = "2.18",
        .first_version = 21801,
        .last_version = 21899,
        .work_format = SIM_WORK_GRID,
        .connection = {.tail = 24,
                       .head = 32,
                       .step_size = ABSENT,
                       .fifo = ABSENT,
                       .sizes_fifo = 64,
                       .offsets_fifo = 72,
                       .step = 80,
                       .size = 96},
        .channel = {.ring = 8, .ring_user_ranks = 8, .ring_index = 16, .work_fifo_done = 224, .size = 240},
        .comm = {.buffer_sizes = 8, .work_consumed = ABSENT, .abort_flag = 32, .channels = 40},
    },
    {
        .releases = "2.21",
        .first_version = 22100,
        .last_version = 22199,
        .work_format = SIM_WORK_ELEMENTS,
        .connection = CONNECTION_SINCE_2_19,
        .fifo = FIFO_SINCE_2_19,
        .channel = {.ring = 8, .ring_user_ranks = 8, .ring_index = 16, .work_fifo_done = 352, .size = 368},
        .comm = {.buffer_sizes = 16, .work_consumed = ABSENT, .abort_flag = 56, .channels = 64},
        .functions = {.all_gather_algorithms = 3, .all_gather_v_algorithms = 0, .types = 10},
    },
    {
        .releases = "2.26",
        .first_version = 22600,
        .last_version = 22699,
        .work_format = SIM_WORK_BATCHES,
        .parts_bit_reversed = true,
        .connection = CONNECTION_SINCE_2_19,
        .fifo = FIFO_SINCE_2_19,
        .channel = {.ring = 8, .ring_user_ranks = 8, .ring_index = 16, .work_fifo_done = ABSENT, .size = 368},
        .comm = {.buffer_sizes = 16, .work_consumed = 40, .abort_flag = 56, .channels = 64},
        .collective = COLLECTIVE_PACKED,
        .functions = {.all_gather_algorithms = 4, .all_gather_v_algorithms = 0, .types = 12, .id_bits = 15},
    },
    {
        .releases = "2.28",
        .first_version = 22800,
        .last_version = 22899,
        .work_format = SIM_WORK_BATCHES,
        .connection = CONNECTION_SINCE_2_19,
        .fifo = FIFO_SINCE_2_19,
        .channel = {.ring = 8, .ring_user_ranks = 8, .ring_index = 16, .work_fifo_done = ABSENT, .size = 368},
        .comm = {.buffer_sizes = 16, .work_consumed = ABSENT, .abort_flag = 48, .channels = 56},
        .collective = COLLECTIVE_PACKED,
        .functions = {.all_gather_algorithms = 4, .all_gather_v_algorithms = 0, .types = 12, .id_bits = 15},
    },
    {
        .releases = "2.30",
        .first_version = 23000,
        .last_version = 23099,
        .work_format = SIM_WORK_BATCHES,
        .connection = CONNECTION_SINCE_2_19,
        .fifo = FIFO_SINCE_2_19,
        .channel = {.ring = 8, .ring_user_ranks = 8, .ring_index = 24, .work_fifo_done = ABSENT, .size = 368},
        .comm = {.buffer_sizes = 16, .work_consumed = ABSENT, .abort_flag = 48, .channels = 56},
        .collective = {.receive_buffer = 24, .send_buffer = 32, .counts = 80, .size = 128, .registered_size = 320},
        .functions = {.all_gather_algorithms = 4, .all_gather_v_algorithms = 1, .types = 12, .id_bits = 15},
    },
    {
        .releases = "2.32",
        .first_version = 23200,
        .last_version = 23299,
        .work_format = SIM_WORK_BATCHES,
        .connection = CONNECTION_SINCE_2_19,
        .fifo = {.offset = 8, .offset_size = 8, .size = 16, .entry_size = 32},
        .channel = {.ring = 8, .ring_user_ranks = 8, .ring_index = 24, .work_fifo_done = ABSENT, .size = 368},
        .comm = {.buffer_sizes = 16, .work_consumed = ABSENT, .abort_flag = 48, .channels = 56},
        .collective = COLLECTIVE_PACKED,
        .functions = {.all_gather_algorithms = 4, .all_gather_v_algorithms = 1, .types = 12, .id_bits = 11},
    },
};

const struct sim_layout *sim_layout_find(int version) {
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++)
        if (version >= layouts[i].first_version && version <= layouts[i].last_version) return &layouts[i];
    return NULL;
}

/* The numbers of algorithms that a collective's rows have. */
enum { BROADCAST_ALGORITHMS = 1, ALL_REDUCE_ALGORITHMS = 6 };

/* FUNC_INDEX of 2.18, src/include/collectives.h: 1 + types + (((func * redops + redop) * types + type) * algos + algo)
 * * protos + proto, with sum as the first reduction and ncclFunc_t in the order below. */
static unsigned grid_index(const struct sim_function_id *function) {
    static const unsigned numbers[] = {[SIM_BROADCAST] = 0, [SIM_ALL_GATHER] = 2, [SIM_ALL_REDUCE] = 4};
    enum { TYPES = 10, REDUCTIONS = 6, ALGORITHMS = 6 };
    unsigned row = numbers[function->collective] * REDUCTIONS * TYPES + (unsigned)function->type;
    row = (row * ALGORITHMS + (unsigned)function->algorithm) * NCCL_PROTOCOLS + (unsigned)function->protocol;
    return 1 + TYPES + row;
}

/* ncclDevFuncId() in src/include/device.h: rows for send/recv, all-gather, broadcast, all-gather-v, all-reduce. */
static unsigned row_index(const struct sim_function_id *function) {
    unsigned row = 1, protocol = (unsigned)function->protocol;
    if (function->collective == SIM_ALL_GATHER) return row + protocol; /* the ring is its first algorithm */
    row += sim_layout->functions.all_gather_algorithms * NCCL_PROTOCOLS;
    if (function->collective == SIM_BROADCAST) return row + protocol;
    row += (BROADCAST_ALGORITHMS + sim_layout->functions.all_gather_v_algorithms) * NCCL_PROTOCOLS;
    return row + ((unsigned)function->type * ALL_REDUCE_ALGORITHMS + (unsigned)function->algorithm) * NCCL_PROTOCOLS +
           protocol;
}

static bool matches(unsigned id, const struct sim_function_id *function) {
    if (sim_layout->work_format == SIM_WORK_GRID) return grid_index(function) == id;
    return sim_function_ids[row_index(function)] == (int)id;
}

bool sim_function_find(unsigned id, struct sim_function_id *found) {
    int types = sim_layout->work_format == SIM_WORK_GRID ? 10 : sim_layout->functions.types;
    for (int protocol = 0; protocol < NCCL_PROTOCOLS; protocol++) {
        for (int collective = SIM_ALL_GATHER; collective <= SIM_ALL_REDUCE; collective++) {
            /* Signed and unsigned integers share a function, since their sums are the same bits. */
            for (int type = 0; type < (collective == SIM_ALL_REDUCE ? types : 1); type++) {
                struct sim_function_id function = {(enum sim_collective)collective, NCCL_ALGORITHM_RING, protocol,
                                                   type};
                if (matches(id, &function)) {
                    *found = function;
                    return true;
                }
            }
        }
    }
    return false;
}
