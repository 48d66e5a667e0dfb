/* Work as NCCL 2.22 and newer hand it to kernels: batches that name works. Source: NVIDIA/nccl v2.28.9-1 (v2.26.5-1
 * where said), src/include/device.h and src/device/common.h; 2.32 as in kernel_args.c. */
#include "simgpu/fatal.h"
#include "simgpu/kernel_work.h"

#include <string.h>

enum { WORK_P2P = 0, WORK_COLLECTIVE = 1, WORK_COLLECTIVE_REGISTERED = 2 }; /* enum ncclDevWorkType */
enum { STORAGE_ARGUMENTS = 0, STORAGE_FIFO = 1 };                           /* enum ncclDevWorkStorageType */

/* ncclDevKernelArgs; the batches follow it, each channel's first one at the channel's place in the mask. */
struct arguments {
    char *comm;
    uint64_t channel_mask;
    uint8_t storage;
    uint32_t fifo_mask;
    char *fifo;
};

/* ncclDevWorkBatch */
struct batch {
    uint32_t next_jump : 14, next_extends : 1, work_type : 2, function : 15;
    uint32_t offset;
    uint64_t works; /* bit i: a work at offset + i * its size */
};

/* ncclDevWorkP2p */
struct p2p_work {
    char *send_buffer, *receive_buffer;
    size_t send_size, receive_size;
    int send_rank, receive_rank;
    uint8_t channels, first_channel;
    uint8_t send_channels, receive_channels;
    uint8_t send_chunk, receive_chunk; /* eight-bit floating point */
    uint8_t send_ll : 1, receive_ll : 1, send_registered : 1, receive_registered : 1, send_ipc : 1, receive_ipc : 1;
    uint8_t padding[1];
};

_Static_assert(sizeof(struct arguments) == 32 && sizeof(struct batch) == 16 && sizeof(struct p2p_work) == 48,
               "layout of 2.26 to 2.32");

/* The beginning of ncclDevWorkColl */
struct collective_head {
    uint32_t first_channel : 8, last_channel : 8, warps : 8;
    uint32_t argument_is_pointer : 1, registered : 1, net_registered : 1, one_node : 1, direct : 2, one_rank : 1,
        profiled : 1;
    uint32_t root;
};

/* ncclDevWorkColl.cbd */
struct counts {
    size_t first, middle, last;
    uint64_t first_grains : 21, middle_grains : 21, last_grains : 21;
};

/* u32fp8Decode in src/include/bitops.h: five bits of exponent, three of mantissa. */
static size_t chunk_decode(uint8_t encoded) {
    unsigned exponent = encoded >> 3, mantissa = encoded & 7;
    return exponent ? (size_t)(mantissa | 8) << (exponent - 1) : mantissa;
}

/* ncclP2pChannelToPart: which part of a transfer a channel carries. */
static int part_of(const struct p2p_work *work, int channel) {
    unsigned mask = work->channels - 1u, part = ((unsigned)channel - work->first_channel) & mask;
    if (!sim_layout->parts_bit_reversed) return (int)part;
    unsigned reversed = 0;
    for (; mask; mask >>= 1, part >>= 1)
        reversed = reversed << 1 | (part & 1);
    return (int)reversed;
}

/* ncclP2pPartBounds: parts are equal and multiples of 4 KiB. */
static void cut_part(struct sim_transfer *transfer, int parts, int part) {
    size_t piece = ((transfer->size + (size_t)parts - 1) / (size_t)parts + 4095) & ~(size_t)4095;
    size_t begin = (size_t)part * piece < transfer->size ? (size_t)part * piece : transfer->size;
    size_t left = transfer->size - begin;
    transfer->buffer += begin;
    transfer->size = left < piece ? left : piece;
}

static void add_p2p(struct sim_kernel *kernel, struct sim_channel *channel, struct sim_phase *phase,
                    const struct p2p_work *work) {
    if (work->send_registered || work->receive_registered || work->send_ipc || work->receive_ipc)
        sim_fatal("send/recv with registered buffers is not simulated");
    int part = part_of(work, channel->index);
    struct sim_transfer send = {.peer = work->send_rank,
                                .protocol = work->send_ll ? NCCL_PROTOCOL_LL : NCCL_PROTOCOL_SIMPLE,
                                .buffer = work->send_buffer,
                                .size = work->send_size,
                                .chunk = chunk_decode(work->send_chunk)};
    struct sim_transfer receive = {.peer = work->receive_rank,
                                   .protocol = work->receive_ll ? NCCL_PROTOCOL_LL : NCCL_PROTOCOL_SIMPLE,
                                   .buffer = work->receive_buffer,
                                   .size = work->receive_size,
                                   .chunk = chunk_decode(work->receive_chunk)};
    bool sends = part < work->send_channels, receives = part < work->receive_channels;
    if (sends) cut_part(&send, work->send_channels, part);
    if (receives) cut_part(&receive, work->receive_channels, part);
    if (work->send_rank == kernel->rank) { /* to itself: a copy */
        if (sends && send.size) memmove(receive.buffer, send.buffer, send.size);
        return;
    }
    if (sends) sim_phase_add_send(phase, channel, &send);
    if (receives) sim_phase_add_receive(phase, channel, &receive);
}

/* ncclCollCbdPart: the channels share a collective evenly, but for the first and the last. */
static void add_collective(const struct sim_kernel *kernel, struct sim_channel *channel, unsigned function,
                           const char *raw) {
    struct collective_head head;
    struct counts counts;
    memcpy(&head, raw, sizeof head);
    memcpy(&counts, raw + sim_layout->collective.counts, sizeof counts);
    struct sim_collective_work work = {.root = (int)head.root,
                                       .send_buffer = sim_pointer_at(raw, sim_layout->collective.send_buffer),
                                       .receive_buffer = sim_pointer_at(raw, sim_layout->collective.receive_buffer)};
    if (!sim_function_find(function, &work.function))
        sim_fatal("the collective with function id %u is not simulated: only ring all-gather, broadcast and all-reduce "
                  "by sum are (NCCL_ALGO=Ring)",
                  function);
    if (head.registered || head.net_registered) sim_fatal("collectives with registered buffers are not simulated");

    size_t middle_channels =
        head.last_channel > head.first_channel + 1u ? head.last_channel - head.first_channel - 1u : 0;
    size_t before_last = counts.first + counts.middle * middle_channels;
    size_t offset, count;
    uint64_t grains;
    if ((unsigned)channel->index == head.first_channel) {
        offset = 0, count = counts.first, grains = counts.first_grains;
    } else if ((unsigned)channel->index == head.last_channel) {
        offset = before_last, count = counts.last, grains = counts.last_grains;
    } else {
        offset = counts.first + ((size_t)channel->index - head.first_channel - 1) * counts.middle;
        count = counts.middle, grains = counts.middle_grains;
    }
    work.count = before_last + (head.last_channel > head.first_channel ? counts.last : 0);

    struct sim_lane *lane = sim_channel_add_collective(channel, &work);
    const size_t grain = work.function.protocol == NCCL_PROTOCOL_LL ? 16 : 512; /* ncclProtoGrainSize */
    size_t chunk = (size_t)grains * (grain / lane->element_size);
    const bool all_reduce = work.function.collective == SIM_ALL_REDUCE;
    const size_t ranks = all_reduce ? (size_t)kernel->rank_count : 1;
    for (size_t done = 0; done < count; done += ranks * chunk) {
        size_t left = count - done, size = chunk;
        if (all_reduce && left < ranks * chunk) { /* the last turn's chunks are equal too, in multiples of 16 bytes */
            size_t unit = 16 / lane->element_size;
            size = ((left + ranks - 1) / ranks + unit - 1) / unit * unit;
        }
        struct sim_ring_turn turn = {offset + done, size, size, offset + count};
        sim_collective_add_turn(kernel, channel, lane, &work, &turn);
    }
}

static size_t work_size(unsigned type) {
    switch (type) {
    case WORK_P2P:
        return sizeof(struct p2p_work);
    case WORK_COLLECTIVE:
        return sim_layout->collective.size;
    case WORK_COLLECTIVE_REGISTERED:
        return sim_layout->collective.registered_size;
    default:
        sim_fatal("kernel work of type %u is not simulated", type);
    }
}

/* Copies a work from behind the arguments or from the fifo, where it may lie around the end, 16 bytes at a time. */
static void read_work(const struct arguments *arguments, size_t offset, size_t size, char *work) {
    for (size_t done = 0; done < size; done += 16) {
        const char *from = arguments->storage == STORAGE_ARGUMENTS
                               ? (const char *)arguments + offset + done
                               : arguments->fifo + ((uint32_t)(offset + done) & arguments->fifo_mask);
        memcpy(work + done, from, 16);
    }
}

/* Until 2.26 kernels report how far they have read the fifo: ncclDevComm.workConsumed[channel]. */
static void report_consumed(const struct sim_kernel *kernel, const struct sim_channel *channel,
                            const struct arguments *arguments, const struct batch *batch) {
    if (sim_layout->comm.work_consumed == ABSENT || arguments->storage != STORAGE_FIFO) return;
    _Atomic uint32_t *consumed = sim_pointer_at(kernel->context.comm, sim_layout->comm.work_consumed);
    uint32_t end =
        batch->offset + (uint32_t)((64 - (size_t)__builtin_clzll(batch->works)) * work_size(batch->work_type));
    atomic_store_explicit(&consumed[channel->index], end, memory_order_release);
}

static void read_channel(struct sim_kernel *kernel, struct sim_channel *channel, const struct arguments *arguments,
                         size_t index) {
    struct sim_phase *phase = NULL;
    for (;;) {
        struct batch batch;
        memcpy(&batch, (const char *)(arguments + 1) + index * sizeof batch, sizeof batch);
        size_t size = work_size(batch.work_type);
        if (batch.work_type == WORK_P2P && !phase) phase = sim_channel_add_phase(channel);
        for (unsigned i = 0; i < 64; i++) {
            if (!(batch.works >> i & 1)) continue;
            _Alignas(16) char work[512];
            if (size > sizeof work) sim_fatal("a work of %zu bytes", size);
            read_work(arguments, batch.offset + i * size, size, work);
            if (batch.work_type == WORK_P2P)
                add_p2p(kernel, channel, phase, (const struct p2p_work *)work);
            else
                add_collective(kernel, channel, batch.function & ((1u << sim_layout->functions.id_bits) - 1), work);
        }
        if (batch.works) report_consumed(kernel, channel, arguments, &batch);
        if (!batch.next_extends) {
            phase = NULL;
            if (!batch.next_jump) return;
        }
        index += batch.next_jump;
    }
}

void sim_work_read_batches(struct sim_kernel *kernel, const char *raw) {
    const struct arguments *arguments = (const void *)raw;
    for (size_t i = 0; i < kernel->channel_count; i++)
        read_channel(kernel, &kernel->channels[i], arguments, i);
}
