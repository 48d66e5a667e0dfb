/* Work as NCCL before 2.22 hands it to kernels: a list of fixed-size works with elements. Source: NVIDIA/nccl
 * v2.21.5-1, src/include/device.h, src/device/common.h and sendrecv.h; v2.18.3-1, src/include/devcomm.h and
 * src/collectives/device. */
#include "simgpu/fatal.h"
#include "simgpu/kernel_work.h"

#include <string.h>

enum { WORK_BYTES = 512, WORK_COLLECTIVE = 1, WORK_P2P = 2 }; /* enum ncclWorkType */
enum { P2P_UNUSED = 0 };                                      /* enum ncclWorkP2PType */

/* ncclWorkHeader */
struct header {
    union {
        int32_t next;      /* index of the next work */
        uint32_t done_ack; /* of the last work: what to answer */
    };
    uint16_t function;
    uint8_t is_last : 1, in_fifo : 1;
    uint8_t type;
};

/* ncclWorkElemP2p: at even places a receive, at odd places a send. */
struct p2p_element {
    int32_t peer : 30, protocol : 2;
    uint8_t type, warps, first_warp, groups;
    uint32_t buffer_high, buffer_low, size_high, size_low;
    int32_t chunk;
};

/* ncclWorkElem of 2.19 to 2.21 */
struct share_element {
    uint8_t used : 1, argument_is_pointer : 1, one_node : 1;
    uint8_t registered, warps, direct;
    uint32_t root;
    const char *send_buffer;
    char *receive_buffer;
    size_t count;
    uint64_t argument;
    uint64_t chunk : 25, share : 39;
    uint64_t last_chunk : 25, offset : 39;
};

/* ncclWorkElem of 2.18 */
struct grid_element {
    uint8_t used : 1, argument_is_pointer : 1, registered : 1;
    uint8_t warps, direct;
    const char *send_buffer;
    char *receive_buffer;
    size_t count, last_chunk;
    uint32_t root;
    uint8_t block, blocks;
    uint64_t argument;
};

_Static_assert(sizeof(struct header) == 8 && sizeof(struct p2p_element) == 28 && sizeof(struct share_element) == 56 &&
                   sizeof(struct grid_element) == 56,
               "layout of 2.18 to 2.21");

static uint64_t join(uint32_t high, uint32_t low) {
    return (uint64_t)high << 32 | low;
}

static void add_p2p(const struct sim_kernel *kernel, struct sim_channel *channel, const char *work) {
    const struct p2p_element *elements = (const void *)(work + sizeof(struct header));
    struct sim_phase *phase = sim_channel_add_phase(channel);
    for (int i = 0; i < elements[0].groups; i++) {
        const struct p2p_element *element = &elements[i];
        if (element->type == P2P_UNUSED || element->peer == -1) continue;
        struct sim_transfer transfer = {.peer = element->peer,
                                        .protocol = (int)(element->protocol & 3),
                                        .buffer = (char *)join(element->buffer_high, element->buffer_low),
                                        .size = join(element->size_high, element->size_low),
                                        .chunk = (size_t)element->chunk};
        if (transfer.protocol == NCCL_PROTOCOL_LL)
            transfer.chunk /= 2; /* half of what lies in an LL buffer are flags */
        bool is_send = i % 2 == 1;
        if (element->peer == kernel->rank) { /* to itself: a copy from the send to the receive beside it */
            const struct p2p_element *receive = element - 1;
            if (is_send && transfer.size)
                memmove((char *)join(receive->buffer_high, receive->buffer_low), transfer.buffer, transfer.size);
        } else if (is_send) {
            sim_phase_add_send(phase, channel, &transfer);
        } else {
            sim_phase_add_receive(phase, channel, &transfer);
        }
    }
}

static struct sim_collective_work collective_of(unsigned function) {
    struct sim_collective_work work = {0};
    if (!sim_function_find(function, &work.function))
        sim_fatal("the collective with function index %u is not simulated: only ring all-gather, broadcast and "
                  "all-reduce by sum are (NCCL_ALGO=Ring)",
                  function);
    return work;
}

static void add_share(const struct sim_kernel *kernel, struct sim_channel *channel, unsigned function,
                      const struct share_element *element) {
    struct sim_collective_work work = collective_of(function);
    work.root = (int)element->root;
    work.send_buffer = element->send_buffer;
    work.receive_buffer = element->receive_buffer;
    work.count = element->count;
    struct sim_lane *lane = sim_channel_add_collective(channel, &work);
    const bool all_reduce = work.function.collective == SIM_ALL_REDUCE;
    const size_t turn_size = (all_reduce ? (size_t)kernel->rank_count : 1) * element->chunk;
    for (size_t done = 0; done < element->share; done += turn_size) {
        size_t chunk = all_reduce && element->share - done < turn_size ? element->last_chunk : element->chunk;
        struct sim_ring_turn turn = {element->offset + done, chunk, chunk, element->offset + element->share};
        sim_collective_add_turn(kernel, channel, lane, &work, &turn);
    }
}

static size_t divide_up(size_t value, size_t divisor) {
    return (value + divisor - 1) / divisor;
}

/* The chunk of a turn for which `left` elements remain (realChunkSize in the kernels' runRing). */
static size_t grid_chunk(const struct grid_element *element, const struct sim_lane *lane, bool all_reduce, size_t ranks,
                         size_t chunk, size_t left) {
    enum { WARP = 32 };
    const size_t threads = (size_t)element->warps * WARP, parts = element->blocks * ranks;
    if (lane->protocol == NCCL_PROTOCOL_SIMPLE) {
        size_t unit = (threads - WARP) * sizeof(uint64_t) / lane->element_size, even = divide_up(left, parts);
        return divide_up(even < chunk ? even : chunk, unit) * unit;
    }
    if (!all_reduce) return left < element->blocks * chunk ? element->last_chunk : chunk;
    size_t least = threads * sizeof(uint64_t) / lane->element_size, even = divide_up(left, parts * least) * least;
    return even < chunk ? even : chunk;
}

static void add_grid(const struct sim_kernel *kernel, struct sim_channel *channel, unsigned function,
                     const struct grid_element *element) {
    struct sim_collective_work work = collective_of(function);
    work.root = (int)element->root;
    work.send_buffer = element->send_buffer;
    work.receive_buffer = element->receive_buffer;
    work.count = element->count;
    struct sim_lane *lane = sim_channel_add_collective(channel, &work);

    const bool all_reduce = work.function.collective == SIM_ALL_REDUCE, simple = lane->protocol == NCCL_PROTOCOL_SIMPLE;
    const size_t ranks = all_reduce ? (size_t)kernel->rank_count : 1;
    const size_t slot =
        (size_t)sim_int_at(kernel->context.comm, sim_layout->comm.buffer_sizes + 4u * (unsigned)lane->protocol) /
        NCCL_STEPS;
    const size_t chunk = simple ? slot / lane->element_size * lane->slices_per_move * lane->steps_per_slice
                                : slot / 2 / lane->element_size;
    for (size_t done = 0; done < element->count; done += element->blocks * ranks * chunk) {
        size_t size = grid_chunk(element, lane, all_reduce, ranks, chunk, element->count - done);
        /* With Simple a block's chunks lie side by side, with LL those of all blocks with the same index do. */
        struct sim_ring_turn turn = {.first = done + element->block * (simple ? ranks : 1) * size,
                                     .stride = simple ? size : element->blocks * size,
                                     .chunk = size,
                                     .end = element->count};
        sim_collective_add_turn(kernel, channel, lane, &work, &turn);
    }
}

static void add_collectives(const struct sim_kernel *kernel, struct sim_channel *channel, const char *work) {
    const struct header *header = (const void *)work;
    const char *element = work + sizeof *header;
    for (; element + sizeof(struct share_element) <= work + WORK_BYTES && (*element & 1);
         element += sizeof(struct share_element)) {
        if (sim_layout->work_format == SIM_WORK_GRID)
            add_grid(kernel, channel, header->function, (const void *)element);
        else
            add_share(kernel, channel, header->function, (const void *)element);
    }
}

static void read_channel(const struct sim_kernel *kernel, struct sim_channel *channel, const char *works,
                         size_t index) {
    for (;;) {
        _Alignas(16) char work[WORK_BYTES];
        memcpy(work, works + (ptrdiff_t)index * WORK_BYTES, sizeof work);
        const struct header *header = (const void *)work;
        if (header->type == WORK_P2P)
            add_p2p(kernel, channel, work);
        else if (header->type == WORK_COLLECTIVE)
            add_collectives(kernel, channel, work);
        else
            sim_fatal("kernel work of type %u is not simulated", header->type);
        if (header->is_last) {
            if (header->in_fifo) {
                _Atomic uint32_t *done = sim_pointer_at(channel->raw, sim_layout->channel.work_fifo_done);
                atomic_store_explicit(done, header->done_ack, memory_order_release);
            }
            return;
        }
        index = (size_t)(ptrdiff_t)header->next;
    }
}

void sim_work_read_elements(struct sim_kernel *kernel, const char *works) {
    for (size_t i = 0; i < kernel->channel_count; i++)
        read_channel(kernel, &kernel->channels[i], works, i);
}
